//! At full rate the order within a flow is kept, and nothing is delivered twice or changed.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod net;
mod planes;

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pnsbox_dataplane::DscpPolicy;

use crate::net::Net;
use crate::planes::{INNER_A, INNER_B, Planes};

const FLOWS: u16 = 4;
/// Packets that each flow must bring across; a full queue on the way is allowed to drop as many as it likes.
const PER_FLOW: u32 = 5_000;
/// Equal ones are merged, others break the runs.
const LENGTHS: [usize; 4] = [200, 200, 1392, 33];

/// Ends the sender when the receiver ends, however that does.
struct Done(Arc<AtomicBool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What packet `number` of a flow carries.
fn fill(packet: &mut [u8; 1392], flow: u16, number: u32) -> usize {
    let length = LENGTHS[(number / 16) as usize % LENGTHS.len()];
    packet[..4].copy_from_slice(&number.to_be_bytes());
    packet[4..6].copy_from_slice(&flow.to_be_bytes());
    packet[6..length].fill(number as u8);
    length
}

#[test]
fn order_is_kept_at_full_rate() {
    let net = Net::up();
    let planes = Planes::up(&net, DscpPolicy::default());
    let bind = |side: &str, address, flow: u16| {
        net.enter(side, || UdpSocket::bind((address, 6000 + flow)).unwrap())
    };
    std::thread::scope(|scope| {
        for flow in 0..FLOWS {
            let to = bind("b", INNER_B, flow);
            to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let from = bind("a", INNER_A, flow);
            let done = Arc::new(AtomicBool::new(false));
            let is_done = Arc::clone(&done);
            scope.spawn(move || {
                let _done = Done(done);
                receive(&to, flow);
            });
            scope.spawn(move || {
                let mut packet = [0; 1392];
                for number in 0.. {
                    if is_done.load(Ordering::Relaxed) {
                        break;
                    }
                    let length = fill(&mut packet, flow, number);
                    drop(from.send_to(&packet[..length], (INNER_B, 6000 + flow)));
                }
            });
        }
    });
    let sent = planes.a.counters().workers;
    let cut = sent[0].udp_sent_datagrams > sent[0].udp_sends;
    assert!(cut, "packets went in runs: {sent:?}");
    let workers = planes.b.counters().workers;
    let merged = workers[0].tun_written_packets > workers[0].tun_writes;
    assert!(merged, "packets were merged on the way: {workers:?}");
}

/// Takes packets, each as it was sent and later than the one before.
fn receive(socket: &UdpSocket, flow: u16) {
    let (mut packet, mut expected) = ([0; 2048], [0; 1392]);
    let mut next = 0;
    for count in 0..PER_FLOW {
        let length = socket
            .recv(&mut packet)
            .unwrap_or_else(|e| panic!("flow {flow}: {e} after {count} packets"));
        let number = u32::from_be_bytes(packet[..4].try_into().unwrap());
        assert!(number >= next, "flow {flow}: {number} came after {next}");
        let sent = fill(&mut expected, flow, number);
        assert_eq!(packet[..length], expected[..sent], "flow {flow}: {number}");
        next = number + 1;
    }
}
