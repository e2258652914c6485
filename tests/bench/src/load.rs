//! The load: peers that send to the hub as fast as one thread encrypts, in bursts, one peer after the other.
//! It never waits for the hub: what the hub cannot take is lost before its socket.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use boringtun::noise::TunnResult;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use serde_json::{Value, json};

use crate::commands::Serve;
use crate::handshake::Session;
use crate::inner::Segments;
use crate::member::{self, DESTINATION, MOST_PEERS};

/// Packets that a peer sends in a row, with one system call (udp(7), UDP_SEGMENT): the same for one and for many peers.
const BURST: usize = 32;
/// Header and tag of a data message (WireGuard whitepaper, section 5.4.6).
const OVERHEAD: usize = 32;

/// All peers that there have been so far.
pub(crate) struct Load {
    hub: SocketAddr,
    packet: u16,
    peers: Vec<(Session, Segments)>,
    burst: Vec<u8>,
}

impl Load {
    /// `packet` is the size of an inner packet in bytes.
    pub(crate) fn new(hub: SocketAddr, packet: u16) -> Result<Self> {
        let message = usize::from(packet) + OVERHEAD;
        ensure!(
            BURST * message < usize::from(u16::MAX),
            "{packet} bytes: {BURST} packets must fit into 64 KiB"
        );
        Ok(Self {
            hub,
            packet,
            peers: Vec::new(),
            burst: vec![0; BURST * message],
        })
    }

    /// New sessions for the first `count` peers.
    fn handshake(&mut self, count: u16) -> Result<Value> {
        ensure!(count <= MOST_PEERS, "{count} peers: at most {MOST_PEERS}");
        for peer in self.peers.len() as u16..count {
            let segments = Segments::new(member::inner_address(peer), DESTINATION, self.packet);
            self.peers.push((Session::new(peer, self.hub)?, segments));
        }
        for (session, _) in &mut self.peers[..usize::from(count)] {
            session.handshake()?;
        }
        Ok(json!({ "peers": count }))
    }

    /// Sends from the first `count` peers in turn.
    fn send(&mut self, count: u16, seconds: f64) -> Result<Value> {
        ensure!(count > 0, "at least one peer must send");
        self.handshake(count)?;
        let begun = Instant::now();
        let end = begun + Duration::try_from_secs_f64(seconds)?;
        let mut packets = 0_u64;
        while Instant::now() < end {
            for peer in 0..usize::from(count) {
                self.send_burst(peer)?;
                packets += BURST as u64;
            }
        }
        let bytes = packets * u64::from(self.packet);
        Ok(json!({ "sent_bytes": bytes, "seconds": begun.elapsed().as_secs_f64() }))
    }

    fn send_burst(&mut self, peer: usize) -> Result<()> {
        let (session, segments) = &mut self.peers[peer];
        let message = usize::from(self.packet) + OVERHEAD;
        for slot in self.burst.chunks_exact_mut(message) {
            match session.tunnel.encapsulate(segments.next_packet(), slot) {
                TunnResult::WriteToNetwork(data) if data.len() == message => {}
                other => bail!("peer {peer} has no session: {other:?}"),
            }
        }
        let socket = session.socket.as_raw_fd();
        let segment = message as u16;
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        let bytes = [IoSlice::new(&self.burst)];
        match sendmsg::<SockaddrStorage>(socket, &bytes, &control, MsgFlags::empty(), None) {
            // The queue of the cable is full: lost, as on any wire.
            Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("peer {peer} cannot send a burst")),
        }
    }
}

impl Serve for Load {
    fn command(&mut self, words: &[&str]) -> Result<Value> {
        match words {
            ["handshake", count] => self.handshake(number(count)?),
            ["send", count, seconds] => {
                let seconds = seconds
                    .parse()
                    .with_context(|| format!("seconds '{seconds}'"))?;
                self.send(number(count)?, seconds)
            }
            _ => bail!("unknown command {words:?}; known: handshake N, send N SECONDS"),
        }
    }
}

fn number(text: &str) -> Result<u16> {
    text.parse()
        .with_context(|| format!("'{text}' is no number of peers"))
}
