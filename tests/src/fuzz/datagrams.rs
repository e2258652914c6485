//! A data plane among peers, strangers and a relay: nothing is delivered or answered without authentication,
//! nothing is delivered twice or changed but for congestion marks, and a relay forwards only what its members send.

mod marks;
mod nodes;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arbitrary::Unstructured;
use pnsbox_dataplane::fuzz::{Caught, MemoryPlane, first_mac_is_right, initiator, relay_frame};
use pnsbox_dataplane::{PathConfig, RelayChannel, Snapshot};

use super::{below, byte, chunk, chunked, short};
use nodes::{
    BEHIND, KEYS, MEMBER, MTU, NODES, OURS, PEER, SECRETS, START, THEIRS, UNKNOWN, US, address,
    as_frame, lan, packet, peer, plane, source, source_of,
};

/// Whitepaper section 5.4: the longest and the shortest answer to somebody who has not proved anything.
const HANDSHAKE_RESPONSE: usize = 92;
const COOKIE_REPLY: usize = 64;
const SMALLEST_MESSAGE: usize = 32;
const DATA: u8 = 4;
/// Probes of a path's size that one peer gets at a time.
const MOST_PROBES: usize = 10;
/// Whitepaper section 6.1. We go by the fuzzer's clock and boringtun by its own, so it may go on with a session that is over.
const SESSION_ENDS: Duration = Duration::from_secs(180);
/// More than this many rounds show nothing new.
const MAX_STEPS: usize = 48;

/// Throws `data` at the plane.
pub fn run(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let mut world = World::new();
    let sessions = byte(&mut bytes);
    for other in [PEER, MEMBER, BEHIND] {
        if sessions & (1 << other) != 0 {
            world.open_session(other);
        }
    }
    for _ in 0..MAX_STEPS {
        if bytes.is_empty() {
            return;
        }
        world.step(&mut bytes);
    }
}

struct World {
    planes: Vec<MemoryPlane>,
    now: Instant,
    /// Datagrams that reached us as they were sent.
    arrived: Vec<Vec<u8>>,
    /// Peers that lost their memory: handshakes with them may be refused for their number.
    rebooted: bool,
}

impl World {
    fn new() -> Self {
        let now = *START;
        let world = Self {
            planes: (0..NODES).map(|node| plane(node, now)).collect(),
            now,
            arrived: Vec::new(),
            rebooted: false,
        };
        let relays = vec![RelayChannel {
            channel: OURS,
            members: [KEYS[PEER], KEYS[MEMBER]],
        }];
        let relayed = PathConfig::Relay {
            via: KEYS[PEER],
            channel: THEIRS,
        };
        let peers = vec![
            peer(PEER, PathConfig::Direct(address(PEER))),
            peer(MEMBER, PathConfig::Passive),
            peer(BEHIND, relayed),
        ];
        let applied = world.planes[US].apply(&Snapshot { peers, relays }, now);
        applied.expect("a right snapshot is applied");
        world
    }

    fn step(&mut self, bytes: &mut Unstructured<'_>) {
        match below(bytes, 13) {
            0 => {
                let source = source(bytes);
                let datagram = chunk(bytes);
                self.unproved(datagram, source);
            }
            1 => self.changed_on_the_way(bytes),
            2 => self.peer_sends(bytes),
            3 => self.host_sends(chunk(bytes)),
            4 => self.host_sends_to_a_peer(bytes),
            5 => self.initiation_of_the_unknown(bytes),
            6 => {
                let (source, channel) = (source(bytes), [OURS, THEIRS, 9][below(bytes, 3)]);
                let frame = relay_frame(channel, chunk(bytes));
                self.unproved(&frame, source);
            }
            7 => self.later(bytes),
            8 => self.replay(bytes),
            9 => self.reboot(PEER),
            10 => self.through_our_relay(bytes),
            11 => self.peer_sends_with_marks(bytes),
            _ => self.member_sends_with_marks(bytes),
        }
    }

