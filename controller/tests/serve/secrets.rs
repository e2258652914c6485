//! Keys and tokens stay where they belong: not in logs, arguments, environment, core files or other processes' reach.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use pnsbox_proto::anchor::Anchor;
use pnsbox_proto::message::ToAgent;

use crate::program::Place;
use crate::support::{Disk, connect, request};

/// What `secret` looks like in text: as bytes, in hexadecimal of both cases, in base64, as Rust prints arrays.
fn shapes(secret: &[u8]) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let hex = pnsbox_proto::key::hex_encode(secret);
    vec![
        secret.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        STANDARD.encode(secret).into_bytes(),
        URL_SAFE_NO_PAD.encode(secret).into_bytes(),
        format!("{secret:?}").trim_matches(['[', ']']).into(),
    ]
}

fn assert_without(place: &str, text: &[u8], secrets: &[Vec<u8>]) {
    for secret in secrets {
        let found = text.windows(secret.len()).any(|window| window == secret);
        assert!(
            !found,
            "{place} holds {:?}",
            String::from_utf8_lossy(secret)
        );
    }
}

/// The device's private key in a printed configuration.
fn private_key(configuration: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let text = String::from_utf8(configuration.to_vec()).unwrap();
    let mut lines = text.lines();
    let key = lines.find_map(|line| line.strip_prefix("PrivateKey = "));
    STANDARD.decode(key.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_and_no_token_leaves_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path());
    std::fs::create_dir(place.state_dir()).unwrap();
    let mut secrets = Vec::new();
    for (name, byte) in [("root.key", 0xa7), ("controller.key", 0xb9)] {
        let seed = [byte; 32];
        let path = place.state_dir().join(name);
        std::fs::write(&path, pnsbox_proto::key::hex_encode(&seed)).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, private).unwrap();
        secrets.extend(shapes(&seed));
    }
    let traced = |arguments: &[&str]| {
        let output = place
            .command(arguments)
            .env("RUST_LOG", "trace")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        output
    };
    let init = traced(&["init", "--network", "pns", "--address", "203.0.113.10:443"]);
    assert_without("init", &[init.stdout, init.stderr].concat(), &secrets);

    let serving = place.serve("trace");
    traced(&["agency", "add", "kab-demak", "--prefix", "10.44.0.0/16"]);
    let invite = traced(&["invite", "kab-demak"]);
    let line = String::from_utf8(invite.stdout).unwrap();
    let anchor: Anchor = line.trim().parse().unwrap();
    secrets.extend(shapes(&anchor.token.0));
    secrets.push(line.trim().as_bytes().to_vec());
    assert_without("what invite explains", &invite.stderr, &secrets);

    let mut agent = connect(place.agents_at, 1, &Disk::default()).await;
    agent
        .say(&request(
            1,
            anchor.token.clone(),
            "10.44.1.0/24",
            Some("203.0.113.30:51820"),
        ))
        .await;
    assert!(matches!(agent.hear().await, ToAgent::Joined { .. }));
    agent.take_view(&mut Disk::default()).await;
    let external = traced(&["external", "add", "laptop", "--agency", "kab-demak"]);
    secrets.extend(shapes(&private_key(&external.stdout)));
    assert_without("what external explains", &external.stderr, &secrets);
    let show = traced(&["external", "show", "kab-demak/laptop"]);
    assert_without("show", &[show.stdout, show.stderr].concat(), &secrets);
    let status = traced(&["status", "--json"]);
    assert_without("status", &[status.stdout, status.stderr].concat(), &secrets);

    let process = |name: &str| std::fs::read(format!("/proc/{}/{name}", serving.id())).unwrap();
    assert_without("cmdline", &process("cmdline"), &secrets);
    assert_without("environ", &process("environ"), &secrets);
    let limits = String::from_utf8(process("limits")).unwrap();
    let cores = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(
        cores.split_whitespace().skip(4).take(2).collect::<Vec<_>>(),
        ["0", "0"],
        "no core file"
    );
    drop(serving);

    let log = std::fs::read(place.log()).unwrap();
    assert!(
        String::from_utf8_lossy(&log).contains("TRACE"),
        "the log is a trace"
    );
    assert_without("the log", &log, &secrets);
    // At rest: keys in their own files only, tokens nowhere.
    for name in ["pnsbox.db", "pnsbox.db-wal"] {
        let text = std::fs::read(place.state_dir().join(name)).unwrap_or_default();
        assert_without(name, &text, &secrets);
    }
    for name in ["root.key", "controller.key"] {
        let mode = std::fs::metadata(place.state_dir().join(name))
            .unwrap()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn other_processes_of_its_user_cannot_read_its_memory() {
    const NOBODY: u32 = 65_534;
    let folder = tempfile::tempdir().unwrap();
    let place = Place::found(folder.path());
    let program = folder.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_pnsbox-controller"), &program).unwrap();
    let owner = Command::new("chown")
        .args(["-R", "65534:65534"])
        .arg(folder.path())
        .status();
    assert!(owner.unwrap().success());
    let mut command = Command::new(program);
    command
        .args(place.command(&["serve"]).get_args())
        .uid(NOBODY)
        .gid(NOBODY);
    let serving = place.start(command);
    // The kernel gives these files to root when the process may not be dumped (proc(5)).
    let environ = std::fs::metadata(format!("/proc/{}/environ", serving.id())).unwrap();
    assert_eq!(environ.uid(), 0);
}
