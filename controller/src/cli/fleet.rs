//! The fleet on one screen: a line per node, what needs attention first, then what to look at.

use std::time::Duration;

use comfy_table::{Table, presets};
use pnsbox_controller_core::fleet::{FleetStatus, NodeState, NodeStatus};
use pnsbox_proto::health::PeerHealth;
use pnsbox_proto::time::UnixTime;

use super::rollout;

/// A table without lines, for screens and pipes alike.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// The screen of `status`.
pub(super) fn screen(fleet: &FleetStatus) -> String {
    let online = fleet
        .nodes
        .iter()
        .filter(|node| node.state == NodeState::Online)
        .count();
    let joined = fleet
        .nodes
        .iter()
        .filter(|node| node.state != NodeState::Invited)
        .count();
    let mut lines = vec![format!(
        "network {}, pool {}: {} agencies, {online} of {joined} nodes online",
        fleet.network, fleet.pool, fleet.agencies
    )];
    if !fleet.serving {
        lines.push("the controller is not running, so nobody can be online; start it: pnsbox-controller serve".to_owned());
    }
    lines.extend(
        fleet
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}")),
    );
    if let Some(status) = &fleet.rollout {
        let (number, progress) = (status.number, rollout::progress(status));
        lines.push(format!("rollout of policy version {number}: {progress}"));
    }
    if fleet.nodes.is_empty() {
        lines.push("no node has joined; invite one: pnsbox-controller invite AGENCY".to_owned());
        return lines.join("\n");
    }
    let mut rows = table(&[
        "NODE",
        "STATE",
        "SINCE",
        "VIEW",
        "UPLINK",
        "PEERS",
        "HANDSHAKE",
        "RTT",
        "LOSS",
        "SERVICES",
    ]);
    for node in &fleet.nodes {
        rows.add_row(row(node, fleet.now));
    }
    lines.push(String::new());
    lines.push(rows.trim_fmt());
    let attention: Vec<&String> = fleet
        .nodes
        .iter()
        .flat_map(|node| &node.attention)
        .collect();
    if !attention.is_empty() {
        lines.push(String::new());
        lines.push("attention:".to_owned());
        lines.extend(attention.into_iter().map(|text| format!("  {text}")));
    }
    lines.join("\n")
}

fn row(node: &NodeStatus, now: UnixTime) -> [String; 10] {
    let since = node.online_since.or(node.last_seen);
    let since = match (since, node.invited_until) {
        (_, Some(until)) => format!("{} left", span(now.age(until).max(until.age(now)))),
        (Some(since), None) => span(since.age(now)),
        (None, None) => "-".to_owned(),
    };
    let view = match (&node.view_refused, node.state) {
        (_, NodeState::Invited) => "-".to_owned(),
        (Some(refused), _) => format!("{} (refused {})", node.view_applied, refused.version),
        (None, _) if node.view_applied == node.view_wanted => node.view_applied.to_string(),
        (None, _) => format!("{} of {}", node.view_applied, node.view_wanted),
    };
    let uplink = node
        .uplink
        .map_or_else(|| "-".to_owned(), |uplink| uplink.ip().to_string());
    let report = node
        .report
        .as_ref()
        .filter(|_| node.state == NodeState::Online);
    let Some(report) = report else {
        let nothing = || "-".to_owned();
        let state = node.state.as_str().to_owned();
        return [
            node.node.to_string(),
            state,
            since,
            view,
            uplink,
            nothing(),
            nothing(),
            nothing(),
            nothing(),
            nothing(),
        ];
    };
    let peers = &report.peers;
    let up = peers.iter().filter(|peer| peer.up).count();
    let healthy = report
        .services
        .iter()
        .filter(|service| service.healthy)
        .count();
    [
        node.node.to_string(),
        node.state.as_str().to_owned(),
        since,
        view,
        uplink,
        format!("{up}/{}", peers.len()),
        oldest_handshake(peers, now),
        worst(peers, |peer| peer.rtt_ms)
            .map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms")),
        worst(peers, |peer| peer.loss)
            .map_or_else(|| "-".to_owned(), |loss| format!("{:.1} %", loss * 100.0)),
        format!("{healthy}/{}", report.services.len()),
    ]
}

