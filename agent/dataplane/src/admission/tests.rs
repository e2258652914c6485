//! Floods in virtual time. The messages' MACs are made here, or by boringtun; what is in them nobody reads.

use std::net::{Ipv4Addr, Ipv6Addr};

use blake2::digest::Mac as _;
use blake2::digest::consts::U16;
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use boringtun::noise::{Tunn, TunnResult};

use super::*;

const INITIATION: usize = 148;
const COOKIE: Verdict = Verdict::Cookie(64);
const LIMITED: Verdict = Verdict::Refuse(DropReason::RateLimited);
const INVALID: Verdict = Verdict::Refuse(DropReason::InvalidDatagram);
const FLOODER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 9)), 1);
const HOME: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 51820);

fn public() -> PublicKey {
    PublicKey::from([7; 32])
}

/// The floods of one test: every message is another, and every false source.
struct Flood {
    admission: Admission,
    now: Instant,
    key: [u8; 32],
    number: u32,
    reply: [u8; INITIATION],
}

impl Flood {
    fn new() -> Self {
        let now = Instant::now();
        let key = Blake2s256::new()
            .chain_update(b"mac1----")
            .chain_update(public().as_bytes());
        Self {
            admission: Admission::new(public(), now),
            now,
            key: key.finalize().into(),
            number: 0,
            reply: [0; INITIATION],
        }
    }

    /// A message of so many bytes with a first MAC that is right.
    fn message(&mut self, length: usize) -> Vec<u8> {
        let mut message = vec![0; length];
        message[0] = if length == INITIATION { 1 } else { 2 };
        self.number += 1;
        message[8..12].copy_from_slice(&self.number.to_le_bytes());
        let (content, macs) = message.split_at_mut(length - 32);
        let mac: Blake2sMac<U16> = blake2::digest::Mac::new_from_slice(&self.key).unwrap();
        macs[..16].copy_from_slice(&mac.chain_update(content).finalize().into_bytes());
        message
    }

    fn judge(&mut self, message: &[u8], from: SocketAddr) -> Verdict {
        let origin = Origin::Straight(from);
        self.admission
            .judge(message, origin, self.now, &mut self.reply)
    }

    fn one(&mut self, from: SocketAddr) -> Verdict {
        let message = self.message(INITIATION);
        self.judge(&message, from)
    }

    /// 50,000 a second from where `from` says; how many were admitted.
    fn rage(&mut self, seconds: u64, mut from: impl FnMut(u32) -> SocketAddr) -> u64 {
        let mut admitted = 0;
        for _ in 0..seconds * 50_000 {
            self.now += Duration::from_micros(20);
            let from = from(self.number);
            admitted += u64::from(self.one(from) == Verdict::Admit);
        }
        admitted
    }

    /// A tunnel of boringtun's at `from` tries, and again with the cookie if it gets one.
    fn legitimate(&mut self, from: SocketAddr) -> [Verdict; 2] {
        let mut tunnel = Tunn::new([1; 32].into(), public(), None, None, 1, None);
        let mut buffer = [0; 256];
        [(); 2].map(|()| {
            let begun = tunnel.format_handshake_initiation(&mut buffer, true);
            let TunnResult::WriteToNetwork(initiation) = begun else {
                panic!("boringtun begins nothing: {begun:?}");
            };
            let initiation = initiation.to_vec();
            let verdict = self.judge(&initiation, from);
            if let Verdict::Cookie(length) = verdict {
                let reply = self.reply;
                let taken = tunnel.decapsulate(None, &reply[..length], &mut buffer);
                assert!(matches!(taken, TunnResult::Done), "{taken:?}");
            }
            verdict
        })
    }
}

/// Another address each time.
fn spoofed(number: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(number.wrapping_mul(0x9e37_79b9)), 51820))
}

#[test]
fn a_flood_from_one_source_is_bounded_and_nobody_else_is_asked_for_a_cookie() {
    let mut flood = Flood::new();
    let admitted = flood.rage(2, |_| FLOODER);
    // A burst, and ten a second.
    assert!((69..=70).contains(&admitted), "{admitted}");
    assert_eq!(flood.legitimate(HOME), [Verdict::Admit; 2]);
    let admitted = flood.rage(1, |number| SocketAddr::new(FLOODER.ip(), number as u16));
    assert!(admitted <= 11, "{admitted} from other ports");
}

