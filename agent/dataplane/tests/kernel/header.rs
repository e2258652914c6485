//! Sizes: what fits, and how both pad.

use pnsbox_dataplane::ProtocolCore;
use pnsbox_dataplane::snapshot::PathConfig;

use crate::pair::{MTU, OUTER_KERNEL, Pair, Side, outer};
use crate::report::Report;
use crate::wire::{DATA, KEEPALIVE_BYTES, Wire};

/// Header of an echo over IPv4, in bytes.
const PING_HEADER: usize = 28;

pub(crate) fn sizes(report: &mut Report, core: ProtocolCore) {
    let pair = Pair::up(core, Side::Ours);
    report.holds("first ping", pair.ping(Side::Ours));
    let wire = Wire::listen(&pair.net);
    wire.settle();
    let mtu = usize::from(MTU);
    for size in [
        28,
        29,
        32,
        33,
        47,
        48,
        49,
        1000,
        mtu - 17,
        mtu - 12,
        mtu - 1,
        mtu,
    ] {
        wire.take();
        let options = format!("-W 5 -M do -s {}", size - PING_HEADER);
        report.holds(
            &format!("ping of {size} bytes"),
            pair.ping_with(Side::Ours, &options),
        );
        let passed = wire.take();
        let padded = size.next_multiple_of(16).min(mtu) + KEEPALIVE_BYTES;
        let lengths = |side| {
            let is_packet = |length: &usize| *length > KEEPALIVE_BYTES;
            let lengths = passed.of(side, DATA).map(|message| message.length);
            lengths.filter(is_packet).collect::<Vec<_>>()
        };
        let both = (lengths(Side::Ours), lengths(Side::Kernel));
        report.equal(
            &format!("messages of {size} bytes, by us and by the kernel"),
            (vec![padded], vec![padded]),
            both,
        );
    }
    let too_large = format!("-W 2 -M do -s {}", mtu + 1 - PING_HEADER);
    for (side, whose) in [(Side::Ours, "ours"), (Side::Kernel, "the kernel's")] {
        report.holds(
            &format!("a byte more is refused on {whose}"),
            !pair.ping_with(side, &too_large),
        );
    }
    // The largest outer packet: 1420 bytes inside, 32 around, UDP and IPv6.
    pair.forget_kernel();
    pair.apply(PathConfig::Direct(outer(OUTER_KERNEL[1])));
    let largest = format!("-W 5 -M do -s {}", mtu - PING_HEADER);
    report.holds(
        "the largest packet outside over IPv6, by us",
        pair.ping_with(Side::Ours, &largest),
    );
    report.holds("and by the kernel", pair.ping_with(Side::Kernel, &largest));
}
