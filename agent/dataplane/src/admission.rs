//! Whether a handshake message may cost something: it takes X25519 operations before anything is known of its sender.
//!
//! Who proved nothing competes with nobody who did: a source has its own budget as soon as it is an endpoint of a peer,
//! or shows with a cookie (whitepaper section 5.3) that it gets what is sent to it. It reads no key, and knows no session.

mod buckets;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use x25519_dalek::PublicKey;

use self::buckets::{Bucket, Buckets, Known, Rate};
use crate::counters::DropReason;
use crate::noise::{Cookies, Macs};

/// From where a handshake message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Straight from here.
    Straight(SocketAddr),
    /// Through the relay channel of the peer with this index; relays forward only what members of a channel send.
    Relayed(u32),
}

/// What is to be done with a handshake message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may cost what it costs.
    Admit,
    /// Its source must first be proved: a cookie reply of so many bytes was written, for the source.
    Cookie(usize),
    /// Nothing.
    Refuse(DropReason),
}

/// Judges initiations and responses. Its memory does not grow with the sources it sees.
#[derive(Debug)]
pub(crate) struct Admission {
    begun: Instant,
    cookies: Cookies,
    seen: Seen,
    known: Known,
    relayed: Buckets,
    strangers: Buckets,
    all_strangers: Bucket,
    proven: Buckets,
    proven_addresses: Buckets,
    all_proven: Bucket,
    replies: Buckets,
    more_replies: Bucket,
}

impl Admission {
    /// For messages to the node with this public key.
    pub(crate) fn new(public: PublicKey, now: Instant) -> Self {
        Self {
            begun: now,
            cookies: Cookies::new(public),
            seen: Seen::default(),
            known: Known::default(),
            relayed: Buckets::default(),
            strangers: Buckets::default(),
            all_strangers: Bucket::default(),
            proven: Buckets::default(),
            proven_addresses: Buckets::default(),
            all_proven: Bucket::default(),
            replies: Buckets::default(),
            more_replies: Bucket::default(),
        }
    }

    /// Judges an initiation or a response. With [`Verdict::Cookie`], `reply` begins with a cookie reply.
    pub(crate) fn judge(
        &mut self,
        datagram: &[u8],
        origin: Origin,
        now: Instant,
        reply: &mut [u8],
    ) -> Verdict {
        let Some(macs) = Macs::of(datagram) else {
            return Verdict::Refuse(DropReason::InvalidDatagram);
        };
        if self.seen.has(macs.first) || !self.cookies.first_matches(&macs) {
            return Verdict::Refuse(DropReason::InvalidDatagram);
        }
        let elapsed = now.saturating_duration_since(self.begun);
        let is_admitted = match origin {
            Origin::Relayed(peer) => RELAYED.take(self.relayed.of(peer), elapsed),
            Origin::Straight(source) => {
                let is_proven = self.cookies.second_matches(&macs, source, now);
                let has_budget = self.known.takes(source, elapsed)
                    || self.has_budget(source, is_proven, elapsed);
                if !has_budget && !is_proven && self.may_reply(source, elapsed) {
                    let reply = self.cookies.reply(datagram, source, now, reply);
                    return reply.map_or(Verdict::Refuse(DropReason::RateLimited), Verdict::Cookie);
                }
                has_budget
            }
        };
        if !is_admitted {
            return Verdict::Refuse(DropReason::RateLimited);
        }
        self.seen.insert(macs.first);
        Verdict::Admit
    }

    /// Whether this is the endpoint of a peer.
    pub(crate) fn knows(&self, endpoint: SocketAddr) -> bool {
        self.known.has(endpoint)
    }

    /// These are the endpoints of peers now.
    pub(crate) fn know(&mut self, endpoints: impl Iterator<Item = SocketAddr>) {
        self.known.replace(endpoints);
    }

    fn has_budget(&mut self, source: SocketAddr, is_proven: bool, elapsed: Duration) -> bool {
        let subscriber = subscriber(source.ip());
        if is_proven {
            return PROVEN.take(self.proven.of(source), elapsed)
                && PROVEN_ADDRESS.take(self.proven_addresses.of(subscriber), elapsed)
                && ALL_PROVEN.take(&mut self.all_proven, elapsed);
        }
        STRANGER.take(self.strangers.of(subscriber), elapsed)
            && ALL_STRANGERS.take(&mut self.all_strangers, elapsed)
    }

    /// A source has replies of its own. The others are for a peer whose address the flood pretends to come from.
    fn may_reply(&mut self, source: SocketAddr, elapsed: Duration) -> bool {
        REPLIES.take(self.replies.of(source), elapsed)
            || MORE_REPLIES.take(&mut self.more_replies, elapsed)
    }
}

/// Messages that were admitted lately, by their first MACs: nobody sends one twice but who replays it.
#[derive(Debug)]
struct Seen {
    hasher: RandomState,
    tags: Box<[u64]>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            tags: vec![0; SEEN].into(),
        }
    }
}

impl Seen {
    fn has(&self, first_mac: &[u8]) -> bool {
        let tag = self.tag(first_mac);
        self.tags[tag as usize % SEEN] == tag
    }

    fn insert(&mut self, first_mac: &[u8]) {
        let tag = self.tag(first_mac);
        self.tags[tag as usize % SEEN] = tag;
    }

    /// Never zero, which stands for nothing.
    fn tag(&self, first_mac: &[u8]) -> u64 {
        self.hasher.hash_one(first_mac) | 1 << 63
    }
}

/// What stands for one subscriber: of IPv6 the /64 that each has at least (RFC 6177).
fn subscriber(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

/// Messages that are told from replayed ones: minutes of what a hub admits without a flood.
const SEEN: usize = 8192;

/// From the endpoint of a peer, which renews its session every two minutes and tries again every five seconds.
const KNOWN: Rate = Rate::per_second(2, 10);
/// For one peer behind a relay.
const RELAYED: Rate = Rate::per_second(2, 10);
/// From one unproved subscriber: an agency's boxes behind one NAT, all at once.
const STRANGER: Rate = Rate::per_second(10, 50);
/// From all of them: some hundredths of a core. A hub that lost its memory sees its boxes again within seconds.
const ALL_STRANGERS: Rate = Rate::per_second(500, 1_000);
/// From one proved address and port.
const PROVEN: Rate = Rate::per_second(2, 10);
/// From all ports of one proved subscriber.
const PROVEN_ADDRESS: Rate = Rate::per_second(100, 200);
/// From everybody who is proved: about a tenth of a core.
const ALL_PROVEN: Rate = Rate::per_second(1_000, 1_000);
/// Cookie replies to one address and port. A flood of other false sources, as many as there are slots, leaves some.
const REPLIES: Rate = Rate::per_second(20, 20);
/// Cookie replies beyond those: about a tenth of a core.
const MORE_REPLIES: Rate = Rate::per_second(20_000, 1_000);
