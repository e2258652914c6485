//! The kernel as the judge: what it cuts out of our super-packets, what it makes of our writes, and whether its own TCP
//! and UDP live through our cutting and merging. Each test has network namespaces of its own, gone with its last descriptor.
//!
//! Needs root and iproute2, and Linux 6.2 for UDP.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use super::coalesce::{Coalescer, Flushed, Outcome};
use super::coalesce_tests::{compare_flows, cut, writes};
use super::headers::{ACK, CWR, PSH, Transport, Version, put_short, short};
use super::oracle_tests::healthy_burst;
use super::packets::{KINDS, Random, Sample};
use super::segment::Segments;
use super::vnet::{GSO_UDP_L4, VNET_HEADER, VnetHeader};

/// Nothing takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Offloads of `TUNSETOFFLOAD` (linux/if_tun.h): checksums, TCP and UDP over IPv4 and IPv6.
const OFFLOADS: libc::c_ulong = 0x01 | 0x02 | 0x04 | 0x20 | 0x40;

#[expect(unsafe_code, reason = "the TUN's ioctls have no safe wrapper")]
fn open_tun(name: &str, has_offloads: bool) -> File {
    const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: ifreq is plain data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let header = if has_offloads { libc::IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | header) as libc::c_short;
    // SAFETY: the descriptor is open, and the kernel reads and writes one ifreq, which outlives the call.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(
        outcome,
        0,
        "TUNSETIFF: {}; run as root",
        io::Error::last_os_error()
    );
    if has_offloads {
        // SAFETY: the descriptor is open, and the argument is a number.
        let outcome = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, OFFLOADS) };
        assert_eq!(outcome, 0, "TUNSETOFFLOAD: {}", io::Error::last_os_error());
    }
    file
}

/// Runs `body` in a thread with a new network namespace.
fn in_namespace<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root makes network namespaces");
        body()
    })
    .join()
    .unwrap()
}

/// `ip` in this thread's namespace.
fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(
        output.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn readable(tun: &File) -> bool {
    let mut fds = [PollFd::new(tun.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(100u8)).unwrap() > 0
}

/// A router between a TUN with offloads and one without.
struct Router {
    offloads: File,
    plain: File,
}

impl Router {
    /// In this thread's namespace. The first host of a [`Sample`] is at the TUN with offloads, the second at the other.
    fn new() -> Self {
        let router = Self {
            offloads: open_tun("offloads", true),
            plain: open_tun("plain", false),
        };
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
        }
        for (interface, host) in [("offloads", 2), ("plain", 3)] {
            ip(&format!("link set {interface} mtu 1500 txqueuelen 5000 up"));
            ip(&format!("route add 10.77.1.{host}/32 dev {interface}"));
            ip(&format!(
                "-6 route add fd77:100::{host}/128 dev {interface}"
            ));
        }
        router
    }

    /// What comes out behind one write, `count` packets.
    fn route(&self, write: &[u8], count: usize) -> Vec<Vec<u8>> {
        let written = (&self.offloads).write(write);
        assert_eq!(written.map_err(|e| e.to_string()), Ok(write.len()));
        let mut packets = Vec::new();
        let begun = Instant::now();
        while packets.len() < count {
            assert!(
                begun.elapsed() < PATIENCE,
                "{} of {count} came",
                packets.len()
            );
            if !readable(&self.plain) {
                continue;
            }
            let mut packet = vec![0; 2000];
            let length = (&self.plain).read(&mut packet).unwrap();
            packet.truncate(length);
            // The kernel says things of its own, from link-local addresses.
            if packet[0] >> 4 == 4 || packet[8] == 0xfd {
                packets.push(packet);
            }
        }
        packets
    }
}

/// A packet after a router.
fn routed(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[8] -= 1;
        // One less in a high half is one more in the complement; 0xFFFF does not occur (RFC 1624).
        let checksum = u32::from(short(&packet, 10)) + 0x100;
        put_short(&mut packet, 10, (checksum + (checksum >> 16)) as u16);
    } else {
        packet[7] -= 1;
    }
    packet
}

