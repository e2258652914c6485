//! Who may begin, and with which keys.

use std::time::{Duration, Instant};

use pnsbox_dataplane::snapshot::PathConfig;
use pnsbox_dataplane::{DropReason, ProtocolCore};

use crate::net::wait;
use crate::pair::{OUTER_KERNEL, OUTER_OURS, Pair, Side, outer};
use crate::report::Report;
use crate::traffic;
use crate::wire::{INITIATION, RESPONSE, Wire};

pub(crate) fn either_side_begins(report: &mut Report, core: ProtocolCore) {
    for (version, ip) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let mut pair = Pair::bare(core);
        let wire = Wire::listen(&pair.net);
        pair.start_kernel(None);
        pair.start_ours();
        pair.apply(PathConfig::Direct(outer(OUTER_KERNEL[version])));
        report.holds(
            &format!("{ip}: our first ping is answered"),
            pair.ping(Side::Ours),
        );
        let passed = wire.take();
        report.equal(
            &format!("{ip}, we begin: initiations"),
            (1, 0),
            passed.by_both(INITIATION),
        );
        report.equal(
            &format!("{ip}, we begin: responses"),
            (0, 1),
            passed.by_both(RESPONSE),
        );
        let endpoint = outer(OUTER_OURS[version]).to_string();
        report.equal(
            &format!("{ip}: the kernel learns our endpoint"),
            endpoint,
            pair.dump().endpoint,
        );
        report.equal(
            "preshared key",
            "(none)".to_owned(),
            pair.dump().preshared_key,
        );

        pair.forget_kernel();
        pair.remove_peer();
        pair.add_peer(Some(outer(OUTER_OURS[version])));
        pair.apply(PathConfig::Passive);
        report.holds(
            &format!("{ip}: the kernel's first ping is answered"),
            pair.ping(Side::Kernel),
        );
        let passed = wire.take();
        report.equal(
            &format!("{ip}, the kernel begins: initiations"),
            (0, 1),
            passed.by_both(INITIATION),
        );
        report.equal(
            &format!("{ip}, the kernel begins: responses"),
            (1, 0),
            passed.by_both(RESPONSE),
        );
        let learnt = pair
            .counters()
            .endpoint
            .map(|e| (e.ip().to_canonical(), e.port()));
        let there = outer(OUTER_KERNEL[version]);
        report.equal(
            &format!("{ip}: we learn the kernel's endpoint"),
            Some((there.ip(), there.port())),
            learnt,
        );
    }
}

/// Initiations cross: both sides have packets for each other at the same moment, and no session.
pub(crate) fn both_begin(report: &mut Report, core: ProtocolCore) {
    const ROUNDS: usize = 10;
    let pair = Pair::up(core, Side::Ours);
    let wire = Wire::listen(&pair.net);
    let (mut crossed, mut arrived, mut echoed) = (0, 0, 0);
    let mut slowest = 0.0f64;
    for _ in 0..ROUNDS {
        pair.forget_kernel();
        pair.remove_peer();
        pair.add_peer(Some(outer(OUTER_OURS[0])));
        pair.apply(PathConfig::Direct(outer(OUTER_KERNEL[0])));
        wire.take();
        let [ours, kernels] = traffic::udp_sockets(&pair, 0);
        let begun = Instant::now();
        ours.send(b"there").unwrap();
        kernels.send(b"back").unwrap();
        let mut buffer = [0; 16];
        arrived += usize::from(
            kernels
                .recv(&mut buffer)
                .is_ok_and(|length| buffer[..length] == *b"there"),
        );
        arrived += usize::from(
            ours.recv(&mut buffer)
                .is_ok_and(|length| buffer[..length] == *b"back"),
        );
        slowest = slowest.max(begun.elapsed().as_secs_f64());
        echoed += traffic::udp_echoes(&pair, 0, &[100; 5]);
        crossed += usize::from(wire.take().by_both(INITIATION) == (1, 1));
    }
    report.between(
        "rounds in which one initiation of each passed",
        (2, ROUNDS),
        crossed,
    );
    report.equal("first datagrams that arrived", 2 * ROUNDS, arrived);
    report.between("seconds to both, in the slowest round", (0.0, 3.0), slowest);
    report.equal("datagrams that arrived later", 10 * ROUNDS, echoed);
}

