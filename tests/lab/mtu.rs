//! A link of the ISP that carries less than the tunnel wants, and tells nobody.

use std::time::Duration;

use anyhow::{Result, ensure};
use pnsbox_tests::lab::Lab;

const BOX: &str = "kab-demak.gw";
const HOST: &str = "kab-demak.lan";
const PEER: &str = "prov-jateng/gw1";
/// A host behind the peer.
const FAR: &str = "10.33.1.10";
/// What is lost in an outer IPv4 packet of 1400 bytes, cut to a multiple of 16.
const FOUND: u64 = 1328;
const OPEN: u64 = 1380;

pub(crate) fn a_path_that_is_narrower_becomes_the_mtu_of_its_routes(lab: &Lab) -> Result<()> {
    // A veth lets a VLAN tag more pass.
    set_link_mtu(lab, "1396")?;
    let outcome = narrow(lab);
    set_link_mtu(lab, "1500")?;
    restart(lab, OPEN)?;
    outcome
}

fn narrow(lab: &Lab) -> Result<()> {
    restart(lab, FOUND)?;
    lab.wait("the route's MTU", Duration::from_secs(5), |lab| {
        let route = lab.run(
            BOX,
            &["ip", "route", "show", "table", "5182", "10.33.1.0/24"],
        )?;
        Ok(route.contains(&format!("mtu {FOUND}")))
    })?;
    // 28 bytes of headers.
    let whole = |size: u64| -> Result<String> {
        let size = (size - 28).to_string();
        let ping = ["ping", "-nc", "1", "-W", "3", "-M", "do", "-s", &size, FAR];
        Ok(String::from_utf8_lossy(&lab.output(HOST, &ping)?.stdout).into_owned())
    };
    let larger = whole(FOUND + 1)?;
    ensure!(
        larger.contains(&format!("mtu = {FOUND}")),
        "the box tells its LAN what is too big: {larger}"
    );
    let largest = whole(FOUND)?;
    ensure!(largest.contains(" 0% packet loss"), "{largest}");
    let cut = lab.run(HOST, &["ping", "-nc", "1", "-W", "3", "-s", "8000", FAR])?;
    ensure!(cut.contains(" 0% packet loss"), "{cut}");
    Ok(())
}

/// The link between the ISP and the box; the box believes in 1500 all the time.
fn set_link_mtu(lab: &Lab, mtu: &str) -> Result<()> {
    lab.run("isp", &["ip", "link", "set", "kab-demak", "mtu", mtu])
        .map(drop)
}

/// So that the path is searched now and not in ten minutes.
fn restart(lab: &Lab, expected: u64) -> Result<()> {
    lab.stop_program(BOX, "pnsbox-agent", "TERM")?;
    lab.start_program(BOX, "pnsbox-agent")?;
    lab.wait("the path MTU", Duration::from_secs(20), |lab| {
        let status = lab.status(BOX)?;
        let mut peers = status["peers"].as_array().into_iter().flatten();
        Ok(peers.any(|peer| peer["node"] == PEER && peer["path_mtu"] == expected))
    })?;
    Ok(())
}
