//! Every metric of the agent, declared once. Values come from one look at the agent, when it is asked:
//! what has gone from the agent has gone from the next answer.
//!
//! Labels are names from the view, the configuration or an enum; never free text.
//! Moments are exported, not ages: Prometheus subtracts.

use pnsbox_agent_core::snapshot::{MembershipState, ServiceState, ServiceStatus, StatusSnapshot};
use pnsbox_dataplane::Counters;
use pnsbox_proto::health::PeerHealth;
use pnsbox_proto::key::WireguardKey;
use prometheus::core::Collector;
use prometheus::{Encoder as _, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

/// Writes `/metrics`.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// Nothing is kept between two answers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The text of `/metrics`.
    pub fn render(
        &self,
        status: &StatusSnapshot,
        services: &[ServiceStatus],
        counters: Option<&Counters>,
    ) -> String {
        let families = Families::declare();
        families.fill_agent(status);
        for peer in &status.peers {
            families.fill_peer(peer);
        }
        families.fill_services(status, services);
        if let Some(counters) = counters {
            families.fill_data_plane(counters);
        }
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&families.registry.gather(), &mut text)
            .expect("families with unique names and a Vec give the encoder nothing to refuse");
        String::from_utf8(text).expect("the encoder writes text")
    }
}

/// Declares each metric once: its field is its name.
///
/// Vectors throughout: a metric without a value does not appear.
macro_rules! families {
    ($($name:ident: $kind:ident, $labels:expr, $help:literal;)*) => {
        struct Families {
            registry: Registry,
            $($name: $kind,)*
        }

        impl Families {
            fn declare() -> Self {
                let registry = Registry::new();
                Self {
                    $($name: registered(&registry, $kind::new(opts(stringify!($name), $help), $labels)),)*
                    registry,
                }
            }
        }
    };
}

families! {
    build_info: IntGaugeVec, &["version"], "Version of the agent; always 1.";
    agent_state: IntGaugeVec, &["state"], "1 for the state that the agent is in.";
    node_info: IntGaugeVec, &["network", "node"], "Place in the network; always 1.";
    control_connected: IntGaugeVec, NONE, "A session with the controller stands.";
    control_change_timestamp_seconds: IntGaugeVec, NONE, "When the session with the controller came or went.";
    view_version: IntGaugeVec, NONE, "Version of the view in force.";
    view_applied_timestamp_seconds: IntGaugeVec, NONE, "When the view came into force.";
    view_quarantined_records: IntGaugeVec, NONE, "Records of the view that could not be read.";
    held_prefixes: IntGaugeVec, NONE, "Claimed prefixes that are not routed.";
    conditions: IntGaugeVec, &["code"], "Things that need attention, by code.";
    peer_up: IntGaugeVec, PEER, "The tunnel has a handshake of the last 180 s.";
    peer_link_up: IntGaugeVec, PEER, "The link inside the tunnel stands.";
    peer_relayed: IntGaugeVec, PEER, "The tunnel goes through a relay.";
    peer_last_handshake_timestamp_seconds: IntGaugeVec, PEER, "When the last handshake was completed.";
    peer_receive_bytes_total: IntCounterVec, PEER, "Inner bytes received.";
    peer_transmit_bytes_total: IntCounterVec, PEER, "Inner bytes sent.";
    peer_rtt_seconds: GaugeVec, PEER, "Round-trip time of the last probes.";
    peer_jitter_seconds: GaugeVec, PEER, "Mean deviation of the round-trip time.";
    peer_loss_ratio: GaugeVec, PEER, "Share of the last probes that were lost.";
    own_service_healthy: IntGaugeVec, &["service", "kind"], "The checks of a service of this box pass.";
    services: IntGaugeVec, &["kind", "state"], "Services that this box knows of.";
    tunnel_handshakes_total: IntCounterVec, TUNNEL, "Handshakes completed, by WireGuard key.";
    tunnel_handshake_failures_total: IntCounterVec, TUNNEL, "Handshakes that failed, by WireGuard key.";
    drop_packets_total: IntCounterVec, &["reason"], "Packets dropped by the data plane.";
    relay_packets_total: IntCounterVec, NONE, "Datagrams relayed for others.";
    relay_bytes_total: IntCounterVec, NONE, "Bytes relayed for others.";
}

