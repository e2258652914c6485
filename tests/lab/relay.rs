//! Two agencies without a public address meet through a relay that cannot read them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::Lab;

/// `pnsbox-marker-7` in hexadecimal, as `ping -p` wants it: at most 16 bytes.
const MARKER: &str = "pnsbox-marker-7";

pub(crate) fn the_relay_sees_ciphertext_only(lab: &Lab) -> Result<()> {
    let peers = lab.status("kab-demak.gw")?["peers"].take();
    let malang = peers
        .as_array()
        .and_then(|p| p.iter().find(|p| p["node"] == "kota-malang/gw1"))
        .cloned();
    let malang = malang.unwrap_or_default();
    ensure!(
        malang["relay"] == "prov-jateng/gw1",
        "the pair goes through the hub: {malang}"
    );

    let pattern: String = MARKER.bytes().map(|b| format!("{b:02x}")).collect();
    let mut at_hub = lab.spawn(
        "prov-jateng.gw",
        &[
            "timeout", "12", "tcpdump", "-nXi", "any", "-s", "0", "-c", "400",
        ],
    )?;
    let mut at_end = lab.spawn(
        "kota-malang.lan",
        &["timeout", "12", "tcpdump", "-nAi", "any", "-c", "5", "icmp"],
    )?;
    let ping = [
        "ping",
        "-nc",
        "100",
        "-i",
        "0.02",
        "-s",
        "200",
        "-p",
        &pattern,
        "10.55.1.10",
    ];
    lab.wait(
        "both captures have seen enough",
        Duration::from_secs(15),
        |lab| {
            let said = lab.run("kab-demak.lan", &ping)?;
            ensure!(said.contains(" 0% packet loss"), "{said}");
            Ok(at_hub.is_over()? && at_end.is_over()?)
        },
    )?;

    let (hub, end) = (at_hub.finish()?, at_end.finish()?);
    ensure!(
        end.contains(MARKER),
        "the search works: the far LAN sees the marker:\n{end}"
    );
    ensure!(
        !hub.contains("marker") && !hub.contains("10.55.1.10"),
        "the hub sees only ciphertext:\n{hub}"
    );
    let frames = hub
        .lines()
        .filter(|line| line.contains(": ") && line.contains("7000 0000"))
        .count();
    ensure!(frames > 50, "relay frames pass the hub: {frames}\n{hub}");
    Ok(())
}

/// A packet filter that only looks, or marks: host, and the rule of its one chain.
const MARKS: [(&str, &str, &str); 3] = [
    // The way to the relay is congested.
    (
        "prov-jateng.gw",
        "prerouting",
        "udp dport 51820 ip ecn ect0 ip ecn set ce",
    ),
    (
        "isp",
        "forward",
        "meta l4proto udp udp sport 51820 ip dscp != cs0 counter",
    ),
    (
        "kota-malang.gw",
        "forward",
        "iifname pns0 icmp type echo-request ip ecn ce ip dscp ef counter",
    ),
];

pub(crate) fn congestion_marks_pass_the_relay_and_classes_do_not(lab: &Lab) -> Result<()> {
    for (host, hook, rule) in MARKS {
        let table = format!(
            "table inet marks {{\nchain one {{\ntype filter hook {hook} priority raw;\n{rule}\n}}\n}}"
        );
        lab.run(host, &["nft", &table])?;
    }
    let outcome = marked_pings(lab);
    for (host, _, _) in MARKS {
        lab.run(host, &["nft", "delete table inet marks"])?;
    }
    outcome
}

fn marked_pings(lab: &Lab) -> Result<()> {
    // EF and ECT(0), as from a telephone that understands marks.
    let ping = ["ping", "-nc", "5", "-i", "0.05", "-Q", "0xba", "10.55.1.10"];
    let said = lab.run("kab-demak.lan", &ping)?;
    ensure!(said.contains(" 0% packet loss"), "{said}");
    let inside = counted(lab, "kota-malang.gw")?;
    ensure!(inside == 5, "{inside} of 5 are marked behind the relay");
    let outside = counted(lab, "isp")?;
    ensure!(outside == 0, "{outside} datagrams tell a class to the ISP");
    Ok(())
}

/// Packets that a host's one rule has counted.
fn counted(lab: &Lab, host: &str) -> Result<u64> {
    let said = lab.run(host, &["nft", "list table inet marks"])?;
    let mut words = said.split_whitespace();
    words.find(|word| *word == "packets");
    let count = words
        .next()
        .with_context(|| format!("no counter: {said}"))?;
    Ok(count.parse()?)
}