#[test]
fn the_kernel_cuts_super_packets_as_we_do() {
    in_namespace(|| {
        let router = Router::new();
        let mut random = Random(31);
        for (version, transport) in KINDS {
            for (bytes, size) in [
                (3000, 1000),
                (3001, 1000),
                (60_000, 1400),
                (64, 1),
                (999, 500),
            ] {
                let mut sample = Sample::new(version, transport, &random.bytes(bytes));
                sample.id = 0xffff;
                sample.sequence = u32::MAX - 100;
                sample.fragment = 0;
                sample.class = 0xb8;
                if transport == Transport::Tcp {
                    sample.options = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
                    sample.flags = CWR | ACK | PSH | 1;
                }
                let (vnet, packet) = sample.super_packet(size);
                let write = [&vnet.encode()[..], &packet].concat();
                let ours: Vec<Vec<u8>> = cut(&write).iter().map(|p| routed(p)).collect();
                let theirs = router.route(&write, ours.len());
                assert_eq!(ours, theirs, "{version:?} {transport:?}, {bytes} in {size}");
            }
        }
    });
}

#[test]
fn the_kernel_completes_a_checksum_as_we_do() {
    in_namespace(|| {
        let router = Router::new();
        for (version, transport) in KINDS {
            let sample = Sample::new(version, transport, &Random(32).bytes(777));
            let (vnet, packet) = sample.super_packet(0);
            let vnet = VnetHeader {
                gso_type: 0,
                ..vnet
            };
            let write = [&vnet.encode()[..], &packet].concat();
            let ours: Vec<Vec<u8>> = cut(&write).iter().map(|p| routed(p)).collect();
            assert_eq!(ours, router.route(&write, 1), "{version:?} {transport:?}");
        }
    });
}

#[test]
fn the_kernel_takes_every_kind_of_write_and_undoes_it() {
    in_namespace(|| {
        let router = Router::new();
        for (version, transport) in KINDS {
            for (count, bytes, last) in [
                (1, 500, 500),
                (2, 1, 1),
                (46, 1400, 7),
                (64, 300, 300),
                (3, 1400, 1400),
            ] {
                let mut packets: Vec<Vec<u8>> = Vec::new();
                let mut sample = Sample::new(version, transport, &[]);
                sample.options = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
                for number in 1..=count {
                    let length = if number == count { last } else { bytes };
                    sample = sample.next(&Random(number).bytes(length));
                    if number == count && transport == Transport::Tcp {
                        sample.flags |= PSH;
                    }
                    packets.push(sample.build());
                }
                let writes = writes(&packets);
                assert_eq!(writes.len(), 1);
                let expected: Vec<Vec<u8>> = packets.iter().map(|p| routed(p)).collect();
                assert_eq!(
                    router.route(&writes[0], packets.len()),
                    expected,
                    "{version:?} {transport:?}, {count}"
                );
            }
        }
    });
}

#[test]
fn the_kernel_undoes_what_becomes_of_random_bursts() {
    in_namespace(|| {
        let router = Router::new();
        for seed in 0..40 {
            let burst = healthy_burst(&mut Random(seed));
            let writes = writes(&burst);
            let after: Vec<Vec<u8>> = writes
                .iter()
                .flat_map(|write| router.route(write, cut(write).len()))
                .collect();
            let before: Vec<Vec<u8>> = burst.iter().map(|p| routed(p)).collect();
            compare_flows(&before, &after, &format!("seed {seed}"));
        }
    });
}

/// What goes between the TUNs of two hosts, until told to stop.
struct Wire<'f> {
    tuns: [&'f File; 2],
    /// Whether packets are merged again on the other side.
    merges: bool,
}

/// What a wire saw.
#[derive(Debug, Default)]
struct Traffic {
    super_packets: usize,
    udp_super_packets: usize,
    flushed: Flushed,
}

