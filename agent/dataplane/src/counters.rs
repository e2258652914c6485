//! What is counted: per peer, and drops by reason. Counters only grow.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::snapshot::PublicKey;

/// Why a packet or datagram went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// No peer's allowed prefixes hold the destination.
    NoPeer,
    /// The peer's endpoint is not known yet.
    NoEndpoint,
    /// Our own datagram came back through the interface: the route to a peer's endpoint leads into the tunnel.
    RoutingLoop,
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
    /// It met congestion on the way, and its sender understands no mark but loss (RFC 6040 section 4.2).
    EcnCeNotEct,
    /// The kernel did not take the datagram.
    SendFailed,
    /// More to send than the kernel takes, and the queue for it is full.
    QueueFull,
    /// The kernel did not take the packet.
    TunWriteFailed,
    /// Datagrams came faster than they were taken: the socket's receive buffer was full.
    ReceiveQueueFull,
    /// The host sent faster than packets were taken: the interface's queue was full.
    TunQueueFull,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 18] = [
        Self::NoPeer,
        Self::NoEndpoint,
        Self::RoutingLoop,
        Self::MalformedPacket,
        Self::WrongSource,
        Self::ShortDatagram,
        Self::UnknownReceiver,
        Self::UnknownPeer,
        Self::RelayRefused,
        Self::RelayUnknownChannel,
        Self::InvalidDatagram,
        Self::RateLimited,
        Self::EcnCeNotEct,
        Self::SendFailed,
        Self::QueueFull,
        Self::TunWriteFailed,
        Self::ReceiveQueueFull,
        Self::TunQueueFull,
    ];

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPeer => "no_peer",
            Self::NoEndpoint => "no_endpoint",
            Self::RoutingLoop => "routing_loop",
            Self::MalformedPacket => "malformed_packet",
            Self::WrongSource => "wrong_source",
            Self::ShortDatagram => "short_datagram",
            Self::UnknownReceiver => "unknown_receiver",
            Self::UnknownPeer => "unknown_peer",
            Self::RelayRefused => "relay_refused",
            Self::RelayUnknownChannel => "relay_unknown_channel",
            Self::InvalidDatagram => "invalid_datagram",
            Self::RateLimited => "rate_limited",
            Self::EcnCeNotEct => "ecn_ce_not_ect",
            Self::SendFailed => "send_failed",
            Self::QueueFull => "queue_full",
            Self::TunWriteFailed => "tun_write_failed",
            Self::ReceiveQueueFull => "receive_queue_full",
            Self::TunQueueFull => "tun_queue_full",
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
    /// Each worker.
    pub workers: Vec<WorkerCounters>,
}

/// What one worker did. Packets by reads, datagrams by sends and so on are the sizes of its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerCounters {
    /// Its name.
    pub name: &'static str,
    /// Processor time that it used.
    pub busy: Duration,
    /// Reads of the TUN.
    pub tun_reads: u64,
    /// Packets that they were cut into.
    pub tun_read_packets: u64,
    /// Writes to the TUN.
    pub tun_writes: u64,
    /// Packets that were merged into them.
    pub tun_written_packets: u64,
    /// Runs of datagrams handed to the socket.
    pub udp_sends: u64,
    /// Datagrams in them.
    pub udp_sent_datagrams: u64,
    /// Runs of datagrams taken from the socket.
    pub udp_receives: u64,
    /// Datagrams in them.
    pub udp_received_datagrams: u64,
}

