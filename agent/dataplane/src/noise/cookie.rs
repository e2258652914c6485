//! Both MACs of handshake messages, and cookies, at either end (whitepaper sections 5.3, 5.4.4 and 5.4.7).
//! They cost a flood no Diffie-Hellman; they authenticate nobody.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use x25519_dalek::PublicKey;
use zeroize::Zeroizing;

use super::crypto::{self, Secret, TAG};
use super::environment::Environment;
use super::message::{self, COOKIE, COOKIE_BYTES, MACS_BYTES, read_u32, write_u32};

/// Writes the MACs of what we send, and remembers the cookie that the peer gave us.
pub(super) struct Sender {
    mac1_key: [u8; 32],
    peer: PublicKey,
    /// Of the last message sent, and our index in it: a cookie reply answers exactly that one.
    last: Option<([u8; TAG], u32)>,
    cookie: Option<(Zeroizing<[u8; TAG]>, Instant)>,
}

impl Sender {
    pub(super) fn new(peer: PublicKey) -> Self {
        Self {
            mac1_key: mac1_key(&peer),
            peer,
            last: None,
            cookie: None,
        }
    }

    /// Fills in the MACs of a message that is ready but for them; `index` is ours in it.
    pub(super) fn write_macs(&mut self, message: &mut [u8], index: u32, now: Instant) {
        let (rest, mac2) = message.split_at_mut(message.len() - TAG);
        let (content, mac1) = rest.split_at_mut(rest.len() - TAG);
        let made = crypto::mac(&self.mac1_key, content);
        mac1.copy_from_slice(&made);
        self.last = Some((made, index));
        let is_fresh = |at: &Instant| now.duration_since(*at) < COOKIE_USE_TIME;
        self.cookie.take_if(|(_, at)| !is_fresh(at));
        mac2.fill(0);
        if let Some((cookie, _)) = &self.cookie {
            mac2.copy_from_slice(&crypto::mac(&cookie[..], rest));
        }
    }

    /// Takes the cookie for our next message; false if the reply is not to our last one.
    pub(super) fn read_reply(&mut self, reply: &[u8; COOKIE_BYTES], now: Instant) -> bool {
        let Some(cookie) = self.cookie_in(reply) else {
            return false;
        };
        self.cookie = Some((Zeroizing::new(cookie), now));
        self.last = None;
        true
    }

    fn cookie_in(&self, reply: &[u8; COOKIE_BYTES]) -> Option<[u8; TAG]> {
        let (mac1, index) = self.last.as_ref()?;
        if read_u32(reply, message::cookie::RECEIVER)? != *index {
            return None;
        }
        let nonce = reply[message::cookie::NONCE].first_chunk()?;
        let sealed = reply[message::cookie::COOKIE].first_chunk()?;
        crypto::xopen(&cookie_key(&self.peer), nonce, sealed, mac1)
    }
}

/// Both MACs of an initiation or a response, and what they are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Macs<'d> {
    /// What the first is of.
    content: &'d [u8],
    pub(crate) first: &'d [u8],
    /// What the second is of: the content and the first.
    rest: &'d [u8],
    second: &'d [u8],
}

impl<'d> Macs<'d> {
    /// `None` if there is no room for them.
    pub(crate) fn of(datagram: &'d [u8]) -> Option<Self> {
        let (content, macs) = datagram.split_last_chunk::<MACS_BYTES>()?;
        let (first, second) = macs.split_at(TAG);
        Some(Self {
            content,
            first,
            rest: &datagram[..content.len() + TAG],
            second,
        })
    }
}

/// Checks the MACs of what comes to a node, and makes its cookies. Whether one is needed is not its business.
pub(crate) struct Cookies {
    environment: Environment,
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    made: Option<Made>,
}

/// What cookies are made of for a while.
struct Made {
    secret: Secret,
    at: Instant,
    /// Nonces of replies begin with this and go on with a count, so that none comes twice.
    nonce: [u8; 16],
    replies: u64,
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookies").finish_non_exhaustive()
    }
}