impl Wire<'_> {
    fn carry(&self, stop: &AtomicBool) -> Traffic {
        let mut traffic = Traffic::default();
        let mut coalescer = Coalescer::new();
        while !stop.load(Ordering::Relaxed) {
            let mut fds = self
                .tuns
                .map(|tun| PollFd::new(tun.as_fd(), PollFlags::POLLIN));
            poll(&mut fds, PollTimeout::from(20u8)).unwrap();
            for (from, to) in [(0, 1), (1, 0)] {
                self.carry_burst(self.tuns[from], self.tuns[to], &mut coalescer, &mut traffic);
            }
        }
        traffic
    }

    /// Up to 8 reads, cut, and written on the other side as one burst.
    fn carry_burst(
        &self,
        from: &File,
        mut to: &File,
        coalescer: &mut Coalescer,
        traffic: &mut Traffic,
    ) {
        let mut slab = vec![0; 1 << 20];
        let mut end = 0;
        let mut read = vec![0; VNET_HEADER + 65_535];
        for _ in 0..8 {
            let Ok(length) = (&mut &*from).read(&mut read) else {
                break;
            };
            let (vnet, packet) = read[..length].split_first_chunk().unwrap();
            let vnet = VnetHeader::decode(vnet);
            let segments = Segments::parse(vnet, packet).unwrap();
            traffic.super_packets += usize::from(segments.count() > 1);
            traffic.udp_super_packets += usize::from(vnet.gso_type == GSO_UDP_L4);
            for index in 0..segments.count() {
                let length = segments.length(index);
                segments.write(index, &mut slab[end..]);
                if self.merges {
                    coalescer.push(&slab, end, length);
                } else {
                    let write = [&[0; VNET_HEADER], &slab[end..end + length]].concat();
                    assert_eq!(to.write(&write).unwrap(), write.len());
                }
                end += length;
            }
        }
        let flushed = coalescer.flush(&slab, &mut |slices: &[IoSlice<'_>]| {
            to.write_vectored(slices)
                .map_or(Outcome::Failed, |_| Outcome::Written)
        });
        traffic.flushed.packets += flushed.packets;
        traffic.flushed.writes += flushed.writes;
        traffic.flushed.failed += flushed.failed;
    }
}

/// A host with a TUN: the TUN, and its namespace.
fn host(own: u8, other: u8) -> (File, File) {
    in_namespace(move || {
        let tun = open_tun("tun", true);
        ip("link set tun mtu 1380 txqueuelen 5000 up");
        ip(&format!(
            "address add 10.77.1.{own} peer 10.77.1.{other} dev tun"
        ));
        ip(&format!(
            "address add fd77:100::{own} peer fd77:100::{other} dev tun nodad"
        ));
        (tun, File::open("/proc/thread-self/ns/net").unwrap())
    })
}

/// Lets `first` run at host 2 and `second` at host 3, and tells what went between them.
fn between(
    merges: bool,
    first: impl FnOnce() + Send,
    second: impl FnOnce(&dyn Fn()) + Send,
) -> Traffic {
    let (tun, namespace) = host(2, 3);
    let (other_tun, other_namespace) = host(3, 2);
    let stop = AtomicBool::new(false);
    let wire = Wire {
        tuns: [&tun, &other_tun],
        merges,
    };
    let (ready, is_ready) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let carried = scope.spawn(|| wire.carry(&stop));
        let second = scope.spawn(move || {
            setns(other_namespace, CloneFlags::CLONE_NEWNET).unwrap();
            second(&|| ready.send(()).unwrap());
        });
        let first = scope.spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            is_ready.recv_timeout(PATIENCE).unwrap();
            first();
        });
        let outcomes = [first.join(), second.join()];
        stop.store(true, Ordering::Relaxed);
        let traffic = carried.join().unwrap();
        for outcome in outcomes {
            assert!(outcome.is_ok(), "{traffic:?}");
        }
        traffic
    })
}

