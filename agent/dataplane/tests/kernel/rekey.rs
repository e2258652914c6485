//! A session is renewed at the age of two minutes under traffic (whitepaper section 6.2), and nobody notices.

use std::collections::HashSet;
use std::time::Duration;

use pnsbox_dataplane::ProtocolCore;

use crate::pair::{Pair, Side};
use crate::report::Report;
use crate::traffic;
use crate::wire::{DATA, INITIATION, RESPONSE, Wire};

/// REKEY_AFTER_TIME is 120 s, and a handshake that got lost would be repeated 5 s later.
const TRAFFIC: Duration = Duration::from_secs(130);
const INTERVAL: Duration = Duration::from_millis(50);

/// `begins` begins the session, so it is its part to renew it.
pub(crate) fn session_is_renewed(report: &mut Report, core: ProtocolCore, begins: Side) {
    let pair = Pair::up(core, begins);
    let wire = Wire::listen(&pair.net);
    report.holds("first ping", pair.ping(begins));
    let (first_ours, first_kernel) = (pair.counters(), pair.dump());

    let [ours, kernels] = traffic::beats(&pair, TRAFFIC, INTERVAL);
    let passed = wire.take();
    let expected = |both: (usize, usize)| {
        if begins == Side::Ours {
            both
        } else {
            (both.1, both.0)
        }
    };
    report.equal(
        "initiations by us and by the kernel",
        expected((2, 0)),
        passed.by_both(INITIATION),
    );
    report.equal(
        "responses by us and by the kernel",
        expected((0, 2)),
        passed.by_both(RESPONSE),
    );
    let at: Vec<_> = passed
        .of(begins, INITIATION)
        .map(|message| message.at)
        .collect();
    if let [first, second] = at[..] {
        let apart = (second - first).as_secs_f64();
        report.between("seconds between both handshakes", (119.0, 126.0), apart);
    }
    for (side, whose) in [(Side::Ours, "kernel"), (Side::Kernel, "us")] {
        let receivers: HashSet<u32> = passed
            .of(side, DATA)
            .map(|message| message.receiver)
            .collect();
        report.equal(&format!("sessions of data for {whose}"), 2, receivers.len());
    }
    for (beats, whose) in [(ours, "us"), (kernels, "the kernel")] {
        report.between(&format!("datagrams by {whose}"), (1000, 2600), beats.sent);
        report.equal(
            &format!("of them lost, twice, by {whose}"),
            (0, 0),
            (beats.lost, beats.twice),
        );
    }
    let (ours, kernel) = (pair.counters(), pair.dump());
    report.equal(
        "handshakes that we counted",
        1,
        ours.handshakes - first_ours.handshakes,
    );
    let later = kernel.last_handshake - first_kernel.last_handshake;
    report.between(
        "handshake later at the kernel, in seconds",
        (118, 127),
        later,
    );
}
