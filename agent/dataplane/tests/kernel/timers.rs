//! Empty messages: owed after ten seconds without an answer, or sent all the time.

use std::time::{Duration, Instant};

use pnsbox_dataplane::ProtocolCore;
use pnsbox_dataplane::snapshot::PathConfig;

use crate::pair::{OUTER_KERNEL, OUTER_OURS, Pair, Side, outer};
use crate::report::Report;
use crate::traffic;
use crate::wire::Wire;

pub(crate) fn keepalives(report: &mut Report, core: ProtocolCore) {
    // boringtun answers too early or too often, which harms nobody.
    if core == ProtocolCore::Native {
        passive(report, core);
    }
    persistent(report, core);
}

/// Whoever gets data and has none to send says so after ten seconds, once.
fn passive(report: &mut Report, core: ProtocolCore) {
    let pair = Pair::up(core, Side::Ours);
    let wire = Wire::listen(&pair.net);
    report.holds("first ping", pair.ping(Side::Ours));
    wire.settle();
    let [ours, kernels] = traffic::udp_sockets(&pair, 0);
    for (from, to, owing, who) in [
        (&ours, &kernels, Side::Kernel, "the kernel"),
        (&kernels, &ours, Side::Ours, "us"),
    ] {
        wire.take();
        from.send(b"one way").unwrap();
        let sent = Instant::now();
        report.equal("bytes one way", Some(7), to.recv(&mut [0; 16]).ok());
        std::thread::sleep(Duration::from_secs(14));
        let passed = wire.take();
        let after: Vec<f64> = passed
            .keepalives(owing)
            .map(|message| (message.at - sent).as_secs_f64())
            .collect();
        report.equal(&format!("keepalives owed by {who}"), 1, after.len());
        let first = after.first().copied().unwrap_or_default();
        report.between(&format!("after seconds, by {who}"), (9.9, 11.5), first);
        report.equal(
            &format!("keepalives by who sent, not {who}"),
            0,
            passed.keepalives(owing.other()).count(),
        );
    }
}

/// Without any data, a session begins and is kept up.
fn persistent(report: &mut Report, core: ProtocolCore) {
    let interval = Duration::from_secs(2);
    let pair = Pair::up(core, Side::Ours);
    let wire = Wire::listen(&pair.net);
    pair.apply_with_keepalive(PathConfig::Direct(outer(OUTER_KERNEL[0])), Some(interval));
    let count = |side: Side| {
        std::thread::sleep(Duration::from_secs(3));
        wire.take();
        std::thread::sleep(Duration::from_secs(10));
        wire.take().keepalives(side).count()
    };
    report.between("in 10 s, one every 2 s, by us", (4, 5), count(Side::Ours));
    report.holds("the kernel has a session", pair.dump().last_handshake > 0);

    let pair = Pair::up(core, Side::Kernel);
    let wire = Wire::listen(&pair.net);
    pair.set_peer("persistent-keepalive 2");
    let count = |side: Side| {
        std::thread::sleep(Duration::from_secs(3));
        wire.take();
        std::thread::sleep(Duration::from_secs(10));
        wire.take().keepalives(side).count()
    };
    report.between(
        "in 10 s, one every 2 s, by the kernel",
        (4, 5),
        count(Side::Kernel),
    );
    report.equal("handshakes that we counted", 1, pair.counters().handshakes);
    let known = pair.counters().endpoint.map(|e| e.ip().to_canonical());
    report.equal(
        "we know where the kernel is",
        Some(outer(OUTER_KERNEL[0]).ip()),
        known,
    );
    report.equal(
        "the kernel still knows us",
        outer(OUTER_OURS[0]).to_string(),
        pair.dump().endpoint,
    );
}