/// We have none; whoever wants one gets no session, and gets one when he wants none any more.
pub(crate) fn preshared_key(report: &mut Report, core: ProtocolCore) {
    for (begins, who) in [
        (Side::Kernel, "the kernel begins"),
        (Side::Ours, "we begin"),
    ] {
        let pair = Pair::up(core, begins);
        let file = std::env::temp_dir().join(format!("{}.psk", pair.net.namespace("b")));
        std::fs::write(&file, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=").unwrap();
        pair.set_peer(&format!("preshared-key {}", file.display()));
        report.holds(
            &format!("{who}: no ping while the kernel wants one"),
            !pair.ping(begins),
        );
        // The responder believes in a session when it is used, and it never is.
        match begins {
            Side::Kernel => report.equal("handshakes at the kernel", 0, pair.dump().last_handshake),
            Side::Ours => report.equal("handshakes at ours", 0, pair.counters().handshakes),
        }
        pair.set_peer("preshared-key /dev/null");
        let after = pair.reaches_after(begins, Duration::from_secs(20));
        report.between(
            &format!("{who}: seconds to a ping without"),
            (Some(0.0), Some(15.0)),
            after,
        );
        std::fs::remove_file(file).unwrap();
    }
}

/// Nobody answers a stranger, or whoever takes him for another.
pub(crate) fn wrong_keys(report: &mut Report, core: ProtocolCore) {
    let mut pair = Pair::up(core, Side::Kernel);
    pair.forget_kernel();
    let wire = Wire::listen(&pair.net);
    pair.ping(Side::Kernel);
    wait("the kernel tries again", || {
        wire.count(Side::Kernel, INITIATION) >= 2
    });
    let tried = wire.take().by(Side::Ours);
    report.equal("datagrams by us to an unknown key", 0, tried);
    report.between(
        "drops for unknown_peer",
        (2, 4),
        pair.drops(DropReason::UnknownPeer),
    );

    // The kernel means another key at our address: the first MAC is not for us.
    pair.stop_ours();
    let before = wire.take().by(Side::Ours);
    pair.change_our_key();
    pair.start_ours();
    pair.apply(PathConfig::Passive);
    pair.ping(Side::Kernel);
    wait("the kernel tries again", || {
        wire.count(Side::Kernel, INITIATION) >= 2
    });
    let tried = wire.take().by(Side::Ours);
    report.equal("datagrams by us to who means another key", before, tried);
    report.between(
        "drops for invalid_datagram",
        (2, 20),
        pair.drops(DropReason::InvalidDatagram),
    );

    // The kernel does not know our new key, but another one there.
    pair.stop_kernel();
    pair.start_kernel(None);
    pair.remove_peer();
    wire.take();
    pair.apply(PathConfig::Direct(outer(OUTER_KERNEL[0])));
    pair.ping(Side::Ours);
    wait("we try again", || wire.count(Side::Ours, INITIATION) >= 2);
    report.equal(
        "datagrams by the kernel to our unknown key",
        0,
        wire.take().by(Side::Kernel),
    );
    report.equal(
        "handshakes that we believe in",
        0,
        pair.counters().handshakes,
    );
}

pub(crate) fn change_of_keys(report: &mut Report, core: ProtocolCore) {
    let mut pair = Pair::up(core, Side::Kernel);
    report.holds("ping before", pair.ping(Side::Kernel));
    pair.change_kernel_key();
    pair.apply(PathConfig::Direct(outer(OUTER_KERNEL[0])));
    let limit = Duration::from_secs(20);
    let within = (Some(0.0), Some(12.0));
    report.between(
        "the kernel's key changed: seconds to our ping",
        within,
        pair.reaches_after(Side::Ours, limit),
    );
    report.between(
        "and to the kernel's",
        within,
        pair.reaches_after(Side::Kernel, limit),
    );

    pair.remove_peer();
    pair.change_our_key();
    pair.add_peer(Some(outer(OUTER_OURS[0])));
    pair.stop_ours();
    pair.start_ours();
    pair.apply(PathConfig::Passive);
    report.between(
        "our key changed: seconds to the kernel's ping",
        within,
        pair.reaches_after(Side::Kernel, limit),
    );
    report.between("and to ours", within, pair.reaches_after(Side::Ours, limit));
}
