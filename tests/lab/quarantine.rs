//! A box is shut out: everybody has dropped it within seconds, and takes it back as it was.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::Lab;

const OPERATOR: &str = "pusat.controller";
const SHUT_OUT: &str = "kota-malang/gw1";
const BOX: &str = "kota-malang.gw";
const OTHERS: [&str; 3] = ["prov-jateng.gw", "kab-demak.gw", "pusat.gw"];

pub(crate) fn who_is_shut_out_is_dropped_by_everybody_within_five_seconds(lab: &Lab) -> Result<()> {
    lab.wait(
        "both LANs to reach each other",
        Duration::from_secs(10),
        reaches,
    )?;
    let reason = ["--reason", "its disk was stolen"];
    let command = ["pnsbox-controller", "quarantine", SHUT_OUT];
    lab.run(OPERATOR, &[&command[..], &reason].concat())?;
    let took = lab.wait("all dropped it", Duration::from_secs(5), |lab| {
        for host in OTHERS {
            if names(lab, host)?.contains(SHUT_OUT) {
                return Ok(false);
            }
        }
        Ok(!reaches(lab)?
            && lab.status(BOX)?["peers"]
                .as_array()
                .is_some_and(Vec::is_empty))
    })?;
    println!("    dropped by all after {:.2} s", took.as_secs_f64());
    for host in OTHERS {
        let shown = lab.run(host, &["wg", "show", "pns0", "allowed-ips"])?;
        ensure!(!shown.contains("10.55.1.0/24"), "{host}: {shown}");
    }
    let own = lab.run(BOX, &["pnsbox", "status"])?;
    ensure!(
        own.contains(
            "quarantined: the operator has shut this box out of the network: its disk was stolen"
        ),
        "{own}"
    );
    let fleet = lab.run(OPERATOR, &["pnsbox-controller", "status"])?;
    ensure!(
        fleet.contains("kota-malang/gw1 is in quarantine since"),
        "{fleet}"
    );

    // A restart of the box brings nothing back.
    lab.stop_program(BOX, "pnsbox-agent", "KILL")?;
    lab.start_program(BOX, "pnsbox-agent")?;
    ensure!(!reaches(lab)?, "it is still shut out");

    lab.run(OPERATOR, &["pnsbox-controller", "release", SHUT_OUT])?;
    let took = lab.wait("it is back", Duration::from_secs(20), |lab| {
        let all = OTHERS.map(|host| names(lab, host));
        let mut back = reaches(lab)?;
        for names in all {
            back &= names?.contains(SHUT_OUT);
        }
        Ok(back)
    })?;
    println!("    let in again after {:.2} s", took.as_secs_f64());
    Ok(())
}

/// The peers of a box.
fn names(lab: &Lab, host: &str) -> Result<String> {
    let status = lab.status(host)?;
    let peers = status["peers"].as_array().context("peers")?;
    Ok(peers.iter().map(|peer| peer["node"].to_string()).collect())
}

/// Two LANs that meet through the relay.
fn reaches(lab: &Lab) -> Result<bool> {
    let ping = ["ping", "-nc", "1", "-W", "1", "10.55.1.10"];
    Ok(lab.output("kab-demak.lan", &ping)?.status.success())
}