    /// Bytes that nobody with a key made, unless the fuzzer kept an old initiation: then it may be answered once.
    fn unproved(&mut self, datagram: &[u8], source: SocketAddr) {
        if let Some((channel, inner)) = as_frame(datagram) {
            return self.frame_from(datagram, channel, inner, source);
        }
        let known = first_mac_is_right(SECRETS[US], datagram)
            && initiator(SECRETS[US], datagram).is_some_and(|key| KEYS[..UNKNOWN].contains(&key));
        let before = self.planes[US].counters();
        let caught = self.planes[US].handle_datagram(datagram, source, self.now);
        if known {
            assert!(caught.packets.is_empty());
            answered_at_most_once(&caught, HANDSHAKE_RESPONSE);
            return;
        }
        self.is_ignored(datagram, source, &caught);
        assert_eq!(
            self.planes[US].counters().peers,
            before.peers,
            "a stranger changed a peer"
        );
    }

    fn frame_from(&mut self, frame: &[u8], channel: u32, inner: &[u8], source: SocketAddr) {
        let other = match source {
            _ if channel != OURS || inner.len() < SMALLEST_MESSAGE => None,
            source if source == address(PEER) => Some(MEMBER),
            source if source == address(MEMBER) => Some(PEER),
            _ => None,
        };
        let both = self.is_up(PEER) && self.is_up(MEMBER);
        let expected = other
            .filter(|_| both)
            .map(|other| (address(other), frame.to_vec()));
        let caught = self.planes[US].handle_datagram(frame, source, self.now);
        assert!(caught.packets.is_empty());
        if channel == THEIRS && first_mac_is_right(SECRETS[US], inner) {
            // An old initiation of the node behind: answered through the relay.
            return answered_at_most_once(&caught, HANDSHAKE_RESPONSE + 8);
        }
        // An endpoint that is not proved yet forwards nothing, which is right as well.
        let forwarded = caught.datagrams;
        assert!(
            forwarded.len() <= 1
                && forwarded
                    .first()
                    .is_none_or(|sent| Some(sent) == expected.as_ref())
        );
        assert!(
            !self.settled() || forwarded.first() == expected.as_ref(),
            "a member's frame is not forwarded"
        );
    }

    /// What a datagram without authentication does: nothing, but for a cookie reply to whoever knows our key.
    fn is_ignored(&self, datagram: &[u8], source: SocketAddr, caught: &Caught) {
        assert!(
            caught.packets.is_empty(),
            "delivered without authentication"
        );
        if caught.datagrams.is_empty() {
            return;
        }
        assert!(
            first_mac_is_right(SECRETS[US], datagram),
            "answered without a first MAC"
        );
        let is_cookie = |(to, reply): &(SocketAddr, Vec<u8>)| {
            *to == source && reply.len() == COOKIE_REPLY && reply[0] == 3
        };
        assert!(caught.datagrams.len() == 1 && is_cookie(&caught.datagrams[0]));
    }

    /// A peer's datagram, of which one place was changed.
    fn changed_on_the_way(&mut self, bytes: &mut Unstructured<'_>) {
        let from = [PEER, MEMBER][below(bytes, 2)];
        let sent = self.planes[from].handle_packet(&packet(from, US, chunk(bytes)), self.now);
        let Some((_, datagram)) = sent.datagrams.into_iter().next() else {
            return;
        };
        let mut changed = datagram.clone();
        match below(bytes, 3) {
            0 => {
                let at = usize::from(short(bytes)) % changed.len();
                changed[at] ^= 1 << below(bytes, 8);
            }
            1 => changed.truncate(usize::from(short(bytes))),
            _ => changed.extend(chunk(bytes)),
        }
        // The second MAC of a handshake counts only under load (whitepaper section 5.4.4).
        let is_handshake = datagram[0] != 4;
        let counts = if is_handshake {
            datagram.len() - 16
        } else {
            datagram.len()
        };
        if changed.len() == datagram.len() && changed[..counts] == datagram[..counts] {
            return;
        }
        let source = source(bytes);
        let before = self.planes[US].counters();
        let caught = self.planes[US].handle_datagram(&changed, source, self.now);
        self.is_ignored(&changed, source, &caught);
        assert_eq!(
            self.planes[US].counters().peers,
            before.peers,
            "a changed datagram changed a peer"
        );
        if is_handshake {
            // The right one may come later; the peer tries again by itself.
            return;
        }
        self.arrives(from, &datagram);
    }

