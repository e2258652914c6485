//! What another program removes from the host: noticed, put back, counted.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::Lab;

const HOST: &str = "kab-demak.gw";
/// The limit of the promise.
const WITHIN: Duration = Duration::from_secs(5);

pub(crate) fn what_another_program_removes_is_put_back_and_counted(lab: &Lab) -> Result<()> {
    for (damage, object, look, wanted) in [
        (
            "nft flush ruleset",
            "filter",
            "nft list tables",
            "inet pnsbox",
        ),
        (
            "nft flush chain inet pnsbox inbound",
            "filter",
            "nft list chain inet pnsbox inbound",
            "inbound_drops",
        ),
        (
            "ip route del 10.33.1.0/24 table 5182",
            "routing",
            "ip route show table 5182",
            "10.33.1.0/24 dev pns0",
        ),
        (
            "ip rule del priority 5182",
            "routing",
            "ip rule",
            "lookup 5182",
        ),
        ("ip link del pns0", "interface", "ip -o link", "pns0"),
    ] {
        let before = repairs(lab, object)?;
        lab.run(HOST, &["sh", "-c", damage])?;
        let shows = |lab: &Lab| -> Result<bool> {
            let seen = lab.output(HOST, &["sh", "-c", look])?;
            Ok(String::from_utf8_lossy(&seen.stdout).contains(wanted))
        };
        ensure!(!shows(lab)?, "{damage} does damage");
        let took = lab
            .wait("put back", WITHIN, |lab| {
                Ok(shows(lab)? && repairs(lab, object)? > before)
            })
            .with_context(|| damage.to_owned())?;
        println!("    {damage}: put back after {:.1} s", took.as_secs_f64());
    }
    lab.wait("LANs reach each other", Duration::from_secs(20), |lab| {
        let ping = ["ping", "-nc", "1", "-W", "1", "10.33.1.10"];
        Ok(lab.output("kab-demak.lan", &ping)?.status.success())
    })?;
    Ok(())
}

fn repairs(lab: &Lab, object: &str) -> Result<u64> {
    metric(
        lab,
        HOST,
        &format!("pnsbox_host_repairs_total{{object=\"{object}\"}}"),
    )
}

/// A counter of an agent, read on its own loopback.
pub(crate) fn metric(lab: &Lab, host: &str, series: &str) -> Result<u64> {
    let url = "http://127.0.0.1:9586/metrics";
    let text = lab.run(host, &["curl", "-sSf", "--max-time", "5", url])?;
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    let value = line.with_context(|| format!("{series} is not in {text}"))?;
    value
        .trim()
        .parse()
        .with_context(|| format!("{series}{value}"))
}
