//! The byte of IP headers that tells class (DSCP) and congestion (ECN), and what a tunnel does with it.
//!
//! Outwards the congestion bits are copied and a policy decides on the class (RFC 2983); inwards the class is forgotten,
//! and the table of RFC 6040 decides on the congestion bits. It knows no socket, no peer and no batch.

use std::str::FromStr;

use crate::offload::checksum::Sum;
use crate::offload::headers::{put_short, short};

/// Type of service of IPv4, traffic class of IPv6: DSCP in the upper six bits (RFC 2474 section 3), ECN in the lower two
/// (RFC 3168 section 5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tos(pub(crate) u8);

/// The lower two bits (RFC 3168 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ecn {
    /// The sender does not understand marks: congestion is told by loss.
    NotEct = 0b00,
    /// It does; the second of two codepoints.
    Ect1 = 0b01,
    /// It does.
    Ect0 = 0b10,
    /// A router was congested.
    Ce = 0b11,
}

/// What the ISP is told of a packet's class: the DSCP of the outer header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DscpPolicy {
    /// Nothing: every outer DSCP is 0.
    #[default]
    None,
    /// Voice and video conferences keep theirs (EF, VOICE-ADMIT, AF4x); all other packets have 0.
    Map,
    /// Every packet keeps its own.
    Copy,
}

impl FromStr for DscpPolicy {
    type Err = UnknownDscpPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownDscpPolicy> {
        match name {
            "none" => Ok(Self::None),
            "map" => Ok(Self::Map),
            "copy" => Ok(Self::Copy),
            _ => Err(UnknownDscpPolicy),
        }
    }
}

/// A name that is no DSCP policy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a DSCP policy is none, map or copy")]
pub struct UnknownDscpPolicy;

/// Expedited forwarding: voice (RFC 3246 section 2.7).
const EF: u8 = 46;
/// The same, admitted call by call (RFC 5865 section 2.3).
const VOICE_ADMIT: u8 = 44;
/// Assured forwarding of class 4: conferences (RFC 2597 section 6; RFC 4594 section 4.3).
const AF41: u8 = 34;
const AF42: u8 = 36;
const AF43: u8 = 38;

const ECN_BITS: u8 = 0b11;

impl DscpPolicy {
    /// What the outer header has, if the inner one has `inner`. Congestion bits are copied whatever the policy is
    /// (RFC 6040 section 4.1, normal mode).
    pub(crate) fn outer(self, inner: Tos) -> Tos {
        let keeps = match self {
            Self::None => false,
            Self::Map => matches!(inner.0 >> 2, EF | VOICE_ADMIT | AF41 | AF42 | AF43),
            Self::Copy => true,
        };
        Tos(if keeps { inner.0 } else { inner.0 & ECN_BITS })
    }

    /// Of a handshake message. As in Linux it is AF41, so that a tunnel stands while bulk waits, unless nothing is to be told.
    pub(crate) fn handshake(self) -> Tos {
        match self {
            Self::None => Tos::default(),
            Self::Map | Self::Copy => Tos(AF41 << 2),
        }
    }
}

impl Tos {
    /// Of an IP packet; 0 for anything else.
    pub(crate) fn of(packet: &[u8]) -> Self {
        match *packet {
            [first, tos, ..] if first >> 4 == 4 => Self(tos),
            [first, second, ..] if first >> 4 == 6 => Self(first << 4 | second >> 4),
            _ => Self::default(),
        }
    }

    /// The congestion bits.
    pub(crate) fn ecn(self) -> Ecn {
        match self.0 & ECN_BITS {
            0b00 => Ecn::NotEct,
            0b01 => Ecn::Ect1,
            0b10 => Ecn::Ect0,
            _ => Ecn::Ce,
        }
    }
}

/// Gives an inner IP packet, header complete, the mark of the outer header that it came in. False if it must be dropped.
#[inline]
pub(crate) fn receive(packet: &mut [u8], outer: Ecn) -> bool {
    // Neither changes anything, whatever the inner header says; nearly all packets come so.
    if matches!(outer, Ecn::NotEct | Ecn::Ect0) {
        return true;
    }
    let inner = Tos::of(packet).ecn();
    match decapsulated(inner, outer) {
        Some(ecn) if ecn == inner => true,
        Some(ecn) => {
            set(packet, ecn);
            true
        }
        None => false,
    }
}

/// What the inner header has in the end (RFC 6040 section 4.2, figure 4); `None` to drop the packet: it met congestion,
/// and its sender would not understand a mark.
fn decapsulated(inner: Ecn, outer: Ecn) -> Option<Ecn> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => None,
        (Ecn::Ect0 | Ecn::Ect1, Ecn::Ce) => Some(Ecn::Ce),
        (Ecn::Ect0, Ecn::Ect1) => Some(Ecn::Ect1),
        (inner, Ecn::NotEct | Ecn::Ect0 | Ecn::Ect1 | Ecn::Ce) => Some(inner),
    }
}