impl Families {
    fn fill_agent(&self, status: &StatusSnapshot) {
        self.build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        for state in [
            MembershipState::NotJoined,
            MembershipState::Joining,
            MembershipState::Joined,
        ] {
            let current = i64::from(state == status.state);
            self.agent_state
                .with_label_values(&[state_label(state)])
                .set(current);
        }
        if let (Some(network), Some(node)) = (&status.network, &status.node) {
            self.node_info
                .with_label_values(&[network.as_str(), node.as_str()])
                .set(1);
        }
        self.control_connected
            .with_label_values(NONE)
            .set(i64::from(status.controller.connected));
        if let Some(since) = status.controller.since {
            self.control_change_timestamp_seconds
                .with_label_values(NONE)
                .set(signed(since.0));
        }
        self.view_version
            .with_label_values(NONE)
            .set(signed(status.view_applied));
        if let Some(since) = status.view_since {
            self.view_applied_timestamp_seconds
                .with_label_values(NONE)
                .set(signed(since.0));
        }
        self.view_quarantined_records
            .with_label_values(NONE)
            .set(count(&status.quarantined));
        self.held_prefixes
            .with_label_values(NONE)
            .set(count(&status.held));
        for condition in &status.conditions {
            self.conditions
                .with_label_values(&[condition.code.as_str()])
                .inc();
        }
    }

    fn fill_peer(&self, peer: &PeerHealth) {
        let label = &[peer.node.as_str()];
        self.peer_up
            .with_label_values(label)
            .set(i64::from(peer.up));
        self.peer_link_up
            .with_label_values(label)
            .set(i64::from(peer.link));
        self.peer_relayed
            .with_label_values(label)
            .set(i64::from(peer.relay.is_some()));
        if let Some(handshake) = peer.last_handshake {
            self.peer_last_handshake_timestamp_seconds
                .with_label_values(label)
                .set(signed(handshake.0));
        }
        self.peer_receive_bytes_total
            .with_label_values(label)
            .inc_by(peer.rx_bytes);
        self.peer_transmit_bytes_total
            .with_label_values(label)
            .inc_by(peer.tx_bytes);
        let seconds = |milliseconds: f64| milliseconds / 1e3;
        for (family, value) in [
            (&self.peer_rtt_seconds, peer.rtt_ms.map(seconds)),
            (&self.peer_jitter_seconds, peer.jitter_ms.map(seconds)),
            (&self.peer_loss_ratio, peer.loss),
        ] {
            if let Some(value) = value {
                family.with_label_values(label).set(value);
            }
        }
    }

    fn fill_services(&self, status: &StatusSnapshot, services: &[ServiceStatus]) {
        for own in &status.own_services {
            let labels = [own.name.as_str(), own.kind.as_str()];
            self.own_service_healthy
                .with_label_values(&labels)
                .set(i64::from(own.healthy));
        }
        for service in services {
            let state = match service.state {
                ServiceState::Available => "available",
                ServiceState::BlockedByPolicy => "blocked_by_policy",
            };
            self.services
                .with_label_values(&[service.kind.as_str(), state])
                .inc();
        }
    }

    fn fill_data_plane(&self, counters: &Counters) {
        for peer in &counters.peers {
            let key = WireguardKey(peer.public_key).to_string();
            self.tunnel_handshakes_total
                .with_label_values(&[&key])
                .inc_by(peer.handshakes);
            self.tunnel_handshake_failures_total
                .with_label_values(&[&key])
                .inc_by(peer.handshake_failures);
        }
        for (reason, packets) in &counters.drops {
            self.drop_packets_total
                .with_label_values(&[reason.as_str()])
                .inc_by(*packets);
        }
        self.relay_packets_total
            .with_label_values(NONE)
            .inc_by(counters.relayed_packets);
        self.relay_bytes_total
            .with_label_values(NONE)
            .inc_by(counters.relayed_bytes);
    }
}

const PEER: &[&str] = &["peer"];
const TUNNEL: &[&str] = &["public_key"];
const NONE: &[&str] = &[];

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("pnsbox")
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    family: prometheus::Result<C>,
) -> C {
    let family = family.expect("names and labels are constants of this file, and right");
    registry
        .register(Box::new(family.clone()))
        .expect("names are unique in this file");
    family
}

fn state_label(state: MembershipState) -> &'static str {
    match state {
        MembershipState::NotJoined => "not_joined",
        MembershipState::Joining => "joining",
        MembershipState::Joined => "joined",
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn count<T>(items: &[T]) -> i64 {
    i64::try_from(items.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
