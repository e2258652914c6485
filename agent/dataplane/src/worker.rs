//! The threads: they only move bytes between the kernel and [`crate::transmit`] and [`crate::receive`].
//!
//! A worker takes what it reads all the way to its own write, so nothing is handed between threads and order is kept.

use std::io::{self, IoSlice, Read as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tracing::{debug, error};

use crate::counters::{Counters, DropReason, WorkerTally};
use crate::message::BUFFER;
use crate::offload::coalesce::Outcome;
use crate::offload::vnet::VNET_HEADER;
use crate::output::{Output, Run, Sent};
use crate::plane::Plane;
use crate::queues;
use crate::receive::{Received, Receiver};
use crate::relay;
use crate::tos::Tos;
use crate::transmit::Transmitter;
use crate::tun::Tun;
use crate::udp::{Inbox, Outbox, Udp};

/// A worker that has nothing to do goes round this often, which is also how often timers run.
const ROUND: u8 = 200;
/// Reads of the TUN before the datagrams' turn comes.
const MOST_READS: usize = 64;
/// Bytes of those reads.
const ENOUGH: usize = 256 * 1024;

/// What the threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plane: Plane,
    pub(crate) workers: Vec<WorkerTally>,
    udp: Udp,
    tun: Tun,
    stop: EventFd,
    stopping: AtomicBool,
    tun_lost: AtomicBool,
    rounds: [AtomicU64; WORKERS.len()],
}

/// A worker: its name, and the name of the step at which a test hangs it.
struct Worker {
    name: &'static str,
    #[cfg(feature = "failpoints")]
    failpoint: &'static str,
    work: fn(&Shared, usize),
}

const WORKERS: [Worker; 2] = [
    Worker {
        name: "packets",
        #[cfg(feature = "failpoints")]
        failpoint: "worker_packets",
        work: move_packets,
    },
    Worker {
        name: "timers",
        #[cfg(feature = "failpoints")]
        failpoint: "worker_timers",
        work: keep_time,
    },
];

impl Shared {
    pub(crate) fn new(plane: Plane, udp: Udp, tun: Tun) -> io::Result<Self> {
        Ok(Self {
            plane,
            workers: WORKERS
                .iter()
                .map(|worker| WorkerTally::new(worker.name))
                .collect(),
            udp,
            tun,
            stop: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            stopping: AtomicBool::new(false),
            tun_lost: AtomicBool::new(false),
            rounds: Default::default(),
        })
    }

    pub(crate) fn port(&self) -> io::Result<u16> {
        self.udp.socket().local_addr().map(|address| address.port())
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Err(error) = self.stop.write(1) {
            debug!(%error, "the workers stop at their next round");
        }
    }

    pub(crate) fn tun_lost(&self) -> bool {
        self.tun_lost.load(Ordering::Relaxed)
    }

    /// Everything that was counted, by us and by the kernel's queues.
    pub(crate) fn counters(&self) -> Counters {
        let tally = &self.plane.tally;
        match queues::receive_drops(self.udp.socket()) {
            Ok(count) => tally.set(DropReason::ReceiveQueueFull, count),
            Err(error) => debug!(%error, "the socket's drops are not known"),
        }
        match queues::tun_drops(&self.tun.name) {
            Ok(count) => tally.set(DropReason::TunQueueFull, count),
            Err(error) => debug!(%error, "the interface's drops are not known"),
        }
        let workers = self.workers.iter().map(WorkerTally::counters);
        self.plane.counters(workers.collect())
    }

    /// Rounds of the slowest worker: it moves only while all of them do.
    pub(crate) fn progress(&self) -> u64 {
        self.rounds
            .iter()
            .map(|rounds| rounds.load(Ordering::Relaxed))
            .min()
            .unwrap_or(0)
    }

    fn runs(&self, worker: usize) -> bool {
        #[cfg(feature = "failpoints")]
        fail::eval(WORKERS[worker].failpoint, |_| ());
        self.rounds[worker].fetch_add(1, Ordering::Relaxed);
        !self.stopping.load(Ordering::Relaxed)
    }
}

/// Starts the threads.
pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<Vec<JoinHandle<()>>> {
    let start = |(number, worker): (usize, &'static Worker)| {
        let shared = shared.clone();
        std::thread::Builder::new()
            .name(format!("pnsbox-{}", worker.name))
            .spawn(move || (worker.work)(&shared, number))
    };
    const ALL: &[Worker] = &WORKERS;
    all_or_none(ALL.iter().enumerate().map(start), || shared.stop())
}

/// All threads, or the first error, when those that had started have ended.
fn all_or_none(
    starts: impl Iterator<Item = io::Result<JoinHandle<()>>>,
    stop: impl FnOnce(),
) -> io::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    for started in starts {
        match started {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                stop();
                for thread in threads {
                    if thread.join().is_err() {
                        debug!("a worker panicked while it was stopped");
                    }
                }
                return Err(error);
            }
        }
    }
    Ok(threads)
}