/// One peer's counters, kept as long as the peer stays in the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// The peer.
    pub public_key: PublicKey,
    /// Where its datagrams go; the relay's endpoint if they go through one.
    pub endpoint: Option<SocketAddr>,
    /// Whether they go through a relay.
    pub relayed: bool,
    /// Bytes of the largest inner packet that reaches it without being fragmented, if that is known.
    pub path_mtu: Option<u16>,
    /// Completion of the last handshake.
    pub last_handshake: Option<Instant>,
    /// Inner bytes received.
    pub rx_bytes: u64,
    /// Inner bytes sent.
    pub tx_bytes: u64,
    /// Bytes of the peer's WireGuard messages that were accepted, handshakes and keepalives included, without UDP and IP:
    /// what `wg show` calls received.
    pub rx_wire_bytes: u64,
    /// Bytes of WireGuard messages for the peer: what `wg show` calls sent.
    pub tx_wire_bytes: u64,
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
        self.drop_many(reason, 1);
    }

    pub(crate) fn drop_many(&self, reason: DropReason, count: u64) {
        if count > 0 {
            self.drops[reason as usize].fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Takes over a count that somebody else keeps.
    pub(crate) fn set(&self, reason: DropReason, count: u64) {
        self.drops[reason as usize].store(count, Ordering::Relaxed);
    }

    pub(crate) fn relayed(&self, packets: u64, bytes: u64) {
        self.relayed_packets.fetch_add(packets, Ordering::Relaxed);
        self.relayed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, peers: Vec<PeerCounters>, workers: Vec<WorkerCounters>) -> Counters {
        let drops = DropReason::ALL
            .map(|reason| (reason, self.drops[reason as usize].load(Ordering::Relaxed)));
        Counters {
            peers,
            drops: drops.to_vec(),
            relayed_packets: self.relayed_packets.load(Ordering::Relaxed),
            relayed_bytes: self.relayed_bytes.load(Ordering::Relaxed),
            workers,
        }
    }
}

/// One worker's counters; only that worker writes them, so they stay in its cache.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct WorkerTally {
    name: &'static str,
    started: Instant,
    busy_nanoseconds: AtomicU64,
    published_milliseconds: AtomicU64,
    tun_reads: AtomicU64,
    tun_read_packets: AtomicU64,
    tun_writes: AtomicU64,
    tun_written_packets: AtomicU64,
    udp_sends: AtomicU64,
    udp_sent_datagrams: AtomicU64,
    udp_receives: AtomicU64,
    udp_received_datagrams: AtomicU64,
}

/// How often a worker says how busy it was, in milliseconds: asking the kernel costs more than a packet.
const BUSY_EVERY: u64 = 100;

impl WorkerTally {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            started: Instant::now(),
            busy_nanoseconds: AtomicU64::new(0),
            published_milliseconds: AtomicU64::new(0),
            tun_reads: AtomicU64::new(0),
            tun_read_packets: AtomicU64::new(0),
            tun_writes: AtomicU64::new(0),
            tun_written_packets: AtomicU64::new(0),
            udp_sends: AtomicU64::new(0),
            udp_sent_datagrams: AtomicU64::new(0),
            udp_receives: AtomicU64::new(0),
            udp_received_datagrams: AtomicU64::new(0),
        }
    }

    /// Publishes the calling worker's processor time, now and then.
    pub(crate) fn publish_busy(&self, now: Instant) {
        let milliseconds = now.duration_since(self.started).as_millis() as u64;
        let last = self.published_milliseconds.load(Ordering::Relaxed);
        if milliseconds < last + BUSY_EVERY {
            return;
        }
        if let Ok(busy) = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID) {
            let busy = Duration::from(busy).as_nanos() as u64;
            self.busy_nanoseconds.store(busy, Ordering::Relaxed);
            self.published_milliseconds
                .store(milliseconds, Ordering::Relaxed);
        }
    }

    pub(crate) fn read_packets(&self, reads: u64, packets: u64) {
        add(&self.tun_reads, reads);
        add(&self.tun_read_packets, packets);
    }

    pub(crate) fn wrote_packets(&self, writes: u64, packets: u64) {
        add(&self.tun_writes, writes);
        add(&self.tun_written_packets, packets);
    }

    pub(crate) fn sent_datagrams(&self, sends: u64, datagrams: u64) {
        add(&self.udp_sends, sends);
        add(&self.udp_sent_datagrams, datagrams);
    }

    pub(crate) fn received_datagrams(&self, receives: u64, datagrams: u64) {
        add(&self.udp_receives, receives);
        add(&self.udp_received_datagrams, datagrams);
    }

    pub(crate) fn counters(&self) -> WorkerCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WorkerCounters {
            name: self.name,
            busy: Duration::from_nanos(read(&self.busy_nanoseconds)),
            tun_reads: read(&self.tun_reads),
            tun_read_packets: read(&self.tun_read_packets),
            tun_writes: read(&self.tun_writes),
            tun_written_packets: read(&self.tun_written_packets),
            udp_sends: read(&self.udp_sends),
            udp_sent_datagrams: read(&self.udp_sent_datagrams),
            udp_receives: read(&self.udp_receives),
            udp_received_datagrams: read(&self.udp_received_datagrams),
        }
    }
}

/// Adds without a locked instruction: there is one writer.
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
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
