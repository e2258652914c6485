//! Debian's wireguard-go at one end, told and asked over its own socket (wireguard.com/xplatform).

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use pnsbox_dataplane::{PathConfig, public_key};

use crate::net::{Net, OUTER_A, OUTER_B, wait};
use crate::node::{Node, PORT, at, peer};
use crate::pair::{A, SMALLEST_MTU, ping};
use crate::table::exactly;

/// One wireguard-go.
pub(crate) struct Theirs {
    private: [u8; 32],
    pub(crate) interface: String,
    socket: String,
    child: Child,
}

impl Theirs {
    /// Starts it in a side's namespace, without a peer.
    pub(crate) fn up(net: &Net, side: &str, private: [u8; 32], address: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Sockets of all namespaces lie in one folder.
        let interface = format!("wg{}x{count}", std::process::id());
        let child = Command::new("ip")
            .args(["netns", "exec", &net.namespace(side)])
            .args(["wireguard-go", "-f", &interface])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let theirs = Self {
            private,
            socket: format!("/var/run/wireguard/{interface}.sock"),
            interface,
            child: child.expect("wireguard-go is installed"),
        };
        wait("wireguard-go listens", || {
            UnixStream::connect(&theirs.socket).is_ok()
        });
        theirs.tell(&format!(
            "set=1\nprivate_key={}\nlisten_port={}\n\n",
            hex(&private),
            PORT + 1
        ));
        net.ip(
            side,
            &format!("address add {address} dev {}", theirs.interface),
        );
        net.ip(
            side,
            &format!("link set {} mtu {SMALLEST_MTU} up", theirs.interface),
        );
        theirs
    }

    pub(crate) fn key(&self) -> [u8; 32] {
        public_key(&self.private)
    }

    pub(crate) fn set_peer(&self, key: &[u8; 32], allowed: &str, endpoint: &str) {
        let key = hex(key);
        self.tell(&format!(
            "set=1\npublic_key={key}\nallowed_ip={allowed}\nendpoint={endpoint}\n\n"
        ));
    }

    /// Bytes that it sent and received.
    fn bytes(&self) -> [u64; 2] {
        let said = self.tell("get=1\n\n");
        ["tx_bytes=", "rx_bytes="].map(|name| {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {said}"))
                .parse()
                .unwrap()
        })
    }

    fn tell(&self, words: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.write_all(words.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.contains("errno=0"), "{words}: {said}");
        said
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_file(&self.socket));
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn both_ends_count_the_same_bytes() {
    let net = Net::up();
    let ours = Node::up(&net, "a", 1, &["10.200.0.1/24"], SMALLEST_MTU);
    let theirs = Theirs::up(&net, "b", [2; 32], "10.200.0.2/24");
    ours.set(vec![peer(
        theirs.key(),
        &["10.200.0.2/32"],
        PathConfig::Passive,
    )]);
    theirs.set_peer(&ours.key(), "10.200.0.1/32", &format!("{OUTER_A}:{PORT}"));
    let same = |what: &str| {
        let seen = ours.peer(theirs.key());
        exactly(
            what,
            theirs.bytes(),
            [seen.rx_wire_bytes, seen.tx_wire_bytes],
        );
    };
    for size in [0, 56, 1000, 1252] {
        let how = format!("-W 10 -M do -s {size}");
        assert_eq!(ping(&net, "b", 10, &how, A), 10);
        same(&format!(
            "wireguard-go sent, received, after pings of {size}"
        ));
    }
    // Made anew, we begin.
    ours.set(Vec::new());
    let before = theirs.bytes();
    let path = at(&format!("{OUTER_B}:{}", PORT + 1));
    ours.set(vec![peer(theirs.key(), &["10.200.0.2/32"], path)]);
    assert_eq!(ping(&net, "a", 10, "-W 10", "10.200.0.2"), 10);
    let seen = ours.peer(theirs.key());
    let more = [0, 1].map(|place| theirs.bytes()[place] - before[place]);
    exactly(
        "and as the initiator",
        more,
        [seen.rx_wire_bytes, seen.tx_wire_bytes],
    );
}
