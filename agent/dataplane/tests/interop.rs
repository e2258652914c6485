//! The data plane against Debian's wireguard-go, over a veth between two network namespaces of the test's own.
//!
//! Needs root, iproute2, wireguard-go and wireguard-tools; `scripts/test.sh` installs them.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use pnsbox_dataplane::snapshot::{PathConfig, PeerConfig, PublicKey, Snapshot};
use pnsbox_dataplane::{Dataplane, Settings, generate_private_key, public_key, tun};

const OURS: &str = "10.200.0.1";
const THEIRS: &str = "10.200.0.2";
const PORT: u16 = 51820;

/// Two namespaces with a veth between them; gone when dropped.
struct Net {
    name: String,
    theirs: Option<Child>,
}

impl Net {
    fn up() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces: run it as root"
        );
        let net = Self {
            name: format!("pnsit{}", std::process::id()),
            theirs: None,
        };
        let (a, b) = (net.namespace("a"), net.namespace("b"));
        for (words, why) in [
            (format!("netns add {a}"), "iproute2 and CAP_SYS_ADMIN"),
            (format!("netns add {b}"), "iproute2 and CAP_SYS_ADMIN"),
            (
                format!("-n {a} link add u0 type veth peer name u0 netns {b}"),
                "veth",
            ),
            (
                format!("-n {a} address add 192.0.2.1/24 dev u0"),
                "an address",
            ),
            (
                format!("-n {b} address add 192.0.2.2/24 dev u0"),
                "an address",
            ),
            (format!("-n {a} link set u0 up"), "veth"),
            (format!("-n {b} link set u0 up"), "veth"),
            (format!("-n {a} link set lo up"), "loopback"),
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            run("ip", &words, why);
        }
        net
    }

    fn namespace(&self, side: &str) -> String {
        format!("{}{side}", self.name)
    }

    /// Starts Debian's wireguard-go on side b and points it at us.
    fn start_wireguard_go(&mut self, private: &[u8; 32], ours: &PublicKey) {
        let interface = self.interface();
        let namespace = self.namespace("b");
        run(
            "wireguard-go",
            &["--version"],
            "Debian's package wireguard-go",
        );
        let child = Command::new("ip")
            .args([
                "netns",
                "exec",
                &namespace,
                "wireguard-go",
                "-f",
                &interface,
            ])
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
        let key_file = std::env::temp_dir().join(format!("{}.key", self.name));
        File::create(&key_file)
            .unwrap()
            .write_all(base64(private).as_bytes())
            .unwrap();
        let set = format!(
            "set {interface} listen-port {PORT} private-key {} peer {} allowed-ips {OURS}/32 endpoint 192.0.2.1:{PORT}",
            key_file.display(),
            base64(ours)
        );
        run("wg", &set.split(' ').collect::<Vec<_>>(), "wireguard-tools");
        std::fs::remove_file(key_file).unwrap();
        self.side("b", &format!("address add {THEIRS}/24 dev {interface}"));
        self.side("b", &format!("link set {interface} mtu 1380 up"));
    }

    /// Our data plane on side a.
    fn start_ours(&self, private: [u8; 32]) -> Dataplane {
        let handle = File::open(format!("/run/netns/{}", self.namespace("a"))).unwrap();
        let interface = self.interface();
        let dataplane = std::thread::spawn(move || {
            setns(handle, CloneFlags::CLONE_NEWNET).unwrap();
            let tun = tun::open(&interface).unwrap();
            Dataplane::start(Settings {
                tun,
                private_key: private.into(),
                listen: PORT,
                fwmark: 0,
                mtu: 1380,
            })
            .unwrap()
        })
        .join()
        .unwrap();
        self.side(
            "a",
            &format!("address add {OURS}/24 dev {}", self.interface()),
        );
        self.side("a", &format!("link set {} mtu 1380 up", self.interface()));
        dataplane
    }

    fn interface(&self) -> String {
        format!("it{}", std::process::id() % 1_000_000)
    }

    fn side(&self, side: &str, words: &str) {
        let namespace = self.namespace(side);
        let words = [
            &["-n", &namespace],
            &words.split(' ').collect::<Vec<_>>()[..],
        ]
        .concat();
        run("ip", &words, "iproute2");
    }

    fn ping(&self, side: &str, extra: &[&str], to: &str) -> bool {
        let namespace = self.namespace(side);
        let words = [
            &["netns", "exec", &namespace, "ping", "-nq", "-W", "2"],
            extra,
            &[to],
        ]
        .concat();
        Command::new("ip")
            .args(words)
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Some(mut child) = self.theirs.take() {
            // It may be gone already.
            drop(child.kill());
            drop(child.wait());
        }
        for side in ["a", "b"] {
            drop(
                Command::new("ip")
                    .args(["netns", "del", &self.namespace(side)])
                    .status(),
            );
        }
    }
}

#[test]
fn packets_pass_both_ways_whoever_begins() {
    let mut net = Net::up();
    let (our_key, their_key) = (
        generate_private_key().unwrap(),
        generate_private_key().unwrap(),
    );
    let dataplane = net.start_ours(our_key);
    net.start_wireguard_go(&their_key, &public_key(&our_key));
    let endpoint = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 2), PORT));
    let peer = PeerConfig {
        public_key: public_key(&their_key),
        allowed_prefixes: vec![format!("{THEIRS}/32").parse().unwrap()],
        path: PathConfig::Passive,
        persistent_keepalive: None,
    };

    // They begin: our side learns their endpoint from the handshake.
    dataplane
        .apply(Snapshot {
            peers: vec![peer.clone()],
            relays: Vec::new(),
        })
        .unwrap();
    assert!(
        net.ping("b", &["-c", "3", "-i", "0.2"], OURS),
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
            net.ping(
                "a",
                &["-c", "2", "-i", "0.2", "-s", size, "-M", "do"],
                THEIRS
            ),
            "{size} bytes"
        );
    }
    dataplane.stop();
}

fn run(program: &str, words: &[&str], needs: &str) {
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}; needs {needs}"));
    assert!(
        output.status.success(),
        "{program} {words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "not in 10 s: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
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
