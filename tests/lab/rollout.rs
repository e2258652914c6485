//! A policy in waves: one that would cut boxes off is taken back everywhere and goes no further, a good one goes through.

use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::Lab;
use serde_json::Value;

use crate::trial::{CUT_OFF, linked, reaches};

const OPERATOR: &str = "pusat.controller";
const POLICY: &str = "/etc/pnsbox/policy.toml";
const DEAD: &str = "/etc/pnsbox/dead-relay.toml";
const MORE: &str = "/etc/pnsbox/more.toml";
const RELAY: &str = "prov-jateng/gw1";

pub(crate) fn a_rollout_that_cuts_boxes_off_is_halted_and_a_good_one_goes_through(
    lab: &Lab,
) -> Result<()> {
    lab.wait("they are linked", Duration::from_secs(30), |lab| {
        Ok(linked(lab, CUT_OFF[0].0, CUT_OFF[1].1)? && linked(lab, CUT_OFF[1].0, CUT_OFF[0].1)?)
    })?;
    let version = version(lab)?;
    let halted = cut_off(lab);
    // Also after a failure: what comes next needs a whole network.
    lab.start_program("pusat.gw", "pnsbox-agent")?;
    halted?;
    ensure!(
        version == self::version(lab)?,
        "what was halted is no version"
    );
    let through = good(lab);
    lab.run(OPERATOR, &["pnsbox-controller", "apply", POLICY])?;
    through?;
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

/// Nobody relays at pusat/gw1, where this policy leads the two that need a relay.
fn cut_off(lab: &Lab) -> Result<()> {
    edit(lab, "s|^relays = .*|relays = [\"pusat/gw1\"]|", DEAD)?;
    lab.stop_program("pusat.gw", "pnsbox-agent", "KILL")?;
    let begun = Instant::now();
    let ended = roll_out(lab, DEAD)?;
    let why = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.code() == Some(65), "it is halted: {ended:?}");
    ensure!(why.contains("halted in wave 1 of "), "{why}");
    let silent = "taken back after 45 s, in which nothing was heard from";
    let named = CUT_OFF
        .iter()
        .filter(|(_, node)| why.contains(&format!("{node} refused view")));
    ensure!(named.count() > 0 && why.contains(silent), "{why}");
    println!("    halted after {:.1} s", begun.elapsed().as_secs_f64());
    let well = lab.wait("both are as before", Duration::from_secs(10), |lab| {
        let mut well = reaches(lab)?;
        for ((host, _), (_, other)) in CUT_OFF.into_iter().zip(CUT_OFF.into_iter().rev()) {
            well &= relay(lab, host, other)?.as_deref() == Some(RELAY);
        }
        Ok(well)
    });
    well.context("2 of the 2 boxes that were cut off")?;
    println!(
        "    both as before after {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let status = lab.run(OPERATOR, &["pnsbox-controller", "status"])?;
    ensure!(status.contains("halted in wave 1 of "), "{status}");
    let trail = lab.run(OPERATOR, &["pnsbox-controller", "audit", "show"])?;
    ensure!(
        trail.contains("halt the rollout of policy version "),
        "{trail}"
    );
    Ok(())
}

/// One more port between kab-demak and prov-jateng.
fn good(lab: &Lab) -> Result<()> {
    edit(lab, "s|\"tcp/445\"|\"tcp/445\", \"tcp/9998\"|", MORE)?;
    let before = version(lab)?;
    let plan = lab.run(
        OPERATOR,
        &["pnsbox-controller", "plan", MORE, "--canary", "5%"],
    )?;
    // Other tests leave boxes behind that are not on this link.
    let status = lab.json(OPERATOR, &["pnsbox-controller", "status", "--json"])?;
    let nodes = status["nodes"].as_array().context("nodes")?.iter();
    let all = nodes.filter(|node| node["state"] != "invited").count();
    let share = 200_usize.div_ceil(all);
    let touched = format!("would touch 2 of {all} nodes ({share} %)");
    ensure!(
        plan.contains(&touched) && plan.contains("wave 2: 1 node"),
        "{touched}: {plan}"
    );
    let begun = Instant::now();
    let ended = roll_out(lab, MORE)?;
    ensure!(ended.status.success(), "it goes through: {ended:?}");
    let said = String::from_utf8_lossy(&ended.stdout);
    ensure!(
        said.contains("wave 2 of 2") && said.contains("done: policy version"),
        "{said}"
    );
    println!("    two waves in {:.1} s", begun.elapsed().as_secs_f64());
    let rules = lab.run(
        "prov-jateng.gw",
        &["nft", "list", "table", "inet", "pnsbox"],
    )?;
    ensure!(rules.contains("9998"), "{rules}");
    ensure!(version(lab)? == before + 1, "it is the next version");
    Ok(())
}

fn roll_out(lab: &Lab, policy: &str) -> Result<Output> {
    let command = [
        "pnsbox-controller",
        "apply",
        policy,
        "--canary",
        "5%",
        "--watch",
        "2s",
    ];
    lab.output(OPERATOR, &command)
}

fn edit(lab: &Lab, how: &str, file: &str) -> Result<()> {
    let edit = format!("sed '{how}' {POLICY} >{file}");
    lab.run(OPERATOR, &["sh", "-c", &edit]).map(drop)
}

/// Of the policy in force.
fn version(lab: &Lab) -> Result<u64> {
    let history = lab.json(OPERATOR, &["pnsbox-controller", "history", "--json"])?;
    let versions = history["versions"].as_array().context("versions")?;
    let last = versions.last().context("a version")?;
    last["number"].as_u64().context("number")
}

/// Who relays between a box and its peer.
fn relay(lab: &Lab, host: &str, peer: &str) -> Result<Option<String>> {
    let status = lab.status(host)?;
    let peers: &Vec<Value> = status["peers"].as_array().context("peers")?;
    let peer = peers.iter().find(|p| p["node"] == peer);
    Ok(peer
        .and_then(|peer| peer["relay"].as_str())
        .map(str::to_owned))
}
