//! How the fleet is: what the agents last said, beside what they should be. What needs attention comes first.
//!
//! It keeps no history; that is the work of whoever reads the metrics.

mod waiting;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use pnsbox_proto::address;
use pnsbox_proto::health::{ConditionCode, HealthReport, HeldPrefix};
use pnsbox_proto::id::{AgencyName, NetworkName, NodeName};
use pnsbox_proto::service::Service;
use pnsbox_proto::time::UnixTime;
use serde::{Deserialize, Serialize};

use crate::audit::Broken;
use crate::image::{Image, Refused};
use crate::registry::{Node, prefix};
use crate::rollout::RolloutStatus;
use crate::runs::Runs;

/// What is known of a node while the process lives.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// Begin of its session, if it has one.
    pub online_since: Option<UnixTime>,
    /// Where it comes from, or came from.
    pub observed: Option<SocketAddr>,
    /// Version of its software.
    pub software: Option<String>,
    /// Its last report.
    pub report: Option<HealthReport>,
    /// When that came.
    pub reported: Option<UnixTime>,
    /// The same since the process started.
    pub heard: Option<Duration>,
    /// The services that it announces.
    pub services: Vec<Service>,
    /// Bytes of views sent to it.
    pub view_bytes_sent: u64,
    /// Records of its view that it could not read.
    pub quarantined: Vec<String>,
    /// Which runs of its agent came, to tell a box from its copy.
    pub runs: Runs,
    /// How the audit trail that it has seen differs from that of this controller, if it does.
    pub audit: Option<Broken>,
    /// A view of it that cannot be sent, and why.
    pub unsendable: Option<Refused>,
}

/// The whole fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// The network.
    pub network: NetworkName,
    /// Its pool.
    pub pool: Ipv4Net,
    /// When this was true.
    pub now: UnixTime,
    /// Whether the controller serves; if not, nobody can be online.
    pub serving: bool,
    /// Number of agencies.
    pub agencies: usize,
    /// Every node and every invited one, what needs attention first.
    pub nodes: Vec<NodeStatus>,
    /// What is wrong with the controller itself.
    pub warnings: Vec<String>,
    /// The rollout under way, or one that was halted and after which no policy came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Box<RolloutStatus>>,
}

/// Where a node stands. The words are those of logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It has a session.
    Online,
    /// It has none, and had one since the controller started, or an end of one is known.
    Offline,
    /// It has joined, and was not seen again since the controller started.
    NeverSeen,
    /// It was invited and has not joined.
    Invited,
}

impl NodeState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Online, Self::Offline, Self::NeverSeen, Self::Invited];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::NeverSeen => "never seen",
            Self::Invited => "invited",
        }
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: NodeName,
    /// Its agency.
    pub agency: AgencyName,
    /// Where it stands.
    pub state: NodeState,
    /// Begin of its session.
    pub online_since: Option<UnixTime>,
    /// End of its last session.
    pub last_seen: Option<UnixTime>,
    /// End of its invitation, if it has not joined.
    pub invited_until: Option<UnixTime>,
    /// What a person should look at, worst first.
    pub attention: Vec<String>,
    /// The view that it should have; 0 if it has not joined.
    pub view_wanted: u64,
    /// The view that it last said to have applied.
    pub view_applied: u64,
    /// A later view that it refused.
    pub view_refused: Option<Refused>,
    /// Bytes of views sent to it since the controller started.
    pub view_bytes_sent: u64,
    /// Address and port from which the controller sees it.
    pub uplink: Option<SocketAddr>,
    /// Where others reach its WireGuard port, if it has a public address.
    pub public_endpoint: Option<SocketAddr>,
    /// The same in the other version of IP, if it has both.
    pub second_endpoint: Option<SocketAddr>,
    /// Its overlay addresses; absent if it has not joined.
    pub overlay_v4: Option<Ipv4Addr>,
    /// As above.
    pub overlay_v6: Option<Ipv6Addr>,
    /// LAN prefixes that the network routes to it.
    pub prefixes: Vec<IpNet>,
    /// Claims that are held back.
    pub held: Vec<HeldPrefix>,
    /// Version of its software.
    pub software: Option<String>,
    /// When its last report came.
    pub reported: Option<UnixTime>,
    /// Its last report: peers, services, conditions.
    pub report: Option<HealthReport>,
    /// The services that it announces.
    pub announced: Vec<Service>,
}

