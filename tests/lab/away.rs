//! The controller dies, and nobody notices.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::Lab;

use crate::change::view_bytes;
use crate::links::GATEWAYS;

pub(crate) fn losing_the_controller_changes_nothing(lab: &Lab) -> Result<()> {
    let long = std::env::var_os("PNSBOX_LONG").is_some();
    let away = Duration::from_secs(if long { 300 } else { 30 });
    let packets = (away.as_secs() * 100).to_string();
    let handshakes = versions(lab)?;

    lab.stop_program("pusat.controller", "pnsbox-controller", "KILL")?;
    let begun = Instant::now();
    // Two LANs through the relay, and two directly; kota-malang's and pusat's agents are not restarted.
    let ping = |to| ["ping", "-nq", "-i", "0.01", "-c", &packets, "-W", "2", to].map(str::to_owned);
    let spawn = |from: &str, to| lab.spawn(from, &ping(to).each_ref().map(String::as_str));
    let relayed = spawn("kab-demak.lan", "10.55.1.10")?;
    let direct = spawn("kab-demak.lan", "10.33.1.10")?;

    // Meanwhile another agent restarts and comes back from disk.
    lab.stop_program("pusat.gw", "pnsbox-agent", "KILL")?;
    lab.start_program("pusat.gw", "pnsbox-agent")?;
    let took = lab.wait(
        "the restarted agent reaches its peers",
        Duration::from_secs(20),
        |lab| {
            Ok(lab
                .output("pusat.lan", &["ping", "-nc", "1", "-W", "1", "10.44.1.10"])?
                .status
                .success())
        },
    )?;
    println!(
        "    an agent restarted without the controller reached its peers after {:.2} s",
        took.as_secs_f64()
    );
    let screen = lab.run("kab-demak.gw", &["pnsbox", "status"])?;
    ensure!(long || !screen.contains("held back"), "{screen}");

    for (what, ping) in [("relayed", relayed), ("direct", direct)] {
        let said = ping.finish()?;
        ensure!(said.contains(" 0% packet loss"), "{what}: {said}");
    }
    ensure!(
        begun.elapsed() >= away,
        "the controller was away for {:?}",
        begun.elapsed()
    );

    lab.start_program("pusat.controller", "pnsbox-controller")?;
    let took = lab.wait(
        "everybody is online again",
        Duration::from_secs(90),
        |lab| {
            for (host, _) in GATEWAYS {
                if lab.status(host)?["controller"]["connected"] != true {
                    return Ok(false);
                }
            }
            Ok(true)
        },
    )?;
    println!(
        "    after {} s away, everybody was online again in {:.2} s",
        away.as_secs(),
        took.as_secs_f64()
    );
    for (_, node) in GATEWAYS {
        ensure!(
            view_bytes(lab, node)? == 0,
            "no view is sent to {node}, which has it"
        );
    }
    ensure!(versions(lab)? == handshakes, "no version moved");
    Ok(())
}

fn versions(lab: &Lab) -> Result<Vec<u64>> {
    GATEWAYS
        .iter()
        .map(|(host, _)| {
            lab.status(host)?["view_applied"]
                .as_u64()
                .context("view_applied")
        })
        .collect()
}
