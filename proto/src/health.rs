//! What an agent reports of itself, every 10 s and on change.

use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::id::{NodeName, ServiceName};
use crate::service::ServiceKind;
use crate::time::UnixTime;

/// One node's health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthReport {
    /// When the agent's process started.
    pub started: UnixTime,
    /// Version of the agent's software.
    pub software: String,
    /// Version of the view in force; 0 before the first.
    pub view_applied: u64,
    /// Each peer of the view.
    pub peers: Vec<PeerHealth>,
    /// Each service configured on the node, healthy or not.
    pub services: Vec<ServiceHealth>,
    /// What is wrong, worst first.
    pub conditions: Vec<Condition>,
}

/// The tunnel and the link with one peer, seen from the reporting node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerHealth {
    /// The peer.
    pub node: NodeName,
    /// A handshake was completed in the last 180 s (`REJECT_AFTER_TIME`, WireGuard whitepaper section 6.1).
    pub up: bool,
    /// Where its datagrams go, if known; with a relay, the relay's endpoint.
    pub endpoint: Option<SocketAddr>,
    /// The node that relays for the pair, if one does.
    pub relay: Option<NodeName>,
    /// The largest inner packet that reaches the peer without being fragmented, in bytes, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
    /// Completion of the last handshake.
    pub last_handshake: Option<UnixTime>,
    /// Bytes received from the peer, inner packets.
    pub rx_bytes: u64,
    /// Bytes sent to the peer, inner packets.
    pub tx_bytes: u64,
    /// Whether the QUIC link is up.
    pub link: bool,
    /// Round-trip time of the last probes, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Mean deviation of the round-trip time, in milliseconds (RFC 3550 section 6.4.1).
    pub jitter_ms: Option<f64>,
    /// Share of the last probes that were lost, 0 to 1.
    pub loss: Option<f64>,
}

/// A service configured on the reporting node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceHealth {
    /// The service.
    pub name: ServiceName,
    /// What it is for.
    pub kind: ServiceKind,
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// Its checks pass, so it is announced.
    pub healthy: bool,
}

/// Something that a person should know or do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Stable code, for scripts.
    pub code: ConditionCode,
    /// What is wrong, with the value, and what to do.
    pub message: String,
}

/// Stable codes of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionCode {
    /// The host refused part of the configuration, so the view is not in force.
    ViewRefused,
    /// A record of the view could not be read and was left out.
    RecordQuarantined,
    /// A prefix is held by another agency and waits.
    PrefixHeld,
    /// A prefix outside the registered ones waits for the operator.
    PrefixPending,
    /// The overlay pool collides with an address of this host.
    PoolCollision,
    /// A peer's tunnel is down.
    PeerDown,
    /// A peer has neither a public address nor a relay.
    PeerUnreachable,
    /// A service's check fails.
    ServiceUnhealthy,
    /// The disk did not take the state.
    StateNotSaved,
    /// There is no session with the controller.
    ControllerAway,
    /// The operator has shut the node out.
    Quarantined,
    /// The controller sent what its agencies, its root or its own past do not bear out.
    ControllerDistrusted,
    /// A peer knows more of an agency than the controller says.
    ControllerBehind,
    /// A record is left out because an agency or the operator took back what it builds on; the controller should follow.
    RecordRefused,
    /// An agency was not heard of for long: what it revoked is not known.
    StatementStale,
    /// A consent has ended by a clock that nobody confirms.
    ConsentEnded,
    /// Policy wants a link, or more of one, than the agency has consented to.
    ConsentMissing,
    /// A box or a device of the agency waits for its approval.
    NotApproved,
}

impl ConditionCode {
    /// The code as scripts see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ViewRefused => "view_refused",
            Self::RecordQuarantined => "record_quarantined",
            Self::PrefixHeld => "prefix_held",
            Self::PrefixPending => "prefix_pending",
            Self::PoolCollision => "pool_collision",
            Self::PeerDown => "peer_down",
            Self::PeerUnreachable => "peer_unreachable",
            Self::ServiceUnhealthy => "service_unhealthy",
            Self::StateNotSaved => "state_not_saved",
            Self::ControllerAway => "controller_away",
            Self::Quarantined => "quarantined",
            Self::ControllerDistrusted => "controller_distrusted",
            Self::ControllerBehind => "controller_behind",
            Self::RecordRefused => "record_refused",
            Self::StatementStale => "statement_stale",
            Self::ConsentEnded => "consent_ended",
            Self::ConsentMissing => "consent_missing",
            Self::NotApproved => "not_approved",
        }
    }
}

impl fmt::Display for ConditionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A claimed prefix that is not routed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPrefix {
    /// As claimed.
    pub prefix: IpNet,
    /// Why it is held back, naming who has it.
    pub reason: HeldReason,
}

/// Why a claimed prefix is held back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum HeldReason {
    /// Another agency's node routes an overlapping prefix.
    Overlap {
        /// Who.
        holder: NodeName,
        /// What.
        held: IpNet,
    },
    /// Outside what the operator registered for the agency; waits for `apply`.
    Unregistered,
}