    /// The peer's host sends: we deliver exactly that, if its source is the peer's, and only once.
    fn peer_sends(&mut self, bytes: &mut Unstructured<'_>) {
        let claimed = [PEER, MEMBER, BEHIND, UNKNOWN][below(bytes, 4)];
        let mut inner = packet(claimed, US, chunk(bytes));
        if byte(bytes) & 1 == 1 {
            let at = below(bytes, 20);
            inner[at] ^= byte(bytes);
        }
        let sent = self.planes[PEER].handle_packet(&inner, self.now);
        for (to, datagram) in sent.datagrams {
            if to != address(US) || datagram[0] != 4 {
                self.deliver(PEER, to, datagram);
                continue;
            }
            let caught = self.arrives(PEER, &datagram);
            let source = source_of(&inner);
            let length = usize::from(u16::from_be_bytes([inner[2], inner[3]]));
            let is_right = source.is_some_and(|ip| lan(PEER).contains(&ip));
            let expected: Vec<Vec<u8>> = if is_right {
                vec![inner[..length].to_vec()]
            } else {
                Vec::new()
            };
            assert!(
                caught.is_empty() || caught == expected,
                "a packet of another source, or another packet"
            );
            assert!(
                !self.settled() || caught == expected,
                "a right packet is not delivered"
            );
            let again = self.planes[US].handle_datagram(&datagram, address(PEER), self.now);
            assert_eq!(
                again,
                Caught::default(),
                "a repeated datagram does something"
            );
        }
    }

    /// The peer's host sends with some class and mark, and the way adds others.
    fn peer_sends_with_marks(&mut self, bytes: &mut Unstructured<'_>) {
        let (tos, outer) = (byte(bytes), byte(bytes));
        let mut inner = packet(PEER, US, chunk(bytes));
        inner[1] = tos;
        let sent = self.planes[PEER].handle_packet(&inner, self.now);
        for ((to, datagram), shown) in sent.datagrams.into_iter().zip(sent.tos) {
            if to != address(US) || datagram[0] != 4 {
                self.deliver(PEER, to, datagram);
                continue;
            }
            assert_eq!(shown, tos, "the peer's policy is to copy");
            self.arrived.push(datagram.clone());
            let caught =
                self.planes[US].handle_datagrams(&[(&datagram, outer)], address(PEER), self.now);
            let expected = marks::delivered(&inner, outer);
            match (&caught.packets[..], expected) {
                ([], expected) => assert!(
                    expected.is_none() || !self.settled(),
                    "a right packet is not delivered"
                ),
                ([packet], Some(expected)) => assert!(
                    marks::is_as_expected(packet, &expected, &inner),
                    "another packet: {packet:?} for {expected:?}"
                ),
                (packets, expected) => panic!("{packets:?} for {expected:?}"),
            }
            for (to, datagram) in caught.datagrams {
                self.deliver(US, to, datagram);
            }
        }
    }

    /// A member's frame with some class and mark: those go on, by our policy.
    fn member_sends_with_marks(&mut self, bytes: &mut Unstructured<'_>) {
        let tos = byte(bytes);
        let inner = [&[0; SMALLEST_MESSAGE], chunk(bytes)].concat();
        let frame = relay_frame(OURS, &inner);
        let caught = self.planes[US].handle_datagrams(&[(&frame, tos)], address(PEER), self.now);
        assert!(caught.packets.is_empty() && caught.datagrams.len() <= 1);
        assert!(
            caught.tos.iter().all(|shown| *shown == marks::mapped(tos)),
            "{tos:#x} became {:?}",
            caught.tos
        );
        assert!(!self.settled() || caught.datagrams == [(address(MEMBER), frame)]);
    }

    /// Any bytes from our own host.
    fn host_sends(&mut self, inner: &[u8]) {
        let caught = self.planes[US].handle_packet(inner, self.now);
        assert!(caught.packets.is_empty() && caught.datagrams.len() <= 1);
        for ((to, datagram), tos) in caught.datagrams.into_iter().zip(caught.tos) {
            assert!(
                [address(PEER), address(MEMBER)].contains(&to),
                "sent to {to}"
            );
            assert_eq!(tos, marks::shown(&datagram, inner), "of {}", datagram[0]);
            assert!(datagram.len() <= 8 + (inner.len() + 15 + 32).max(148));
            self.deliver(US, to, datagram);
        }
    }

