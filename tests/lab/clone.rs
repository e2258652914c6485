//! A box is copied with its keys, and both run.

use std::time::Duration;

use anyhow::{Result, ensure};
use pnsbox_tests::lab::Lab;

const BOX: &str = "kab-demak.gw";
const NODE: &str = "kab-demak/gw1";
/// Where the copy runs.
const ELSEWHERE: &str = "laptop";
const OPERATOR: &str = "pusat.controller";

pub(crate) fn a_copy_of_a_box_is_named_within_half_a_minute(lab: &Lab) -> Result<()> {
    let state = lab.run(
        BOX,
        &["sh", "-c", "tar -C /var/lib/pnsbox -c . | base64 -w0"],
    )?;
    let unpack = format!(
        "mkdir -p /etc/pnsbox/copy /var/lib/pnsbox/copy /run/pnsbox && \
         echo {} | base64 -d | tar -C /var/lib/pnsbox/copy -x && \
         printf 'state_dir = \"/var/lib/pnsbox/copy\"\\nsocket = \"/run/pnsbox/copy.sock\"\\n' >/etc/pnsbox/copy/agent.toml",
        state.trim()
    );
    lab.run(ELSEWHERE, &["sh", "-c", &unpack])?;
    ensure!(!told(lab)?, "there is one");
    let run = "exec timeout -s INT 40 pnsbox-agent run --config /etc/pnsbox/copy/agent.toml";
    let mut copy = lab.spawn(ELSEWHERE, &["sh", "-c", run])?;
    let took = lab.wait("it is named", Duration::from_secs(30), |lab| {
        ensure!(!copy.is_over()?, "the copy ended");
        told(lab)
    })?;
    println!("    named after {:.1} s", took.as_secs_f64());
    let status = lab.run(OPERATOR, &["pnsbox-controller", "status"])?;
    ensure!(
        status.contains("at 203.0.113.40:")
            // The laptop's two uplinks.
            && (status.contains("at 203.0.113.60:") || status.contains("at 203.0.113.61:"))
            && status.contains("quarantine kab-demak/gw1"),
        "{status}"
    );
    drop(copy);
    lab.wait("the box is alone again", Duration::from_secs(60), |lab| {
        let mut well = lab.status(BOX)?["controller"]["connected"] == true;
        for to in ["10.33.1.10", "10.55.1.10"] {
            let ping = ["ping", "-nc", "1", "-W", "1", to];
            well &= lab.output("kab-demak.lan", &ping)?.status.success();
        }
        Ok(well)
    })?;
    lab.run(
        ELSEWHERE,
        &["rm", "-r", "/var/lib/pnsbox/copy", "/etc/pnsbox/copy"],
    )?;
    Ok(())
}

fn told(lab: &Lab) -> Result<bool> {
    let status = lab.run(OPERATOR, &["pnsbox-controller", "status"])?;
    Ok(status.contains(&format!("{NODE} runs in two places")))
}
