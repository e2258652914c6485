//! Traffic whose every byte is known at the other end.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::pair::{Pair, Side};

/// Longer than anything takes on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that look random and are the same for a seed: xorshift64* (Vigna 2016).
pub(crate) fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sends so many bytes over one connection; how many arrived before the first wrong one.
pub(crate) fn tcp(pair: &Pair, from: Side, version: usize, seed: u64, length: usize) -> usize {
    let to: IpAddr = from.other().inner()[version].parse().unwrap();
    let bind = || TcpListener::bind((to, 0)).unwrap();
    let listener = pair.net.enter(from.other().name(), bind);
    let address = listener.local_addr().unwrap();
    let sent = content(seed, length);
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut got = Vec::new();
            // What came before an error counts.
            drop(stream.read_to_end(&mut got));
            got
        });
        pair.net.enter(from.name(), || {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
            stream.write_all(&sent).unwrap();
        });
        let got = receiver.join().unwrap();
        let is_longer = usize::from(got.len() > sent.len());
        let pairs = got.iter().zip(&sent);
        pairs.take_while(|(got, sent)| got == sent).count() + is_longer
    })
}

/// Two sockets, one on each side, connected through the tunnel.
pub(crate) fn udp_sockets(pair: &Pair, version: usize) -> [UdpSocket; 2] {
    let [first, second] = [Side::Ours, Side::Kernel].map(|side| {
        let address: IpAddr = side.inner()[version].parse().unwrap();
        let socket = pair
            .net
            .enter(side.name(), || UdpSocket::bind((address, 0)).unwrap());
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket
    });
    let addresses: [SocketAddr; 2] = [&first, &second].map(|socket| socket.local_addr().unwrap());
    first.connect(addresses[1]).unwrap();
    second.connect(addresses[0]).unwrap();
    [first, second]
}

/// Sends a datagram of each size to the other side and back; how many came unchanged, both ways together.
pub(crate) fn udp_echoes(pair: &Pair, version: usize, sizes: &[usize]) -> usize {
    let [ours, kernels] = udp_sockets(pair, version);
    let mut good = 0;
    let mut buffer = vec![0; 1 << 16];
    for (seed, size) in sizes.iter().enumerate() {
        for (from, to) in [(&ours, &kernels), (&kernels, &ours)] {
            let sent = content(seed as u64, *size);
            from.send(&sent).unwrap();
            let is_good = to
                .recv(&mut buffer)
                .is_ok_and(|length| buffer[..length] == sent);
            good += usize::from(is_good);
        }
    }
    good
}

/// What became of numbered datagrams.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Beats {
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    pub(crate) twice: u64,
}

/// Sends a numbered datagram each way every `interval`, for so long; what became of those of each side.
pub(crate) fn beats(pair: &Pair, duration: Duration, interval: Duration) -> [Beats; 2] {
    let [ours, kernels] = &udp_sockets(pair, 0);
    std::thread::scope(|scope| {
        let there = scope.spawn(move || beat(ours, kernels, duration, interval));
        let back = beat(kernels, ours, duration, interval);
        [there.join().unwrap(), back]
    })
}

fn beat(from: &UdpSocket, to: &UdpSocket, duration: Duration, interval: Duration) -> Beats {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || {
            let mut counts: HashMap<u64, u64> = HashMap::new();
            let mut number = [0; 8];
            // Until nothing comes any more, for as long as a read waits.
            while let Ok(8) = to.recv(&mut number) {
                *counts.entry(u64::from_le_bytes(number)).or_default() += 1;
            }
            counts
        });
        let mut sent = 0u64;
        while begun.elapsed() < duration {
            from.send(&sent.to_le_bytes()).unwrap();
            sent += 1;
            std::thread::sleep(interval);
        }
        let counts = receiver.join().unwrap();
        Beats {
            sent,
            lost: (0..sent)
                .filter(|number| !counts.contains_key(number))
                .count() as u64,
            twice: counts.values().filter(|count| **count > 1).count() as u64,
        }
    })
}
