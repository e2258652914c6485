//! Inner source addresses that are not allowed do not come in, at either side.

use pnsbox_dataplane::{DropReason, ProtocolCore};

use crate::pair::{INNER_OURS, KERNEL, Pair, Side, TUN};
use crate::report::Report;
use crate::traffic;
use crate::wire::Wire;

/// Nobody's, beside the allowed ones.
const FOREIGN: [&str; 2] = ["10.200.0.77", "fd00:200::77"];
const PINGS: u64 = 3;

pub(crate) fn foreign_sources(report: &mut Report, core: ProtocolCore) {
    let pair = Pair::up(core, Side::Ours);
    let wire = Wire::listen(&pair.net);
    report.holds("first ping", pair.ping(Side::Ours));
    wire.settle();
    for (side, interface) in [("a", TUN), ("b", KERNEL)] {
        pair.net.ip(
            side,
            &format!("address add {}/32 dev {interface}", FOREIGN[0]),
        );
        pair.net.ip(
            side,
            &format!("address add {}/128 dev {interface} nodad", FOREIGN[1]),
        );
    }
    for (version, ip) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let foreign = FOREIGN[version];
        let spoof = |from: Side| {
            let to = from.other().inner()[version];
            let ping = format!("ping -nq -c {PINGS} -i 0.2 -W 1 -I {foreign} {to}");
            pair.net.run(from.name(), &ping).status.success()
        };
        let before = pair.drops(DropReason::WrongSource);
        report.holds(
            &format!("{ip}: no answer to the kernel's from elsewhere"),
            !spoof(Side::Kernel),
        );
        let dropped = pair.drops(DropReason::WrongSource) - before;
        report.equal(&format!("{ip}: drops for wrong_source"), PINGS, dropped);
        let before = frame_errors(&pair);
        report.holds(
            &format!("{ip}: no answer to ours from elsewhere"),
            !spoof(Side::Ours),
        );
        report.equal(
            &format!("{ip}: frame errors at the kernel"),
            PINGS,
            frame_errors(&pair) - before,
        );
        report.equal(
            &format!("{ip}: the tunnel goes on"),
            2,
            traffic::udp_echoes(&pair, version, &[100]),
        );
    }
    report.holds(
        "and answers our own address",
        pair.ping_with(Side::Ours, &format!("-W 5 -I {}", INNER_OURS[0])),
    );
}

/// What the kernel counts for packets with a source that is not allowed.
fn frame_errors(pair: &Pair) -> u64 {
    let file = format!("cat /sys/class/net/{KERNEL}/statistics/rx_frame_errors");
    let output = pair.net.run("b", &file);
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .unwrap()
}
