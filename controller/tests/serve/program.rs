//! The real program as a process of its own, with a state directory, ports and a log of its own.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::PATIENCE;

/// A network on disk, and how to run the program on it.
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) agents_at: SocketAddr,
    pub(crate) http_at: SocketAddr,
}

/// `serve`, running. Killed when dropped.
pub(crate) struct Serving {
    child: Child,
}

impl Place {
    /// Made by the program's own `init`, in `folder`.
    pub(crate) fn found(folder: &Path) -> Self {
        let place = Self::new(folder);
        let init = place.run(&["init", "--network", "pns", "--address", "203.0.113.10:443"]);
        assert!(init.status.success(), "{init:?}");
        place
    }

    /// A configuration in `folder`, and no network yet.
    pub(crate) fn new(folder: &Path) -> Self {
        let free = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let udp = UdpSocket::bind(free(0)).unwrap();
        let tcp = TcpListener::bind(free(0)).unwrap();
        let place = Self {
            folder: folder.to_owned(),
            agents_at: udp.local_addr().unwrap(),
            http_at: tcp.local_addr().unwrap(),
        };
        let text = format!(
            "listen = [\"{}\"]\nstate_dir = \"{}\"\nsocket = \"{}\"\n[http]\nlisten = \"{}\"\n",
            place.agents_at,
            place.state_dir().display(),
            place.socket().display(),
            place.http_at,
        );
        std::fs::write(place.configuration(), text).unwrap();
        place
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("run/controller.sock")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("controller.toml")
    }

    /// The program with its configuration and nothing else in the environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pnsbox-controller"));
        command
            .arg("--config")
            .arg(self.configuration())
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null());
        command
    }

    /// Runs one command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The same where the state directory is mounted for reading only.
    pub(crate) fn run_read_only(&self, arguments: &[&str]) -> Output {
        let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
        self.in_own_mounts(script, &self.command(arguments))
            .output()
            .unwrap()
    }

    /// Starts `serve` with this log level, and waits until it answers.
    pub(crate) fn serve(&self, level: &str) -> Serving {
        let mut command = self.command(&["serve"]);
        command.env("RUST_LOG", level);
        self.start(command)
    }

    /// Makes a network on a file system of that `size` which only `serve` sees, and starts `serve`.
    pub(crate) fn serve_on_tmpfs(&self, size: &str) -> Serving {
        let script = format!(
            "mkdir -p \"$0\" && mount -t tmpfs -o mode=700,size={size} tmpfs \"$0\" && \
             \"$1\" \"$2\" \"$3\" init --network pns --address 203.0.113.10:443 && exec \"$@\""
        );
        self.start(self.in_own_mounts(&script, &self.command(&["serve"])))
    }

    /// `script` in a mount namespace of its own, with the state directory as `$0` and the `command` as `$@`.
    fn in_own_mounts(&self, script: &str, command: &Command) -> Command {
        let mut shell = Command::new("unshare");
        shell
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(self.state_dir())
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null());
        shell
    }

    /// Starts what serves, and waits until it answers.
    pub(crate) fn start(&self, mut command: Command) -> Serving {
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.log())
            .unwrap();
        let child = command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut serving = Serving { child };
        let begun = Instant::now();
        while TcpStream::connect(self.http_at).is_err() {
            assert_eq!(serving.child.try_wait().unwrap(), None, "{}", self.logged());
            assert!(begun.elapsed() < PATIENCE, "{}", self.logged());
            std::thread::sleep(Duration::from_millis(10));
        }
        serving
    }

    /// All that `serve` said.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Serving {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Most memory that it ever had, in MiB.
    pub(crate) fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib / 1024
    }

    /// Number of open file descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id()))
            .unwrap()
            .count()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself, which the test that cares has seen.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