fn addresses() -> [IpAddr; 2] {
    ["10.77.1.3", "fd77:100::3"].map(|text| text.parse().unwrap())
}

#[test]
fn the_kernels_tcp_lives_through_cutting_and_merging() {
    for address in addresses() {
        for merges in [false, true] {
            let bytes = Random(33).bytes(3 << 20);
            let traffic = between(
                merges,
                || {
                    let mut stream = TcpStream::connect(SocketAddr::new(address, 9)).unwrap();
                    stream.set_write_timeout(Some(PATIENCE)).unwrap();
                    stream.write_all(&bytes).unwrap();
                },
                |ready| {
                    let listener = TcpListener::bind(SocketAddr::new(address, 9)).unwrap();
                    ready();
                    let (mut stream, _) = listener.accept().unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    let mut received = Vec::new();
                    stream.read_to_end(&mut received).unwrap();
                    assert!(received == bytes, "{} bytes came", received.len());
                },
            );
            assert!(traffic.super_packets > 20, "{traffic:?}");
            let flushed = traffic.flushed;
            assert_eq!(flushed.failed, 0);
            assert!(
                !merges || flushed.writes * 4 < flushed.packets,
                "{flushed:?}"
            );
        }
    }
}

#[test]
fn the_kernels_udp_lives_through_cutting_and_merging() {
    for address in addresses() {
        for merges in [false, true] {
            let bytes = Random(34).bytes(40 * 1000 + 7);
            let all_came = AtomicBool::new(false);
            let traffic = between(
                merges,
                || {
                    let any = if address.is_ipv4() {
                        "0.0.0.0:0"
                    } else {
                        "[::]:0"
                    };
                    let socket = UdpSocket::bind(any).unwrap();
                    setsockopt(&socket, UdpGsoSegment, &1000).unwrap();
                    // Again if some got lost on the way, as a machine that is busy may let them.
                    let begun = Instant::now();
                    while !all_came.load(Ordering::Relaxed) && begun.elapsed() < PATIENCE {
                        socket.send_to(&bytes, SocketAddr::new(address, 9)).unwrap();
                        thread::park_timeout(Duration::from_millis(200));
                    }
                },
                |ready| {
                    let socket = UdpSocket::bind(SocketAddr::new(address, 9)).unwrap();
                    socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    ready();
                    receive_in_order(&socket, &bytes);
                    all_came.store(true, Ordering::Relaxed);
                },
            );
            assert!(traffic.udp_super_packets > 0, "{traffic:?}");
            let flushed = traffic.flushed;
            assert_eq!(flushed.failed, 0);
            let is_merged = flushed.writes * 2 < flushed.packets && flushed.packets >= 41;
            assert!(!merges || is_merged, "{flushed:?}");
        }
    }
}

/// Receives until the datagrams of `bytes` came one after the other; each that comes is one of them.
fn receive_in_order(socket: &UdpSocket, bytes: &[u8]) {
    let sent: Vec<&[u8]> = bytes.chunks(1000).collect();
    let mut came = 0;
    while came < sent.len() {
        let mut datagram = [0; 2000];
        let length = socket.recv(&mut datagram).unwrap();
        let number = sent.iter().position(|sent| **sent == datagram[..length]);
        let number = number.unwrap_or_else(|| panic!("{length} bytes that nobody sent"));
        came = if number == came || number == 0 {
            number + 1
        } else {
            0
        };
    }
}

#[test]
fn the_kernel_refuses_what_is_no_super_packet() {
    in_namespace(|| {
        let router = Router::new();
        let (vnet, packet) =
            Sample::new(Version::V4, Transport::Udp, &[7; 3000]).super_packet(1000);
        let vnet = VnetHeader {
            gso_type: 9,
            ..vnet
        };
        let write = [&vnet.encode()[..], &packet].concat();
        let error = (&router.offloads).write(&write).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    });
}
