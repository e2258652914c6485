//! Two network namespaces of a test's own, with a veth between them; gone when dropped.
//!
//! Needs root and iproute2; `scripts/test.sh` installs it.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "each test uses its part"
)]

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// Address of side a on the veth; side b has the next.
pub const OUTER_A: &str = "192.0.2.1";
/// Address of side b on the veth.
pub const OUTER_B: &str = "192.0.2.2";
/// The veth's name on both sides.
pub const UPLINK: &str = "u0";

/// Two namespaces, `a` and `b`.
#[derive(Debug)]
pub struct Net {
    name: String,
}

impl Net {
    /// Makes them.
    pub fn up() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces: run it as root"
        );
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let net = Self {
            name: format!("pnsn{}x{count}", std::process::id()),
        };
        let (a, b) = (net.namespace("a"), net.namespace("b"));
        for words in [
            format!("netns add {a}"),
            format!("netns add {b}"),
            format!("-n {a} link add {UPLINK} type veth peer name {UPLINK} netns {b}"),
            format!("-n {a} address add {OUTER_A}/24 dev {UPLINK}"),
            format!("-n {b} address add {OUTER_B}/24 dev {UPLINK}"),
            format!("-n {a} link set {UPLINK} up"),
            format!("-n {b} link set {UPLINK} up"),
            format!("-n {a} link set lo up"),
            format!("-n {b} link set lo up"),
        ] {
            run("ip", &words.split(' ').collect::<Vec<_>>(), "iproute2");
        }
        net
    }

    /// Name of a side's namespace.
    pub fn namespace(&self, side: &str) -> String {
        format!("{}{side}", self.name)
    }

    /// Does something in a thread of a side; what it opens and the threads it starts stay there.
    pub fn enter<T: Send>(&self, side: &str, act: impl FnOnce() -> T + Send) -> T {
        let handle = File::open(format!("/run/netns/{}", self.namespace(side))).unwrap();
        std::thread::scope(|scope| {
            let entered = scope.spawn(move || {
                setns(handle, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            entered.join().unwrap()
        })
    }

    /// `ip` in a side's namespace.
    pub fn ip(&self, side: &str, words: &str) {
        let namespace = self.namespace(side);
        let mut all = vec!["-n", &namespace];
        all.extend(words.split(' '));
        run("ip", &all, "iproute2");
    }

    /// A program in a side's namespace.
    pub fn exec(&self, side: &str, words: &str) {
        let namespace = self.namespace(side);
        let mut all = vec!["netns", "exec", &namespace];
        all.extend(words.split(' '));
        run("ip", &all, "iproute2 and the program");
    }

    /// Whether pings in a side's namespace are answered.
    pub fn ping(&self, side: &str, extra: &[&str], to: &str) -> bool {
        let namespace = self.namespace(side);
        let mut all = vec!["netns", "exec", &namespace, "ping", "-nq", "-W", "2"];
        all.extend(extra);
        all.push(to);
        Command::new("ip")
            .args(all)
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for side in ["a", "b"] {
            drop(
                Command::new("ip")
                    .args(["netns", "del", &self.namespace(side)])
                    .status(),
            );
        }
    }
}

/// Runs a program that must succeed.
pub fn run(program: &str, words: &[&str], needs: &str) {
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

/// Waits for at most ten seconds.
pub fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "not in 10 s: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
