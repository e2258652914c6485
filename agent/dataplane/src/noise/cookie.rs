//! Both MACs of handshake messages, and cookies, at either end (whitepaper sections 5.3, 5.4.4 and 5.4.7).
//! They cost a flood no Diffie-Hellman; they authenticate nobody.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use x25519_dalek::PublicKey;
use zeroize::Zeroizing;

use super::crypto::{self, Secret, TAG};
use super::environment::Environment;
use super::message::{self, COOKIE, COOKIE_BYTES, MACS_BYTES, read_u32, write_u32};
use crate::core::Refused;

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

/// Whether a handshake message may cost something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may.
    Handle,
    /// First the sender must show that it gets what is sent to its address: a cookie reply was written.
    Cookie,
}

/// Checks the MACs of what comes, and gives cookies while there is too much of it.
pub(super) struct Receiver {
    mac1_key: [u8; 32],
    public: PublicKey,
    /// What cookies are made of, and since when.
    secret: Option<(Secret, Instant)>,
    /// The second in which messages are counted.
    second: Option<Instant>,
    count: u32,
}

impl Receiver {
    pub(super) fn new(public: PublicKey) -> Self {
        Self {
            mac1_key: mac1_key(&public),
            public,
            secret: None,
            second: None,
            count: 0,
        }
    }

    /// Judges an initiation or a response from `source`; `None` came through a relay.
    /// With [`Verdict::Cookie`], `reply` holds a cookie reply.
    pub(super) fn judge(
        &mut self,
        datagram: &[u8],
        source: Option<IpAddr>,
        now: Instant,
        environment: Environment,
        reply: &mut [u8],
    ) -> Result<Verdict, Refused> {
        let (content, macs) = datagram
            .split_last_chunk::<MACS_BYTES>()
            .ok_or(Refused::Invalid)?;
        let (mac1, mac2) = macs.split_at(TAG);
        if !crypto::mac_matches(&self.mac1_key, content, mac1) {
            return Err(Refused::Invalid);
        }
        if !self.is_under_load(now) {
            return Ok(Verdict::Handle);
        }
        let source = source.ok_or(Refused::UnderLoad)?;
        let cookie = self
            .cookie(source, now, environment)
            .ok_or(Refused::UnderLoad)?;
        let authenticated = &datagram[..datagram.len() - TAG];
        if crypto::mac_matches(&cookie[..], authenticated, mac2) {
            return Ok(Verdict::Handle);
        }
        // Both kinds have the sender's index there.
        let sender = read_u32(datagram, message::initiation::SENDER).ok_or(Refused::Invalid)?;
        let nonce = environment.random().ok_or(Refused::UnderLoad)?;
        let reply = reply.first_chunk_mut().ok_or(Refused::UnderLoad)?;
        write_reply(reply, sender, &nonce, &cookie, mac1, &self.public);
        Ok(Verdict::Cookie)
    }

    fn is_under_load(&mut self, now: Instant) -> bool {
        let is_same = |begun| now.duration_since(begun) < Duration::from_secs(1);
        if !self.second.is_some_and(is_same) {
            self.second = Some(now);
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.count > HANDSHAKES_PER_SECOND
    }

    /// The cookie of an address, for as long as the secret stays.
    fn cookie(
        &mut self,
        source: IpAddr,
        now: Instant,
        environment: Environment,
    ) -> Option<Zeroizing<[u8; TAG]>> {
        let is_old = |made: Instant| now.duration_since(made) >= COOKIE_SECRET_TIME;
        self.secret.take_if(|(_, made)| is_old(*made));
        if self.secret.is_none() {
            self.secret = Some((Zeroizing::new(environment.random()?), now));
        }
        let (secret, _) = self.secret.as_ref()?;
        let mac = match source.to_canonical() {
            IpAddr::V4(v4) => crypto::mac(&secret[..], &v4.octets()),
            IpAddr::V6(v6) => crypto::mac(&secret[..], &v6.octets()),
        };
        Some(Zeroizing::new(mac))
    }
}

fn write_reply(
    reply: &mut [u8; COOKIE_BYTES],
    sender: u32,
    nonce: &[u8; 24],
    cookie: &[u8; TAG],
    mac1: &[u8],
    public: &PublicKey,
) {
    write_u32(reply, 0, COOKIE);
    write_u32(reply, message::cookie::RECEIVER, sender);
    reply[message::cookie::NONCE].copy_from_slice(nonce);
    let mut room = [0; 2 * TAG];
    room[..TAG].copy_from_slice(cookie);
    crypto::xseal(&cookie_key(public), nonce, &mut room, mac1);
    reply[message::cookie::COOKIE].copy_from_slice(&room);
}

fn mac1_key(receiver: &PublicKey) -> [u8; 32] {
    crypto::hash(b"mac1----", receiver.as_bytes())
}

fn cookie_key(replier: &PublicKey) -> [u8; 32] {
    crypto::hash(b"cookie--", replier.as_bytes())
}

/// More handshake messages than this in a second put the tunnel under load.
const HANDSHAKES_PER_SECOND: u32 = 10;

/// How long the secret behind cookies stays (whitepaper section 5.4.7).
const COOKIE_SECRET_TIME: Duration = Duration::from_secs(120);

/// How long a cookie is used: 5 s less, so that it does not become old on its way.
const COOKIE_USE_TIME: Duration = Duration::from_secs(115);
