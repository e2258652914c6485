//! What can happen to an agent, and what it can do about it: the whole vocabulary with the outside, on one page.
//!
//! The shell turns sockets, files and kernel into [`Input`]s and [`Output`]s into sockets, files and kernel.
//! No other road leads in or out of the core.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use ipnet::IpNet;
use pnsbox_proto::anchor::Anchor;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::{NetworkName, NodeName, ServiceName};
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};
use pnsbox_proto::message::{LinkMessage, ToAgent, ToController};
use pnsbox_proto::probe::Probe;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::SignedView;
use serde::{Deserialize, Serialize};

use crate::host::HostConfig;
use crate::trust::TrustState;

/// Number that the shell gives to one link connection. Never used again in the life of the process.
pub type ConnectionId = u64;

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The admin asks to join. Answered by [`Output::JoinOutcome`], exactly once.
    Join(JoinCommand),
    /// A session with a controller stands; `key` is the one proved by TLS.
    ControlUp {
        /// The controller's TLS key.
        key: IdentityKey,
    },
    /// A message of that session.
    Control(Box<ToAgent>),
    /// The session ended, or could not be made.
    ControlDown {
        /// Why, for people.
        reason: String,
    },
    /// A link connection stands, whose TLS key is a peer's. Up only after the peer's `Hello`.
    LinkUp {
        /// The connection.
        connection: ConnectionId,
        /// Who, by the TLS key.
        key: IdentityKey,
        /// Whether this side dialled.
        dialled: bool,
    },
    /// A message of a link.
    Link {
        /// The connection.
        connection: ConnectionId,
        /// What was said.
        message: LinkMessage,
    },
    /// A probe or an echo on a link.
    Probe {
        /// The connection.
        connection: ConnectionId,
        /// Which.
        probe: Probe,
    },
    /// A link ended.
    LinkDown {
        /// The connection.
        connection: ConnectionId,
        /// Why, for people.
        reason: String,
    },
    /// Dialling a peer failed before a connection stood.
    LinkFailed {
        /// The peer.
        node: NodeName,
        /// Why, for people.
        reason: String,
    },
    /// A service's check ended.
    Check {
        /// The service.
        service: ServiceName,
        /// `Err` says what failed.
        result: Result<(), String>,
    },
    /// What the data plane knows of its peers; about once a second.
    Tunnels(Vec<TunnelState>),
    /// What the host's own network looks like; at start and when it changes.
    HostFacts(HostFacts),
    /// A [`Output::Apply`] ended.
    HostApplied {
        /// Its number.
        generation: u64,
        /// `Err` says what the host refused; it is then as it was before.
        result: Result<(), String>,
    },
    /// A [`Output::Persist`] ended; `Err` says what the disk refused, and what was there is still there.
    Persisted(Result<(), String>),
    /// Nothing but time went by.
    Timeout,
}

/// Something must be done. In this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Dial these controllers, in order, until one answers. At most one session exists or is being made.
    DialControl {
        /// Where.
        controllers: Vec<SocketAddr>,
    },
    /// Say this to the controller.
    SendControl(Box<ToController>),
    /// End the session, or stop dialling.
    CloseControl {
        /// Why, for logs.
        reason: String,
    },
    /// Make the host and the data plane so. Answered by [`Input::HostApplied`].
    Apply {
        /// Counts up.
        generation: u64,
        /// Everything, complete.
        host: Box<HostConfig>,
    },
    /// Write this to disk, durably, in place of what was there. Answered by [`Input::Persisted`].
    Persist(Box<SavedState>),
    /// Dial a peer's link.
    DialLink {
        /// The peer.
        node: NodeName,
        /// The only TLS key to accept.
        key: IdentityKey,
        /// Its overlay address and port.
        address: SocketAddr,
    },
    /// Keys whose link connections are to be accepted. Replaces the set before; others are refused in TLS.
    AcceptLinks {
        /// The keys.
        keys: Vec<IdentityKey>,
    },
    /// Say this on a link.
    SendLink {
        /// The connection.
        connection: ConnectionId,
        /// What.
        message: LinkMessage,
    },
    /// Send a probe or an echo as a datagram.
    SendProbe {
        /// The connection.
        connection: ConnectionId,
        /// Which.
        probe: Probe,
    },
    /// Close a link.
    CloseLink {
        /// The connection.
        connection: ConnectionId,
        /// Why, for logs and the peer.
        reason: String,
    },
    /// Answer to [`Input::Join`].
    JoinOutcome(Result<Joined, String>),
    /// The line that systemd and an admin see, for example `not joined`.
    Status(String),
}

