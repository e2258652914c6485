//! What the data plane is told: one immutable [`Snapshot`], replaced as a whole.
//!
//! Plain bytes and addresses only.
//! The snapshot does not say why a peer is there, who it is, or which view it came from; the agent knows that.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

/// An X25519 public key: the only name a peer has in the data plane.
pub type PublicKey = [u8; 32];

/// Everything the data plane does, complete: peers that are not listed are forgotten with their sessions,
/// peers that stay keep their sessions, endpoints and counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The peers that have a tunnel with this node.
    pub peers: Vec<PeerConfig>,
    /// The channels that this node relays for others, blind.
    pub relays: Vec<RelayChannel>,
}

/// One tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// The peer's WireGuard key.
    pub public_key: PublicKey,
    /// Inner source addresses accepted from this peer, and inner destinations sent to it; longest prefix wins.
    pub allowed_prefixes: Vec<IpNet>,
    /// Where its datagrams go.
    pub path: PathConfig,
    /// Persistent keepalive interval; set on the NATed side only, because two such sides fight over who initiates.
    pub persistent_keepalive: Option<Duration>,
}

/// How a peer is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathConfig {
    /// Its endpoint is learnt from its own authenticated datagrams; until then nothing can be sent.
    Passive,
    /// It listens here; an authenticated datagram from elsewhere moves the endpoint (roaming).
    Direct(SocketAddr),
    /// Its datagrams travel inside relay frames through another peer of this node.
    Relay {
        /// The peer that relays; frames go to that peer's current authenticated endpoint.
        via: PublicKey,
        /// The relay's number for this pair of members.
        channel: u32,
    },
}

/// One pair of members for whom this node forwards ciphertext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayChannel {
    /// Unique on this relay.
    pub channel: u32,
    /// Both are peers of this node. A frame is accepted only from a member's current authenticated endpoint
    /// and goes to the other member's.
    pub members: [PublicKey; 2],
}