    /// A right packet from our host: the peer delivers exactly that.
    fn host_sends_to_a_peer(&mut self, bytes: &mut Unstructured<'_>) {
        let to = [PEER, MEMBER, BEHIND, UNKNOWN][below(bytes, 4)];
        let payload = chunk(bytes);
        let mut inner = packet(US, to, payload);
        inner[1] = payload.first().copied().unwrap_or(0);
        let caught = self.planes[US].handle_packet(&inner, self.now);
        let mut delivered = Vec::new();
        for ((at, datagram), tos) in caught.datagrams.into_iter().zip(caught.tos) {
            assert_eq!(tos, marks::shown(&datagram, &inner), "of {}", datagram[0]);
            delivered.extend(self.deliver(US, at, datagram));
        }
        // What the peer kept until our packet confirmed its session comes to us.
        delivered.retain(|(node, _)| *node != US);
        let all_right = delivered
            .iter()
            .all(|(node, packet)| *node == to && packet[..20] == inner[..20]);
        assert!(all_right, "another node's packet, or another packet");
        if self.settled() && to == PEER {
            assert_eq!(delivered, [(to, inner)]);
        }
    }

    /// It knows our key, so its first MAC is right; we do not know it, so it hears nothing.
    fn initiation_of_the_unknown(&mut self, bytes: &mut Unstructured<'_>) {
        let mut stranger = plane(UNKNOWN, self.now);
        let sent = stranger.handle_packet(&packet(UNKNOWN, US, &[]), self.now);
        let source = source(bytes);
        for (_, datagram) in sent.datagrams {
            assert!(first_mac_is_right(SECRETS[US], &datagram));
            let caught = self.planes[US].handle_datagram(&datagram, source, self.now);
            assert_eq!(caught, Caught::default(), "an unknown key is answered");
        }
    }

    /// What arrived once, from wherever, does nothing the second time.
    fn replay(&mut self, bytes: &mut Unstructured<'_>) {
        let source = source(bytes);
        let Some(datagram) = self.arrived.get(usize::from(byte(bytes))).cloned() else {
            return;
        };
        let before = self.planes[US].counters();
        let caught = self.planes[US].handle_datagram(&datagram, source, self.now);
        self.is_ignored(&datagram, source, &caught);
        assert_eq!(
            self.planes[US].counters().peers,
            before.peers,
            "a replay changed a peer"
        );
    }

    fn through_our_relay(&mut self, bytes: &mut Unstructured<'_>) {
        let source = source(bytes);
        let inner =
            self.planes[UNKNOWN].handle_packet(&packet(UNKNOWN, US, chunk(bytes)), self.now);
        for (_, datagram) in inner.datagrams {
            self.unproved(&relay_frame(OURS, &datagram), source);
            self.unproved(
                &relay_frame(THEIRS, &datagram[..datagram.len() - 1]),
                source,
            );
        }
    }

    fn later(&mut self, bytes: &mut Unstructured<'_>) {
        self.now += Duration::from_millis(u64::from(byte(bytes)) * 200);
        for node in 0..NODES {
            let caught = self.planes[node].tick(self.now);
            assert!(caught.packets.is_empty());
            // Probes of the path are sealed packets; everything else is a handshake or an empty message.
            let is_probe = |datagram: &[u8]| datagram[0] == DATA && datagram.len() > 148 + 8;
            let probes = caught.datagrams.iter().filter(|(_, d)| is_probe(d)).count();
            assert!(probes <= MOST_PROBES * NODES, "{probes} probes");
            assert!(caught.datagrams.len() - probes <= 2 * NODES);
            for (to, datagram) in caught.datagrams {
                assert!(
                    datagram.len() <= 148 + 8
                        || is_probe(&datagram)
                            && datagram.len() <= usize::from(MTU) + SMALLEST_MESSAGE,
                    "a timer sends {} bytes",
                    datagram.len()
                );
                self.deliver(node, to, datagram);
            }
        }
    }

    /// A peer that knows nothing of its sessions, and begins again.
    fn reboot(&mut self, node: usize) {
        self.rebooted = true;
        self.planes[node] = plane(node, self.now);
        self.open_session(node);
    }

    fn open_session(&mut self, node: usize) {
        let sent = self.planes[node].handle_packet(&packet(node, US, b"first"), self.now);
        for (to, datagram) in sent.datagrams {
            self.deliver(node, to, datagram);
        }
    }

