//! Congestion marks: outwards the inner ones are copied, and no class; inwards what the way marked is taken over.

use pnsbox_dataplane::{DropReason, ProtocolCore};
use socket2::SockRef;

use crate::net::UPLINK;
use crate::pair::{KERNEL, PORT, Pair, Side, TUN};
use crate::report::Report;
use crate::traffic;
use crate::wire::{DATA, INITIATION, RESPONSE, Wire};

/// EF: a class that stays inside.
const VOICE: u8 = 0xb8;
/// AF41, which Linux gives to handshakes.
const AF41: u8 = 0x88;
/// Both ECN bits (RFC 3168 section 5): no mark understood, ECT(1), ECT(0), congestion experienced.
const MARKS: [u8; 4] = [0b00, 0b01, 0b10, 0b11];
/// Bytes of what is sent; nothing else is as long.
const LENGTH: usize = 700;

pub(crate) fn marks(report: &mut Report, core: ProtocolCore) {
    let pair = Pair::up(core, Side::Ours);
    let wire = Wire::listen(&pair.net);
    report.holds("first ping", pair.ping(Side::Ours));
    let passed = wire.take();
    let class = |side, kind| passed.of(side, kind).map(|message| message.tos).next();
    report.equal(
        "class of our initiation",
        Some(0),
        class(Side::Ours, INITIATION),
    );
    report.equal(
        "class of the kernel's response",
        Some(AF41),
        class(Side::Kernel, RESPONSE),
    );
    wire.settle();
    for version in [0, 1] {
        outwards(report, &pair, &wire, version);
    }
    inwards(report, &pair);
}

/// We copy all four (RFC 6040 section 4.1); Linux hides congestion inside from the way (RFC 3168 section 9.1.1).
fn outwards(report: &mut Report, pair: &Pair, wire: &Wire, version: usize) {
    let ip = ["IPv4", "IPv6"][version];
    let expected = [
        (Side::Ours, MARKS, "us"),
        (Side::Kernel, [0, 1, 2, 2], "the kernel"),
    ];
    for (side, expected, whose) in expected {
        wire.take();
        let arrived = send_each(pair, side, version);
        report.equal(
            &format!("{ip}: packets of all marks that came, from {whose}"),
            4,
            arrived,
        );
        let passed = wire.take();
        let outer: Vec<u8> = passed
            .of(side, DATA)
            .filter(|message| message.length > LENGTH)
            .map(|message| message.tos)
            .collect();
        report.equal(
            &format!("{ip}: outer class and marks for all four inside, by {whose}"),
            expected.to_vec(),
            outer,
        );
    }
}

/// Every router marks. What understands no mark is dropped by us (RFC 6040 section 4.2), and unmarked at the kernel.
fn inwards(report: &mut Report, pair: &Pair) {
    for (side, interface) in [("a", TUN), ("b", KERNEL)] {
        pair.nft(side, "add table inet marks");
        pair.nft(
            side,
            "add chain inet marks out { type filter hook output priority 0 ; }",
        );
        pair.nft(
            side,
            &format!("add rule inet marks out oifname {UPLINK} udp dport {PORT} ip ecn set ce"),
        );
        pair.nft(
            side,
            "add chain inet marks in { type filter hook input priority 0 ; }",
        );
        for mark in ["not-ect", "ect1", "ect0", "ce"] {
            let rule = format!(
                "iifname {interface} udp length {} ip ecn {mark} counter",
                LENGTH + 8
            );
            pair.nft(side, &format!("add rule inet marks in {rule}"));
        }
    }
    let arrived = send_each(pair, Side::Ours, 0);
    report.equal(
        "packets of four that the kernel let through congestion",
        4,
        arrived,
    );
    report.equal(
        "marks of them: none, ECT(1), ECT(0), CE",
        vec![1, 0, 0, 3],
        counted(pair, "b"),
    );
    let before = pair.drops(DropReason::EcnCeNotEct);
    let arrived = send_each(pair, Side::Kernel, 0);
    report.equal("packets of four that we let through congestion", 3, arrived);
    report.equal(
        "marks of them: none, ECT(1), ECT(0), CE",
        vec![0, 0, 0, 3],
        counted(pair, "a"),
    );
    report.equal(
        "drops for ecn_ce_not_ect",
        1,
        pair.drops(DropReason::EcnCeNotEct) - before,
    );
}

/// One packet of each mark; how many came.
fn send_each(pair: &Pair, from: Side, version: usize) -> usize {
    let [ours, kernels] = traffic::udp_sockets(pair, version);
    let (sender, receiver) = match from {
        Side::Ours => (ours, kernels),
        Side::Kernel => (kernels, ours),
    };
    let arrives = |mark: &&u8| {
        let tos = u32::from(VOICE | **mark);
        match version {
            0 => SockRef::from(&sender).set_tos_v4(tos).unwrap(),
            _ => SockRef::from(&sender).set_tclass_v6(tos).unwrap(),
        }
        sender.send(&[0; LENGTH]).unwrap();
        receiver.recv(&mut [0; 2 * LENGTH]).is_ok()
    };
    MARKS.iter().filter(arrives).count()
}

/// Packets that came with each mark.
fn counted(pair: &Pair, side: &str) -> Vec<u32> {
    let listed = pair.nft(side, "list chain inet marks in");
    let counts = listed.split("packets ").skip(1);
    counts
        .map(|rest| rest.split(' ').next().unwrap().parse().unwrap())
        .collect()
}
