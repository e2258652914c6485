//! `wg` of Debian's wireguard-tools asks a running agent.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::Lab;

const BOX: &str = "prov-jateng.gw";
const SOCKET: &str = "/run/wireguard/pns0.sock";
/// Visitors who ask nothing.
const PROBES: usize = 1000;

pub(crate) fn wg_shows_the_tunnels_and_changes_nothing(lab: &Lab) -> Result<()> {
    ensure!(lab.run(BOX, &["wg", "show", "interfaces"])?.trim() == "pns0");
    every_word_is_that_of_pnsbox(lab)?;
    for one in [
        "latest-handshakes",
        "transfer",
        "endpoints",
        "allowed-ips",
        "peers",
        "persistent-keepalive",
    ] {
        let lines = lab.run(BOX, &["wg", "show", "pns0", one])?;
        ensure!(lines.lines().count() == 3, "{one}: {lines}");
    }
    for words in [&["wg"][..], &["wg", "show"], &["wg", "show", "pns0"]] {
        let shown = lab.run(BOX, words)?;
        ensure!(
            shown.contains("interface: pns0")
                && shown.contains("listening port: 51820")
                && !shown.contains("private key"),
            "{shown}"
        );
    }
    ensure!(
        lab.run(BOX, &["wg", "show", "all", "dump"])?
            .starts_with("pns0\t")
    );

    let set = lab.output(BOX, &["wg", "set", "pns0", "listen-port", "51900"])?;
    let said = String::from_utf8_lossy(&set.stderr);
    ensure!(
        !set.status.success() && said.contains("not permitted"),
        "{said}"
    );
    ensure!(lab.run(BOX, &["wg", "show", "pns0", "listen-port"])?.trim() == "51820");
    visitors_who_ask_nothing_cost_nothing(lab)?;
    a_relayed_peer_has_no_endpoint(lab)
}

/// What `wg` calls an endpoint is where datagrams go; those of a relayed peer go through another peer.
fn a_relayed_peer_has_no_endpoint(lab: &Lab) -> Result<()> {
    let endpoints = lab.run("kab-demak.gw", &["wg", "show", "pns0", "endpoints"])?;
    let without = endpoints.lines().filter(|line| line.ends_with("\t(none)"));
    ensure!(
        endpoints.lines().count() == 3 && without.count() == 1,
        "{endpoints}"
    );
    let keepalives = lab.run(
        "kab-demak.gw",
        &["wg", "show", "pns0", "persistent-keepalive"],
    )?;
    // Behind NAT, it holds its bindings open; the relay does not dial it.
    ensure!(keepalives.contains("\t25\n"), "{keepalives}");
    Ok(())
}

fn every_word_is_that_of_pnsbox(lab: &Lab) -> Result<()> {
    let dump = lab.run(BOX, &["wg", "show", "pns0", "dump"])?;
    let mut lines = dump
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let own = lines.next().context("a line of the interface")?;
    ensure!(
        own[0] == "(none)" && own[2] == "51820" && own[3] == "0x5182",
        "{own:?}"
    );
    // By allowed prefixes, the only thing that both name.
    let shown: BTreeMap<&str, Vec<&str>> = lines.map(|words| (words[3], words)).collect();
    let status = lab.status(BOX)?;
    let peers = status["peers"].as_array().context("peers")?;
    ensure!(shown.len() == peers.len(), "{dump}");
    for (name, lan) in [
        ("kab-demak/gw1", "10.44.1.0/24"),
        ("kota-malang/gw1", "10.55.1.0/24"),
        ("pusat/gw1", "10.10.1.0/24"),
    ] {
        let peer = peers
            .iter()
            .find(|peer| peer["node"] == name)
            .context(name)?;
        let (_, words) = shown
            .iter()
            .find(|(prefixes, _)| prefixes.contains(lan))
            .with_context(|| format!("{name} in {dump}"))?;
        ensure!(
            words[1] == "(none)" && peer["endpoint"] == words[2],
            "{words:?}, {peer}"
        );
        let handshake: u64 = words[4].parse()?;
        let told = peer["last_handshake"].as_u64().context("a handshake")?;
        // Each puts the same moment on the wall clock for itself, in whole seconds.
        ensure!(told.abs_diff(handshake) <= 1, "{words:?}, {peer}");
        for (word, inner) in [(words[5], "rx_bytes"), (words[6], "tx_bytes")] {
            let inner = peer[inner].as_u64().context("bytes")?;
            ensure!(
                word.parse::<u64>()? >= inner,
                "{word} on the wire of {inner}"
            );
        }
    }
    Ok(())
}

fn visitors_who_ask_nothing_cost_nothing(lab: &Lab) -> Result<()> {
    let descriptors = || -> Result<usize> {
        let pid = lab.pid(BOX, "pnsbox-agent")?;
        Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
    };
    let before = descriptors()?;
    let probe = format!(
        "import socket\nfor n in range({PROBES}):\n  s = socket.socket(socket.AF_UNIX)\n  s.connect('{SOCKET}')\n  if n % 2: s.send(b'garbage' * 99)\n  s.close()"
    );
    lab.run(BOX, &["python3", "-c", &probe])?;
    lab.wait(
        "the descriptors to be closed",
        std::time::Duration::from_secs(10),
        |_| Ok(descriptors()? <= before),
    )?;
    ensure!(lab.run(BOX, &["wg", "show", "interfaces"])?.trim() == "pns0");
    Ok(())
}
