//! Two nodes on one wire, each reachable over IPv4 and IPv6, inside and outside.

use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pnsbox_dataplane::{PathConfig, PeerConfig};

use crate::net::{Net, OUTER_A, OUTER_B, UPLINK, wait};
use crate::node::{Node, PORT, at, peer};

/// Held by a test that measures, so that no other one does at the same time.
pub(crate) type Alone = MutexGuard<'static, ()>;

/// Waits for its turn.
pub(crate) fn alone() -> Alone {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed in its turn spoils nothing.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Inner addresses of side a and side b.
pub(crate) const A: &str = "10.200.0.1";
pub(crate) const B: &str = "10.200.0.2";
pub(crate) const A6: &str = "fd00:200::1";
pub(crate) const B6: &str = "fd00:200::2";
/// Outer IPv6 addresses.
pub(crate) const OUTER_A6: &str = "2001:db8::1";
pub(crate) const OUTER_B6: &str = "2001:db8::2";
/// Inner MTU, if it does not matter.
pub(crate) const MTU: u16 = 1420;
/// Inner MTU if every datagram is counted: below it nothing is searched for, so no probe is sent.
pub(crate) const SMALLEST_MTU: u16 = 1280;

/// Both nodes. Nobody knows anybody yet.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) net: Net,
}

impl Pair {
    /// Starts both with this inner MTU.
    pub(crate) fn strangers(mtu: u16) -> Self {
        let net = Net::up();
        for (side, address) in [("a", OUTER_A6), ("b", OUTER_B6)] {
            net.ip(
                side,
                &format!("address add {address}/64 dev {UPLINK} nodad"),
            );
            net.ip(side, &format!("link set {UPLINK} mtu 65535"));
        }
        let inner = |v4: &str, v6: &str| [format!("{v4}/24"), format!("{v6}/64")];
        let start =
            |side, number, [v4, v6]: [String; 2]| Node::up(&net, side, number, &[&v4, &v6], mtu);
        Self {
            a: start("a", 1, inner(A, A6)),
            b: start("b", 2, inner(B, B6)),
            net,
        }
    }

    /// Starts both; each knows where the other is.
    pub(crate) fn up() -> Self {
        Self::with_mtu(MTU)
    }

    /// As [`Self::up`], with this inner MTU.
    pub(crate) fn with_mtu(mtu: u16) -> Self {
        let pair = Self::strangers(mtu);
        pair.meet(OUTER_A, OUTER_B);
        pair
    }

    /// Each gets the other as its only peer, at this outer address.
    pub(crate) fn meet(&self, outer_a: &str, outer_b: &str) {
        self.a.set(vec![self.b_at(outer_b)]);
        self.b.set(vec![self.a_at(outer_a)]);
    }

    /// Side a, as side b knows it.
    pub(crate) fn a_at(&self, outer: &str) -> PeerConfig {
        peer(
            self.a.key(),
            &[&format!("{A}/32"), &format!("{A6}/128")],
            there(outer),
        )
    }

    /// Side b, as side a knows it.
    pub(crate) fn b_at(&self, outer: &str) -> PeerConfig {
        peer(
            self.b.key(),
            &[&format!("{B}/32"), &format!("{B6}/128")],
            there(outer),
        )
    }

    /// How many of so many pings are answered; `how` are more options.
    pub(crate) fn ping(&self, side: &str, count: u32, how: &str, to: &str) -> u32 {
        ping(&self.net, side, count, how, to)
    }
}

/// How many of so many pings are answered; `how` are more options. One after the other, since ping waits for the last of
/// several only as long as for those before (ping(8), `-W`).
pub(crate) fn ping(net: &Net, side: &str, count: u32, how: &str, to: &str) -> u32 {
    let how = if how.is_empty() { "-W 10" } else { how };
    let ping = format!("ping -nq -c 1 {how} {to}");
    let answered = || net.run(side, &ping).status.success();
    (0..count).map(|_| u32::from(answered())).sum()
}

fn there(outer: &str) -> PathConfig {
    match outer.contains(':') {
        true => at(&format!("[{outer}]:{PORT}")),
        false => at(&format!("{outer}:{PORT}")),
    }
}

/// What iperf3 brings from one side to another that listens on `to`, in Mbit/s; `how` are more options.
pub(crate) fn iperf(net: &Net, from: &str, listener: &str, to: &str, how: &str) -> f64 {
    let server = std::process::Command::new("ip")
        .args(["netns", "exec", &net.namespace(listener)])
        .args(["iperf3", "-s", "-1", "-p", "5201"])
        .stdout(Stdio::null())
        .spawn();
    let mut server = server.expect("iperf3 is installed");
    wait("iperf3 listens", || {
        let listening = net.run(listener, "ss -ltnH sport = 5201").stdout;
        !listening.is_empty()
    });
    let client = format!("iperf3 -c {to} -p 5201 {how} --json");
    let said = net.run(from, &client).stdout;
    server.wait().unwrap();
    let said = String::from_utf8(said).unwrap();
    let received = said.split("\"sum_received\"").nth(1);
    let received = received.or_else(|| said.split("\"sum\"").last());
    let rate = received.and_then(|text| text.split("\"bits_per_second\":").nth(1));
    let rate = rate
        .unwrap_or_else(|| panic!("{client}: {said}"))
        .trim_start();
    let end = rate.find(|c: char| !c.is_ascii_digit()).unwrap();
    rate[..end].parse::<f64>().unwrap() / 1e6
}
