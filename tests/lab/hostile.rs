//! Bytes that mean nothing, on every port of a box: silence, or what the protocol demands, and nothing grown.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::{Lab, root};
use serde_json::Value;

use crate::drift::metric;

const HOST: &str = "prov-jateng.gw";
const PUBLIC: &str = "203.0.113.30";
/// Of the noise; printed by every run that uses it.
const SEED: &str = "5182";
/// What the process may grow by: buffers of a burst, never a datagram each.
const GROWTH_BYTES: u64 = 4 << 20;

pub(crate) fn noise_gets_no_answer_and_costs_nothing(lab: &Lab) -> Result<()> {
    println!("    seed {SEED}");
    let overlay = lab.status(HOST)?["overlay"][0]
        .as_str()
        .context("overlay")?
        .to_owned();
    let before = resident(lab)?;
    let dropped = dropped(lab)?;

    let tunnel = noise(lab, "isp", "udp", PUBLIC, "51820")?;
    ensure!(tunnel["sent"] == 3000, "{tunnel}");
    ensure!(
        tunnel["received"] == 0,
        "the WireGuard port answers: {tunnel}"
    );
    let counted = self::dropped(lab)? - dropped;
    ensure!(counted >= 2900, "{counted} of 3000 datagrams are counted");

    let links = noise(lab, "pusat.gw", "quic", &overlay, "51821")?;
    ensure!(links["sent"] == 3000, "{links}");
    ensure!(
        links["received_bytes"].as_u64() <= links["sent_bytes"].as_u64(),
        "the link port amplifies: {links}"
    );

    let pages = noise(lab, "pusat.gw", "http", &overlay, "9586")?;
    let answers = pages["answers"].as_array().context("answers")?;
    let proper = |a: &&Value| {
        a.as_str()
            .is_some_and(|a| a.is_empty() || a.starts_with("HTTP/1.1 4"))
    };
    let odd: Vec<_> = answers.iter().filter(|a| !proper(a)).collect();
    ensure!(answers.len() == 60 && odd.is_empty(), "{odd:?}");

    for port in ["9586", "51821"] {
        let knock = format!("timeout 2 bash -c 'echo >/dev/tcp/{PUBLIC}/{port}'");
        let open = lab.output("isp", &["sh", "-c", &knock])?.status.success();
        ensure!(!open, "{port} is open to a stranger");
    }
    let grown = resident(lab)?.saturating_sub(before);
    ensure!(grown <= GROWTH_BYTES, "grown by {grown} bytes");
    println!(
        "    WireGuard: 3000 datagrams, no answer; link: {} bytes in, {} out; grown by {} KiB",
        links["sent_bytes"],
        links["received_bytes"],
        grown >> 10
    );
    for lan in ["kab-demak.lan", "kota-malang.lan", "pusat.lan"] {
        lab.wait("the network lives", Duration::from_secs(5), |lab| {
            let ping = ["ping", "-nc", "1", "-W", "1", "10.33.1.10"];
            Ok(lab.output(lan, &ping)?.status.success())
        })?;
    }
    Ok(())
}

pub(crate) fn the_admin_socket_answers_nonsense_with_a_reason(lab: &Lab) -> Result<()> {
    let say = |text: &str| {
        let script = format!(
            "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.settimeout(5)\ns.connect('/run/pnsbox/agent.sock')\ns.sendall({text})\ns.shutdown(1)\nsys.stdout.write(s.makefile().read())"
        );
        lab.run(HOST, &["python3", "-c", &script])
    };
    for nonsense in [
        "b'\\xff\\xfe\\x00 no JSON\\n'",
        "b'{\"request\":\"destroy\"}\\n'",
        "b'{}\\n'",
        "b'{\"request\":\"status\"'",
        "b'[' * 60000 + b'\\n'",
    ] {
        let answer = say(nonsense)?;
        ensure!(
            answer.starts_with("{\"error\":\"the request cannot be read"),
            "{nonsense}: {answer}"
        );
    }
    ensure!(say("b''")?.contains("error"), "an empty visit");
    lab.status(HOST)?;
    Ok(())
}

fn noise(lab: &Lab, from: &str, kind: &str, address: &str, port: &str) -> Result<Value> {
    let tool = root().join("tests/lab/tools/noise.py");
    let tool = tool.to_str().context("a path in UTF-8")?;
    lab.json(from, &["python3", tool, kind, address, port, SEED])
}

fn resident(lab: &Lab) -> Result<u64> {
    metric(lab, HOST, "process_resident_memory_bytes")
}

/// Datagrams that meant nothing.
fn dropped(lab: &Lab) -> Result<u64> {
    let of = |reason| {
        metric(
            lab,
            HOST,
            &format!("pnsbox_drop_packets_total{{reason=\"{reason}\"}}"),
        )
    };
    let reasons = [
        "short_datagram",
        "unknown_receiver",
        "invalid_datagram",
        "unknown_peer",
        "rate_limited",
        "relay_refused",
        "relay_unknown_channel",
    ];
    reasons.into_iter().map(of).sum()
}
