//! Every metric of the agent, declared once. Values come from one look at the agent, when it is asked:
//! what has gone from the agent has gone from the next answer.
//!
//! Labels are names from the view, the configuration or an enum; never free text.
//! Moments are exported, not ages: Prometheus subtracts.

use std::collections::BTreeMap;

use pnsbox_agent_core::snapshot::{
    MembershipState, ServiceState, ServiceStatus, StatusSnapshot, Tally,
};
use pnsbox_dataplane::{Counters, PeerCounters, PublicKey, WorkerCounters};
use pnsbox_program::process;
use pnsbox_proto::health::PeerHealth;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::time::UnixTime;
use prometheus::core::{Collector, Desc};
use prometheus::{
    CounterVec, Encoder as _, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// What an answer is made of.
#[derive(Debug)]
pub struct Reading<'a> {
    /// From the core.
    pub status: &'a StatusSnapshot,
    /// From the core.
    pub services: &'a [ServiceStatus],
    /// From the core.
    pub tally: Tally,
    /// From the core: the peers' names by the keys of their tunnels.
    pub names: BTreeMap<PublicKey, &'a NodeName>,
    /// From the data plane, while there is one.
    pub counters: Option<&'a Counters>,
    /// When the data plane was last seen to move.
    pub progress: Option<UnixTime>,
    /// Largest inner packet, in bytes, while there is an interface.
    pub mtu: Option<u16>,
    /// From the shell.
    pub shell: &'a ShellTally,
}

/// What the shell has counted since its start.
#[derive(Debug, Default)]
pub struct ShellTally {
    /// Things of ours that were put back into the kernel, by what they were.
    pub repairs: BTreeMap<&'static str, u64>,
    /// Times that this failed.
    pub repair_failures: u64,
    /// Times that the state could not be written.
    pub state_write_failures: u64,
    /// What the packet filter dropped, by where.
    pub filter_drops: BTreeMap<&'static str, u64>,
}

/// The text of `/metrics`.
pub fn render(reading: &Reading<'_>) -> String {
    let families = Families::declare();
    families.fill_agent(reading.status);
    families.fill_tally(reading.tally, reading.shell);
    families.fill_peers(reading);
    families.fill_services(reading.status, reading.services);
    if let Some(counters) = reading.counters {
        families.fill_data_plane(counters, reading.progress);
    }
    let mut gathered = families.registry.gather();
    gathered.extend(process::families());
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&gathered, &mut text)
        .expect("families with unique names and a Vec give the encoder nothing to refuse");
    String::from_utf8(text).expect("the encoder writes text")
}

/// Every metric of this file: what `docs/metrics.md` must say.
pub fn described() -> Vec<Desc> {
    Families::declare().described
}

/// Declares each metric once: its field is its name.
///
/// Vectors throughout: a metric without a value does not appear.
macro_rules! families {
    ($($name:ident: $kind:ident, $labels:expr, $help:literal;)*) => {
        struct Families {
            registry: Registry,
            described: Vec<Desc>,
            $($name: $kind,)*
        }

        impl Families {
            fn declare() -> Self {
                let registry = Registry::new();
                let mut described = Vec::new();
                $(let $name = registered(
                    $kind::new(opts(stringify!($name), $help), $labels),
                    &registry,
                    &mut described,
                );)*
                Self { registry, described, $($name,)* }
            }
        }
    };
}

