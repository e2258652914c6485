//! Who reaches whom, and from which address.

use std::time::Duration;

use anyhow::{Result, ensure};
use pnsbox_tests::lab::Lab;

/// LAN hosts by host name of the lab.
pub(crate) const LAN_HOSTS: [(&str, &str); 4] = [
    ("pusat.lan", "10.10.1.10"),
    ("prov-jateng.lan", "10.33.1.10"),
    ("kab-demak.lan", "10.44.1.10"),
    ("kota-malang.lan", "10.55.1.10"),
];

pub(crate) fn lans_reach_each_other_with_their_own_addresses(lab: &Lab) -> Result<()> {
    for (from, source) in LAN_HOSTS {
        for (to, destination) in LAN_HOSTS.iter().filter(|(to, _)| *to != from) {
            let filter = format!("icmp[icmptype] == icmp-echo and src host {source}");
            let watch = [
                "timeout", "10", "tcpdump", "-lnqi", "any", "-c", "1", &filter,
            ];
            let mut capture = lab.spawn(to, &watch)?;
            lab.wait("an echo that is seen", Duration::from_secs(10), |lab| {
                let ping = ["ping", "-nc", "1", "-W", "1", destination];
                Ok(lab.output(from, &ping)?.status.success() && capture.is_over()?)
            })?;
            let seen = capture.finish()?;
            ensure!(
                seen.contains(&format!("{source} > {destination}")),
                "{from} to {to}: {seen}"
            );
        }
    }
    Ok(())
}

pub(crate) fn what_policy_does_not_open_stays_closed(lab: &Lab) -> Result<()> {
    let tcp = |from: &str, to: &str, port: &str| -> Result<bool> {
        let connect = format!("exec 3<>/dev/tcp/{to}/{port}");
        Ok(lab
            .output(from, &["timeout", "2", "bash", "-c", &connect])?
            .status
            .success())
    };
    let _listener = lab.spawn(
        "prov-jateng.lan",
        &["timeout", "20", "python3", "-m", "http.server", "9999"],
    )?;
    lab.wait("the listener", Duration::from_secs(5), |_| {
        tcp("prov-jateng.lan", "10.33.1.10", "9999")
    })?;
    ensure!(
        tcp("kab-demak.lan", "10.33.1.10", "445")?,
        "what policy opens is open"
    );
    ensure!(
        !tcp("kab-demak.lan", "10.33.1.10", "9999")?,
        "another port is closed"
    );
    ensure!(
        !tcp("kab-demak.lan", "10.33.1.1", "22")?,
        "the box itself is closed"
    );
    let box_overlay = lab.status("prov-jateng.gw")?["overlay"][0]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let _on_box = lab.spawn(
        "prov-jateng.gw",
        &["timeout", "20", "python3", "-m", "http.server", "9998"],
    )?;
    lab.wait("the box's listener", Duration::from_secs(5), |_| {
        tcp("prov-jateng.gw", "127.0.0.1", "9998")
    })?;
    ensure!(
        !tcp("kab-demak.gw", &box_overlay, "9998")?,
        "the box's overlay address opens links, echo and metrics only"
    );
    Ok(())
}
