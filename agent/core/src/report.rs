//! What a person, the controller and systemd are told: made from the state on demand, never kept.

mod trust;

use std::net::IpAddr;
use std::time::Duration;

use pnsbox_proto::health::{Condition, ConditionCode, HealthReport, HeldReason, PeerHealth};
use pnsbox_proto::message::ToController;
use pnsbox_proto::view::PeerPath;

use crate::agent::Agent;
use crate::event::{Now, Output};
use crate::snapshot::{
    ControllerStatus, ExternalStatus, MembershipState, ServiceStatus, StatusSnapshot,
};
use crate::view::{Device, Peer, View};

/// Time between reports when nothing changes.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// Time between reports when much changes.
const REPORT_AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// `REJECT_AFTER_TIME`: a tunnel without a handshake for this long is down (WireGuard whitepaper section 6.1).
const HANDSHAKE_AGE: Duration = Duration::from_secs(180);
/// A new view's tunnels may take this long before one that is down is a condition.
const SETTLING: Duration = Duration::from_secs(15);

/// When something was said last, and what.
#[derive(Debug)]
pub(crate) struct Reporter {
    /// On the monotonic scale, as everything here.
    in_force: Option<Duration>,
    reported_at: Option<Duration>,
    soon: bool,
    reported: Vec<String>,
    status: String,
}

impl Reporter {
    pub(crate) fn new() -> Self {
        Self {
            in_force: None,
            reported_at: None,
            soon: false,
            reported: Vec::new(),
            status: String::new(),
        }
    }

    pub(crate) fn in_force(&mut self, now: Now) {
        self.in_force = Some(now.monotonic);
    }

    /// Something changed that others want to know.
    pub(crate) fn report_soon(&mut self) {
        self.soon = true;
    }
}

impl Agent {
    /// Reports to the controller and to systemd what is due.
    pub(crate) fn report(&mut self, now: Now) {
        let status = self.status_line(now);
        if status != self.reporter.status {
            self.reporter.status.clone_from(&status);
            self.output(Output::Status(status));
        }
        if !self.control.is_online() || self.saved.is_none() {
            self.reporter.reported_at = None;
            return;
        }
        let since = self
            .reporter
            .reported_at
            .map(|at| now.monotonic.saturating_sub(at));
        if since.is_some_and(|since| since < REPORT_AT_MOST_EVERY) {
            return;
        }
        let report = self.health(now);
        let words = in_words(&report);
        let due = since.is_none_or(|since| since >= REPORT_EVERY);
        if due || self.reporter.soon || words != self.reporter.reported {
            self.reporter.reported_at = Some(now.monotonic);
            self.reporter.soon = false;
            self.reporter.reported = words;
            self.say(ToController::Health(report));
        }
    }

    fn health(&self, now: Now) -> HealthReport {
        HealthReport {
            started: self.wall.at(Duration::ZERO),
            software: self.software.clone(),
            view_applied: self.force.view().map_or(0, |view| view.id().version),
            peers: self.peers(now),
            services: self
                .node()
                .map(|node| self.catalogue.health(node))
                .unwrap_or_default(),
            conditions: self.conditions(now),
        }
    }

    /// Everything about the node.
    pub fn status(&self, now: Now) -> StatusSnapshot {
        let view = self.force.view();
        let node = view.map(|view| &view.node);
        let joined = self.saved.as_ref().map(|saved| &saved.joined);
        let state = match (&self.saved, &self.control.join) {
            (Some(_), _) => MembershipState::Joined,
            (None, Some(_)) => MembershipState::Joining,
            (None, None) => MembershipState::NotJoined,
        };
        StatusSnapshot {
            state,
            network: joined.map(|joined| joined.network.clone()),
            node: joined.map(|joined| joined.node.clone()),
            overlay: view.map_or_else(Vec::new, |view| {
                vec![
                    IpAddr::from(view.node.overlay_v4),
                    IpAddr::from(view.overlay_v6),
                ]
            }),
            prefixes: node.map_or_else(Vec::new, |node| node.prefixes.clone()),
            held: node.map_or_else(Vec::new, |node| node.held.clone()),
            controller: ControllerStatus {
                connected: self.control.is_online(),
                since: self.control.since.map(|at| self.wall.at(at)),
                addresses: self
                    .saved
                    .as_ref()
                    .map_or_else(Vec::new, |saved| saved.controllers.clone()),
                observed: self.control.observed,
                last_error: self.control.last_error.clone(),
            },
            view_applied: view.map_or(0, |view| view.id().version),
            view_since: self.reporter.in_force.map(|at| self.wall.at(at)),
            on_trial: self.trial.is_some(),
            audit: self.force.view().map(|view| view.accepted.audit),
            quarantined: view.map_or_else(Vec::new, |view| view.accepted.quarantined.clone()),
            peers: self.peers(now),
            externals: view.map_or_else(Vec::new, |view| {
                let externals = view.externals.values();
                externals.map(|device| self.external(device, now)).collect()
            }),
            own_services: self
                .node()
                .map(|node| self.catalogue.health(node))
                .unwrap_or_default(),
            conditions: self.conditions(now),
        }
    }

