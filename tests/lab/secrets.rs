//! Planted keys and an anchor's token, and every place where they must not be.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use pnsbox_tests::lab::Lab;

const HOST: &str = "isp";
/// Base64 of 32 bytes each; nobody else has them.
const IDENTITY: &str = "UExBTlRFRC1JREVOVElUWS1LRVktUExBTlRFRC0xMjM=";
const WIREGUARD: &str = "UExBTlRFRC1XSVJFR1VBUkQtS0VZLVBMQU5URUQtMTI=";

pub(crate) fn keys_and_tokens_are_nowhere_but_in_their_files(lab: &Lab) -> Result<()> {
    let anchor = plant(lab)?;
    let agent = lab.spawn(
        HOST,
        &[
            "sh",
            "-c",
            "echo $$ >/run/pnsbox/planted.pid; exec timeout --foreground -s INT 60 pnsbox-agent run --config /etc/pnsbox/planted/agent.toml",
        ],
    )?;
    let pnsbox = ["pnsbox", "--socket", "/run/pnsbox/planted.sock"];
    lab.wait("it answers", Duration::from_secs(10), |lab| {
        let status = lab.output(HOST, &[&pnsbox[..], &["status"]].concat())?;
        Ok(status.status.success())
    })?;
    // The anchor comes on standard input, as the documentation says for shared machines.
    let join = format!("echo {anchor} | pnsbox --socket /run/pnsbox/planted.sock join --no-lan -");
    let joined = lab.run(HOST, &["sh", "-c", &join])?;
    lab.wait("it is in the network", Duration::from_secs(10), |lab| {
        let status = lab.json(HOST, &[&pnsbox[..], &["status", "--json"]].concat())?;
        Ok(status["status"]["view_applied"].as_u64() > Some(0))
    })?;
    let shown = joined + &everything_shown(lab, &pnsbox)?;
    lab.run(
        HOST,
        &["sh", "-c", "kill -INT $(cat /run/pnsbox/planted.pid)"],
    )?;
    let log = agent.finish()?;
    ensure!(
        log.contains("TRACE"),
        "the log is as talkative as it can be"
    );

    let token = token(&anchor)?;
    for (what, secret) in [
        ("the identity key", IDENTITY),
        ("the WireGuard key", WIREGUARD),
        ("the token", token.as_str()),
        ("the anchor", anchor.as_str()),
    ] {
        for form in forms(secret) {
            ensure!(!log.contains(&form), "the log holds {what} ({form})");
            ensure!(
                !shown.contains(&form),
                "what is shown holds {what} ({form})"
            );
        }
    }
    let modes = "cd /var/lib/pnsbox/planted && stat -c '%a %n' *";
    let modes = lab.run(HOST, &["sh", "-c", modes])?;
    for wanted in ["600 identity.key", "600 wireguard.key", "600 state.json"] {
        ensure!(modes.contains(wanted), "{modes}");
    }
    Ok(())
}

/// A box with known keys and the log at its loudest, and an invitation for it.
fn plant(lab: &Lab) -> Result<String> {
    let setup = format!(
        "nft insert rule inet isp input iifname lo accept && \
         mkdir -p /etc/pnsbox/planted /var/lib/pnsbox/planted && cd /var/lib/pnsbox/planted && \
         umask 077 && echo {IDENTITY} >identity.key && echo {WIREGUARD} >wireguard.key && \
         printf 'state_dir = \"/var/lib/pnsbox/planted\"\\nsocket = \"/run/pnsbox/planted.sock\"\\n[log]\\nlevel = \"trace\"\\n[http]\\nport = 9796\\n[wireguard]\\nport = 51998\\n' >/etc/pnsbox/planted/agent.toml"
    );
    lab.run(HOST, &["sh", "-c", &setup])?;
    let operator = |words: &[&str]| {
        let words = [&["pnsbox-controller"], words].concat();
        lab.run("pusat.controller", &words)
    };
    operator(&["agency", "add", "kab-rembang", "--prefix", "10.76.0.0/16"])?;
    Ok(operator(&["invite", "kab-rembang"])?.trim().to_owned())
}

/// What a person or a program can see of the agent without reading its files of keys.
fn everything_shown(lab: &Lab, pnsbox: &[&str]) -> Result<String> {
    let mut shown = String::new();
    for words in ["status", "status --json", "peers --json", "services --json"] {
        let words: Vec<&str> = words.split(' ').collect();
        shown += &lab.run(HOST, &[pnsbox, &words].concat())?;
    }
    let metrics = "http://127.0.0.1:9796/metrics";
    shown += &lab.run(HOST, &["curl", "-sSf", "--max-time", "5", metrics])?;
    let files = "p=$(pgrep -P $(cat /run/pnsbox/planted.pid)); tr '\\0' '\\n' <\"/proc/$p/cmdline\"; \
                 tr '\\0' '\\n' <\"/proc/$p/environ\"; cat /var/lib/pnsbox/planted/state.json";
    shown += &lab.run(HOST, &["sh", "-c", files])?;
    ensure!(
        shown.contains("pnsbox-agent") && shown.contains("PATH="),
        "arguments and environment are seen"
    );
    Ok(shown)
}

/// The secret in an anchor, as it stands there.
fn token(anchor: &str) -> Result<String> {
    let json = URL_SAFE_NO_PAD.decode(anchor.split('.').nth(1).context("an anchor")?)?;
    let anchor: serde_json::Value = serde_json::from_slice(&json)?;
    Ok(anchor["token"].as_str().context("a token")?.to_owned())
}

/// A secret as text, with and without padding, and as Rust would print its bytes.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned(), secret.trim_end_matches('=').to_owned()];
    if let Ok(bytes) = STANDARD.decode(secret) {
        let numbers: Vec<String> = bytes.iter().take(8).map(u8::to_string).collect();
        forms.push(numbers.join(", "));
        forms.push(bytes.iter().take(8).map(|b| format!("{b:02x}")).collect());
    }
    forms
}
