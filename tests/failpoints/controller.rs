//! `pnsbox-controller`, killed while it makes keys, makes its network, changes and answers.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use pnsbox_controller::store::Store;

/// SIGKILL, signal(7).
const KILLED: i32 = 9;

const PATIENCE: Duration = Duration::from_secs(20);

/// Every step of `init`. The keys are two, so a step of theirs is passed twice.
const INIT: [&str; 16] = [
    "init_before_store=return",
    "store_mid_migration=return",
    "key_before_write=return",
    "key_after_write_before_fsync=return",
    "key_after_fsync_before_rename=return",
    "key_after_rename_before_dirsync=return",
    "init_between_keys=return",
    "key_before_write=1*off->return",
    "key_after_write_before_fsync=1*off->return",
    "key_after_fsync_before_rename=1*off->return",
    "key_after_rename_before_dirsync=1*off->return",
    "init_before_network=return",
    "store_before_transaction=return",
    "store_between_writes=return",
    "store_before_commit=return",
    "store_after_commit=return",
];

/// Steps of a change, and whether the change is made when it is killed there.
const CHANGE: [(&str, bool); 5] = [
    ("store_before_transaction=return", false),
    ("store_between_writes=return", false),
    ("store_between_writes=1*off->return", false),
    ("store_before_commit=return", false),
    ("store_after_commit=return", true),
];

struct Place {
    folder: PathBuf,
    http_at: SocketAddr,
}

impl Place {
    fn new(folder: &Path) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let http_at = free.local_addr().unwrap();
        let text = format!(
            "listen = [\"127.0.0.1:0\"]\nstate_dir = \"{0}/state\"\nsocket = \"{0}/run/socket\"\n[http]\nlisten = \"{http_at}\"\n",
            folder.display()
        );
        std::fs::write(folder.join("controller.toml"), text).unwrap();
        Self {
            folder: folder.to_owned(),
            http_at,
        }
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn command(&self, failpoints: &str, arguments: &[&str]) -> Command {
        let program = std::env::current_exe().unwrap();
        let folder = program.ancestors().nth(2).unwrap();
        let mut command = Command::new(folder.join("pnsbox-controller"));
        command
            .arg("--config")
            .arg(self.folder.join("controller.toml"))
            .args(arguments)
            .env("FAILPOINTS", failpoints)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, failpoints: &str, arguments: &[&str]) -> Output {
        self.command(failpoints, arguments).output().unwrap()
    }

    fn init(&self, failpoints: &str) -> Output {
        let arguments = ["init", "--network", "pns", "--address", "203.0.113.10:443"];
        self.run(failpoints, &arguments)
    }

    fn add(&self, failpoints: &str, name: &str, prefix: &str) -> Output {
        self.run(failpoints, &["agency", "add", name, "--prefix", prefix])
    }

    /// The keys that are there, each of them whole and private.
    fn keys(&self) -> BTreeMap<&'static str, Vec<u8>> {
        let mut keys = BTreeMap::new();
        for name in ["root.key", "controller.key", "admission.key"] {
            let path = self.state().join(name);
            if let Ok(text) = std::fs::read(&path) {
                assert_eq!(text.len(), 65, "{name} is whole");
                assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
                keys.insert(name, text);
            }
        }
        keys
    }

    /// Nothing is damaged; how many entries there are whose key begins with each of these words.
    fn entries<const N: usize>(&self, words: [&str; N]) -> [usize; N] {
        let status = self.run("", &["status", "--json"]);
        assert_ok(&status);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        let none = serde_json::json!([]);
        assert_eq!(status["warnings"], none, "the audit chain is whole");
        let store = Store::open(&self.state(), PATIENCE).unwrap();
        words.map(|word| store.list(word).unwrap().len())
    }

    fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.http_at).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// What lies in the state directory.
    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.state())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn assert_ok(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

fn assert_killed(step: &str, status: ExitStatus) {
    assert_eq!(
        status.signal(),
        Some(KILLED),
        "{step}: {status}; the program must be built with failpoints: cargo build --workspace"
    );
}

#[test]
fn init_killed_at_any_step_can_be_said_again_and_loses_no_key() {
    for step in INIT {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path());
        assert_killed(step, place.init(step).status);
        let before = place.keys();
        let again = place.init("");
        if step.starts_with("store_after_commit") {
            let said = String::from_utf8_lossy(&again.stderr).into_owned();
            assert!(said.contains("already holds the network pns"), "{said}");
        } else {
            assert_ok(&again);
        }
        let after = place.keys();
        assert_eq!(after.len(), 3, "{step}");
        for (name, text) in before {
            assert_eq!(after[name], text, "{step}: {name} is the same");
        }
        assert_eq!(place.entries(["network", "audit/"]), [1, 1], "{step}");
        let expected = [
            "admission.key",
            "controller.key",
            "lock",
            "pnsbox.db",
            "root.key",
        ];
        assert_eq!(place.files(), expected, "{step}");
        assert_ok(&place.add("", "kab-demak", "10.44.0.0/16"));
    }
}

