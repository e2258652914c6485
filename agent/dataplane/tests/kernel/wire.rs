//! What passes on the uplink between both sides, seen from outside: which messages, whose, how long. It opens none.

use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt::{RcvBufForce, ReceiveTimeout},
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::net::{Net, UPLINK};
use crate::pair::Side;

/// Types of message (whitepaper section 5.4).
pub(crate) const INITIATION: u8 = 1;
pub(crate) const RESPONSE: u8 = 2;
pub(crate) const COOKIE: u8 = 3;
pub(crate) const DATA: u8 = 4;
/// An empty data message, in bytes.
pub(crate) const KEEPALIVE_BYTES: usize = 32;

/// One WireGuard message.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) from: Side,
    /// Port that it goes to.
    pub(crate) to_port: u16,
    pub(crate) kind: u8,
    /// Of a data message.
    pub(crate) receiver: u32,
    /// As in the datagram, in bytes; of datagrams that go to the network card in one piece, all together.
    pub(crate) length: usize,
    /// A handshake message with a second MAC: its sender has a cookie.
    pub(crate) has_cookie: bool,
    /// Class and congestion bits of the outer header.
    pub(crate) tos: u8,
    pub(crate) at: Instant,
}

/// Listens on the uplink until dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    messages: Arc<Mutex<Vec<Message>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Listens from now on.
    pub(crate) fn listen(net: &Net) -> Self {
        let (tap, uplink) = net.enter("a", || {
            let flags = SockFlag::SOCK_CLOEXEC;
            let all = SockProtocol::EthAll;
            let tap = socket(AddressFamily::Packet, SockType::Datagram, flags, all).unwrap();
            setsockopt(&tap, RcvBufForce, &(16 << 20)).unwrap();
            setsockopt(&tap, ReceiveTimeout, &TimeVal::milliseconds(100)).unwrap();
            (tap, if_nametoindex(UPLINK).unwrap() as usize)
        });
        let messages = Arc::new(Mutex::new(Vec::new()));
        let ends = Arc::new(AtomicBool::new(false));
        let (heard, told) = (Arc::clone(&messages), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            let mut packet = [0; 256];
            while !told.load(Ordering::Relaxed) {
                let (length, from) = match recvfrom::<LinkAddr>(tap.as_raw_fd(), &mut packet) {
                    Ok((length, Some(from))) => (length, from),
                    Ok((_, None)) | Err(Errno::EAGAIN | Errno::EINTR) => continue,
                    Err(error) => panic!("the tap: {error}"),
                };
                let side = match from.pkttype() {
                    libc::PACKET_OUTGOING => Side::Ours,
                    _ => Side::Kernel,
                };
                let message = parse(&packet[..length.min(packet.len())], side);
                if let Some(message) = message.filter(|_| from.ifindex() == uplink) {
                    heard.lock().unwrap().push(message);
                }
            }
        });
        Self {
            messages,
            ends,
            thread: Some(thread),
        }
    }

    /// What passed since the last call.
    pub(crate) fn take(&self) -> Messages {
        // What was sent is on its way to the tap.
        std::thread::sleep(Duration::from_millis(300));
        Messages(std::mem::take(&mut self.messages.lock().unwrap()))
    }

    /// Waits until neither side owes the other anything. We ask for the path MTU when a session begins, and the kernel,
    /// which does not understand that, acknowledges it twice, ten seconds apart. Forgets what passed.
    pub(crate) fn settle(&self) {
        const SILENCE: Duration = Duration::from_secs(12);
        const LIMIT: Duration = Duration::from_secs(90);
        let begun = Instant::now();
        let mut since = begun;
        while since.elapsed() < SILENCE {
            assert!(begun.elapsed() < LIMIT, "both sides go on talking");
            if !self.take().0.is_empty() {
                since = Instant::now();
            }
        }
    }

    /// How many messages of a kind passed since the last [`Wire::take`].
    pub(crate) fn count(&self, side: Side, kind: u8) -> usize {
        let messages = self.messages.lock().unwrap();
        let is_it = |message: &&Message| message.from == side && message.kind == kind;
        messages.iter().filter(is_it).count()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It panicked, and the check that reads its messages failed already.
            drop(thread.join());
        }
    }
}

/// In the order in which they passed.
#[derive(Debug)]
pub(crate) struct Messages(Vec<Message>);

impl Messages {
    pub(crate) fn of(&self, side: Side, kind: u8) -> impl Iterator<Item = &Message> {
        let is_it = move |message: &&Message| message.from == side && message.kind == kind;
        self.0.iter().filter(is_it)
    }

    /// By us and by the kernel.
    pub(crate) fn by_both(&self, kind: u8) -> (usize, usize) {
        (
            self.of(Side::Ours, kind).count(),
            self.of(Side::Kernel, kind).count(),
        )
    }

    /// Of any kind.
    pub(crate) fn by(&self, side: Side) -> usize {
        self.0.iter().filter(|message| message.from == side).count()
    }

    /// Data messages without a packet.
    pub(crate) fn keepalives(&self, side: Side) -> impl Iterator<Item = &Message> {
        self.of(side, DATA)
            .filter(|message| message.length == KEEPALIVE_BYTES)
    }
}

/// A WireGuard message in a whole IP packet of either version.
fn parse(packet: &[u8], from: Side) -> Option<Message> {
    let first = *packet.first()?;
    let (protocol, tos, transport) = match first >> 4 {
        4 => (*packet.get(9)?, packet[1], usize::from(first & 15) * 4),
        6 => (*packet.get(6)?, first << 4 | packet[1] >> 4, 40),
        _ => return None,
    };
    if i32::from(protocol) != libc::IPPROTO_UDP {
        return None;
    }
    let header = packet.get(transport..)?;
    let (header, bytes) = header.split_first_chunk::<8>()?;
    let [kind @ INITIATION..=DATA, 0, 0, 0, ..] = *bytes else {
        return None;
    };
    Some(Message {
        from,
        to_port: u16::from_be_bytes([header[2], header[3]]),
        kind,
        receiver: u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?),
        length: usize::from(u16::from_be_bytes([header[4], header[5]])).checked_sub(8)?,
        has_cookie: bytes.last_chunk::<16>()?.iter().any(|byte| *byte != 0),
        tos,
        at: Instant::now(),
    })
}