/// Sets the congestion bits of an IP packet, and what depends on them.
fn set(packet: &mut [u8], ecn: Ecn) {
    if packet[0] >> 4 == 6 {
        packet[1] = packet[1] & !(ECN_BITS << 4) | (ecn as u8) << 4;
        return;
    }
    let before = short(packet, 0);
    packet[1] = packet[1] & !ECN_BITS | ecn as u8;
    // RFC 1624 section 3, equation 3: a wrong checksum stays wrong.
    let checksum = Sum::default()
        .word(!short(packet, 10))
        .word(!before)
        .word(short(packet, 0))
        .checksum();
    put_short(packet, 10, checksum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::headers::Version;
    use crate::offload::packets::{KINDS, Sample};

    const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce];

    /// Figure 4 of RFC 6040, row by row: inner Not-ECT, ECT(0), ECT(1), CE; outer in the same order.
    #[test]
    fn every_pair_of_marks_becomes_what_rfc_6040_says() {
        const ORDER: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];
        const TABLE: [[Option<Ecn>; 4]; 4] = {
            let (not, ect0) = (Some(Ecn::NotEct), Some(Ecn::Ect0));
            let (ect1, ce) = (Some(Ecn::Ect1), Some(Ecn::Ce));
            [
                [not, not, not, None],
                [ect0, ect0, ect1, ce],
                [ect1, ect1, ect1, ce],
                [ce, ce, ce, ce],
            ]
        };
        for (inner, row) in ORDER.into_iter().zip(TABLE) {
            for (outer, expected) in ORDER.into_iter().zip(row) {
                for dscp in [0, EF, 63] {
                    check(inner, outer, dscp, expected);
                }
            }
        }
    }

    /// In packets of every kind: only the mark changes, and the checksum is as if it had been computed anew.
    fn check(inner: Ecn, outer: Ecn, dscp: u8, expected: Option<Ecn>) {
        for (version, transport) in KINDS {
            let class = |ecn: Ecn| dscp << 2 | ecn as u8;
            let sample = Sample::new(version, transport, b"payload").with(|s| {
                s.class = class(inner);
                s.label = 0xffff;
            });
            let mut packet = sample.build();
            assert_eq!(Tos::of(&packet), Tos(class(inner)), "{version:?}");
            let kept = receive(&mut packet, outer);
            assert_eq!(kept, expected.is_some(), "{inner:?} in {outer:?}");
            let ecn = expected.unwrap_or(inner);
            let built = sample.with(|s| s.class = class(ecn)).build();
            assert_eq!(packet, built, "{inner:?} in {outer:?}, {version:?}");
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong_by_as_much() {
        for id in 0..=u16::MAX {
            let mut packet = [
                0x45, 0x02, 0, 20, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
            ];
            put_short(&mut packet, 4, id);
            let right = Sum::of(&packet).checksum();
            for wrong in [0, 1, 0x8000] {
                let mut packet = packet;
                put_short(&mut packet, 10, right ^ wrong);
                let before = Sum::of(&packet).folded();
                assert!(receive(&mut packet, Ecn::Ce));
                assert_eq!(Sum::of(&packet).folded(), before, "{id} {wrong}");
                assert_eq!(before == 0xffff, wrong == 0, "{id}");
            }
        }
    }

    #[test]
    fn what_is_no_packet_has_no_class() {
        for bytes in [&[][..], &[0x45], &[0x60], &[0x55, 0xff], &[0, 0xff]] {
            assert_eq!(Tos::of(bytes), Tos(0));
        }
        assert_eq!(Tos::of(&[0x6b, 0x8f]), Tos(0xb8));
        assert_eq!(
            Sample::new(Version::V6, crate::offload::headers::Transport::Udp, b"")
                .with(|s| s.class = 0xb9)
                .build()[..2],
            [0x6b, 0x90]
        );
    }

    #[test]
    fn each_policy_shows_the_classes_that_it_says_and_every_mark() {
        for dscp in 0..64 {
            let mapped = if [34, 36, 38, 44, 46].contains(&dscp) {
                dscp
            } else {
                0
            };
            for ecn in ALL {
                let outer = |policy: DscpPolicy| policy.outer(Tos(dscp << 2 | ecn as u8));
                for (policy, shown) in [
                    (DscpPolicy::None, 0),
                    (DscpPolicy::Map, mapped),
                    (DscpPolicy::Copy, dscp),
                ] {
                    let expected = Tos(shown << 2 | ecn as u8);
                    assert_eq!(outer(policy), expected, "{dscp} {policy:?}");
                    assert_eq!(outer(policy).ecn(), ecn);
                }
            }
        }
    }

    #[test]
    fn names_are_policies_and_handshakes_are_marked_as_in_linux() {
        for (name, policy, handshake) in [
            ("none", DscpPolicy::None, 0),
            ("map", DscpPolicy::Map, 0x88),
            ("copy", DscpPolicy::Copy, 0x88),
        ] {
            assert_eq!(name.parse(), Ok(policy));
            assert_eq!(policy.handshake(), Tos(handshake));
            assert_eq!(
                policy.outer(policy.handshake()),
                Tos(handshake),
                "a relay keeps it"
            );
        }
        assert_eq!("ef".parse::<DscpPolicy>(), Err(UnknownDscpPolicy));
        assert_eq!(DscpPolicy::default(), DscpPolicy::None);
    }
}
