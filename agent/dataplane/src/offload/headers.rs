//! Where a packet's headers are, whether it may be merged with others, and with which.
//!
//! It judges single packets and pairs; what becomes of them is [`super::coalesce`]'s.
//! A merge must be undone exactly by cutting, so whatever cutting cannot restore must be equal in all packets.

use super::checksum::Sum;

/// Longest IP header that [`super::coalesce`] rewrites (IPv6) with the longest TCP header, in bytes.
pub(crate) const MAX_HEADERS: usize = 40 + 60;

/// TCP flags (RFC 9293 section 3.1).
pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;
/// Where they stand in a TCP header.
pub(crate) const TCP_FLAGS: usize = 13;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS_OR_OFFSET: u16 = 0x3fff;

/// Version of the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Version {
    /// The addresses, source first. `packet` has the whole IP header.
    pub(crate) fn addresses(self, packet: &[u8]) -> &[u8] {
        match self {
            Self::V4 => &packet[12..20],
            Self::V6 => &packet[8..40],
        }
    }
}

/// The protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Transport {
    /// Its IP protocol number.
    pub(crate) fn protocol(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }

    /// Where its header has the checksum, in bytes.
    pub(crate) fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// The headers of a packet that may be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Version of IP.
    pub(crate) version: Version,
    /// What follows the IP header.
    pub(crate) transport: Transport,
    /// Length of the IP header, in bytes.
    pub(crate) ip: usize,
    /// Length of both headers, in bytes; the payload follows.
    pub(crate) all: usize,
}

/// What a packet is to those before and after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It may be merged with others of its connection. Its checksums are not verified.
    Segment(Layout),
    /// It stays alone, and holds its place among the others of its connection, whose ports stand at this offset.
    Connection(Version, u8, usize),
    /// It stays alone, and holds its place among all packets between its two addresses: its ports cannot be read.
    Hosts(Version),
    /// It belongs to no connection.
    Other,
}

/// What `packet` is.
pub(crate) fn classify(packet: &[u8]) -> Kind {
    match packet.first().map_or(0, |byte| byte >> 4) {
        4 => classify_v4(packet),
        6 => classify_v6(packet),
        _ => Kind::Other,
    }
}

fn classify_v4(packet: &[u8]) -> Kind {
    let Some(header) = packet.first_chunk::<20>() else {
        return Kind::Other;
    };
    let ip = usize::from(header[0] & 15) * 4;
    let fragment = short(header, 6);
    let transport = match header[9] {
        TCP => Transport::Tcp,
        UDP => Transport::Udp,
        ICMP => return Kind::Other,
        _ => return Kind::Hosts(Version::V4),
    };
    if fragment & MORE_FRAGMENTS_OR_OFFSET != 0 || ip < 20 || packet.len() < ip + 4 {
        return Kind::Hosts(Version::V4);
    }
    let is_plain =
        ip == 20 && fragment & !DONT_FRAGMENT == 0 && usize::from(short(header, 2)) == packet.len();
    with_ports(packet, Version::V4, transport, ip, is_plain)
}

fn classify_v6(packet: &[u8]) -> Kind {
    const IP: usize = 40;
    let Some(header) = packet.first_chunk::<IP>() else {
        return Kind::Other;
    };
    let transport = match header[6] {
        TCP => Transport::Tcp,
        UDP => Transport::Udp,
        ICMPV6 => return Kind::Other,
        // Extension headers among others: ports may stand behind them.
        _ => return Kind::Hosts(Version::V6),
    };
    if packet.len() < IP + 4 {
        return Kind::Hosts(Version::V6);
    }
    let is_plain = IP + usize::from(short(header, 4)) == packet.len();
    with_ports(packet, Version::V6, transport, IP, is_plain)
}