    /// Every service that this node's LAN may know of.
    pub fn services(&self, now: Now) -> Vec<ServiceStatus> {
        let (Some(view), Some(links)) = (self.force.view(), &self.links) else {
            return Vec::new();
        };
        self.catalogue
            .listed(view, |peer| links.hears(peer, now.monotonic))
    }

    fn peers(&self, now: Now) -> Vec<PeerHealth> {
        let view = self.force.view();
        view.map_or_else(Vec::new, |view| {
            view.peers
                .values()
                .map(|peer| self.peer(peer, now))
                .collect()
        })
    }

    fn peer(&self, peer: &Peer, now: Now) -> PeerHealth {
        let tunnel = self.tunnels.get(&peer.wireguard);
        let last_handshake = tunnel.and_then(|tunnel| tunnel.last_handshake);
        let stats = self
            .links
            .as_ref()
            .and_then(|links| links.stats(&peer.node));
        PeerHealth {
            node: peer.node.clone(),
            up: is_up(last_handshake, now),
            endpoint: tunnel.and_then(|tunnel| tunnel.endpoint),
            relay: match &peer.path {
                PeerPath::Relay { relay, .. } => Some(relay.clone()),
                PeerPath::Passive | PeerPath::Direct { .. } => None,
            },
            path_mtu: tunnel.and_then(|tunnel| tunnel.path_mtu),
            last_handshake: last_handshake.map(|at| self.wall.at(at)),
            rx_bytes: tunnel.map_or(0, |tunnel| tunnel.rx_bytes),
            tx_bytes: tunnel.map_or(0, |tunnel| tunnel.tx_bytes),
            link: self.link(&peer.node).is_some(),
            rtt_ms: stats.and_then(|stats| stats.rtt_ms()),
            jitter_ms: stats.and_then(|stats| stats.jitter_ms()),
            loss: stats.and_then(|stats| stats.loss(now.monotonic)),
        }
    }

    fn external(&self, device: &Device, now: Now) -> ExternalStatus {
        let tunnel = self.tunnels.get(&device.wireguard);
        let last_handshake = tunnel.and_then(|tunnel| tunnel.last_handshake);
        ExternalStatus {
            device: device.device.clone(),
            up: is_up(last_handshake, now),
            endpoint: tunnel.and_then(|tunnel| tunnel.endpoint),
            last_handshake: last_handshake.map(|at| self.wall.at(at)),
            rx_bytes: tunnel.map_or(0, |tunnel| tunnel.rx_bytes),
            tx_bytes: tunnel.map_or(0, |tunnel| tunnel.tx_bytes),
        }
    }

