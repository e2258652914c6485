//! One side forgets its sessions; the other finds out.

use std::time::Duration;

use pnsbox_dataplane::ProtocolCore;
use pnsbox_dataplane::snapshot::PathConfig;

use crate::pair::{OUTER_KERNEL, OUTER_OURS, Pair, Side, outer};
use crate::report::Report;

const LIMIT: Duration = Duration::from_secs(60);
/// Who begins anew is answered at once; on a slow machine an initiation gets lost, and is repeated after 5 s.
const AT_ONCE: (Option<f64>, Option<f64>) = (Some(0.0), Some(12.0));
/// Who still has a session gives it 10 s for an answer and 5 s more (whitepaper section 6.2), and a third of a second of
/// jitter, from the first packet that gets none; boringtun from the last one that came, which may be longer ago. Twice
/// lost, it is 10 s more.
const AFTER_SILENCE: (Option<f64>, Option<f64>) = (Some(1.0), Some(30.0));

pub(crate) fn of_the_kernel(report: &mut Report, core: ProtocolCore) {
    let pair = Pair::up(core, Side::Kernel);
    report.holds("ping before", pair.ping(Side::Kernel));
    pair.stop_kernel();
    pair.start_kernel(Some(outer(OUTER_OURS[0])));
    report.between(
        "the kernel begins anew: seconds to a ping",
        AT_ONCE,
        pair.reaches_after(Side::Kernel, LIMIT),
    );
    report.between("and back", AT_ONCE, pair.reaches_after(Side::Ours, LIMIT));

    pair.stop_kernel();
    pair.start_kernel(None);
    report.between(
        "the kernel waits: seconds to our ping",
        AFTER_SILENCE,
        pair.reaches_after(Side::Ours, LIMIT),
    );
    report.between("and back", AT_ONCE, pair.reaches_after(Side::Kernel, LIMIT));
    report.equal("handshakes that we counted", 3, pair.counters().handshakes);
}

pub(crate) fn of_ours(report: &mut Report, core: ProtocolCore) {
    let mut pair = Pair::up(core, Side::Ours);
    report.holds("ping before", pair.ping(Side::Ours));
    pair.stop_ours();
    pair.start_ours();
    pair.apply(PathConfig::Direct(outer(OUTER_KERNEL[0])));
    report.between(
        "we begin anew: seconds to a ping",
        AT_ONCE,
        pair.reaches_after(Side::Ours, LIMIT),
    );
    report.between("and back", AT_ONCE, pair.reaches_after(Side::Kernel, LIMIT));

    pair.stop_ours();
    pair.start_ours();
    pair.apply(PathConfig::Passive);
    report.between(
        "we wait: seconds to the kernel's ping",
        AFTER_SILENCE,
        pair.reaches_after(Side::Kernel, LIMIT),
    );
    report.between("and back", AT_ONCE, pair.reaches_after(Side::Ours, LIMIT));
}
