//! The data plane against Debian's wireguard-go, over a veth between two network namespaces of the test's own.
//!
//! Needs root, iproute2, nftables, wireguard-go and wireguard-tools; `scripts/test.sh` installs them.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod net;

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pnsbox_dataplane::snapshot::{PathConfig, PeerConfig, PublicKey, Snapshot};
use pnsbox_dataplane::{
    Dataplane, DropReason, DscpPolicy, HandshakeClock, ProtocolCore, Settings,
    generate_private_key, public_key, tun,
};

use crate::net::{Net, OUTER_A, OUTER_B, run, wait};

const OURS: &str = "10.200.0.1";
const THEIRS: &str = "10.200.0.2";
const PORT: u16 = 51820;

/// Ours on side a, theirs on side b.
struct Pair {
    net: Net,
    /// Name of both interfaces.
    interface: String,
    theirs: Option<Child>,
}

impl Pair {
    fn up() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            net: Net::up(),
            interface: format!("it{}x{count}", std::process::id()),
            theirs: None,
        }
    }

    /// Starts Debian's wireguard-go on side b and points it at us.
    fn start_wireguard_go(&mut self, private: &[u8; 32], ours: &PublicKey) {
        let interface = &self.interface;
        let namespace = self.net.namespace("b");
        run(
            "wireguard-go",
            &["--version"],
            "Debian's package wireguard-go",
        );
        let child = Command::new("ip")
            .args(["netns", "exec", &namespace, "wireguard-go", "-f", interface])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("wireguard-go is installed");
        self.theirs = Some(child);
        let socket = format!("/var/run/wireguard/{interface}.sock");
        wait("wireguard-go listens", || {
            std::path::Path::new(&socket).exists()
        });
        let key_file = std::env::temp_dir().join(format!("{interface}.key"));
        File::create(&key_file)
            .unwrap()
            .write_all(base64(private).as_bytes())
            .unwrap();
        let set = format!(
            "set {interface} listen-port {PORT} private-key {} peer {} allowed-ips {OURS}/32 endpoint {OUTER_A}:{PORT}",
            key_file.display(),
            base64(ours)
        );
        run("wg", &set.split(' ').collect::<Vec<_>>(), "wireguard-tools");
        std::fs::remove_file(key_file).unwrap();
        self.net
            .ip("b", &format!("address add {THEIRS}/24 dev {interface}"));
        self.net
            .ip("b", &format!("link set {interface} mtu 1380 up"));
    }

    /// Our data plane on side a.
    fn start_ours(&self, private: [u8; 32], clock: HandshakeClock) -> Dataplane {
        let interface = &self.interface;
        let dataplane = self.net.enter("a", || {
            let tun = tun::open(interface).unwrap();
            Dataplane::start(Settings {
                tun,
                private_key: private.into(),
                listen: PORT,
                fwmark: 0,
                mtu: 1380,
                core: ProtocolCore::default(),
                clock,
                dscp: DscpPolicy::default(),
            })
            .unwrap()
        });
        self.net
            .ip("a", &format!("address add {OURS}/24 dev {interface}"));
        self.net
            .ip("a", &format!("link set {interface} mtu 1380 up"));
        dataplane
    }

    /// Both, and what we know of them: they call.
    fn start(&mut self) -> (Dataplane, PeerConfig) {
        let (our_key, their_key) = (
            generate_private_key().unwrap(),
            generate_private_key().unwrap(),
        );
        let dataplane = self.start_ours(our_key, HandshakeClock::new(None));
        self.start_wireguard_go(&their_key, &public_key(&our_key));
        let peer = PeerConfig {
            public_key: public_key(&their_key),
            allowed_prefixes: vec![format!("{THEIRS}/32").parse().unwrap()],
            path: PathConfig::Passive,
            persistent_keepalive: None,
        };
        let snapshot = Snapshot {
            peers: vec![peer.clone()],
            relays: Vec::new(),
        };
        dataplane.apply(snapshot).unwrap();
        (dataplane, peer)
    }

    /// A rule of a side's packet filter, in a chain of its own at this hook.
    fn filter(&self, side: &str, hook: &str, rule: &str) {
        for words in [
            "add table inet t".to_owned(),
            format!("add chain inet t {hook} {{ type filter hook {hook} priority -300 ; }}"),
            format!("add rule inet t {hook} {rule}"),
        ] {
            let output = self.net.run(side, &format!("nft {words}"));
            assert!(output.status.success(), "nft {words}: {output:?}");
        }
    }

    /// What the one rule of a side that counts has counted.
    fn counted(&self, side: &str) -> u64 {
        let output = self.net.run(side, "nft list table inet t");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut words = text.split_whitespace();
        words.find(|word| *word == "packets").unwrap();
        words.next().unwrap().parse().unwrap()
    }

    fn ping(&self, side: &str, extra: &[&str], to: &str) -> bool {
        let extra = extra.join(" ");
        let ping = format!("ping -nq -W 2 {extra} {to}");
        self.net.run(side, &ping).status.success()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if let Some(mut child) = self.theirs.take() {
            // It may be gone already.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[test]
fn packets_pass_both_ways_whoever_begins() {
    let mut pair = Pair::up();
    let (dataplane, peer) = pair.start();
    let endpoint = SocketAddr::new(OUTER_B.parse().unwrap(), PORT);

    // They begin: our side learns their endpoint from the handshake.
    assert!(
        pair.ping("b", &["-c", "3", "-i", "0.2"], OURS),
        "wireguard-go begins"
    );
    let counters = dataplane.counters();
    assert_eq!(
        counters.peers[0]
            .endpoint
            .map(|e| (e.ip().to_canonical(), e.port())),
        Some((endpoint.ip(), PORT))
    );
    assert!(counters.peers[0].last_handshake.is_some() && counters.peers[0].rx_packets >= 3);

    // Forgotten and made anew, we begin; sizes around the padding and up to the MTU.
    dataplane.apply(Snapshot::default()).unwrap();
    let direct = PeerConfig {
        path: PathConfig::Direct(endpoint),
        ..peer
    };
    dataplane
        .apply(Snapshot {
            peers: vec![direct],
            relays: Vec::new(),
        })
        .unwrap();
    for size in ["0", "1", "15", "16", "17", "1000", "1352"] {
        assert!(
            pair.ping(
                "a",
                &["-c", "2", "-i", "0.2", "-s", size, "-M", "do"],
                THEIRS
            ),
            "{size} bytes"
        );
    }
    dataplane.stop();
}

/// The clock of a box was years ahead, then it reboots with one that is right: to its peer, in the past.
#[test]
fn a_box_that_reboots_into_the_past_is_taken_and_one_that_forgot_is_not() {
    const TEN_YEARS: u64 = 315_569_520;
    let keys = [(); 2].map(|()| generate_private_key().unwrap());
    let mut pair = Pair::up();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let ahead = HandshakeClock::new(Some(now.as_secs() + TEN_YEARS));
    let peer = PeerConfig {
        public_key: public_key(&keys[1]),
        allowed_prefixes: vec![format!("{THEIRS}/32").parse().unwrap()],
        path: PathConfig::Direct(SocketAddr::new(OUTER_B.parse().unwrap(), PORT)),
        persistent_keepalive: None,
    };
    let boot = |pair: &Pair, clock| {
        let dataplane = pair.start_ours(keys[0], clock);
        let (peers, relays) = (vec![peer.clone()], Vec::new());
        dataplane.apply(Snapshot { peers, relays }).unwrap();
        dataplane
    };
    // wireguard-go would begin a handshake itself, 15 s after what nobody answered: it is ours that is judged.
    let initiation = format!("ip saddr {OUTER_B} udp sport {PORT} @th,64,8 1 drop");
    pair.filter("a", "prerouting", &initiation);
    let before = boot(&pair, ahead.clone());
    pair.start_wireguard_go(&keys[1], &public_key(&keys[0]));
    let crosses = |pair: &Pair| pair.ping("a", &["-c", "1"], THEIRS);
    wait("traffic crosses", || crosses(&pair));
    let on_disk = ahead.reservation_due();
    assert!(on_disk.is_some());
    before.stop();

    let forgot = boot(&pair, HandshakeClock::new(None));
    assert!(!crosses(&pair) && !crosses(&pair), "wireguard-go remembers");
    assert_eq!(forgot.counters().peers[0].handshakes, 0);
    forgot.stop();

    let begun = Instant::now();
    let rebooted = boot(&pair, HandshakeClock::new(on_disk));
    wait("traffic crosses", || crosses(&pair));
    let took = begun.elapsed();
    println!("wireguard-go takes the rebooted box after {took:.1?}, of 30 s");
    assert!(took < Duration::from_secs(30));
    rebooted.stop();
}

/// wireguard-go shows no marks and takes none over: we do both, towards it too.
#[test]
fn what_wireguard_go_sends_takes_over_marks_and_what_it_gets_carries_them() {
    let mut pair = Pair::up();
    let (dataplane, _) = pair.start();
    let congested = format!("udp dport {PORT} ip ecn set ce");
    pair.filter("a", "prerouting", &congested);
    let interface = &pair.interface;
    let inside = format!("iifname {interface} icmp type echo-request ip ecn ce counter");
    pair.filter("a", "input", &inside);
    let outside = format!("ip saddr {OUTER_A} udp sport {PORT} ip ecn ce counter");
    pair.filter("b", "prerouting", &outside);

    // ECT(0); the answer has the type of service of the question.
    let marked = ["-c", "3", "-i", "0.2", "-Q", "2"];
    assert!(pair.ping("b", &marked, OURS), "handshakes may be marked");
    assert_eq!((pair.counted("a"), pair.counted("b")), (3, 3));

    let ping = format!("ping -nq -c 2 -i 0.2 -W 0.3 {OURS}");
    assert!(!pair.net.run("b", &ping).status.success());
    let drops = dataplane.counters().drops;
    assert!(drops.contains(&(DropReason::EcnCeNotEct, 2)), "{drops:?}");
    dataplane.stop();
}

/// Standard base64, as `wg` reads keys.
fn base64(bytes: &[u8; 32]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(
                ALPHABET[(word >> (18 - 6 * place)) as usize & 63],
            ));
        }
    }
    text + "="
}