/// What a packet is whose ports can be read, at `ip`.
fn with_ports(
    packet: &[u8],
    version: Version,
    transport: Transport,
    ip: usize,
    is_plain: bool,
) -> Kind {
    match transport_header(packet, ip, transport) {
        Some(all) if is_plain => Kind::Segment(Layout {
            version,
            transport,
            ip,
            all,
        }),
        Some(_) | None => Kind::Connection(version, transport.protocol(), ip),
    }
}

/// Length of both headers, if the packet's second header allows merging: a payload, and nothing to say but that.
fn transport_header(packet: &[u8], ip: usize, transport: Transport) -> Option<usize> {
    match transport {
        Transport::Tcp => {
            let header = packet[ip..].first_chunk::<20>()?;
            let length = usize::from(header[12] >> 4) * 4;
            // The low half of that byte is reserved, but for the accurate-ECN flag.
            let is_data = length >= 20 && header[12] & 15 == 0 && header[TCP_FLAGS] & !PSH == ACK;
            (is_data && packet.len() > ip + length).then_some(ip + length)
        }
        Transport::Udp => {
            let header = packet[ip..].first_chunk::<8>()?;
            // A checksum of 0 is none (RFC 768), and cutting could not restore it.
            let is_data =
                usize::from(short(header, 4)) == packet.len() - ip && short(header, 6) != 0;
            (is_data && packet.len() > ip + 8).then_some(ip + 8)
        }
    }
}

/// Whether `next` can follow directly on `last` in one super-packet: the same connection and headers, adjacent bytes.
/// Both are segments of `layout`.
pub(crate) fn continues(last: &[u8], next: &[u8], layout: Layout) -> bool {
    continues_ip(last, next, layout.version) && {
        let (last, next) = (&last[layout.ip..], &next[layout.ip..]);
        let header = layout.all - layout.ip;
        match layout.transport {
            Transport::Udp => last[..4] == next[..4],
            Transport::Tcp => continues_tcp(last, next, header),
        }
    }
}

fn continues_ip(last: &[u8], next: &[u8], version: Version) -> bool {
    match version {
        Version::V4 => {
            // Type of service; fragment flags, time to live, protocol; addresses.
            // Identification means nothing where nobody may fragment (RFC 6864 section 4.1); else cutting must restore it.
            last[1] == next[1]
                && last[6..10] == next[6..10]
                && last[12..20] == next[12..20]
                && (short(last, 6) & DONT_FRAGMENT != 0
                    || short(last, 4).wrapping_add(1) == short(next, 4))
        }
        // All but the payload length.
        Version::V6 => last[..4] == next[..4] && last[6..40] == next[6..40],
    }
}

/// Both slices begin with TCP headers of `header` bytes.
fn continues_tcp(last: &[u8], next: &[u8], header: usize) -> bool {
    let payload = (last.len() - header) as u32;
    // Ports; acknowledged number and header length; window; urgent pointer and options.
    long(last, 4).wrapping_add(payload) == long(next, 4)
        && last[..4] == next[..4]
        && last[8..13] == next[8..13]
        && last[14..16] == next[14..16]
        && last[18..header] == next[18..header]
}

/// Whether the checksums of a segment are right: of the IPv4 header, of TCP or UDP.
pub(crate) fn is_intact(packet: &[u8], layout: Layout) -> bool {
    let ip_is = layout.version == Version::V6 || Sum::of(&packet[..layout.ip]).folded() == 0xffff;
    ip_is
        && pseudo_header(packet, layout, packet.len() - layout.ip)
            .plus(Sum::of(&packet[layout.ip..]))
            .folded()
            == 0xffff
}

/// The sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1) of a packet with `length` bytes above IP.
pub(crate) fn pseudo_header(packet: &[u8], layout: Layout, length: usize) -> Sum {
    Sum::of(layout.version.addresses(packet))
        .word(layout.transport.protocol().into())
        .words(length as u32)
}

/// The two bytes at `at`, big endian.
pub(crate) fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The four bytes at `at`, big endian.
pub(crate) fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes two bytes at `at`, big endian.
pub(crate) fn put_short(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
