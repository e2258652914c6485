//! What classes and congestion marks must become, said once more and in another way than the plane does.

use super::nodes::as_frame;

/// What the host gets of a packet that came in a header with `outer` (RFC 6040 section 4.2), but for the checksum;
/// `None` if it is dropped.
pub(super) fn delivered(packet: &[u8], outer: u8) -> Option<Vec<u8>> {
    const CE: u8 = 3;
    let mut expected = packet.to_vec();
    let mark = match [packet[1] & 3, outer & 3] {
        [0, CE] => return None,
        [_, CE] => CE,
        [2, 1] => 1,
        [inner, _] => inner,
    };
    expected[1] = packet[1] & !3 | mark;
    Some(expected)
}

/// Whether `packet` is what was expected but for the checksum, which is wrong by as much as it was when it was sent.
pub(super) fn is_as_expected(packet: &[u8], expected: &[u8], sent: &[u8]) -> bool {
    packet[..10] == expected[..10]
        && packet[12..] == expected[12..]
        && header_sum(packet) == header_sum(sent)
}

/// The ones' complement sum of an IPv4 header without options (RFC 791 section 3.1).
fn header_sum(packet: &[u8]) -> u32 {
    let words = packet[..20].chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    sum % 0xffff
}

/// What the header of a datagram has, under the policy `map`, that sending `packet` led to.
pub(super) fn shown(datagram: &[u8], packet: &[u8]) -> u8 {
    const HANDSHAKE: u8 = 0x88;
    let message = as_frame(datagram).map_or(datagram, |(_, inner)| inner);
    match (message[0], packet[0] >> 4) {
        (4, 4) => mapped(packet[1]),
        (4, _) => mapped((packet[0] & 15) << 4 | packet[1] >> 4),
        _ => HANDSHAKE,
    }
}

/// What the policy `map` shows.
pub(super) fn mapped(tos: u8) -> u8 {
    match tos >> 2 {
        34 | 36 | 38 | 44 | 46 => tos,
        _ => tos & 3,
    }
}