/// What the admin asks with `pnsbox join`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinCommand {
    /// The operator's invitation.
    pub anchor: Anchor,
    /// LAN prefixes to claim.
    pub prefixes: Vec<IpNet>,
    /// Where others reach the WireGuard port, if the box has a public address.
    pub public_endpoint: Option<SocketAddr>,
    /// The same in the other version of IP.
    pub second_endpoint: Option<SocketAddr>,
}

/// A place in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The network.
    pub network: NetworkName,
    /// This node.
    pub node: NodeName,
}

/// What the agent must still know after a reboot with the controller gone. The keys are the shell's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedState {
    /// The place in the network.
    pub joined: Joined,
    /// The network's root key.
    pub root: IdentityKey,
    /// Where controllers listen.
    pub controllers: Vec<SocketAddr>,
    /// The view in force, complete.
    pub view: Option<SavedView>,
    /// LAN prefixes that this node's admin claimed when it joined.
    #[serde(default)]
    pub prefixes: Vec<IpNet>,
    /// What agencies signed, as far as this node has seen it.
    #[serde(default)]
    pub trust: TrustState,
    /// Where peers that dial this node were seen last: a guess that saves them a timeout after a restart here.
    #[serde(default)]
    pub endpoints: BTreeMap<WireguardKey, SocketAddr>,
}

/// A view with the proof of who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedView {
    /// The controller's certificate, signed by the root.
    pub certificate: Envelope,
    /// The view.
    pub view: SignedView,
}

/// This node's public keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Of links and control sessions.
    pub identity: IdentityKey,
    /// Of tunnels.
    pub wireguard: WireguardKey,
}

/// One tunnel as the data plane sees it. Counters grow for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelState {
    /// The peer.
    pub key: WireguardKey,
    /// Where its datagrams go.
    pub endpoint: Option<SocketAddr>,
    /// The largest inner packet that reaches it without being fragmented, in bytes, if that is known.
    pub path_mtu: Option<u16>,
    /// Completion of the last handshake, on the scale of [`Now::monotonic`].
    pub last_handshake: Option<Duration>,
    /// Inner bytes received.
    pub rx_bytes: u64,
    /// Inner bytes sent.
    pub tx_bytes: u64,
}

/// The host's own network, without our interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Every address with its prefix, by interface.
    pub addresses: Vec<InterfaceAddress>,
    /// Interfaces that carry a default route, with the gateway.
    pub uplinks: Vec<Uplink>,
    /// Resolvers of `/etc/resolv.conf`.
    pub resolvers: Vec<IpAddr>,
}

impl HostFacts {
    /// Whether the host has an uplink for the version of IP that `endpoint` has.
    pub fn has_version_of(&self, endpoint: &SocketAddr) -> bool {
        self.uplinks.iter().any(|uplink| match uplink.gateway {
            Some(gateway) => gateway.is_ipv4() == endpoint.is_ipv4(),
            None => self.addresses.iter().any(|own| {
                own.interface == uplink.interface
                    && own.address.addr().is_ipv4() == endpoint.is_ipv4()
            }),
        })
    }
}

/// An address of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface.
    pub interface: String,
    /// Address and prefix length, as configured (host bits kept).
    pub address: IpNet,
}

/// An interface with a default route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The interface.
    pub interface: String,
    /// Its gateway, absent on point-to-point links.
    pub gateway: Option<IpAddr>,
}

/// A configured service, with its check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// The label; the agency is put in front once the node has joined.
    pub name: String,
    /// What it is for.
    pub kind: pnsbox_proto::service::ServiceKind,
    /// Where it listens, on the LAN.
    pub endpoint: SocketAddr,
    /// Who is told.
    pub audience: pnsbox_proto::service::Audience,
    /// Lower is preferred.
    pub priority: u16,
    /// Failed checks in a row that make it unhealthy; one success makes it healthy.
    pub failures: u32,
}

/// What the core must be told at birth. The shell reads it from disk and configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// This node's keys.
    pub identity: Identity,
    /// Keys that this box can sign with for its agency; the one that the agency has counts.
    pub agency_keys: Vec<SigningKey>,
    /// What was on disk.
    pub saved: Option<SavedState>,
    /// Configured services.
    pub services: Vec<ServiceConfig>,
    /// Version of the software, for reports.
    pub software: String,
    /// UDP port of links.
    pub link_port: u16,
    /// TCP port of the agent's `/metrics`.
    pub http_port: u16,
    /// Interface MTU, in bytes.
    pub mtu: u16,
    /// Seed of jitter.
    pub seed: u64,
}

/// A moment, both ways: `monotonic` since the process started, for deadlines; `wall` for people and documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Never goes back.
    pub monotonic: Duration,
    /// May jump.
    pub wall: UnixTime,
}

/// Which view is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewId {
    /// Its version.
    pub version: u64,
    /// Payload digest of its manifest.
    pub digest: Digest,
}