    fn conditions(&self, now: Now) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let mut add = |code, message: String| conditions.push(Condition { code, message });
        if let Some(reason) = &self.broken_state {
            add(
                ConditionCode::ViewRefused,
                format!("{reason}; the controller is asked for another"),
            );
        }
        if let Some(unsaved) = &self.unsaved {
            let reason = &unsaved.reason;
            add(
                ConditionCode::StateNotSaved,
                format!(
                    "{reason}; everything works on, but a restart would go back to what was saved before: \
                     free space, or make the file system writable"
                ),
            );
        }
        if let Some(reason) = self.force.refused() {
            let collides = reason.contains("lies in the overlay pool");
            let code = if collides {
                ConditionCode::PoolCollision
            } else {
                ConditionCode::ViewRefused
            };
            add(code, reason.to_owned());
        }
        if let Some(back) = &self.taken_back {
            let (version, reason) = (back.id.version, &back.reason);
            add(
                ConditionCode::ViewRefused,
                format!("view {version} was {reason}"),
            );
        }
        if let Some(view) = self.force.view() {
            view_conditions(view, &mut add);
            let settled = self
                .reporter
                .in_force
                .is_some_and(|at| now.monotonic >= at + SETTLING);
            for peer in self
                .peers(now)
                .into_iter()
                .filter(|peer| settled && !peer.up)
            {
                let since = peer
                    .last_handshake
                    .map_or_else(|| "since the start".into(), |t| format!("since {t}"));
                add(
                    ConditionCode::PeerDown,
                    format!("no handshake with {} {since}", peer.node),
                );
            }
        }
        self.trust_conditions(now, &mut add);
        for (service, reason) in self.catalogue.failing() {
            add(
                ConditionCode::ServiceUnhealthy,
                format!("service {service} is not announced: {reason}"),
            );
        }
        if self.saved.is_some() && !self.control.is_online() {
            let why = self
                .control
                .last_error
                .as_ref()
                .map_or_else(String::new, |e| format!(": {e}"));
            add(
                ConditionCode::ControllerAway,
                format!("the controller is away{why}; tunnels and links do not need it"),
            );
        }
        conditions
    }

    fn status_line(&self, now: Now) -> String {
        match (&self.saved, &self.control.join) {
            (None, None) => "not joined".into(),
            (None, Some(join)) => format!("joining {}", join.command.anchor.network),
            (Some(saved), _) => {
                let peers = self.peers(now);
                let up = peers.iter().filter(|peer| peer.up).count();
                let controller = if self.control.is_online() {
                    "online"
                } else {
                    "away"
                };
                format!(
                    "{}: {up} of {} peers up, controller {controller}",
                    saved.joined.node,
                    peers.len()
                )
            }
        }
    }
}

/// A clock that is set makes no tunnel older.
fn is_up(last_handshake: Option<Duration>, now: Now) -> bool {
    last_handshake.is_some_and(|at| now.monotonic.saturating_sub(at) < HANDSHAKE_AGE)
}

fn view_conditions(view: &View, add: &mut impl FnMut(ConditionCode, String)) {
    for id in &view.accepted.quarantined {
        let message = format!(
            "record '{id}' of view {} cannot be read and is left out",
            view.id().version
        );
        add(ConditionCode::RecordQuarantined, message);
    }
    if let Some(reason) = &view.node.quarantine {
        add(
            ConditionCode::Quarantined,
            format!("the operator has shut this box out of the network: {reason}"),
        );
    }
    for held in &view.node.held {
        let (own, prefix) = (view.node.node.agency(), held.prefix);
        match &held.reason {
            HeldReason::Overlap { holder, held } => add(
                ConditionCode::PrefixHeld,
                format!(
                    "{prefix} of {own} is not routed: it overlaps {held} of {}; \
                     renumber it, or ask the operator for another place and claim another prefix there with 'pnsbox join --lan'",
                    holder.agency()
                ),
            ),
            HeldReason::Unregistered => add(
                ConditionCode::PrefixPending,
                format!("{prefix} is not registered for {own} and waits for the operator"),
            ),
        }
    }
    for node in &view.node.unreachable {
        add(
            ConditionCode::PeerUnreachable,
            format!(
                "{node} and this box have no public address, and the policy names no relay that both can use"
            ),
        );
    }
}

/// The report without its numbers: what must have changed for a report before its time.
fn in_words(report: &HealthReport) -> Vec<String> {
    let peers = report
        .peers
        .iter()
        .map(|p| format!("{} {} {} {:?}", p.node, p.up, p.link, p.relay));
    let services = report
        .services
        .iter()
        .map(|s| format!("{} {}", s.name, s.healthy));
    let conditions = report.conditions.iter().map(|c| c.code.to_string());
    peers
        .chain(services)
        .chain(conditions)
        .chain([report.view_applied.to_string()])
        .collect()
}