families! {
    build_info: IntGaugeVec, &["version"], "Version of the agent; always 1.";
    agent_state: IntGaugeVec, &["state"], "1 for the state that the agent is in: not_joined, joining or joined.";
    node_info: IntGaugeVec, &["network", "node"], "Place in the network; always 1.";
    control_connected: IntGaugeVec, NONE, "1 while a session with the controller stands.";
    control_change_timestamp_seconds: IntGaugeVec, NONE, "When the session with the controller came or went.";
    control_sessions_total: IntCounterVec, NONE, "Sessions made with a controller that was believed.";
    view_version: IntGaugeVec, NONE, "Version of the view in force; 0 before the first.";
    view_applied_timestamp_seconds: IntGaugeVec, NONE, "When the view came into force.";
    view_quarantined_records: IntGaugeVec, NONE, "Records of the view in force that could not be read.";
    view_applies_total: IntCounterVec, NONE, "Views that came into force.";
    view_refusals_total: IntCounterVec, NONE, "Views that were refused, retries included.";
    conditions: IntGaugeVec, &["code"], "Things that need attention now, by code.";
    state_write_failures_total: IntCounterVec, NONE, "Times that the state could not be written to disk.";
    data_plane_progress_timestamp_seconds: IntGaugeVec, NONE, "When every worker of the data plane was last seen to move.";
    host_repairs_total: IntCounterVec, &["object"], "Things of the agent that another program had changed in the kernel and that were put back: interface, address, routing or filter.";
    host_repair_failures_total: IntCounterVec, NONE, "Times that putting them back failed.";
    peers: IntGaugeVec, &["path", "state"], "Peers by path (direct or relay) and state (up or down).";
    links_up: IntGaugeVec, NONE, "Peers with whom the link inside the tunnel stands.";
    peer_up: IntGaugeVec, PEER, "1 if the tunnel has a handshake of the last 180 s.";
    peer_last_handshake_timestamp_seconds: IntGaugeVec, PEER, "When the last handshake was completed.";
    peer_handshakes_total: IntCounterVec, PEER, "Handshakes completed.";
    peer_handshake_failures_total: IntCounterVec, PEER, "Times that a handshake was given up.";
    peer_receive_bytes_total: IntCounterVec, PEER, "Inner bytes received.";
    peer_transmit_bytes_total: IntCounterVec, PEER, "Inner bytes sent.";
    peer_receive_packets_total: IntCounterVec, PEER, "Inner packets received.";
    peer_transmit_packets_total: IntCounterVec, PEER, "Inner packets sent.";
    peer_rtt_seconds: GaugeVec, PEER, "Round-trip time of the last probes; absent without a link.";
    peer_jitter_seconds: GaugeVec, PEER, "Mean deviation of the round-trip time; absent without a link.";
    peer_loss_ratio: GaugeVec, PEER, "Share of the last probes that were lost; absent without a link.";
    peer_mtu_bytes: IntGaugeVec, PEER, "Largest inner packet that is sent to the peer whole.";
    own_service_healthy: IntGaugeVec, &["service", "kind"], "1 while the checks of a service of this box pass.";
    services: IntGaugeVec, &["state"], "Services that this box knows of: available or blocked_by_policy.";
    drop_packets_total: IntCounterVec, &["reason"], "Packets dropped by the data plane, or by the packet filter (filter_*).";
    worker_busy_seconds_total: CounterVec, &["worker"], "Processor time of a worker of the data plane.";
    tun_reads_total: IntCounterVec, NONE, "Reads of the interface.";
    tun_read_packets_total: IntCounterVec, NONE, "Packets that those reads were cut into.";
    tun_writes_total: IntCounterVec, NONE, "Writes to the interface.";
    tun_write_packets_total: IntCounterVec, NONE, "Packets that were merged into those writes.";
    udp_sends_total: IntCounterVec, NONE, "Runs of datagrams handed to the socket.";
    udp_send_datagrams_total: IntCounterVec, NONE, "Datagrams in those runs.";
    udp_receives_total: IntCounterVec, NONE, "Runs of datagrams taken from the socket.";
    udp_receive_datagrams_total: IntCounterVec, NONE, "Datagrams in those runs.";
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
        for condition in &status.conditions {
            self.conditions
                .with_label_values(&[condition.code.as_str()])
                .inc();
        }
    }

    fn fill_tally(&self, tally: Tally, shell: &ShellTally) {
        for (family, count) in [
            (&self.control_sessions_total, tally.sessions),
            (&self.view_applies_total, tally.views_applied),
            (&self.view_refusals_total, tally.views_refused),
            (&self.state_write_failures_total, shell.state_write_failures),
            (&self.host_repair_failures_total, shell.repair_failures),
        ] {
            family.with_label_values(NONE).inc_by(count);
        }
        for (family, counts) in [
            (&self.host_repairs_total, &shell.repairs),
            (&self.drop_packets_total, &shell.filter_drops),
        ] {
            for (label, count) in counts {
                family.with_label_values(&[label]).inc_by(*count);
            }
        }
    }

    fn fill_peers(&self, reading: &Reading<'_>) {
        let peers = &reading.status.peers;
        for (path, relayed) in [("direct", false), ("relay", true)] {
            for (state, up) in [("up", true), ("down", false)] {
                let such = peers
                    .iter()
                    .filter(|peer| peer.relay.is_some() == relayed && peer.up == up);
                self.peers
                    .with_label_values(&[path, state])
                    .set(signed(such.count() as u64));
            }
        }
        let linked = peers.iter().filter(|peer| peer.link).count();
        self.links_up
            .with_label_values(NONE)
            .set(signed(linked as u64));
        for peer in peers {
            self.fill_peer(peer, reading.mtu);
        }
        for tunnel in reading.counters.into_iter().flat_map(|c| &c.peers) {
            if let Some(name) = reading.names.get(&tunnel.public_key) {
                self.fill_tunnel(name, tunnel);
            }
        }
    }

    fn fill_peer(&self, peer: &PeerHealth, interface_mtu: Option<u16>) {
        let label = &[peer.node.as_str()];
        self.peer_up
            .with_label_values(label)
            .set(i64::from(peer.up));
        if let Some(handshake) = peer.last_handshake {
            self.peer_last_handshake_timestamp_seconds
                .with_label_values(label)
                .set(signed(handshake.0));
        }
        let seconds = |milliseconds: f64| milliseconds / 1e3;
        for (family, value) in [
            (&self.peer_rtt_seconds, peer.rtt_ms.map(seconds)),
            (&self.peer_jitter_seconds, peer.jitter_ms.map(seconds)),
            (&self.peer_loss_ratio, peer.loss),
        ] {
            if let Some(value) = value.filter(|_| peer.link) {
                family.with_label_values(label).set(value);
            }
        }
        if let Some(mtu) = peer.path_mtu.or(interface_mtu) {
            self.peer_mtu_bytes
                .with_label_values(label)
                .set(i64::from(mtu));
        }
    }

    fn fill_tunnel(&self, name: &NodeName, tunnel: &PeerCounters) {
        for (family, count) in [
            (&self.peer_handshakes_total, tunnel.handshakes),
            (
                &self.peer_handshake_failures_total,
                tunnel.handshake_failures,
            ),
            (&self.peer_receive_bytes_total, tunnel.rx_bytes),
            (&self.peer_transmit_bytes_total, tunnel.tx_bytes),
            (&self.peer_receive_packets_total, tunnel.rx_packets),
            (&self.peer_transmit_packets_total, tunnel.tx_packets),
        ] {
            family.with_label_values(&[name.as_str()]).inc_by(count);
        }
    }

    fn fill_services(&self, status: &StatusSnapshot, services: &[ServiceStatus]) {
        for own in &status.own_services {
            let labels = [own.name.as_str(), own.kind.as_str()];
            self.own_service_healthy
                .with_label_values(&labels)
                .set(i64::from(own.healthy));
        }
        for (label, state) in [
            ("available", ServiceState::Available),
            ("blocked_by_policy", ServiceState::BlockedByPolicy),
        ] {
            let such = services.iter().filter(|service| service.state == state);
            self.services
                .with_label_values(&[label])
                .set(signed(such.count() as u64));
        }
    }

    fn fill_data_plane(&self, counters: &Counters, progress: Option<UnixTime>) {
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
        self.fill_workers(&counters.workers);
        if let Some(progress) = progress {
            self.data_plane_progress_timestamp_seconds
                .with_label_values(NONE)
                .set(signed(progress.0));
        }
    }

    fn fill_workers(&self, workers: &[WorkerCounters]) {
        for worker in workers {
            self.worker_busy_seconds_total
                .with_label_values(&[worker.name])
                .inc_by(worker.busy.as_secs_f64());
            for (family, count) in [
                (&self.tun_reads_total, worker.tun_reads),
                (&self.tun_read_packets_total, worker.tun_read_packets),
                (&self.tun_writes_total, worker.tun_writes),
                (&self.tun_write_packets_total, worker.tun_written_packets),
                (&self.udp_sends_total, worker.udp_sends),
                (&self.udp_send_datagrams_total, worker.udp_sent_datagrams),
                (&self.udp_receives_total, worker.udp_receives),
                (
                    &self.udp_receive_datagrams_total,
                    worker.udp_received_datagrams,
                ),
            ] {
                family.with_label_values(NONE).inc_by(count);
            }
        }
    }
}

const PEER: &[&str] = &["peer"];
const NONE: &[&str] = &[];

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("pnsbox")
}

fn registered<C: Collector + Clone + 'static>(
    family: prometheus::Result<C>,
    registry: &Registry,
    described: &mut Vec<Desc>,
) -> C {
    let family = family.expect("names and labels are constants of this file, and right");
    described.extend(family.desc().into_iter().cloned());
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