/// The fleet at `now`. `serving` is false when a command looks at the store of a stopped controller.
pub fn status(
    image: &Image,
    live: &BTreeMap<NodeName, Live>,
    now: UnixTime,
    serving: bool,
) -> FleetStatus {
    let nothing = Live::default();
    let mut ranked: Vec<(Urgency, NodeStatus)> = image
        .registry
        .nodes
        .iter()
        .map(|joined| node_status(image, joined, live.get(joined.0).unwrap_or(&nothing), now))
        .collect();
    let invitations = image.registry.invitations.values();
    let waiting =
        invitations.filter(|i| i.spent.is_none() && !image.registry.nodes.contains_key(&i.node));
    ranked.extend(
        waiting
            .filter(|i| i.expires > now)
            .map(|i| (Urgency::Invited, invited(&i.node, i.expires))),
    );
    ranked.sort_by(|(a_rank, a), (b_rank, b)| (a_rank, &a.node).cmp(&(b_rank, &b.node)));
    FleetStatus {
        network: image.registry.network.name.clone(),
        pool: image.registry.network.pool,
        now,
        serving,
        agencies: image.registry.agencies.len(),
        nodes: ranked.into_iter().map(|(_, status)| status).collect(),
        warnings: (image.audit_broken.iter().map(ToString::to_string))
            .chain(waiting::for_the_network(image, now))
            .collect(),
        rollout: None,
    }
}

/// The state of a joined node.
pub fn state(image: &Image, name: &NodeName, live: Option<&Live>) -> NodeState {
    let seen = image
        .agents
        .get(name)
        .is_some_and(|agent| agent.last_seen.is_some() || agent.held.is_some());
    match live {
        Some(live) if live.online_since.is_some() => NodeState::Online,
        Some(live) if live.observed.is_some() => NodeState::Offline,
        Some(_) | None if seen => NodeState::Offline,
        Some(_) | None => NodeState::NeverSeen,
    }
}

/// What comes first on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    AuditBroken,
    Cloned,
    Quarantined,
    ViewRefused,
    Offline,
    Impaired,
    Waiting,
    Fine,
    Invited,
}

fn node_status(
    image: &Image,
    (name, node): (&NodeName, &Node),
    live: &Live,
    now: UnixTime,
) -> (Urgency, NodeStatus) {
    let agent = image.agents.get(name).cloned().unwrap_or_default();
    let held = prefix::held(&image.registry, image.policies().for_node(name), name, node);
    let state = state(image, name, Some(live));
    let acknowledged = agent.held.as_ref().map_or(0, |held| held.version);
    // What the agent says now is better than what it acknowledged once: a box may not get its own view into force again.
    let said = live.report.as_ref().filter(|_| live.online_since.is_some());
    let view_applied = said.map_or(acknowledged, |report| report.view_applied);
    let view_wanted = image.views.get(name).map_or(0, |view| view.version);
    let status = NodeStatus {
        agency: name.agency(),
        state,
        online_since: live.online_since,
        last_seen: agent.last_seen,
        invited_until: None,
        attention: Vec::new(),
        view_wanted,
        view_applied,
        view_refused: agent
            .refused
            .filter(|refused| refused.version == view_wanted),
        view_bytes_sent: live.view_bytes_sent,
        uplink: live.observed,
        public_endpoint: node.public_endpoint,
        second_endpoint: node.second_endpoint,
        overlay_v4: Some(node.overlay_v4),
        overlay_v6: Some(address::node_v6(
            &image.registry.network.root,
            &node.identity,
        )),
        prefixes: node.active.clone(),
        held,
        software: live.software.clone(),
        reported: live.reported,
        report: live.report.clone(),
        announced: live.services.clone(),
        node: name.clone(),
    };
    let mut findings = findings(&status, live);
    if let Some(cloned) = live.runs.cloned(now) {
        let [one, other] = cloned;
        let text = format!(
            "{name} runs in two places, at {one} and at {other}: its keys were copied. Stop one, \
             or shut both out: pnsbox-controller quarantine {name} --reason cloned"
        );
        findings.insert(0, (Urgency::Cloned, text));
    }
    if let Some(text) = waiting::for_node(image, name) {
        findings.push((Urgency::Waiting, text));
    }
    if let Some(quarantine) = image.registry.quarantine_of(name) {
        let text = format!(
            "{name} is in quarantine since {}: {}",
            quarantine.since, quarantine.reason
        );
        findings.insert(0, (Urgency::Quarantined, text));
    }
    let urgency = findings
        .first()
        .map_or(Urgency::Fine, |(urgency, _)| *urgency);
    (
        urgency,
        NodeStatus {
            attention: findings.into_iter().map(|(_, text)| text).collect(),
            ..status
        },
    )
}

