//! Network namespaces of a test's own, with veths between them; gone when dropped.
//!
//! Needs root and iproute2; `scripts/test.sh` installs it.

use std::fs::File;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// Address of side a on the veth; side b has the next.
pub(crate) const OUTER_A: &str = "192.0.2.1";
/// Address of side b on the veth.
pub(crate) const OUTER_B: &str = "192.0.2.2";
/// The veth's name on both sides.
pub(crate) const UPLINK: &str = "u0";

/// Namespaces, each a side.
#[derive(Debug)]
pub(crate) struct Net {
    name: String,
    sides: Vec<&'static str>,
}

impl Net {
    /// Makes two, `a` and `b`, with a veth between them.
    pub(crate) fn up() -> Self {
        let net = Self::of(&["a", "b"]);
        net.veth(
            ["a", "b"],
            UPLINK,
            [OUTER_A, OUTER_B].map(|ip| format!("{ip}/24")),
        );
        net
    }

    /// Makes these, without a link between them.
    pub(crate) fn of(sides: &[&'static str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes network namespaces: run it as root"
        );
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let net = Self {
            name: format!("pnsn{}x{count}", std::process::id()),
            sides: sides.to_vec(),
        };
        for side in sides {
            let namespace = net.namespace(side);
            run("ip", &["netns", "add", &namespace], "iproute2");
            net.ip(side, "link set lo up");
        }
        net
    }

    /// A veth of this name on both sides, each with its address.
    pub(crate) fn veth(&self, sides: [&str; 2], name: &str, addresses: [String; 2]) {
        let peer = self.namespace(sides[1]);
        let link = format!("link add {name} type veth peer name {name} netns {peer}");
        self.ip(sides[0], &link);
        for (side, address) in sides.iter().zip(addresses) {
            let no_wait = if address.contains(':') { " nodad" } else { "" };
            self.ip(side, &format!("address add {address} dev {name}{no_wait}"));
            self.ip(side, &format!("link set {name} up"));
        }
    }

    /// Name of a side's namespace.
    pub(crate) fn namespace(&self, side: &str) -> String {
        format!("{}{side}", self.name)
    }

    /// Does something in a thread of a side; what it opens and the threads it starts stay there.
    pub(crate) fn enter<T: Send>(&self, side: &str, act: impl FnOnce() -> T + Send) -> T {
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
    pub(crate) fn ip(&self, side: &str, words: &str) {
        let command = format!("ip {words}");
        let output = self.run(side, &command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {said}");
    }

    /// A program in a side's namespace, and what became of it.
    pub(crate) fn run(&self, side: &str, command: &str) -> Output {
        let namespace = self.namespace(side);
        let mut words = vec!["netns", "exec", &namespace];
        words.extend(command.split(' '));
        Command::new("ip").args(words).output().unwrap()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for side in &self.sides {
            drop(
                Command::new("ip")
                    .args(["netns", "del", &self.namespace(side)])
                    .status(),
            );
        }
    }
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, words: &[&str], needs: &str) {
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
pub(crate) fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "not in 10 s: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