impl Cookies {
    /// For messages to the node with this public key.
    pub(crate) fn new(public: PublicKey) -> Self {
        Self::with_environment(public, Environment::system())
    }

    fn with_environment(public: PublicKey, environment: Environment) -> Self {
        Self {
            environment,
            mac1_key: mac1_key(&public),
            cookie_key: cookie_key(&public),
            made: None,
        }
    }

    pub(crate) fn first_matches(&self, macs: &Macs<'_>) -> bool {
        crypto::mac_matches(&self.mac1_key, macs.content, macs.first)
    }

    /// Whether the sender has the cookie of `source`.
    pub(crate) fn second_matches(&self, macs: &Macs<'_>, source: SocketAddr, now: Instant) -> bool {
        // Who has no cookie sends zeros (section 5.4.4).
        if macs.second == [0; TAG] {
            return false;
        }
        let made = self.made.as_ref().filter(|made| !made.is_old(now));
        made.is_some_and(|made| {
            crypto::mac_matches(&made.cookie(source)[..], macs.rest, macs.second)
        })
    }

    /// Writes the reply with the cookie of `source` to its message; the length. `None` without entropy.
    pub(crate) fn reply(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        now: Instant,
        reply: &mut [u8],
    ) -> Option<usize> {
        self.made.take_if(|made| made.is_old(now));
        if self.made.is_none() {
            self.made = Made::new(self.environment, now);
        }
        let made = self.made.as_mut()?;
        let reply: &mut [u8; COOKIE_BYTES] = reply.first_chunk_mut()?;
        let first = Macs::of(datagram)?.first;
        // Both kinds have the sender's index there.
        let sender = read_u32(datagram, message::initiation::SENDER)?;
        let nonce = made.next_nonce();
        write_u32(reply, 0, COOKIE);
        write_u32(reply, message::cookie::RECEIVER, sender);
        reply[message::cookie::NONCE].copy_from_slice(&nonce);
        let mut room = [0; 2 * TAG];
        room[..TAG].copy_from_slice(&made.cookie(source)[..]);
        crypto::xseal(&self.cookie_key, &nonce, &mut room, first);
        reply[message::cookie::COOKIE].copy_from_slice(&room);
        Some(COOKIE_BYTES)
    }
}

impl Made {
    fn new(environment: Environment, at: Instant) -> Option<Self> {
        Some(Self {
            secret: Zeroizing::new(environment.random()?),
            at,
            nonce: environment.random()?,
            replies: 0,
        })
    }

    fn is_old(&self, now: Instant) -> bool {
        now.duration_since(self.at) >= COOKIE_SECRET_TIME
    }

    /// The cookie of an address and port: neighbours behind one NAT have different ones.
    fn cookie(&self, source: SocketAddr) -> Zeroizing<[u8; TAG]> {
        let address = match source.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let mut name = [0; 18];
        name[..16].copy_from_slice(&address.octets());
        name[16..].copy_from_slice(&source.port().to_be_bytes());
        Zeroizing::new(crypto::mac(&self.secret[..], &name))
    }

    fn next_nonce(&mut self) -> [u8; 24] {
        let mut nonce = [0; 24];
        nonce[..16].copy_from_slice(&self.nonce);
        nonce[16..].copy_from_slice(&self.replies.to_le_bytes());
        self.replies += 1;
        nonce
    }
}

fn mac1_key(receiver: &PublicKey) -> [u8; 32] {
    crypto::hash(b"mac1----", receiver.as_bytes())
}

fn cookie_key(replier: &PublicKey) -> [u8; 32] {
    crypto::hash(b"cookie--", replier.as_bytes())
}

/// How long the secret behind cookies stays (whitepaper section 5.4.7).
const COOKIE_SECRET_TIME: Duration = Duration::from_secs(120);

/// How long a cookie is used: 5 s less, so that it does not become old on its way.
const COOKIE_USE_TIME: Duration = Duration::from_secs(115);
