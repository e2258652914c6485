//! Handshakes under a flood: whoever is under it wants a cookie back (whitepaper section 5.4.7), and the other brings it.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use blake2::digest::Mac;
use blake2::digest::consts::U16;
use blake2::{Blake2s256, Blake2sMac, Digest};
use pnsbox_dataplane::ProtocolCore;
use pnsbox_dataplane::snapshot::{PathConfig, PublicKey};

use crate::pair::{KERNEL, OUTER_KERNEL, OUTER_OURS, PORT, Pair, Side, outer};
use crate::report::Report;
use crate::traffic;
use crate::wire::{COOKIE, INITIATION, Messages, RESPONSE, Wire};

/// A message with a cookie follows at most 5 s after the one without.
const LIMIT: Duration = Duration::from_secs(30);
/// Load comes and goes, so a round may find none when it looks.
const ROUNDS: u16 = 5;
/// Initiations made for a flood, which are then repeated.
const FORGED: u64 = 4096;
/// An initiation without its MACs, in bytes, and one MAC (whitepaper section 5.4.2).
const CONTENT: usize = 116;
const MAC: usize = 16;

/// The kernel is under load with more than 512 handshake messages in its queue, and one second more.
pub(crate) fn of_the_kernel(report: &mut Report, core: ProtocolCore) {
    let flood = Flood {
        burst: 1500,
        pause: Duration::from_millis(100),
    };
    let pair = Pair::up(core, Side::Ours);
    flood.judge(report, &pair, Side::Ours, |_| {
        pair.forget_kernel();
        pair.apply(PathConfig::Direct(outer(OUTER_KERNEL[0])));
        PORT
    });
}

/// We are for an address from which more than ten a second come, unless they come from where we know a peer to be:
/// so the kernel comes from a port that we do not know.
pub(crate) fn of_ours(report: &mut Report, core: ProtocolCore) {
    let flood = Flood {
        burst: 10,
        pause: Duration::from_millis(100),
    };
    let pair = Pair::up(core, Side::Kernel);
    flood.judge(report, &pair, Side::Kernel, |round| {
        let port = PORT + 1 + round;
        pair.remove_peer();
        pair.wg(&format!("set {KERNEL} listen-port {port}"));
        pair.add_peer(Some(outer(OUTER_OURS[0])));
        port
    });
}

/// Initiations from a stranger who knows whom he sends them to, and nothing else.
struct Flood {
    burst: usize,
    pause: Duration,
}

impl Flood {
    /// Floods the other side of `begins` from the address of `begins`, and has it begin `again` under that, round for
    /// round; it says from which port.
    fn judge(&self, report: &mut Report, pair: &Pair, begins: Side, again: impl Fn(u16) -> u16) {
        let wire = Wire::listen(&pair.net);
        report.holds("ping before", pair.ping(begins));
        let (from, target, key) = match begins {
            Side::Ours => (OUTER_OURS, OUTER_KERNEL, pair.kernel_public()),
            Side::Kernel => (OUTER_KERNEL, OUTER_OURS, pair.our_public()),
        };
        let bind = || UdpSocket::bind((from[0], 0)).unwrap();
        let socket = pair.net.enter(begins.name(), bind);
        socket.connect(outer(target[0])).unwrap();
        let messages: Vec<_> = (0..FORGED).map(|seed| forged(&key, seed)).collect();

        let ends = AtomicBool::new(false);
        let (mut slowest, mut is_shown) = (Some(0.0), false);
        std::thread::scope(|scope| {
            scope.spawn(|| self.send(&socket, &messages, &ends));
            for round in 0..ROUNDS {
                wait_for_load(&wire, begins.other());
                wire.take();
                let port = again(round);
                let seconds = pair.reaches_after(begins, LIMIT);
                slowest = slowest.zip(seconds).map(|(a, b)| f64::max(a, b));
                is_shown = brings_a_cookie(&wire.take(), begins, port);
                if is_shown {
                    break;
                }
            }
            ends.store(true, Ordering::Relaxed);
        });
        let what = "a cookie was given, brought and accepted while others were refused";
        report.holds(what, is_shown);
        let within = (Some(0.0), Some(20.0));
        report.between("seconds to a ping under the flood", within, slowest);
        report.holds("ping after it", pair.ping(begins));
        report.holds("and back", pair.ping(begins.other()));
    }

    fn send(&self, socket: &UdpSocket, messages: &[Vec<u8>], ends: &AtomicBool) {
        let mut messages = messages.iter().cycle();
        while !ends.load(Ordering::Relaxed) {
            for message in messages.by_ref().take(self.burst) {
                // What the network has no room for is not missed.
                drop(socket.send(message));
            }
            std::thread::sleep(self.pause);
        }
    }
}

/// An initiation that is noise but for its first MAC (whitepaper section 5.4.4).
fn forged(to: &PublicKey, seed: u64) -> Vec<u8> {
    let mut message = traffic::content(seed, CONTENT);
    message[..4].copy_from_slice(&[INITIATION, 0, 0, 0]);
    let key = Blake2s256::new()
        .chain_update(b"mac1----")
        .chain_update(to)
        .finalize();
    let mac: Blake2sMac<U16> = Mac::new_from_slice(&key).unwrap();
    message.extend_from_slice(&mac.chain_update(&message).finalize().into_bytes());
    message.resize(CONTENT + 2 * MAC, 0);
    message
}

fn wait_for_load(wire: &Wire, side: Side) {
    wire.take();
    let begun = Instant::now();
    while wire.count(side, COOKIE) == 0 && begun.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// `begins` got a cookie at its port and brought it; that was answered, and strangers got cookies shortly before and after.
fn brings_a_cookie(passed: &Messages, begins: Side, port: u16) -> bool {
    const SHORTLY: Duration = Duration::from_millis(300);
    /// Less than it takes until the next attempt.
    const PROMPTLY: Duration = Duration::from_secs(3);
    let other = begins.other();
    let is_given = passed
        .of(other, COOKIE)
        .any(|message| message.to_port == port);
    let Some(brought) = passed
        .of(begins, INITIATION)
        .find(|message| message.has_cookie)
    else {
        return false;
    };
    let answer = passed
        .of(other, RESPONSE)
        .find(|message| message.at >= brought.at);
    let refused = |from: Instant, to: Instant| {
        let mut strangers = passed
            .of(other, COOKIE)
            .filter(|message| message.to_port != port);
        strangers.any(|message| from <= message.at && message.at <= to)
    };
    answer.is_some_and(|answer| {
        let is_prompt = answer.at - brought.at < PROMPTLY;
        let is_under_load =
            refused(brought.at - SHORTLY, brought.at) && refused(answer.at, answer.at + SHORTLY);
        is_given && is_prompt && is_under_load
    })
}
