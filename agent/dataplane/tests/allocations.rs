//! In steady state no packet allocates: every allocation of the process is counted while TCP runs through two data planes.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod net;
mod planes;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use pnsbox_dataplane::DscpPolicy;

use crate::net::{Net, wait};
use crate::planes::{INNER_B, Planes};

/// Counts what the whole process asks for, whichever thread it is.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe by nature")]
// SAFETY: every call goes on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as promised by our caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised by our caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

const WARM_UP: usize = 8 << 20;
const MEASURED: usize = 64 << 20;
/// Threads that end allocate too, so they end later.
const ALL: usize = WARM_UP + MEASURED + (1 << 20);

#[test]
fn no_packet_allocates() {
    let net = Net::up();
    let planes = Planes::up(&net, DscpPolicy::default());
    // Then data carries ECT(0), and the kernel is told so with every send; acknowledgements carry nothing.
    for side in ["a", "b"] {
        let mark = || std::fs::write("/proc/sys/net/ipv4/tcp_ecn", "1").unwrap();
        net.enter(side, mark);
    }
    let listener = net.enter("b", || TcpListener::bind((INNER_B, 5001)).unwrap());
    let mut client = net.enter("a", || TcpStream::connect((INNER_B, 5001)).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    let mut echo = server.try_clone().unwrap();
    // A thread's first round makes what it keeps.
    wait("every worker has gone round", || {
        planes.a.progress() > 2 && planes.b.progress() > 2
    });
    let before_all = planes.a.counters();

    // Both directions at once: what comes is sent back.
    let (mut sent, mut answered, mut taken) =
        (vec![7; 1 << 16], vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut reader = client.try_clone().unwrap();
    let allocations = std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                let length = server.read(&mut taken).unwrap();
                if length == 0 {
                    return echo.shutdown(Shutdown::Write).unwrap();
                }
                echo.write_all(&taken[..length]).unwrap();
            }
        });
        let writer = scope.spawn(|| {
            for _ in 0..ALL / sent.len() {
                client.write_all(&sent).unwrap();
            }
            client.shutdown(Shutdown::Write).unwrap();
            sent.clear();
        });
        let mut come = 0;
        let mut come_until = |bytes: usize| {
            while come < bytes {
                let length = reader.read(&mut answered).unwrap();
                assert!(length > 0, "closed after {come} bytes");
                assert!(answered[..length].iter().all(|byte| *byte == 7));
                come += length;
            }
        };
        come_until(WARM_UP);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        come_until(WARM_UP + MEASURED);
        let after = ALLOCATIONS.load(Ordering::Relaxed);
        come_until(ALL);
        writer.join().unwrap();
        after - before
    });

    let after_all = planes.a.counters();
    let packets = after_all.peers[0].tx_packets - before_all.peers[0].tx_packets;
    assert!(packets > 50_000, "{packets} packets");
    assert_eq!(allocations, 0, "for about {packets} packets each way");
}
