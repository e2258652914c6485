//! The header of an inner packet: source, destination and length are what stands there, and the length is never more than there is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pnsbox_dataplane::fuzz::offload::inner_header;

use super::inner::Inner;

/// Throws `data` at the reader.
pub fn run(data: &[u8]) {
    let read = inner_header(data);
    assert_eq!(read, expected(data));
    if let Some((_, _, length)) = read {
        assert_eq!(
            inner_header(&data[..length]),
            read,
            "what is behind the packet counts"
        );
        assert_eq!(
            inner_header(&data[..length - 1]),
            None,
            "a packet without its end"
        );
    }
}

/// RFC 791 section 3.1, RFC 8200 section 3.
fn expected(data: &[u8]) -> Option<(IpAddr, IpAddr, usize)> {
    let short = |at: usize| usize::from(data[at]) << 8 | usize::from(data[at + 1]);
    let v4 = |at: usize| {
        IpAddr::from(Ipv4Addr::new(
            data[at],
            data[at + 1],
            data[at + 2],
            data[at + 3],
        ))
    };
    let v6 = |at: usize| {
        let groups: [u16; 8] = std::array::from_fn(|group| short(at + 2 * group) as u16);
        IpAddr::from(Ipv6Addr::from(groups))
    };
    let (source, destination, least, length) = match data.first()? >> 4 {
        4 if data.len() >= 20 => (v4(12), v4(16), 20, short(2)),
        6 if data.len() >= 40 => (v6(8), v6(24), 40, 40 + short(4)),
        _ => return None,
    };
    (length >= least && length <= data.len()).then_some((source, destination, length))
}

/// Packets, packets with something behind them, and packets without their end.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        Vec::new(),
        vec![0x45],
        vec![0x60],
        vec![0x45; 20],
        vec![0x60; 40],
    ];
    for (is_v6, is_udp) in [(false, false), (false, true), (true, false), (true, true)] {
        let packet = Inner {
            is_v6,
            is_udp,
            payload: vec![7; 10],
            ..Inner::default()
        }
        .build();
        seeds.push(packet[..packet.len() - 1].to_vec());
        seeds.push([&packet[..], &[0; 6]].concat());
        seeds.push(packet);
    }
    seeds
}
