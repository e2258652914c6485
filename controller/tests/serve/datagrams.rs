//! Whatever comes to the UDP port from an address that is not known to receive, no more goes out than came in.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::random::Random;
use crate::support::{PATIENCE, dial, found, start};

/// As many as the operator was promised.
const DATAGRAMS: usize = 10_000;

/// Long enough for a server that waits for an acknowledgement to send its flight again, three times.
const LISTENED: Duration = Duration::from_secs(4);

/// A stranger that counts.
struct Stranger {
    socket: UdpSocket,
    sent: usize,
    received: usize,
}

impl Stranger {
    fn new(to: SocketAddr) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 7), 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            sent: 0,
            received: 0,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        let begun = Instant::now();
        while let Err(error) = self.socket.send(bytes) {
            assert!(begun.elapsed() < PATIENCE, "{error}");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.sent += bytes.len();
        self.receive();
    }

    fn receive(&mut self) {
        let mut buffer = [0; 2048];
        while let Ok(bytes) = self.socket.recv(&mut buffer) {
            self.received += bytes;
        }
        assert!(
            self.received <= self.sent,
            "{} bytes came back for {}",
            self.received,
            self.sent
        );
    }

    async fn listen(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < LISTENED {
            self.receive();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The first packet of an agent that dials.
async fn initial() -> Vec<u8> {
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let endpoint = dial::endpoint(Ipv4Addr::LOCALHOST, 50);
    let dialling = endpoint
        .connect(socket.local_addr().unwrap(), "pnsbox")
        .unwrap();
    let mut buffer = vec![0; 2048];
    let bytes = socket.recv(&mut buffer).await.unwrap();
    drop(dialling);
    buffer.truncate(bytes);
    buffer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_proved_nothing_never_gets_more_bytes_than_it_sent() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(&found(folder.path())).await;
    running.add("kab-demak", "10.44.0.0/16").await;
    let to = running.agents_at;
    let mut random = Random(4);

    let mut garbage = Stranger::new(to);
    for number in 0..DATAGRAMS {
        let size = random.below(1501);
        garbage.send(&random.bytes(size));
        if number % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }

    // Long headers of versions that nobody speaks (RFC 8999 section 5.1), of every size.
    let mut versions = Stranger::new(to);
    for size in (20..=1500).step_by(20) {
        let mut bytes = random.bytes(size);
        bytes[0] |= 0xc0;
        bytes[1..5].copy_from_slice(&0x5a5a_5a5a_u32.to_be_bytes());
        (bytes[5], bytes[14]) = (8, 0);
        versions.send(&bytes);
    }

    // A good first packet, cut short and with one bit changed.
    let good = initial().await;
    assert_eq!(good.len(), 1200);
    let mut damaged = Stranger::new(to);
    for size in (0..good.len()).step_by(50) {
        damaged.send(&good[..size]);
    }
    for _ in 0..100 {
        let mut bytes = good.clone();
        bytes[random.below(1200)] ^= 1 << random.below(8);
        damaged.send(&bytes);
    }

    // And good ones, one from each of ten.
    let mut dialling: Vec<Stranger> = (0..10).map(|_| Stranger::new(to)).collect();
    for stranger in &mut dialling {
        stranger.send(&initial().await);
    }
    for stranger in [&mut garbage, &mut versions, &mut damaged] {
        stranger.receive();
    }
    dialling[0].listen().await;
    for stranger in dialling
        .iter_mut()
        .chain([&mut garbage, &mut versions, &mut damaged])
    {
        stranger.receive();
    }
    let line = |name: &str, s: &Stranger| println!("{name}: {} in, {} out", s.sent, s.received);
    line("random", &garbage);
    line("unknown versions", &versions);
    line("damaged first packets", &damaged);
    line("one good first packet", &dialling[0]);
    assert!(
        garbage.received < garbage.sent / 1000,
        "nearly all garbage gets silence"
    );
    assert!(versions.received > 0 && damaged.received > 0);
    assert!(
        dialling
            .iter()
            .all(|s| s.received > 0 && s.received < s.sent / 4),
        "only a retry"
    );

    running.join(1, "kab-demak", "10.44.1.0/24", None).await;
    running.stop().await;
}
