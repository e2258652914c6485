//! A change that would cut boxes off is taken back by the boxes themselves.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::Lab;

const POLICY: &str = "/etc/pnsbox/policy.toml";
const DEAD: &str = "/etc/pnsbox/dead-relay.toml";
pub(crate) const CUT_OFF: [(&str, &str); 2] = [
    ("kab-demak.gw", "kab-demak/gw1"),
    ("kota-malang.gw", "kota-malang/gw1"),
];
const OPERATOR: &str = "pusat.controller";

pub(crate) fn a_change_that_cuts_boxes_off_is_taken_back_within_a_minute(lab: &Lab) -> Result<()> {
    let outcome = cut_off(lab);
    // Also after a failure: what comes next needs a whole network.
    let started = lab.start_program("pusat.gw", "pnsbox-agent");
    let applied = lab.run(OPERATOR, &["pnsbox-controller", "apply", POLICY]);
    outcome.and(started)?;
    applied?;
    lab.wait("all is well", Duration::from_secs(30), |lab| {
        let mut well = reaches(lab)?;
        for (host, _) in CUT_OFF {
            let conditions = lab.status(host)?["conditions"].to_string();
            well &= !conditions.contains("taken back");
        }
        Ok(well)
    })?;
    Ok(())
}

fn cut_off(lab: &Lab) -> Result<()> {
    let edit = format!("sed 's|^relays = .*|relays = [\"pusat/gw1\"]|' {POLICY} >{DEAD}");
    lab.run(OPERATOR, &["sh", "-c", &edit])?;
    // Only a link that is up is missed.
    lab.wait("they are linked", Duration::from_secs(30), |lab| {
        Ok(linked(lab, CUT_OFF[0].0, CUT_OFF[1].1)? && linked(lab, CUT_OFF[1].0, CUT_OFF[0].1)?)
    })?;
    let before = CUT_OFF.map(|(host, _)| view(lab, host));
    // Nobody relays there.
    lab.stop_program("pusat.gw", "pnsbox-agent", "KILL")?;
    lab.run(OPERATOR, &["pnsbox-controller", "apply", DEAD])?;
    let begun = Instant::now();
    lab.wait("they do as told", Duration::from_secs(5), |lab| {
        Ok(!reaches(lab)?)
    })?;
    let taken_back = lab.wait("both took it back", Duration::from_secs(60), |lab| {
        for (host, _) in CUT_OFF {
            let conditions = lab.status(host)?["conditions"].to_string();
            if !conditions.contains("was taken back after 45 s") {
                return Ok(false);
            }
        }
        reaches(lab)
    });
    taken_back.context("within a minute, on their own")?;
    println!(
        "    cut off, and as before on both after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    for ((host, node), before) in CUT_OFF.into_iter().zip(before) {
        ensure!(view(lab, host)? == before?, "{host} has the view before");
        lab.wait("the operator sees it", Duration::from_secs(10), |lab| {
            let status = lab.run(OPERATOR, &["pnsbox-controller", "status"])?;
            Ok(status.contains(&format!("{node} refused view"))
                && status.contains("nothing was heard from"))
        })?;
    }
    Ok(())
}

/// Between the two that need a relay.
pub(crate) fn reaches(lab: &Lab) -> Result<bool> {
    let ping = ["ping", "-nc", "1", "-W", "1", "10.55.1.10"];
    Ok(lab.output("kab-demak.lan", &ping)?.status.success())
}

/// Whether the link of a box to a peer is up.
pub(crate) fn linked(lab: &Lab, host: &str, peer: &str) -> Result<bool> {
    let status = lab.status(host)?;
    let peers = status["peers"].as_array().context("peers")?;
    Ok(peers.iter().any(|p| p["node"] == peer && p["link"] == true))
}

fn view(lab: &Lab, host: &str) -> Result<u64> {
    lab.status(host)?["view_applied"]
        .as_u64()
        .context("view_applied")
}