fn move_packets(shared: &Shared, number: usize) {
    PacketWorker::new(shared, &shared.workers[number]).work(number);
}

fn keep_time(shared: &Shared, number: usize) {
    let tally = &shared.workers[number];
    let mut message = vec![0; BUFFER];
    let mut out = Kernel::new(shared, tally);
    while shared.runs(number) {
        let stop = PollFd::new(shared.stop.as_fd(), PollFlags::POLLIN);
        if let Err(error) = poll(&mut [stop], PollTimeout::from(ROUND)) {
            debug!(%error, "poll was interrupted");
        }
        let now = Instant::now();
        shared.plane.tick(now, &mut message, &mut out);
        tally.publish_busy(now);
    }
}

/// Moves packets both ways.
struct PacketWorker<'s> {
    shared: &'s Shared,
    tally: &'s WorkerTally,
    /// One read of the TUN.
    read: Vec<u8>,
    transmitter: Transmitter,
    inbox: Inbox,
    receiver: Receiver,
    /// For what the host sends. Apart from the other, which may be in the middle of something else.
    to_network: Kernel<'s>,
    to_host: Kernel<'s>,
}

/// What has something to read, or takes something again.
#[derive(Debug, Clone, Copy, Default)]
struct Ready {
    tun: bool,
    udp: bool,
}

impl<'s> PacketWorker<'s> {
    fn new(shared: &'s Shared, tally: &'s WorkerTally) -> Self {
        Self {
            shared,
            tally,
            read: vec![0; VNET_HEADER + BUFFER],
            transmitter: Transmitter::default(),
            inbox: Inbox::new(),
            receiver: Receiver::default(),
            to_network: Kernel::new(shared, tally),
            to_host: Kernel::new(shared, tally),
        }
    }

    fn work(mut self, number: usize) {
        let mut ready = Ready::default();
        while self.shared.runs(number) {
            ready = self.wait(ready);
            let now = Instant::now();
            self.tally.publish_busy(now);
            if ready.udp {
                ready.udp = self.receive(now);
            }
            if ready.tun || self.transmitter.is_blocked() {
                ready.tun = self.transmit(now);
            }
        }
    }

    /// Waits until something can be done or a round is over; only looks, if something is known to be ready.
    fn wait(&mut self, mut ready: Ready) -> Ready {
        let is_blocked = self.transmitter.is_blocked();
        let on = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        let tun = on(!is_blocked, PollFlags::POLLIN);
        let udp = PollFlags::POLLIN | on(is_blocked, PollFlags::POLLOUT);
        let mut polled = [
            PollFd::new(self.shared.udp.socket().as_fd(), udp),
            PollFd::new(self.shared.tun.file.as_fd(), tun),
            PollFd::new(self.shared.stop.as_fd(), PollFlags::POLLIN),
        ];
        let is_busy = ready.tun && !is_blocked || ready.udp;
        let timeout = PollTimeout::from(if is_busy { 0 } else { ROUND });
        match poll(&mut polled, timeout) {
            Ok(_) => {
                let has = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
                ready.udp |= has(&polled[0]);
                ready.tun |= has(&polled[1]);
            }
            Err(error) => debug!(%error, "poll was interrupted"),
        }
        ready
    }

    /// Takes a burst of datagrams. True if there is probably more.
    fn receive(&mut self, now: Instant) -> bool {
        let more = match self.inbox.receive(self.shared.udp.socket()) {
            Ok(more) => more,
            Err(error) => {
                // For example what an earlier datagram met on its way: poll tells whether there is more.
                if error.kind() != io::ErrorKind::WouldBlock {
                    debug!(%error, "datagrams were not received");
                }
                return error.kind() == io::ErrorKind::Interrupted;
            }
        };
        let (slab, received) = self.inbox.received();
        let datagrams = received.iter().map(Received::count).sum::<usize>();
        self.tally
            .received_datagrams(received.len() as u64, datagrams as u64);
        let plane = &self.shared.plane;
        let flushed = self.receiver.take(
            plane,
            &plane.table(),
            slab,
            received,
            now,
            &mut self.to_host,
        );
        self.tally
            .wrote_packets(flushed.writes as u64, flushed.packets as u64);
        more
    }