/// The age of the oldest last handshake; a peer without one is the worst.
fn oldest_handshake(peers: &[PeerHealth], now: UnixTime) -> String {
    if peers.iter().any(|peer| peer.last_handshake.is_none()) {
        return "never".to_owned();
    }
    let oldest = peers.iter().filter_map(|peer| peer.last_handshake).min();
    oldest.map_or_else(|| "-".to_owned(), |oldest| span(oldest.age(now)))
}

fn worst(peers: &[PeerHealth], value: impl Fn(&PeerHealth) -> Option<f64>) -> Option<f64> {
    peers.iter().filter_map(value).max_by(f64::total_cmp)
}

/// A length of time in its largest unit or two.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn spans_are_short() {
        for (seconds, text) in [(0, "0s"), (61, "1m01s"), (7320, "2h02m"), (90_000, "1d01h")] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_screen_has_a_line_for_each_node_and_what_to_look_at() {
        let peer = |name: &str, up: bool, handshake: Option<u64>, rtt: f64| {
            json!({ "node": name, "up": up, "last_handshake": handshake, "rx_bytes": 1, "tx_bytes": 2,
                    "link": up, "rtt_ms": rtt, "loss": 0.015 })
        };
        let report = json!({
            "started": 1, "software": "0.1.0", "view_applied": 3, "conditions": [],
            "peers": [peer("a2/gw1", true, Some(9_990), 12.34), peer("a3/gw1", false, Some(9_900), 3.0)],
            "services": [{ "name": "a1/db", "kind": "tcp", "endpoint": "10.1.1.1:80", "healthy": false }],
        });
        let node = |name: &str, state: &str, extra: &Value| {
            let mut node = json!({
                "node": name, "agency": "a1", "state": state, "attention": [], "view_wanted": 3, "view_applied": 3,
                "view_bytes_sent": 0, "uplink": "198.51.100.7:4000", "prefixes": [], "held": [], "announced": [],
            });
            for (key, value) in extra.as_object().unwrap() {
                node[key] = value.clone();
            }
            node
        };
        let refused = json!({ "view_wanted": 4, "view_refused": { "version": 4, "reason": "no" },
                              "attention": ["a1/gw2 refused view 4 and keeps view 3: no"], "last_seen": 2_800 });
        let fleet: FleetStatus = serde_json::from_value(json!({
            "network": "pns", "pool": "100.127.0.0/16", "now": 10_000, "serving": true, "agencies": 1, "warnings": [],
            "nodes": [
                node("a1/gw2", "offline", &refused),
                node("a1/gw1", "online", &json!({ "online_since": 9_940, "report": report })),
                node("a1/gw3", "invited", &json!({ "invited_until": 13_600, "uplink": null })),
            ],
        }))
        .unwrap();
        let screen = screen(&fleet);
        let words: Vec<Vec<&str>> = screen
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert!(
            screen.starts_with("network pns, pool 100.127.0.0/16: 1 agencies, 1 of 2 nodes online"),
            "{screen}"
        );
        let offline = [
            "a1/gw2",
            "offline",
            "2h00m",
            "3",
            "(refused",
            "4)",
            "198.51.100.7",
            "-",
            "-",
            "-",
            "-",
            "-",
        ];
        assert_eq!(words[3], offline, "{screen}");
        let online = [
            "a1/gw1",
            "online",
            "1m00s",
            "3",
            "198.51.100.7",
            "1/2",
            "1m40s",
            "12.3",
            "ms",
            "1.5",
            "%",
            "0/1",
        ];
        assert_eq!(words[4], online, "{screen}");
        assert_eq!(
            words[5][..4],
            ["a1/gw3", "invited", "1h00m", "left"],
            "{screen}"
        );
        assert!(
            screen.ends_with("attention:\n  a1/gw2 refused view 4 and keeps view 3: no"),
            "{screen}"
        );
    }
}
