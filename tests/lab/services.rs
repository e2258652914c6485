//! When a service is seen, and by whom.

use std::time::Duration;

use anyhow::{Result, ensure};
use pnsbox_tests::lab::Lab;

const SHARE: &str = "prov-jateng/arsip";

pub(crate) fn a_service_appears_and_goes_with_its_health(lab: &Lab) -> Result<()> {
    let seen = |lab: &Lab| Ok(lab.service("kab-demak.gw", SHARE)?.is_some());
    ensure!(seen(lab)?, "{SHARE} is seen to begin with");
    // The check is refused as soon as nothing listens: the port is closed on the provider's LAN host.
    let rule = "table inet t { chain c { type filter hook input priority 0; tcp dport 445 reject with tcp reset; }; }";
    lab.run("prov-jateng.lan", &["nft", rule])?;
    let gone = lab.wait("gone", Duration::from_secs(3), |lab| Ok(!seen(lab)?));
    lab.run("prov-jateng.lan", &["nft", "delete table inet t"])?;
    let back = lab.wait("back", Duration::from_secs(4), seen);
    report("withdrawn after", gone?);
    // A check each second, then at most 2 s for the announcement.
    report("announced again after", back?);
    Ok(())
}

pub(crate) fn a_silent_owner_hides_its_services(lab: &Lab) -> Result<()> {
    let seen = |lab: &Lab| Ok(lab.service("kab-demak.gw", SHARE)?.is_some());
    let pid = lab.pid("prov-jateng.gw", "pnsbox-agent")?.to_string();
    lab.run("prov-jateng.gw", &["kill", "-STOP", &pid])?;
    let hidden = lab.wait("hidden", Duration::from_secs(5), |lab| Ok(!seen(lab)?));
    lab.run("prov-jateng.gw", &["kill", "-CONT", &pid])?;
    let back = lab.wait("back", Duration::from_secs(15), seen);
    report("hidden after", hidden?);
    report("seen again after", back?);
    Ok(())
}

pub(crate) fn outside_the_audience_a_service_is_unknown(lab: &Lab) -> Result<()> {
    const DATABASE: &str = "kab-demak/simpeg-db";
    let at_jateng = lab.service("prov-jateng.gw", DATABASE)?.unwrap_or_default();
    ensure!(
        at_jateng["state"] == "available" && at_jateng["endpoints"][0] == "10.44.1.10:5432",
        "{at_jateng}"
    );
    for outside in ["kota-malang.gw", "pusat.gw"] {
        ensure!(
            lab.service(outside, DATABASE)?.is_none(),
            "{outside} never hears of {DATABASE}"
        );
    }
    let closed = lab.service("pusat.gw", SHARE)?.unwrap_or_default();
    ensure!(
        closed["state"] == "blocked_by_policy",
        "announced to all, closed by policy: {closed}"
    );
    Ok(())
}

fn report(what: &str, took: Duration) {
    println!("    {what} {:.2} s", took.as_secs_f64());
}
