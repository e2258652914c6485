//! The threads: one reads the TUN, one reads UDP, one keeps time. They only move bytes; [`Plane`] decides.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tracing::{debug, error};

use crate::peer::BUFFER_BYTES;
use crate::plane::{Buffers, Output, Plane};
use crate::relay;
use crate::udp::Udp;

/// A worker that has nothing to do goes round this often, which is also how often timers run.
const ROUND: u8 = 200;

/// Packets taken from one descriptor before the others' turn to stop the thread comes.
const BATCH: usize = 64;

/// What the threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plane: Plane,
    udp: Udp,
    tun: File,
    stop: EventFd,
    stopping: AtomicBool,
    tun_lost: AtomicBool,
    rounds: [AtomicU64; 3],
}

impl Shared {
    pub(crate) fn new(plane: Plane, udp: Udp, tun: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            plane,
            udp,
            tun: tun.into(),
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
        fail::eval(FAILPOINTS[worker], |_| ());
        self.rounds[worker].fetch_add(1, Ordering::Relaxed);
        !self.stopping.load(Ordering::Relaxed)
    }

    /// Waits until `fd` has something to read, the workers stop, or a round is over.
    fn wait(&self, fd: Option<&dyn AsFd>) {
        let stop = PollFd::new(self.stop.as_fd(), PollFlags::POLLIN);
        let timeout = PollTimeout::from(ROUND);
        let waited = match fd {
            Some(fd) => poll(
                &mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN), stop],
                timeout,
            ),
            None => poll(&mut [stop], timeout),
        };
        if let Err(error) = waited {
            debug!(%error, "poll was interrupted");
        }
    }
}

/// Where a test hangs a worker, in the order of [`start`].
#[cfg(feature = "failpoints")]
const FAILPOINTS: [&str; 3] = ["worker_tun", "worker_udp", "worker_timers"];

/// What one thread does until the workers stop.
type Work = fn(&Shared);

/// Starts the threads.
pub(crate) fn start(shared: &Arc<Shared>) -> io::Result<Vec<JoinHandle<()>>> {
    let workers: [(&str, Work); 3] = [
        ("pnsbox-tun", read_tun),
        ("pnsbox-udp", read_udp),
        ("pnsbox-timers", keep_time),
    ];
    let start = |(name, work): (&str, Work)| {
        let shared = shared.clone();
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || work(&shared))
    };
    workers.into_iter().map(start).collect()
}

fn read_tun(shared: &Shared) {
    let (mut packet, mut buffers, mut out) = (
        vec![0; BUFFER_BYTES],
        Buffers::default(),
        Kernel::new(shared),
    );
    while shared.runs(0) {
        shared.wait(Some(&shared.tun));
        for _ in 0..BATCH {
            match (&shared.tun).read(&mut packet) {
                Ok(0) => break,
                Ok(length) => shared.plane.handle_packet(
                    &packet[..length],
                    Instant::now(),
                    &mut buffers,
                    &mut out,
                ),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if !shared.tun_lost.swap(true, Ordering::Relaxed) {
                        error!(%error, "the TUN interface is gone");
                    }
                    // Nothing will come any more; the owner replaces the data plane.
                    std::thread::sleep(Duration::from_millis(ROUND.into()));
                    break;
                }
            }
        }
    }
}

fn read_udp(shared: &Shared) {
    let (mut datagram, mut buffers, mut out) = (
        vec![0; BUFFER_BYTES],
        Buffers::default(),
        Kernel::new(shared),
    );
    while shared.runs(1) {
        shared.wait(Some(shared.udp.socket()));
        for _ in 0..BATCH {
            match shared.udp.receive(&mut datagram) {
                Ok((length, from)) => {
                    shared.plane.handle_datagram(
                        &datagram[..length],
                        from,
                        Instant::now(),
                        &mut buffers,
                        &mut out,
                    );
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    debug!(%error, "a datagram was not received");
                    break;
                }
            }
        }
    }
}

fn keep_time(shared: &Shared) {
    let (mut buffers, mut out) = (Buffers::default(), Kernel::new(shared));
    while shared.runs(2) {
        shared.wait(None);
        shared.plane.tick(Instant::now(), &mut buffers, &mut out);
    }
}

/// Socket and interface as an [`Output`].
struct Kernel<'s> {
    shared: &'s Shared,
    frame: Vec<u8>,
}

impl<'s> Kernel<'s> {
    fn new(shared: &'s Shared) -> Self {
        Self {
            shared,
            frame: Vec::with_capacity(BUFFER_BYTES + relay::HEADER_BYTES),
        }
    }
}

impl Output for Kernel<'_> {
    fn datagram(&mut self, to: SocketAddr, header: &[u8], datagram: &[u8]) -> bool {
        let sent = if header.is_empty() {
            self.shared.udp.send(to, datagram)
        } else {
            self.frame.clear();
            self.frame.extend_from_slice(header);
            self.frame.extend_from_slice(datagram);
            self.shared.udp.send(to, &self.frame)
        };
        match sent {
            Ok(()) => true,
            Err(error) => {
                debug!(%to, %error, "a datagram was not sent");
                false
            }
        }
    }

    fn packet(&mut self, packet: &[u8]) -> bool {
        match nix::unistd::write(&self.shared.tun, packet) {
            // The kernel takes a packet whole or not at all.
            Ok(_) => true,
            Err(error) => {
                debug!(%error, "a packet was not written to the TUN interface");
                false
            }
        }
    }
}
