//! Either side changes its address or port; the session stays.

use pnsbox_dataplane::ProtocolCore;

use crate::net::{OUTER_A, OUTER_B, UPLINK};
use crate::pair::{KERNEL, OUTER_KERNEL, OUTER_OURS, PORT, Pair, Side, outer};
use crate::report::Report;
use crate::wire::{INITIATION, Wire};

const MOVED_KERNEL: &str = "192.0.2.22";
const MOVED_OURS: &str = "192.0.2.11";
const MOVED_PORT: u16 = 51999;
/// What a NAT on our side makes of our port.
const NAT_PORT: u16 = 6000;

pub(crate) fn roaming(report: &mut Report, core: ProtocolCore) {
    let pair = Pair::up(core, Side::Ours);
    report.holds("ping before", pair.ping(Side::Ours));
    let wire = Wire::listen(&pair.net);

    moves(&pair, "b", OUTER_B, MOVED_KERNEL);
    pair.wg(&format!("set {KERNEL} listen-port {MOVED_PORT}"));
    report.holds("the kernel moved: its ping", pair.ping(Side::Kernel));
    report.equal(
        "we learn where to",
        Some(format!("{MOVED_KERNEL}:{MOVED_PORT}")),
        learnt(&pair),
    );
    report.holds("our ping", pair.ping(Side::Ours));

    moves(&pair, "a", OUTER_A, MOVED_OURS);
    report.holds("we moved: our ping", pair.ping(Side::Ours));
    report.equal(
        "the kernel learns where to",
        format!("{MOVED_OURS}:{PORT}"),
        pair.dump().endpoint,
    );
    report.holds("its ping", pair.ping(Side::Kernel));

    map_our_port(&pair);
    report.holds("a NAT changed our port: our ping", pair.ping(Side::Ours));
    report.equal(
        "the kernel learns the port",
        format!("{MOVED_OURS}:{NAT_PORT}"),
        pair.dump().endpoint,
    );
    report.holds("its ping", pair.ping(Side::Kernel));
    pair.nft("a", "flush ruleset");

    pair.wg(&format!("set {KERNEL} listen-port {PORT}"));
    pair.set_peer(&format!("endpoint {}", outer(OUTER_OURS[1])));
    report.holds(
        "the kernel moved to IPv6: its ping",
        pair.ping(Side::Kernel),
    );
    report.equal(
        "we learn where to",
        Some(outer(OUTER_KERNEL[1]).to_string()),
        learnt(&pair),
    );
    report.holds("our ping", pair.ping(Side::Ours));
    report.equal(
        "initiations in all of this",
        (0, 0),
        wire.take().by_both(INITIATION),
    );
}

fn moves(pair: &Pair, side: &str, from: &str, to: &str) {
    pair.net
        .ip(side, &format!("address del {from}/24 dev {UPLINK}"));
    pair.net
        .ip(side, &format!("address add {to}/24 dev {UPLINK}"));
}

fn map_our_port(pair: &Pair) {
    for words in [
        "add table inet roam".to_owned(),
        "add chain inet roam out { type filter hook output priority raw ; }".to_owned(),
        "add chain inet roam in { type filter hook prerouting priority raw ; }".to_owned(),
        format!("add rule inet roam out udp sport {PORT} udp sport set {NAT_PORT}"),
        format!("add rule inet roam in udp dport {NAT_PORT} udp dport set {PORT}"),
    ] {
        pair.nft("a", &words);
    }
}

/// Where we believe the kernel to be.
fn learnt(pair: &Pair) -> Option<String> {
    let endpoint = pair.counters().endpoint?;
    Some(std::net::SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port()).to_string())
}
