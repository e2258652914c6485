//! What is counted: per peer, and drops by reason. Counters only grow.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::snapshot::PublicKey;

/// Why a packet or datagram went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// No peer's allowed prefixes hold the destination.
    NoPeer,
    /// The peer's endpoint is not known yet.
    NoEndpoint,
    /// Not an IP packet, or its length field is wrong.
    MalformedPacket,
    /// The inner source lies outside the peer's allowed prefixes.
    WrongSource,
    /// Shorter than any WireGuard message.
    ShortDatagram,
    /// For a receiver index that no peer has.
    UnknownReceiver,
    /// A handshake by a key that is no peer's.
    UnknownPeer,
    /// A relay frame from somebody who is not the channel's member, or for another peer than the channel's.
    RelayRefused,
    /// A relay frame for a channel that is not here.
    RelayUnknownChannel,
    /// Not WireGuard, forged, replayed or too old.
    InvalidDatagram,
    /// More handshakes than this node answers.
    RateLimited,
    /// The kernel did not take the datagram.
    SendFailed,
    /// The kernel did not take the packet.
    TunWriteFailed,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::NoPeer,
        Self::NoEndpoint,
        Self::MalformedPacket,
        Self::WrongSource,
        Self::ShortDatagram,
        Self::UnknownReceiver,
        Self::UnknownPeer,
        Self::RelayRefused,
        Self::RelayUnknownChannel,
        Self::InvalidDatagram,
        Self::RateLimited,
        Self::SendFailed,
        Self::TunWriteFailed,
    ];

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPeer => "no_peer",
            Self::NoEndpoint => "no_endpoint",
            Self::MalformedPacket => "malformed_packet",
            Self::WrongSource => "wrong_source",
            Self::ShortDatagram => "short_datagram",
            Self::UnknownReceiver => "unknown_receiver",
            Self::UnknownPeer => "unknown_peer",
            Self::RelayRefused => "relay_refused",
            Self::RelayUnknownChannel => "relay_unknown_channel",
            Self::InvalidDatagram => "invalid_datagram",
            Self::RateLimited => "rate_limited",
            Self::SendFailed => "send_failed",
            Self::TunWriteFailed => "tun_write_failed",
        }
    }
}

/// Everything that was counted since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Each peer, in no order that means anything.
    pub peers: Vec<PeerCounters>,
    /// Drops by reason; every reason is listed.
    pub drops: Vec<(DropReason, u64)>,
    /// Datagrams forwarded for others.
    pub relayed_packets: u64,
    /// Bytes of those, without the frame's header.
    pub relayed_bytes: u64,
}

/// One peer's counters, kept as long as the peer stays in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCounters {
    /// The peer.
    pub public_key: PublicKey,
    /// Where its datagrams go; the relay's endpoint if they go through one.
    pub endpoint: Option<SocketAddr>,
    /// Whether they go through a relay.
    pub relayed: bool,
    /// Completion of the last handshake.
    pub last_handshake: Option<SystemTime>,
    /// Inner bytes received.
    pub rx_bytes: u64,
    /// Inner bytes sent.
    pub tx_bytes: u64,
    /// Inner packets received.
    pub rx_packets: u64,
    /// Inner packets sent.
    pub tx_packets: u64,
    /// Handshakes completed.
    pub handshakes: u64,
    /// Times that boringtun gave the tunnel up.
    pub handshake_failures: u64,
}

/// Drops and relayed traffic, counted by any thread.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    drops: [AtomicU64; DropReason::ALL.len()],
    relayed_packets: AtomicU64,
    relayed_bytes: AtomicU64,
}

impl Tally {
    pub(crate) fn drop(&self, reason: DropReason) {
        self.drops[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn relayed(&self, bytes: usize) {
        self.relayed_packets.fetch_add(1, Ordering::Relaxed);
        self.relayed_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, peers: Vec<PeerCounters>) -> Counters {
        let drops = DropReason::ALL
            .map(|reason| (reason, self.drops[reason as usize].load(Ordering::Relaxed)));
        Counters {
            peers,
            drops: drops.to_vec(),
            relayed_packets: self.relayed_packets.load(Ordering::Relaxed),
            relayed_bytes: self.relayed_bytes.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_place_and_label() {
        for (place, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
        let mut labels = DropReason::ALL.map(DropReason::as_str).to_vec();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), DropReason::ALL.len());
    }
}