#[test]
fn a_command_killed_at_any_step_changed_all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path());
    assert_ok(&place.init(""));
    assert_ok(&place.add("", "kab-demak", "10.44.0.0/16"));
    let (mut tokens, mut deeds) = (0, 2);
    let answered = ("command_before_answer=return", true);
    for (number, (step, made)) in CHANGE.into_iter().chain([answered]).enumerate() {
        let node = format!("gw{number}");
        let killed = place.run(step, &["invite", "kab-demak", "--node", &node]);
        assert_killed(step, killed.status);
        assert!(killed.stdout.is_empty(), "{step}: no anchor was promised");
        tokens += usize::from(made);
        deeds += usize::from(made);
        assert_eq!(
            place.entries(["token/", "audit/"]),
            [tokens, deeds],
            "{step}"
        );
    }
    assert_ok(&place.run("", &["invite", "kab-demak"]));
}

/// `serve`, which ends when it is killed at its step, or with the test.
struct Serving(Child);

impl Serving {
    fn start(place: &Place, failpoints: &str) -> Self {
        let mut command = place.command(failpoints, &["serve"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut serving = Self(child.spawn().unwrap());
        let begun = Instant::now();
        let socket = place.folder.join("run/socket");
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert_eq!(serving.0.try_wait().unwrap(), None, "{failpoints}");
            assert!(begun.elapsed() < PATIENCE, "{failpoints}");
            std::thread::sleep(Duration::from_millis(10));
        }
        serving
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have been killed by its step.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_serving_controller_killed_at_any_step_changed_all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path());
    assert_ok(&place.init(""));
    let keys = place.keys();
    let (mut agencies, mut deeds) = (0, 1);
    let answers = ["loop_before_outputs=return", "loop_before_replies=return"];
    let steps = CHANGE
        .into_iter()
        .chain(answers.map(|step| (step, true)))
        .enumerate();
    for (number, (step, made)) in steps {
        let mut serving = Serving::start(&place, step);
        let prefix = format!("10.{number}.0.0/16");
        let added = place.add("", &format!("kab-{number}"), &prefix);
        assert!(!added.status.success(), "{step}: nothing was promised");
        assert_killed(step, serving.0.wait().unwrap());
        agencies += usize::from(made);
        deeds += usize::from(made);
        assert_eq!(
            place.entries(["agency/", "audit/"]),
            [agencies, deeds],
            "{step}"
        );
        assert_eq!(place.keys(), keys);
        let serving = Serving::start(&place, "");
        assert_ok(&place.run("", &["agency", "list"]));
        drop(serving);
    }
}

#[test]
fn a_controller_that_hangs_gives_no_list_of_targets() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path());
    assert_ok(&place.init(""));
    let serving = Serving::start(&place, "store_before_commit=pause");
    assert!(place.page("/sd").starts_with("HTTP/1.1 200 OK"));
    let mut add = place
        .command(
            "",
            &["agency", "add", "kab-demak", "--prefix", "10.44.0.0/16"],
        )
        .spawn()
        .unwrap();
    let begun = Instant::now();
    loop {
        let page = place.page("/sd");
        if page.starts_with("HTTP/1.1 503") {
            assert!(
                page.contains("the controller's core has not answered for"),
                "{page}"
            );
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{page}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(place.page("/metrics").starts_with("HTTP/1.1 200 OK"));
    drop(serving);
    assert!(!add.wait().unwrap().success(), "nothing was promised");
    assert_eq!(place.entries(["agency/", "audit/"]), [0, 1]);
}
