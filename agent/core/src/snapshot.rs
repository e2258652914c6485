//! What `pnsbox status`, `peers` and `services` show, and what metrics are read from: plain data, made on demand.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use pnsbox_proto::health::{Condition, HeldPrefix, PeerHealth, ServiceHealth};
use pnsbox_proto::id::{NetworkName, NodeName, ServiceName};
use pnsbox_proto::service::ServiceKind;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::AuditHead;
use serde::{Deserialize, Serialize};

/// The agent as a person wants to see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusSnapshot {
    /// `not joined`, `joining`, `joined`.
    pub state: MembershipState,
    /// The network, once joined.
    pub network: Option<NetworkName>,
    /// This node, once joined.
    pub node: Option<NodeName>,
    /// Overlay addresses, v4 then v6.
    pub overlay: Vec<IpAddr>,
    /// LAN prefixes that the network routes.
    pub prefixes: Vec<IpNet>,
    /// Claimed prefixes that it does not.
    pub held: Vec<HeldPrefix>,
    /// The session with the controller.
    pub controller: ControllerStatus,
    /// Version of the view in force; 0 before the first.
    pub view_applied: u64,
    /// When it came into force.
    pub view_since: Option<UnixTime>,
    /// It has yet to prove itself, and is taken back if it does not.
    pub on_trial: bool,
    /// The controller's audit trail when that view was made: what this box can witness.
    pub audit: Option<AuditHead>,
    /// Records of it that could not be read.
    pub quarantined: Vec<String>,
    /// Every peer.
    pub peers: Vec<PeerHealth>,
    /// Plain WireGuard devices that dial this node. One that is down is switched off, and nobody's concern.
    pub externals: Vec<ExternalStatus>,
    /// The node's own services.
    pub own_services: Vec<ServiceHealth>,
    /// What needs attention.
    pub conditions: Vec<Condition>,
}

/// A plain WireGuard device that dials this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalStatus {
    /// Its name.
    pub device: NodeName,
    /// A handshake was completed in the last 180 s (`REJECT_AFTER_TIME`, WireGuard whitepaper section 6.1).
    pub up: bool,
    /// Where it was last heard from.
    pub endpoint: Option<SocketAddr>,
    /// Completion of the last handshake.
    pub last_handshake: Option<UnixTime>,
    /// Bytes received from it, inner packets.
    pub rx_bytes: u64,
    /// Bytes sent to it, inner packets.
    pub tx_bytes: u64,
}

/// What the agent has counted since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sessions with a controller that was believed.
    pub sessions: u64,
    /// Views that came into force, one more for each time that the host's own network changed one.
    pub views_applied: u64,
    /// Views that were refused, by the judge or by the host, retries included.
    pub views_refused: u64,
}

/// Whether the box belongs to a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MembershipState {
    /// Waits for `pnsbox join`.
    NotJoined,
    /// A join is under way.
    Joining,
    /// Has a place.
    Joined,
}

/// The session with the controller, from the box's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerStatus {
    /// A session stands.
    pub connected: bool,
    /// Since when it stands, or is away.
    pub since: Option<UnixTime>,
    /// Where controllers listen.
    pub addresses: Vec<SocketAddr>,
    /// The box's address as the controller sees it.
    pub observed: Option<SocketAddr>,
    /// Why the last session ended or could not be made.
    pub last_error: Option<String>,
}

/// A service that this box may know of, its own included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The service.
    pub name: ServiceName,
    /// What it is for.
    pub kind: ServiceKind,
    /// The node that announces it.
    pub node: NodeName,
    /// Where it listens, on the provider's LAN.
    pub endpoints: Vec<SocketAddr>,
    /// Lower is preferred.
    pub priority: u16,
    /// Whether this box's LAN can use it.
    pub state: ServiceState,
    /// Stable address answered by the local agent, once services have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_address: Option<IpAddr>,
}

/// Whether a service can be used from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Announced and opened to this agency, or this box's own.
    Available,
    /// Announced, but policy opens none of its endpoints to this agency.
    BlockedByPolicy,
}
