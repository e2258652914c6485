//! What is broken, and where it must be seen: panels by dashboard and title, and alerts at least pending.

use std::time::Duration;

use anyhow::{Result, ensure};
use pnsbox_tests::lab::Lab;

use super::prometheus::{Prometheus, Series};

/// Agents that lost the controller try it again ever more slowly.
const ONLINE_WITHIN: Duration = Duration::from_secs(60);

/// Something that goes wrong, or happens, and its signs.
pub(super) struct Fault {
    pub(super) what: &'static str,
    pub(super) make: fn(&Lab) -> Result<()>,
    pub(super) mend: fn(&Lab) -> Result<()>,
    pub(super) shows: &'static [Sign],
    /// Pending or firing.
    pub(super) alerts: &'static [&'static str],
    /// Neither: they would blame somebody else.
    pub(super) silent: &'static [&'static str],
}

/// A panel that must change.
pub(super) struct Sign {
    pub(super) dashboard: &'static str,
    pub(super) panel: &'static str,
    /// Variables that are set; the others are all.
    pub(super) only: &'static [(&'static str, &'static str)],
    pub(super) change: Change,
}

/// What the sum of a panel's series becomes. It must not be so before.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    Above(f64),
    Below(f64),
    Appears,
    Goes,
}

impl Change {
    pub(super) fn is_shown(self, series: &[Series], total: f64) -> bool {
        match self {
            Self::Above(limit) => !series.is_empty() && total > limit,
            Self::Below(limit) => !series.is_empty() && total < limit,
            Self::Appears => !series.is_empty(),
            Self::Goes => series.is_empty(),
        }
    }
}

use Change::{Above, Appears, Below, Goes};

const fn sign(
    dashboard: &'static str,
    panel: &'static str,
    only: &'static [(&'static str, &'static str)],
    change: Change,
) -> Sign {
    Sign {
        dashboard,
        panel,
        only,
        change,
    }
}

const PUSAT_TO_PROV: &[(&str, &str)] = &[("node", "pusat/gw1"), ("peer", "prov-jateng/gw1")];
const PUSAT: &[(&str, &str)] = &[("agency", "pusat")];
const PROV: &[(&str, &str)] = &[("agency", "prov-jateng")];
const PROV_NODE: &[(&str, &str)] = &[("node", "prov-jateng/gw1")];
const KOTA: &[(&str, &str)] = &[("agency", "kota-malang")];
const KOTA_NODE: &[(&str, &str)] = &[("node", "kota-malang/gw1")];
const PORTAL: &[(&str, &str)] = &[("service", "prov-jateng/portal")];
const DEMAK: &[(&str, &str)] = &[("agency", "kab-demak")];
const DEMAK_NODE: &[(&str, &str)] = &[("node", "kab-demak/gw1")];
const DEMAK_TO_KOTA: &[(&str, &str)] = &[("node", "kab-demak/gw1"), ("peer", "kota-malang/gw1")];

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        what: "hosts talk, directly and over the relay",
        make: talk,
        mend: nothing,
        shows: &[
            sign("fleet", "Traffic received by agency", DEMAK, Above(1e6)),
            sign("agency", "Received and sent", DEMAK_NODE, Above(1e6)),
            sign("agency", "Sent to each peer", DEMAK_NODE, Above(1e6)),
            sign("link", "Traffic", DEMAK_TO_KOTA, Above(1e6)),
            sign("link", "Packets", DEMAK_TO_KOTA, Above(100.0)),
            sign("services", "Relayed for others", PROV, Above(1e6)),
        ],
        alerts: &[],
        silent: &[],
    },
    Fault {
        what: "a LAN host tries what policy does not open",
        make: try_what_is_closed,
        mend: nothing,
        shows: &[
            sign("fleet", "Packets dropped by reason", PROV, Above(5.0)),
            sign("agency", "Dropped packets", PROV_NODE, Above(5.0)),
            sign("services", "Dropped by policy", PROV, Above(5.0)),
        ],
        alerts: &[],
        silent: &["PnsboxWrongSource"],
    },
    Fault {
        what: "a service's server stops",
        make: |lab| lab.stop_program("prov-jateng.lan", "nginx", "TERM"),
        mend: |lab| lab.start_program("prov-jateng.lan", "nginx"),
        shows: &[
            sign("services", "Services", PORTAL, Below(0.5)),
            sign("services", "Failing", PROV, Above(0.5)),
            sign("services", "Failing services", PORTAL, Appears),
            sign("services", "Health", PORTAL, Below(0.5)),
            sign("services", "Healthy services by kind", PROV, Below(1.5)),
            sign("services", "Healthy share by agency", PORTAL, Below(0.999)),
            sign("services", "Services that can be used", KOTA, Below(1.5)),
            sign("fleet", "Conditions", PROV, Above(0.5)),
            sign("fleet", "What needs attention", PROV, Appears),
            sign("agency", "Needs attention", PROV_NODE, Appears),
        ],
        alerts: &["PnsboxServiceUnhealthy"],
        silent: &["PnsboxLinkDown"],
    },
    Fault {
        what: "the ISP loses packets between two sites",
        make: |lab| disturb(lab, "numgen random mod 100 < 40 drop"),
        mend: undisturb,
        shows: &[
            sign("link", "Loss", PUSAT_TO_PROV, Above(0.05)),
            // The site of Prometheus, whose own agent it scrapes without the ISP.
            sign("fleet", "Worst loss by agency", PUSAT, Above(0.05)),
        ],
        alerts: &[],
        silent: &["PnsboxLinkDown"],
    },
    Fault {
        what: "the ISP blocks the tunnel between two sites",
        make: |lab| disturb(lab, "drop"),
        mend: undisturb,
        shows: &[
            sign("fleet", "Agents scraped", &[], Below(3.5)),
            sign("agency", "Scraped", PROV_NODE, Below(0.5)),
            sign("agency", "Links", &[("node", "pusat/gw1")], Below(2.5)),
            sign("agency", "Round trip to each peer", PROV_NODE, Goes),
            sign("link", "Tunnels without a link", PUSAT_TO_PROV, Appears),
            sign("link", "Round-trip time", PUSAT_TO_PROV, Goes),
            sign("link", "Jitter", PUSAT_TO_PROV, Goes),
        ],
        alerts: &["PnsboxScrapeFailing", "PnsboxLinkDown"],
        silent: &["PnsboxNodeDown"],
    },
    Fault {
        what: "another program removes the packet filter",
        make: |lab| {
            lab.run("kota-malang.gw", &["nft", "delete table inet pnsbox"])
                .map(drop)
        },
        mend: nothing,
        shows: &[sign("agency", "Put back", KOTA_NODE, Above(0.5))],
        alerts: &[],
        silent: &["PnsboxHostRepairFailing"],
    },
    Fault {
        what: "an agent stops",
        make: |lab| lab.stop_program("kota-malang.gw", "pnsbox-agent", "TERM"),
        mend: |lab| lab.start_program("kota-malang.gw", "pnsbox-agent"),
        shows: &[
            sign("fleet", "Nodes reached", &[], Below(0.9)),
            sign("fleet", "Nodes online", &[], Below(3.5)),
            sign("fleet", "Nodes offline", &[], Above(0.5)),
            sign("fleet", "Agents scraped", &[], Below(3.5)),
            sign("fleet", "Nodes that nobody reaches", KOTA, Appears),
            sign("fleet", "Nodes reached by agency", KOTA, Below(0.5)),
            sign("fleet", "Sessions", &[], Below(3.5)),
            sign("agency", "Scraped", KOTA_NODE, Below(0.5)),
            sign("agency", "Links", DEMAK_NODE, Below(2.5)),
            sign("link", "Tunnels without a link", DEMAK_TO_KOTA, Appears),
            sign("services", "Services that can be used", DEMAK, Below(2.5)),
        ],
        alerts: &["PnsboxNodeDown"],
        silent: &["PnsboxScrapeFailing", "PnsboxControlLost", "PnsboxPeerDown"],
    },
    Fault {
        what: "the controller stops",
        make: |lab| lab.stop_program("pusat.controller", "pnsbox-controller", "TERM"),
        mend: start_controller,
        shows: &[
            sign("fleet", "Controller", &[], Below(0.5)),
            sign("fleet", "Boxes without the controller", &[], Appears),
            sign("fleet", "Discovery failures", &[], Above(0.1)),
            sign("agency", "Session with the controller", &[], Below(3.5)),
        ],
        alerts: &["PnsboxControllerDown", "PnsboxDiscoveryFailing"],
        silent: &["PnsboxControlLost", "PnsboxNodeDown", "PnsboxNoAgents"],
    },
];

