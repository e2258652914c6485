//! A lab of its own: a hub with both versions of IP, a box with IPv6 only, and one with IPv4 only, LANs with both.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::Lab;
use serde_json::Value;

/// LAN hosts, with their addresses.
const LANS: [(&str, &str, &str); 3] = [
    ("prov-jateng.lan", "10.33.1.10", "fd33:1::10"),
    ("kab-demak.lan", "10.44.1.10", "fd44:1::10"),
    ("kota-malang.lan", "10.55.1.10", "fd55:1::10"),
];
const PORTAL: &str = "http://[fd33:1::10]:8080/";
const FEW: Duration = Duration::from_secs(10);

pub(crate) fn both_versions_of_ip_are_the_same_everywhere(_: &Lab) -> Result<()> {
    let name = format!("ipv6-{}", std::process::id());
    let lab = Lab::up_as(&name, "ipv6")?;
    boxes_take_the_way_that_they_have(&lab)?;
    lans_reach_each_other_in_both(&lab)?;
    policy_and_services_hold_for_ipv6(&lab)?;
    the_box_answers_on_its_overlay_address(&lab)?;
    a_prefix_that_is_not_registered_is_held(&lab)?;
    an_address_may_change(&lab)
}

/// The box with IPv6 and the one with IPv4 dial the same hub, which relays for the two.
fn boxes_take_the_way_that_they_have(lab: &Lab) -> Result<()> {
    for (host, hub, other) in [
        (
            "kab-demak.gw",
            "[2001:db8:0:1::30]:51820",
            "kota-malang/gw1",
        ),
        ("kota-malang.gw", "203.0.113.30:51820", "kab-demak/gw1"),
    ] {
        lab.wait("the tunnels", FEW, |lab| {
            let status = lab.status(host)?;
            let mut peers = status["peers"].as_array().into_iter().flatten();
            Ok(peers.all(|peer| peer["up"] == true && peer["link"] == true))
        })?;
        let status = lab.status(host)?;
        let straight = peer(&status, "prov-jateng/gw1")?;
        ensure!(straight["endpoint"] == hub, "{host}: {straight}");
        let relayed = peer(&status, other)?;
        ensure!(relayed["relay"] == "prov-jateng/gw1", "{host}: {relayed}");
    }
    Ok(())
}

fn lans_reach_each_other_in_both(lab: &Lab) -> Result<()> {
    for (from, ..) in LANS {
        for (to, v4, v6) in LANS.iter().filter(|(to, ..)| *to != from) {
            for address in [v4, v6] {
                let ping = [
                    "ping", "-nc", "2", "-i", "0.05", "-W", "2", "-s", "1200", address,
                ];
                let said = lab.output(from, &ping)?;
                let said = String::from_utf8_lossy(&said.stdout).into_owned();
                ensure!(
                    said.contains(" 0% packet loss"),
                    "{from} to {to}, {address}: {said}"
                );
            }
        }
    }
    Ok(())
}

fn policy_and_services_hold_for_ipv6(lab: &Lab) -> Result<()> {
    for host in ["kab-demak", "kota-malang"] {
        let service = lab.service(&format!("{host}.gw"), "prov-jateng/portal")?;
        let service = service.with_context(|| format!("{host} does not see the portal"))?;
        ensure!(
            service["endpoints"][0] == "[fd33:1::10]:8080" && service["state"] == "available",
            "{service}"
        );
        lab.run(&format!("{host}.lan"), &["curl", "-sfg", "-m", "5", PORTAL])?;
    }
    let _closed = lab.spawn(
        "prov-jateng.lan",
        &[
            "timeout",
            "20",
            "python3",
            "-m",
            "http.server",
            "--bind",
            "fd33:1::10",
            "8081",
        ],
    )?;
    let other = PORTAL.replace("8080", "8081");
    let fetch = |host: &str| -> Result<bool> {
        let curl = ["curl", "-sfg", "-m", "2", &other];
        Ok(lab.output(host, &curl)?.status.success())
    };
    lab.wait("the other listener", FEW, |_| fetch("prov-jateng.lan"))?;
    ensure!(
        !fetch("kab-demak.lan")?,
        "a port that policy does not open is closed"
    );
    Ok(())
}

fn the_box_answers_on_its_overlay_address(lab: &Lab) -> Result<()> {
    let status = lab.status("kota-malang.gw")?;
    let overlay = status["overlay"][1]
        .as_str()
        .context("an overlay address of IPv6")?;
    let metrics = format!("http://[{overlay}]:9586/metrics");
    let page = lab.run("kab-demak.gw", &["curl", "-sfg", "-m", "5", &metrics])?;
    ensure!(page.contains("pnsbox_peer_up"), "{page}");
    lab.run("kab-demak.gw", &["ping", "-nc", "1", "-W", "2", overlay])?;
    lab.run("kab-demak.gw", &["pnsbox", "ping", "kota-malang/gw1"])?;
    Ok(())
}

fn a_prefix_that_is_not_registered_is_held(lab: &Lab) -> Result<()> {
    let status = lab.status("kota-malang.gw")?;
    ensure!(
        status["held"][0]["prefix"] == "fd99:1::/64",
        "{}",
        status["held"]
    );
    let prefixes = status["prefixes"].to_string();
    ensure!(
        prefixes.contains("fd55:1::/64") && !prefixes.contains("fd99"),
        "{prefixes}"
    );
    Ok(())
}

/// The ISP gives the box another address in mid-traffic.
fn an_address_may_change(lab: &Lab) -> Result<()> {
    for change in [
        "add 2001:db8:0:40::3/64 dev wan0 nodad",
        "del 2001:db8:0:40::2/64 dev wan0",
    ] {
        let words: Vec<&str> = ["ip", "address"]
            .into_iter()
            .chain(change.split(' '))
            .collect();
        lab.run("kab-demak.gw", &words)?;
    }
    lab.wait("a packet from the new address", FEW, |lab| {
        let ping = ["ping", "-nc", "1", "-W", "1", "fd33:1::10"];
        Ok(lab.output("kab-demak.lan", &ping)?.status.success())
    })?;
    lab.wait("the hub to send there", FEW, |lab| {
        let status = lab.status("prov-jateng.gw")?;
        let seen = peer(&status, "kab-demak/gw1")?["endpoint"].to_string();
        Ok(seen.contains("[2001:db8:0:40::3]:"))
    })?;
    Ok(())
}

fn peer<'s>(status: &'s Value, name: &str) -> Result<&'s Value> {
    let mut peers = status["peers"].as_array().into_iter().flatten();
    peers
        .find(|peer| peer["node"] == name)
        .with_context(|| format!("no peer {name}"))
}