#[test]
fn a_flood_from_false_sources_is_bounded_and_a_stranger_needs_one_cookie() {
    let mut flood = Flood::new();
    let admitted = flood.rage(2, spoofed);
    assert!((1_990..=2_000).contains(&admitted), "{admitted}");
    assert_eq!(flood.legitimate(HOME), [COOKIE, Verdict::Admit]);
    assert_eq!(
        flood.legitimate("[2001:db8::1]:9".parse().unwrap()),
        [COOKIE, Verdict::Admit]
    );
}

#[test]
fn the_endpoints_of_peers_need_no_cookie_until_somebody_pretends_to_be_them() {
    let mut flood = Flood::new();
    let peers = (0..2_000u32).map(|peer| SocketAddr::from((Ipv4Addr::from_bits(peer), 51820)));
    flood.admission.know(peers.clone().chain([HOME]));
    flood.rage(1, spoofed);
    for peer in peers {
        assert_eq!(flood.one(peer), Verdict::Admit, "{peer}");
    }
    let mut tries = 0;
    let is_in = loop {
        flood.rage(1, |number| match number % 2 {
            0 => HOME,
            _ => spoofed(number),
        });
        tries += 1;
        // Not always in step with the flood.
        flood.now += Duration::from_micros(7) * tries;
        if flood.legitimate(HOME)[1] == Verdict::Admit || tries == 12 {
            break tries;
        }
    };
    assert!(is_in < 12, "in none of the attempts of a minute");
}

#[test]
fn behind_one_address_the_ports_tell_the_flooder_from_the_peer() {
    let mut flood = Flood::new();
    let neighbour = SocketAddr::new(FLOODER.ip(), 40_000);
    flood.rage(2, |_| FLOODER);
    flood.one(FLOODER);
    assert_eq!(flood.legitimate(neighbour), [COOKIE, Verdict::Admit]);
    // The flooder has its cookie, and uses it as fast as it can.
    let proven = flood.proven(FLOODER);
    let mut admitted = 0;
    for _ in 0..20_000 {
        flood.now += Duration::from_micros(50);
        let message = proven(&mut flood);
        admitted += u64::from(flood.judge(&message, FLOODER) == Verdict::Admit);
    }
    assert!(admitted <= 12, "{admitted}");
    assert_eq!(flood.legitimate(neighbour), [Verdict::Admit; 2]);
}

impl Flood {
    /// Makes initiations with the second MAC that a cookie of `from` gives. The cookie is read by boringtun's tunnel,
    /// which keeps it, so this is a secret of our own.
    fn proven(&mut self, from: SocketAddr) -> impl Fn(&mut Self) -> Vec<u8> + use<> {
        let first = self.message(INITIATION);
        let macs = Macs::of(&first).unwrap();
        let length = self
            .admission
            .cookies
            .reply(&first, from, self.now, &mut self.reply);
        assert_eq!(length, Some(64));
        let cookie = open(&self.reply, macs.first);
        move |flood| {
            let mut message = flood.message(INITIATION);
            let mac: Blake2sMac<U16> = blake2::digest::Mac::new_from_slice(&cookie).unwrap();
            let (rest, second) = message.split_at_mut(INITIATION - 16);
            second.copy_from_slice(&mac.chain_update(rest).finalize().into_bytes());
            message
        }
    }
}

/// The cookie in a reply (whitepaper section 5.4.7).
fn open(reply: &[u8], first_mac: &[u8]) -> [u8; 16] {
    use chacha20poly1305::aead::{Aead as _, Payload};
    use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
    let key = Blake2s256::new()
        .chain_update(b"cookie--")
        .chain_update(public().as_bytes())
        .finalize();
    let payload = Payload {
        msg: &reply[32..64],
        aad: first_mac,
    };
    let cookie = XChaCha20Poly1305::new(&key).decrypt(reply[8..32].into(), payload);
    cookie.unwrap().try_into().unwrap()
}