    /// Takes packets of the host. True if there is probably more.
    fn transmit(&mut self, now: Instant) -> bool {
        let plane = &self.shared.plane;
        if self.transmitter.is_blocked() && !self.transmitter.resume(plane, &mut self.to_network) {
            return true;
        }
        let table = plane.table();
        let (mut reads, mut packets, mut bytes, mut more) = (0, 0, 0, true);
        while more && reads < MOST_READS && bytes < ENOUGH && !self.transmitter.is_blocked() {
            match (&self.shared.tun.file).read(&mut self.read) {
                Ok(length) => {
                    reads += 1;
                    bytes += length;
                    let read = &self.read[..length];
                    let out = &mut self.to_network;
                    packets += self.transmitter.take(plane, &table, read, now, out);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => more = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if is_gone(&error) {
                        self.lose_tun(&error);
                    } else {
                        debug!(%error, "a packet was not read from the TUN interface");
                    }
                    more = false;
                }
            }
        }
        self.tally.read_packets(reads as u64, packets);
        self.transmitter
            .finish(plane, &table, now, &mut self.to_network);
        more
    }

    /// Nothing will come any more; the owner replaces the data plane.
    fn lose_tun(&self, error: &io::Error) {
        if !self.shared.tun_lost.swap(true, Ordering::Relaxed) {
            error!(%error, "the TUN interface is gone");
        }
        std::thread::sleep(Duration::from_millis(ROUND.into()));
    }
}

/// Whether an error of the TUN says that nothing will come of it any more.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBADF | libc::EBADFD | libc::EIO | libc::ENODEV | libc::ENXIO | libc::EFAULT)
    )
}

/// Socket and interface as an [`Output`].
struct Kernel<'s> {
    shared: &'s Shared,
    tally: &'s WorkerTally,
    outbox: Outbox,
    frame: Vec<u8>,
}

impl<'s> Kernel<'s> {
    fn new(shared: &'s Shared, tally: &'s WorkerTally) -> Self {
        Self {
            shared,
            tally,
            outbox: Outbox::new(),
            frame: Vec::with_capacity(BUFFER + relay::HEADER_BYTES),
        }
    }
}

impl Kernel<'_> {
    /// Sends [`Kernel::frame`].
    fn single(&mut self, to: SocketAddr, tos: Tos, is_probe: bool) -> Sent {
        let run = Run {
            to,
            start: 0,
            length: self.frame.len(),
            segment: self.frame.len(),
            tos,
            is_probe,
        };
        let sent = self.outbox.send(&self.shared.udp, &self.frame, &[run]);
        self.tally.sent_datagrams(1, sent.datagrams(&[run]));
        sent
    }
}

impl Output for Kernel<'_> {
    fn datagram(&mut self, to: SocketAddr, tos: Tos, header: &[u8], datagram: &[u8]) -> bool {
        self.frame.clear();
        self.frame.extend_from_slice(header);
        self.frame.extend_from_slice(datagram);
        let sent = self.single(to, tos, false);
        sent.runs == 1 && sent.lost == 0
    }

    fn probe(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.frame.clear();
        self.frame.extend_from_slice(datagram);
        // One that does not even leave tells as much as one that is lost.
        self.single(to, Tos::default(), true);
    }

    fn runs(&mut self, slab: &[u8], runs: &[Run]) -> Sent {
        let sent = self.outbox.send(&self.shared.udp, slab, runs);
        self.tally
            .sent_datagrams(sent.runs as u64, sent.datagrams(runs));
        sent
    }

    fn packet(&mut self, pieces: &[IoSlice<'_>]) -> Outcome {
        match nix::sys::uio::writev(&self.shared.tun.file, pieces) {
            // The kernel takes a packet whole or not at all.
            Ok(_) => Outcome::Written,
            Err(nix::errno::Errno::EINVAL) => Outcome::Refused,
            Err(error) => {
                debug!(%error, "a packet was not written to the TUN interface");
                Outcome::Failed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_started_end_when_another_does_not_start() {
        let stopping = Arc::new(AtomicBool::new(false));
        let first = stopping.clone();
        let run = move || {
            while !first.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
        };
        let watched = Arc::downgrade(&stopping);
        let starts = [
            std::thread::Builder::new().spawn(run),
            Err(io::Error::from_raw_os_error(libc::EAGAIN)),
        ];
        let started = all_or_none(starts.into_iter(), || {
            stopping.store(true, Ordering::Relaxed);
        });
        assert_eq!(started.unwrap_err().raw_os_error(), Some(libc::EAGAIN));
        assert_eq!(watched.strong_count(), 1, "the thread has ended");
    }

    #[test]
    fn the_tun_is_gone_at_some_errors_only() {
        for code in [libc::EBADFD, libc::EIO, libc::ENODEV, libc::ENXIO] {
            assert!(is_gone(&io::Error::from_raw_os_error(code)), "{code}");
        }
        for code in [libc::ENOMEM, libc::ENOBUFS, libc::EINVAL] {
            assert!(!is_gone(&io::Error::from_raw_os_error(code)), "{code}");
        }
    }
}
