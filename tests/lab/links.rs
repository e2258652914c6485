//! Links, probes, and what the screens and metrics show of them.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::{Lab, root};

pub(crate) const GATEWAYS: [(&str, &str); 4] = [
    ("pusat.gw", "pusat/gw1"),
    ("prov-jateng.gw", "prov-jateng/gw1"),
    ("kab-demak.gw", "kab-demak/gw1"),
    ("kota-malang.gw", "kota-malang/gw1"),
];

pub(crate) fn links_are_up_and_measure_the_path(lab: &Lab) -> Result<()> {
    for (host, node) in GATEWAYS {
        for (_, peer) in GATEWAYS.iter().filter(|(_, peer)| *peer != node) {
            let pinged = lab.json(host, &["pnsbox", "ping", peer, "--count", "3", "--json"])?;
            ensure!(
                pinged["schema"] == "pnsbox.ping/1" && pinged["loss"] == 0.0,
                "{node} to {peer}: {pinged}"
            );
        }
        lab.wait("every link measures", Duration::from_secs(15), |lab| {
            let status = lab.status(host)?;
            let peers = status["peers"].as_array().context("peers")?;
            Ok(peers.len() == 3
                && peers.iter().all(|p| {
                    p["link"] == true
                        && p["rtt_ms"]
                            .as_f64()
                            .is_some_and(|ms| ms > 0.0 && ms < 1000.0)
                        && p["loss"].as_f64() == Some(0.0)
                        && p["jitter_ms"].is_number()
                }))
        })?;
    }
    let unknown = lab.fails("kab-demak.gw", &["pnsbox", "ping", "kab-kudus/gw1"], 65)?;
    ensure!(unknown.contains("kab-kudus/gw1 is not a peer"), "{unknown}");
    Ok(())
}

pub(crate) fn both_screens_show_every_node_and_peer(lab: &Lab) -> Result<()> {
    let screen = lab.run("kab-demak.gw", &["pnsbox", "status"])?;
    for word in [
        "kab-demak/gw1 of network pns",
        "prov-jateng/gw1",
        "relay prov-jateng/gw1",
        "10.44.1.0/24",
        "kab-demak/simpeg-db",
    ] {
        ensure!(
            screen.contains(word),
            "{word} on the box's screen:\n{screen}"
        );
    }
    ensure!(screen.lines().count() <= 30, "one screen:\n{screen}");
    lab.wait(
        "the controller has everybody's report",
        Duration::from_secs(15),
        |lab| {
            let screen = lab.run("pusat.controller", &["pnsbox-controller", "status"])?;
            Ok(GATEWAYS.iter().all(|(_, node)| screen.contains(node)) && screen.contains("online"))
        },
    )?;
    Ok(())
}

pub(crate) fn metrics_are_served_to_peers(lab: &Lab) -> Result<()> {
    let overlay = lab.status("kab-demak.gw")?["overlay"][0]
        .as_str()
        .context("overlay")?
        .to_owned();
    for (host, url, mebibytes) in [
        (
            "kab-demak.gw",
            "http://127.0.0.1:9586/metrics".to_owned(),
            32,
        ),
        ("pusat.gw", format!("http://{overlay}:9586/metrics"), 32),
        (
            "pusat.controller",
            "http://127.0.0.1:9587/metrics".to_owned(),
            64,
        ),
    ] {
        let text = lab.run(host, &["curl", "-sSf", "--max-time", "5", &url])?;
        ensure!(text.contains("\npnsbox_"), "{url}: {text}");
        promtool_is_content(&text)?;
        is_small(&text, mebibytes)?;
        reasons_are_documented(&text)?;
    }
    let discovered = lab.json(
        "pusat.controller",
        &["curl", "-sSf", "http://127.0.0.1:9587/sd"],
    )?;
    let found = discovered.to_string();
    ensure!(found.contains(&format!("{overlay}:9586")), "{found}");
    Ok(())
}

/// `promtool check metrics` has nothing to say.
fn promtool_is_content(text: &str) -> Result<()> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool of the package prometheus")?;
    let mut input = promtool.stdin.take().context("a pipe")?;
    input.write_all(text.as_bytes())?;
    drop(input);
    let output = promtool.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(
        output.status.success() && said.is_empty(),
        "{}",
        String::from_utf8_lossy(&said)
    );
    Ok(())
}

fn is_small(text: &str, mebibytes: u64) -> Result<()> {
    let resident = text
        .lines()
        .find_map(|line| line.strip_prefix("process_resident_memory_bytes "))
        .context("its own memory")?;
    let resident: f64 = resident.parse()?;
    ensure!(
        resident <= (mebibytes << 20) as f64,
        "{resident} bytes are more than {mebibytes} MiB"
    );
    Ok(())
}

fn reasons_are_documented(text: &str) -> Result<()> {
    let page = std::fs::read_to_string(root().join("docs/metrics.md"))?;
    let drops = text
        .lines()
        .filter_map(|line| line.strip_prefix("pnsbox_drop_packets_total{reason=\""));
    for reason in drops.filter_map(|rest| rest.split('"').next()) {
        ensure!(
            page.contains(&format!("\n| {reason} |")),
            "docs/metrics.md does not explain the reason {reason}"
        );
    }
    Ok(())
}
