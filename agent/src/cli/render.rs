//! Text for people: fixed columns, no colour, UTC, one screen.

use std::net::SocketAddr;
use std::time::SystemTime;

use comfy_table::{Table, presets};
use pnsbox_agent_core::snapshot::{
    ExternalStatus, MembershipState, ServiceState, ServiceStatus, StatusSnapshot,
};
use pnsbox_proto::health::{HeldReason, PeerHealth};
use pnsbox_proto::time::UnixTime;

/// `pnsbox status`.
pub(crate) fn status(status: &StatusSnapshot) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        text.push_str(&format!("{name:<11} {value}\n"));
    };
    line("state", state(status));
    if status.state == MembershipState::NotJoined {
        line(
            "next",
            "pnsbox join ANCHOR, with the line that the operator gave you".into(),
        );
    }
    if !status.overlay.is_empty() {
        line("overlay", join(&status.overlay));
    }
    if status.node.is_some() {
        line(
            "lan",
            if status.prefixes.is_empty() {
                "none routed".into()
            } else {
                join(&status.prefixes)
            },
        );
        for held in &status.held {
            line(
                "held back",
                held_text(&held.prefix.to_string(), &held.reason),
            );
        }
        line("controller", controller(status));
        let since = status
            .view_since
            .map_or_else(String::new, |t| format!(", in force since {t}"));
        let since = match status.on_trial {
            true => format!("{since}, on trial"),
            false => since,
        };
        line("view", format!("{}{since}", status.view_applied));
        if let Some(audit) = status.audit {
            line("audit trail", audit.to_string());
        }
        let up = status.peers.iter().filter(|p| p.up).count();
        line("peers", format!("{up} of {} up", status.peers.len()));
    }
    for condition in &status.conditions {
        line(
            "attention",
            format!("{}: {}", condition.code, condition.message),
        );
    }
    if !status.peers.is_empty() || !status.externals.is_empty() {
        text.push('\n');
        text.push_str(&peers(status));
        text.push('\n');
    }
    if !status.own_services.is_empty() {
        text.push('\n');
        let mut table = table(&["OWN SERVICE", "KIND", "ENDPOINT", "HEALTH"]);
        for service in &status.own_services {
            let health = if service.healthy {
                "healthy"
            } else {
                "unhealthy"
            };
            table.add_row([
                service.name.to_string(),
                service.kind.to_string(),
                service.endpoint.to_string(),
                health.into(),
            ]);
        }
        text.push_str(&trimmed(&table));
    }
    text.trim_end().to_owned()
}

/// `pnsbox peers`: members, then plain WireGuard devices.
pub(crate) fn peers(status: &StatusSnapshot) -> String {
    let members = members(&status.peers);
    if status.externals.is_empty() {
        return members;
    }
    let devices = devices(&status.externals);
    if status.peers.is_empty() {
        devices
    } else {
        format!("{members}\n\n{devices}")
    }
}

fn devices(devices: &[ExternalStatus]) -> String {
    let mut table = table(&["DEVICE", "TUNNEL", "PATH", "HANDSHAKE"]);
    for device in devices {
        table.add_row([
            device.device.to_string(),
            up_or_down(device.up),
            endpoint(device.endpoint),
            age(device.last_handshake),
        ]);
    }
    trimmed(&table)
}

fn members(peers: &[PeerHealth]) -> String {
    let mut table = table(&[
        "PEER",
        "TUNNEL",
        "PATH",
        "MTU",
        "HANDSHAKE",
        "LINK",
        "RTT MS",
        "JITTER MS",
        "LOSS",
    ]);
    for peer in peers {
        let path = peer
            .relay
            .as_ref()
            .map_or_else(|| endpoint(peer.endpoint), |relay| format!("relay {relay}"));
        let mtu = peer
            .path_mtu
            .map_or_else(|| "-".into(), |mtu| mtu.to_string());
        table.add_row([
            peer.node.to_string(),
            up_or_down(peer.up),
            path,
            mtu,
            age(peer.last_handshake),
            up_or_down(peer.link),
            number(peer.rtt_ms),
            number(peer.jitter_ms),
            peer.loss
                .map_or_else(|| "-".into(), |loss| format!("{:.0} %", loss * 100.0)),
        ]);
    }
    trimmed(&table)
}

fn up_or_down(up: bool) -> String {
    if up { "up" } else { "down" }.into()
}

fn endpoint(endpoint: Option<SocketAddr>) -> String {
    endpoint.map_or_else(|| "-".into(), |e| e.to_string())
}

fn age(last_handshake: Option<UnixTime>) -> String {
    let now = UnixTime::from(SystemTime::now());
    last_handshake.map_or_else(
        || "never".into(),
        |t| format!("{} s ago", t.age(now).as_secs()),
    )
}

/// `pnsbox services`.
pub(crate) fn services(services: &[ServiceStatus]) -> String {
    let mut table = table(&["SERVICE", "KIND", "ENDPOINT", "NODE", "STATE"]);
    for service in services {
        let state = match service.state {
            ServiceState::Available => "available",
            ServiceState::BlockedByPolicy => "blocked by policy",
        };
        table.add_row([
            service.name.to_string(),
            service.kind.to_string(),
            join(&service.endpoints),
            service.node.to_string(),
            state.into(),
        ]);
    }
    trimmed(&table)
}

fn state(status: &StatusSnapshot) -> String {
    match (status.state, &status.node, &status.network) {
        (MembershipState::Joined, Some(node), Some(network)) => {
            format!("{node} of network {network}")
        }
        (MembershipState::Joining, ..) => "joining".into(),
        (MembershipState::Joined | MembershipState::NotJoined, ..) => "not joined".into(),
    }
}

fn controller(status: &StatusSnapshot) -> String {
    let controller = &status.controller;
    let since = controller
        .since
        .map_or_else(String::new, |t| format!(" since {t}"));
    if controller.connected {
        let seen = controller
            .observed
            .map_or_else(String::new, |a| format!(", which sees this box at {a}"));
        return format!("{} online{since}{seen}", join(&controller.addresses));
    }
    let why = controller
        .last_error
        .as_ref()
        .map_or_else(String::new, |e| format!(": {e}"));
    format!("{} away{since}{why}", join(&controller.addresses))
}

fn held_text(prefix: &str, reason: &HeldReason) -> String {
    match reason {
        HeldReason::Overlap { holder, held } => {
            format!("{prefix}: overlaps {held} of {holder}")
        }
        HeldReason::Unregistered => {
            format!("{prefix}: not registered for this agency; waits for the operator")
        }
        #[expect(unreachable_patterns, reason = "reasons may be added")]
        _ => prefix.to_owned(),
    }
}

fn join<T: ToString>(values: &[T]) -> String {
    values
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.1}"))
}

pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.to_vec());
    table
}

/// The table without the spaces that pad its last column.
fn trimmed(table: &Table) -> String {
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}
