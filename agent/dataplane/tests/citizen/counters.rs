//! Bytes are counted exactly, as `wg show` does: messages without UDP and IP.

use crate::net::{OUTER_A, OUTER_B};
use crate::pair::{A, A6, B, B6, Pair, SMALLEST_MTU};
use crate::table::exactly;

const INITIATION: u64 = 148;
const RESPONSE: u64 = 92;

/// The message with a packet of so many bytes: padded to 16 within the MTU, 16 of header, 16 of tag
/// (whitepaper section 5.4.6).
fn message(packet: u64) -> u64 {
    packet.next_multiple_of(16).min(u64::from(SMALLEST_MTU)) + 32
}

#[test]
fn bytes_are_counted_exactly() {
    let pair = Pair::with_mtu(SMALLEST_MTU);
    let wire = || {
        let (a, b) = (pair.a.peer(pair.b.key()), pair.b.peer(pair.a.key()));
        [
            a.tx_wire_bytes,
            a.rx_wire_bytes,
            b.tx_wire_bytes,
            b.rx_wire_bytes,
        ]
    };
    assert_eq!(wire(), [0; 4]);
    assert_eq!(pair.ping("a", 10, "-W 10", B), 10);
    let [to, back] = [INITIATION, RESPONSE].map(|handshake| handshake + 10 * message(84));
    exactly(
        "bytes of ten pings: a sent, received, b sent, received",
        [to, back, back, to],
        wire(),
    );
    exactly("as the kernel's selftest has it", [1428, 1372], [to, back]);
    let inner = pair.a.peer(pair.b.key());
    exactly(
        "inner bytes and packets of them",
        [840, 10],
        [inner.tx_bytes, inner.tx_packets],
    );

    for (target, header) in [(B, 28), (B6, 48)] {
        for size in [0, 3, 4, 5, 20, 1000, 1280 - header - 1, 1280 - header] {
            let before = wire();
            let how = format!("-W 10 -s {size} -M do");
            assert_eq!(pair.ping("a", 3, &how, target), 3);
            let each = 3 * message(size + header);
            let what = format!("bytes of three pings of {size} to {target}");
            exactly(&what, before.map(|bytes| bytes + each), wire());
        }
    }
}

#[test]
fn a_confirmation_and_keepalives_are_32_bytes() {
    let pair = Pair::strangers(SMALLEST_MTU);
    let mut quiet = pair.b_at(OUTER_B);
    quiet.persistent_keepalive = Some(std::time::Duration::from_secs(1));
    pair.b.set(vec![pair.a_at(OUTER_A)]);
    pair.a.set(vec![quiet]);
    let sent = || pair.a.peer(pair.b.key()).tx_wire_bytes;
    crate::net::wait("the tunnel stands", || sent() >= INITIATION + 32);
    exactly(
        "an initiation and its confirmation",
        INITIATION + 32,
        sent(),
    );
    let begun = std::time::Instant::now();
    crate::net::wait("three keepalives", || sent() >= INITIATION + 4 * 32);
    let took = begun.elapsed().as_secs_f64();
    let is_right = (2.5..4.5).contains(&took) && sent() == INITIATION + 4 * 32;
    crate::table::check(
        "three keepalives of 1 s each take, s",
        "3 + 0.6",
        took,
        is_right,
    );
    assert_eq!(pair.ping("b", 1, "", A) + pair.ping("b", 1, "", A6), 2);
}
