//! A change of policy: who is touched, how fast, and who never hears of it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::Lab;
use serde_json::Value;

const POLICY: &str = "/etc/pnsbox/policy.toml";
const CHANGED: &str = "/etc/pnsbox/changed.toml";

pub(crate) fn a_change_reaches_whom_it_affects_and_nobody_else(lab: &Lab) -> Result<()> {
    let before = (view(lab, "kab-demak.gw")?, view(lab, "kota-malang.gw")?);
    let bytes_before = view_bytes(lab, "kota-malang/gw1")?;

    // Opens one more port between kab-demak and prov-jateng; nobody else is concerned.
    let edit = format!("sed 's|\"tcp/445\"|\"tcp/445\", \"tcp/9999\"|' {POLICY} > {CHANGED}");
    lab.run("pusat.controller", &["sh", "-c", &edit])?;
    let plan = lab.run("pusat.controller", &["pnsbox-controller", "plan", CHANGED])?;
    ensure!(
        plan.contains("tcp/9999")
            && plan.contains("kab-demak/gw1")
            && plan.contains("prov-jateng/gw1"),
        "{plan}"
    );
    ensure!(
        !plan.contains("kota-malang/gw1") && !plan.contains("pusat/gw1"),
        "the plan names only whom it touches:\n{plan}"
    );
    ensure!(
        view(lab, "kab-demak.gw")? == before.0,
        "a plan changes nothing"
    );

    lab.run("pusat.controller", &["pnsbox-controller", "apply", CHANGED])?;
    let took = lab.wait("applied on both", Duration::from_secs(2), |lab| {
        Ok(view(lab, "kab-demak.gw")? > before.0 && opens(lab, "9999")?)
    });
    lab.run("pusat.controller", &["pnsbox-controller", "apply", POLICY])?;
    println!("    applied after {:.2} s", took?.as_secs_f64());
    lab.wait("and back", Duration::from_secs(2), |lab| {
        Ok(!opens(lab, "9999")?)
    })?;

    ensure!(
        view(lab, "kota-malang.gw")? == before.1,
        "the unaffected agent keeps its version"
    );
    let bytes = view_bytes(lab, "kota-malang/gw1")?;
    ensure!(
        bytes == bytes_before,
        "not a byte of a view went to the unaffected agent: {bytes_before} then {bytes}"
    );
    ensure!(view_bytes(lab, "kab-demak/gw1")? > 0, "the counter counts");

    let again = lab.run("pusat.controller", &["pnsbox-controller", "plan", POLICY])?;
    ensure!(
        again.to_lowercase().contains("no change") || again.to_lowercase().contains("nothing"),
        "{again}"
    );
    Ok(())
}

fn view(lab: &Lab, host: &str) -> Result<u64> {
    lab.status(host)?["view_applied"]
        .as_u64()
        .context("view_applied")
}

/// Whether the filter of prov-jateng's box opens `port`.
fn opens(lab: &Lab, port: &str) -> Result<bool> {
    Ok(lab
        .run(
            "prov-jateng.gw",
            &["nft", "list", "table", "inet", "pnsbox"],
        )?
        .contains(port))
}

/// Bytes of views that the controller sent to a node in all its life.
pub(crate) fn view_bytes(lab: &Lab, node: &str) -> Result<u64> {
    let status = lab.json(
        "pusat.controller",
        &["pnsbox-controller", "status", "--json"],
    )?;
    let nodes: &Vec<Value> = status["nodes"].as_array().context("nodes")?;
    let node = nodes
        .iter()
        .find(|n| n["node"] == node)
        .with_context(|| format!("{node} is listed"))?;
    node["view_bytes_sent"].as_u64().context("view_bytes_sent")
}