/// What a person should look at, worst first.
fn findings(status: &NodeStatus, live: &Live) -> Vec<(Urgency, String)> {
    let name = &status.node;
    let mut findings = Vec::new();
    if let Some(refused) = &status.view_refused {
        let text = format!(
            "{name} refused view {} and keeps view {}: {}",
            refused.version, status.view_applied, refused.reason
        );
        findings.push((Urgency::ViewRefused, text));
    }
    if let Some(broken) = &live.audit {
        findings.push((Urgency::AuditBroken, broken.to_string()));
    }
    if let Some(view) = &live.unsendable
        && view.version == status.view_wanted
    {
        let text = format!(
            "{name} cannot be sent view {}: {}; it keeps view {}, give it fewer links or shorter openings",
            view.version, view.reason, status.view_applied
        );
        findings.push((Urgency::ViewRefused, text));
    }
    if status.state != NodeState::Online {
        let since = status
            .last_seen
            .map_or_else(String::new, |t| format!(" since {t}"));
        findings.push((
            Urgency::Offline,
            format!("{name} is {}{since}", status.state.as_str()),
        ));
    }
    if !live.quarantined.is_empty() {
        let text = format!(
            "{name} cannot read these records of its view: {}",
            live.quarantined.join(", ")
        );
        findings.push((Urgency::Impaired, text));
    }
    if status.state == NodeState::Online {
        let conditions = live.report.iter().flat_map(|report| &report.conditions);
        let told = conditions.filter(|condition| !told_here(condition.code, status, live));
        findings.extend(told.map(|c| (Urgency::Impaired, format!("{name}: {}", c.message))));
        if status.view_applied != status.view_wanted && status.view_refused.is_none() {
            let text = format!(
                "{name} has view {} and should have {}",
                status.view_applied, status.view_wanted
            );
            findings.push((Urgency::Waiting, text));
        }
    }
    findings.extend(
        status
            .held
            .iter()
            .map(|held| (Urgency::Waiting, prefix::held_message(name, held))),
    );
    findings.sort_by_key(|(urgency, _)| *urgency);
    findings
}

/// Whether the controller says the same from what it knows itself.
fn told_here(code: ConditionCode, status: &NodeStatus, live: &Live) -> bool {
    match code {
        ConditionCode::ViewRefused => status.view_refused.is_some(),
        ConditionCode::RecordQuarantined => !live.quarantined.is_empty(),
        ConditionCode::PrefixHeld
        | ConditionCode::PrefixPending
        | ConditionCode::Quarantined
        | ConditionCode::ConsentMissing
        | ConditionCode::NotApproved
        | ConditionCode::ControllerAway => true,
        ConditionCode::PoolCollision
        | ConditionCode::PeerDown
        | ConditionCode::PeerUnreachable
        | ConditionCode::ServiceUnhealthy
        | ConditionCode::ControllerDistrusted
        | ConditionCode::ControllerBehind
        | ConditionCode::RecordRefused
        | ConditionCode::StatementStale
        | ConditionCode::ConsentEnded
        | ConditionCode::StateNotSaved => false,
    }
}

fn invited(node: &NodeName, until: UnixTime) -> NodeStatus {
    NodeStatus {
        node: node.clone(),
        agency: node.agency(),
        state: NodeState::Invited,
        online_since: None,
        last_seen: None,
        invited_until: Some(until),
        attention: Vec::new(),
        view_wanted: 0,
        view_applied: 0,
        view_refused: None,
        view_bytes_sent: 0,
        uplink: None,
        public_endpoint: None,
        second_endpoint: None,
        overlay_v4: None,
        overlay_v6: None,
        prefixes: Vec::new(),
        held: Vec::new(),
        software: None,
        reported: None,
        report: None,
        announced: Vec::new(),
    }
}
