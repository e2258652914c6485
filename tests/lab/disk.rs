//! A state directory that takes nothing: full, or read-only. The network goes on, and somebody is told.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::Lab;

use crate::drift::metric;

const HOST: &str = "kab-demak.gw";
const AGENT: &str = "pnsbox-agent";
const STATE: &str = "/var/lib/pnsbox";
const POLICY: &str = "/etc/pnsbox/policy.toml";
const CHANGED: &str = "/etc/pnsbox/disk-changed.toml";

pub(crate) fn a_full_or_read_only_disk_stops_nothing(lab: &Lab) -> Result<()> {
    let edit = format!("sed 's|\"tcp/5432\"|\"tcp/5432\", \"tcp/9997\"|' {POLICY} >{CHANGED}");
    lab.run("pusat.controller", &["sh", "-c", &edit])?;
    // The state directory moves to a small disk of its own.
    lab.stop_program(HOST, AGENT, "TERM")?;
    let small = format!(
        "mkdir /run/pnsbox/was && mount --bind {STATE} /run/pnsbox/was && \
         mount -t tmpfs -o size=256k,mode=700 small {STATE} && chown --reference=/run/pnsbox/was {STATE} && \
         cp -a /run/pnsbox/was/. {STATE}/"
    );
    lab.run(HOST, &["sh", "-c", &small])?;
    lab.start_program(HOST, AGENT)?;
    connected(lab)?;

    let saved = lab.run(HOST, &["cat", &format!("{STATE}/state.json")])?;
    let fill = format!("cat /dev/zero >{STATE}/ballast 2>/dev/null || true");
    lab.run(HOST, &["sh", "-c", &fill])?;
    change_arrives(lab, CHANGED, true)?;
    told(lab)?;
    ensure!(
        lab.run(HOST, &["cat", &format!("{STATE}/state.json")])? == saved,
        "what was saved is still there"
    );
    lab.run(HOST, &["rm", &format!("{STATE}/ballast")])?;
    let took = recovered(lab)?;
    println!(
        "    full disk: saved {:.1} s after there was space",
        took.as_secs_f64()
    );

    lab.run(HOST, &["mount", "-o", "remount,ro", STATE])?;
    change_arrives(lab, POLICY, false)?;
    told(lab)?;
    lab.stop_program(HOST, AGENT, "KILL")?;
    lab.start_program(HOST, AGENT)?;
    lab.wait(
        "it starts from a read-only disk",
        Duration::from_secs(20),
        |lab| {
            let ping = ["ping", "-nc", "1", "-W", "1", "10.33.1.10"];
            Ok(lab.output("kab-demak.lan", &ping)?.status.success())
        },
    )?;
    connected(lab)?;
    told(lab)?;
    lab.run(HOST, &["mount", "-o", "remount,rw", STATE])?;
    let took = recovered(lab)?;
    println!(
        "    read-only disk: saved {:.1} s after it was writable",
        took.as_secs_f64()
    );

    lab.stop_program(HOST, AGENT, "TERM")?;
    let back = format!(
        "cp -a {STATE}/. /run/pnsbox/was/ && umount {STATE} && umount /run/pnsbox/was && rmdir /run/pnsbox/was"
    );
    lab.run(HOST, &["sh", "-c", &back])?;
    lab.start_program(HOST, AGENT)?;
    connected(lab)
}

fn connected(lab: &Lab) -> Result<()> {
    lab.wait("a session", Duration::from_secs(40), |lab| {
        Ok(lab.status(HOST)?["controller"]["connected"] == true)
    })?;
    Ok(())
}

/// The change is in force on the box though the disk took nothing.
fn change_arrives(lab: &Lab, policy: &str, opened: bool) -> Result<()> {
    lab.run("pusat.controller", &["pnsbox-controller", "apply", policy])?;
    lab.wait("the change is in force", Duration::from_secs(10), |lab| {
        let table = lab.run(HOST, &["nft", "list", "table", "inet", "pnsbox"])?;
        Ok(table.contains("9997") == opened)
    })?;
    Ok(())
}

fn told(lab: &Lab) -> Result<()> {
    lab.wait("it is said", Duration::from_secs(5), |lab| {
        Ok(message(lab)?.is_some())
    })?;
    let message = message(lab)?.context("a condition")?;
    ensure!(
        message.contains("state.json") && message.contains("free space"),
        "{message}"
    );
    ensure!(metric(lab, HOST, "pnsbox_state_write_failures_total")? > 0);
    Ok(())
}

fn recovered(lab: &Lab) -> Result<Duration> {
    lab.wait("saved after all", Duration::from_secs(15), |lab| {
        Ok(message(lab)?.is_none())
    })
}

fn message(lab: &Lab) -> Result<Option<String>> {
    let status = lab.status(HOST)?;
    let conditions = status["conditions"].as_array().context("conditions")?;
    let found = conditions.iter().find(|c| c["code"] == "state_not_saved");
    Ok(found.map(|c| c["message"].to_string()))
}