/// Two pings at once, of 1,000 bytes each two milliseconds.
fn talk(lab: &Lab) -> Result<()> {
    let flood =
        "for to in 10.33.1.10 10.55.1.10; do ping -nq -i 0.002 -s 1000 -c 1500 $to & done; wait";
    lab.run("kab-demak.lan", &["sh", "-c", flood]).map(drop)
}

fn try_what_is_closed(lab: &Lab) -> Result<()> {
    let knock = "for i in $(seq 200); do echo > /dev/udp/10.33.1.10/9; done";
    lab.run("kota-malang.lan", &["bash", "-c", knock]).map(drop)
}

/// What the ISP does to packets between the ministry and the province, both ways.
fn disturb(lab: &Lab, verdict: &str) -> Result<()> {
    let rules = format!(
        "table bridge disturb {{ chain c {{ type filter hook forward priority -10; \
         ip saddr 203.0.113.20 ip daddr 203.0.113.30 {verdict}; \
         ip saddr 203.0.113.30 ip daddr 203.0.113.20 {verdict}; }}; }}"
    );
    lab.run("isp", &["nft", &rules]).map(drop)
}

fn undisturb(lab: &Lab) -> Result<()> {
    lab.run("isp", &["nft", "delete table bridge disturb"])
        .map(drop)
}

/// While it starts, Prometheus never hears of an empty network.
fn start_controller(lab: &Lab) -> Result<()> {
    let prometheus = Prometheus { lab };
    lab.start_program("pusat.controller", "pnsbox-controller")?;
    let mut least = usize::MAX;
    lab.wait("everybody is online", ONLINE_WITHIN, |_| {
        least = least.min(prometheus.agents()?.len());
        let online = "pnsbox_controller_nodes{state=\"online\"} == 4".to_owned();
        Ok(!prometheus.ask(&[online])?[0].is_empty())
    })?;
    ensure!(least == 4, "Prometheus knew only {least} of 4 agents");
    Ok(())
}

/// It passes by itself.
#[expect(clippy::unnecessary_wraps, reason = "stands where others may fail")]
fn nothing(_: &Lab) -> Result<()> {
    Ok(())
}