    /// One datagram of `from` reaches us unchanged, and what follows from it its destination.
    fn arrives(&mut self, from: usize, datagram: &[u8]) -> Vec<Vec<u8>> {
        let delivered = self.deliver(from, address(US), datagram.to_vec());
        let ours = delivered.into_iter().filter(|(node, _)| *node == US);
        ours.map(|(_, packet)| packet).collect()
    }

    /// Lets a datagram arrive, and every datagram that follows from it; returns what was delivered, with where.
    fn deliver(&mut self, from: usize, to: SocketAddr, datagram: Vec<u8>) -> Vec<(usize, Vec<u8>)> {
        let mut under_way = vec![(address(from), to, datagram)];
        let mut delivered = Vec::new();
        for _ in 0..MAX_HOPS {
            let Some((source, to, datagram)) = under_way.pop() else {
                return delivered;
            };
            let Some(node) = (0..NODES).find(|node| address(*node) == to) else {
                continue;
            };
            if node == US {
                self.arrived.push(datagram.clone());
            }
            let caught = self.planes[node].handle_datagram(&datagram, source, self.now);
            delivered.extend(caught.packets.into_iter().map(|packet| (node, packet)));
            under_way.extend(
                caught
                    .datagrams
                    .into_iter()
                    .map(|(next, bytes)| (to, next, bytes)),
            );
        }
        panic!("one datagram is followed by more than {MAX_HOPS}");
    }

    fn is_up(&self, node: usize) -> bool {
        let counters = self.planes[US].counters();
        let mut peers = counters.peers.iter();
        peers.any(|peer| peer.public_key == KEYS[node] && peer.handshakes > 0)
    }

    /// Whether the sessions with peer and member stand as they were opened.
    fn settled(&self) -> bool {
        let is_young = self.now.duration_since(*START) < SESSION_ENDS;
        !self.rebooted && is_young && self.is_up(PEER) && self.is_up(MEMBER)
    }
}

fn answered_at_most_once(caught: &Caught, longest: usize) {
    assert!(caught.datagrams.len() <= 1);
    assert!(
        caught
            .datagrams
            .iter()
            .all(|(_, reply)| reply.len() <= longest)
    );
}

/// What one datagram may be followed by: a handshake, and packets that waited for it.
const MAX_HOPS: usize = 64;

/// Each step once, with sessions and without.
pub fn seeds() -> Vec<Vec<u8>> {
    let long = chunked(&[0x45; 40]);
    let data = chunked(&[&[4, 0, 0, 0, 1, 0, 0, 0][..], &[0; 40]].concat());
    let initiation = chunked(&[&[1, 0, 0, 0][..], &[7; 144]].concat());
    let steps: Vec<Vec<u8>> = vec![
        [&[0, 0], &data[..]].concat(),
        [&[0, 1], &initiation[..]].concat(),
        [&[1, 0], &long[..], &[0, 30, 0, 3, 1]].concat(),
        [&[1, 1], &long[..], &[1, 40, 0, 2]].concat(),
        [&[1, 0], &long[..], &[2, 1, 0, 9, 1]].concat(),
        [&[2, 0], &long[..], &[0]].concat(),
        [&[2, 1], &long[..], &[1, 3, 7]].concat(),
        [&[3], &long[..]].concat(),
        [&[4, 0], &long[..]].concat(),
        [&[4, 2], &long[..]].concat(),
        [&[4, 1], &long[..]].concat(),
        vec![5, 1],
        [&[6, 1, 0], &long[..]].concat(),
        [&[6, 2, 0], &long[..]].concat(),
        [&[6, 1, 1], &initiation[..]].concat(),
        vec![7, 130],
        vec![8, 0, 0, 8, 1, 1, 8, 3, 2],
        vec![9],
        [&[10, 1], &long[..]].concat(),
        [&[11, 0xba, 0x03], &long[..], &[11, 2, 1], &long[..]].concat(),
        [&[11, 0, 0xb8], &long[..], &[11, 0, 3], &long[..]].concat(),
        [&[12, 0xb9], &long[..], &[12, 0x21], &long[..]].concat(),
    ];
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    for sessions in [0, 0b0010, 0b0110, 0b1110] {
        seeds.extend(steps.iter().map(|step| [&[sessions][..], step].concat()));
    }
    seeds.push([&[0b1110][..], &steps.concat()].concat());
    seeds.push([vec![0b0110], steps[17].repeat(14), steps.concat()].concat());
    seeds
}
