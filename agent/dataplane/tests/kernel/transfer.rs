//! Bytes arrive as they were sent, and both sides count the same.

use pnsbox_dataplane::ProtocolCore;
use pnsbox_dataplane::snapshot::PathConfig;

use crate::pair::{OUTER_KERNEL, Pair, Side, outer};
use crate::report::Report;
use crate::traffic;
use crate::wire::Wire;

const TCP_BYTES: usize = 2 << 20;
/// What an inner packet is, the last ones in fragments; 1392 and 1372 fill a packet of 1420 bytes over IPv4 and IPv6.
const UDP_SIZES: [usize; 14] = [
    0, 1, 3, 4, 5, 15, 16, 17, 500, 1371, 1372, 1392, 5000, 40_000,
];
const STREAMS: u64 = 20;
const STREAM_BYTES: usize = 100_000;

pub(crate) fn every_kind(report: &mut Report, core: ProtocolCore) {
    for (outside, outer_ip) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let mut pair = Pair::bare(core);
        pair.start_kernel(None);
        pair.start_ours();
        pair.apply(PathConfig::Direct(outer(OUTER_KERNEL[outside])));
        for (inside, inner_ip) in ["IPv4", "IPv6"].into_iter().enumerate() {
            let echoes = traffic::udp_echoes(&pair, inside, &UDP_SIZES);
            let what = format!("{inner_ip} in {outer_ip}: UDP datagrams unchanged, there and back");
            report.equal(&what, 2 * UDP_SIZES.len(), echoes);
            for (from, whose) in [(Side::Ours, "us"), (Side::Kernel, "the kernel")] {
                let what = format!("{inner_ip} in {outer_ip}: TCP bytes unchanged, by {whose}");
                report.equal(
                    &what,
                    TCP_BYTES,
                    traffic::tcp(&pair, from, inside, 7, TCP_BYTES),
                );
            }
        }
    }
}

/// In both directions at once.
pub(crate) fn many_streams(report: &mut Report, core: ProtocolCore) {
    let pair = Pair::up(core, Side::Ours);
    report.holds("first ping", pair.ping(Side::Ours));
    let good = std::thread::scope(|scope| {
        let streams: Vec<_> = (0..STREAMS)
            .map(|number| {
                let from = if number % 2 == 0 {
                    Side::Ours
                } else {
                    Side::Kernel
                };
                let pair = &pair;
                scope.spawn(move || traffic::tcp(pair, from, 0, number, STREAM_BYTES))
            })
            .collect();
        let bytes = streams.into_iter().map(|stream| stream.join().unwrap());
        bytes.filter(|bytes| *bytes == STREAM_BYTES).count()
    });
    report.equal(
        "streams side by side that came unchanged",
        STREAMS as usize,
        good,
    );
}

/// The kernel counts messages, 32 bytes and padding to 16 around each packet, handshakes and keepalives with them. We do
/// so too, beside inner packets.
pub(crate) fn counters(report: &mut Report, core: ProtocolCore) {
    const HEADERS: usize = 28;
    let pair = Pair::up(core, Side::Ours);
    let wire = Wire::listen(&pair.net);
    report.holds("first ping", pair.ping(Side::Ours));
    report.holds("and back", pair.ping(Side::Kernel));
    wire.settle();
    let sizes: Vec<usize> = (0..40).map(|number| 20 * number).collect();
    let inner: usize = sizes.iter().map(|size| size + HEADERS).sum();
    let padded = |size: &usize| (size + HEADERS).next_multiple_of(16) + 32;
    let datagrams: usize = sizes.iter().map(padded).sum();

    let (ours, kernel) = (pair.counters(), pair.dump());
    report.equal(
        "datagrams unchanged",
        2 * sizes.len(),
        traffic::udp_echoes(&pair, 0, &sizes),
    );
    let (ours_after, kernel_after) = (pair.counters(), pair.dump());
    let packets = sizes.len() as u64;
    report.equal(
        "packets that we sent",
        packets,
        ours_after.tx_packets - ours.tx_packets,
    );
    report.equal(
        "packets that we received",
        packets,
        ours_after.rx_packets - ours.rx_packets,
    );
    report.equal(
        "bytes that we sent",
        inner as u64,
        ours_after.tx_bytes - ours.tx_bytes,
    );
    report.equal(
        "bytes that we received",
        inner as u64,
        ours_after.rx_bytes - ours.rx_bytes,
    );
    report.equal(
        "bytes that the kernel received",
        datagrams as u64,
        kernel_after.rx_bytes - kernel.rx_bytes,
    );
    report.equal(
        "bytes that the kernel sent",
        datagrams as u64,
        kernel_after.tx_bytes - kernel.tx_bytes,
    );
    report.equal(
        "bytes of messages since the start, to the kernel",
        kernel_after.rx_bytes,
        ours_after.tx_wire_bytes,
    );
    report.equal(
        "bytes of messages since the start, from the kernel",
        kernel_after.tx_bytes,
        ours_after.rx_wire_bytes,
    );
    report.equal("handshakes that we counted", 1, ours_after.handshakes);
    let seconds = ours_after.last_handshake.map(|at| {
        let at = std::time::SystemTime::now() - at.elapsed();
        let at = at.duration_since(std::time::UNIX_EPOCH).unwrap();
        at.as_secs().abs_diff(kernel_after.last_handshake)
    });
    report.between(
        "seconds between both last handshakes",
        (Some(0), Some(1)),
        seconds,
    );
}