#[test]
fn a_captured_message_is_admitted_once_and_spends_nothing_of_its_sender() {
    let mut flood = Flood::new();
    flood.admission.know([HOME].into_iter());
    let captured = flood.message(INITIATION);
    assert_eq!(flood.judge(&captured, HOME), Verdict::Admit);
    let with_cookie = flood.proven(HOME)(&mut flood);
    assert_eq!(flood.judge(&with_cookie, HOME), Verdict::Admit);
    for _ in 0..50_000 {
        assert_eq!(flood.judge(&captured, HOME), INVALID);
        assert_eq!(flood.judge(&with_cookie, HOME), INVALID);
        assert_eq!(flood.judge(&captured, FLOODER), INVALID);
    }
    assert_eq!(flood.legitimate(HOME), [Verdict::Admit; 2]);
    assert_eq!(flood.one(FLOODER), Verdict::Admit, "nothing was spent");
}

#[test]
fn a_cookie_holds_for_its_address_and_port_and_for_two_minutes() {
    let mut flood = Flood::new();
    flood.rage(1, spoofed);
    let proven = flood.proven(HOME);
    let mut judge = |later: u64, from| {
        flood.now += Duration::from_secs(later);
        flood.rage(1, spoofed);
        let message = proven(&mut flood);
        flood.judge(&message, from)
    };
    let mapped = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().into(), 51820);
    assert_eq!(judge(0, HOME), Verdict::Admit);
    assert_eq!(judge(0, mapped), Verdict::Admit, "as a socket may show it");
    assert_eq!(judge(0, SocketAddr::new(HOME.ip(), 51821)), COOKIE);
    assert_eq!(judge(0, SocketAddr::from(([192, 0, 2, 2], 51820))), COOKIE);
    assert_eq!(judge(110, HOME), Verdict::Admit);
    assert_eq!(judge(10, HOME), COOKIE, "the secret changed");
}

#[test]
fn replies_are_smaller_than_what_they_answer_and_bounded() {
    let mut flood = Flood::new();
    flood.rage(1, |_| FLOODER);
    flood.now += Duration::from_secs(1);
    let (mut cookies, mut nonces) = (0, std::collections::HashSet::new());
    for length in [INITIATION, 92].into_iter().cycle().take(50_000) {
        flood.now += Duration::from_micros(20);
        let message = flood.message(length);
        if let Verdict::Cookie(reply) = flood.judge(&message, FLOODER) {
            assert!(reply < length);
            cookies += 1;
            nonces.insert(flood.reply[8..32].to_vec());
        }
    }
    assert!((20_000..=21_100).contains(&cookies), "{cookies}");
    assert_eq!(nonces.len(), cookies, "no nonce comes twice");
}

#[test]
fn a_first_mac_that_is_wrong_costs_nobody_anything() {
    let mut flood = Flood::new();
    for place in 0..INITIATION - 16 {
        let mut message = flood.message(INITIATION);
        message[place] ^= 1;
        assert_eq!(flood.judge(&message, HOME), INVALID, "byte {place}");
        assert_eq!(flood.judge(&message[..place], HOME), INVALID);
    }
    let burst = (0..50).filter(|_| flood.one(HOME) == Verdict::Admit);
    assert_eq!(burst.count(), 50, "the whole of it is left");
}

#[test]
fn a_flood_through_a_relay_harms_its_own_channel_only() {
    let mut flood = Flood::new();
    let mut judge = |peer| {
        let message = flood.message(INITIATION);
        let (origin, now) = (Origin::Relayed(peer), flood.now);
        flood
            .admission
            .judge(&message, origin, now, &mut flood.reply)
    };
    let verdicts: Vec<_> = (0..1_000).map(|_| judge(1)).collect();
    let admitted = verdicts.iter().filter(|v| **v == Verdict::Admit).count();
    assert_eq!(admitted, 10);
    assert_eq!(verdicts[10], LIMITED, "a relay shows no address: no cookie");
    assert_eq!(judge(2), Verdict::Admit);
    assert_eq!(flood.one(HOME), Verdict::Admit);
}

#[test]
fn an_ipv6_subscriber_is_a_64() {
    let mut flood = Flood::new();
    let admitted = flood.rage(1, |number| {
        let address = 0x2001_0db8_0000_0007_u128 << 64 | u128::from(number) << 20;
        SocketAddr::from((Ipv6Addr::from_bits(address), 51820))
    });
    assert!((59..=60).contains(&admitted), "{admitted}");
    assert_eq!(
        flood.legitimate("[2001:db8:0:8::1]:9".parse().unwrap()),
        [Verdict::Admit; 2]
    );
}
