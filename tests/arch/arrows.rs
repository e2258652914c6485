//! Who may know whom.

use std::collections::{BTreeMap, BTreeSet};

use super::{root, rust_files};

/// Our crates that each of our crates may name, and why no other.
const ARROWS: &[(&str, &[&str], &str)] = &[
    ("proto", &[], "both programs and the fuzzers link it"),
    (
        "proto/program",
        &[],
        "both programs link it, whatever they do",
    ),
    (
        "proto/transport",
        &["pnsbox-proto"],
        "both programs link it",
    ),
    (
        "agent/core",
        &["pnsbox-proto"],
        "a test must own time, entropy and the network",
    ),
    (
        "agent/dataplane",
        &[],
        "packets know no policy source and wait for nobody",
    ),
    (
        "agent",
        &[
            "pnsbox-proto",
            "pnsbox-program",
            "pnsbox-transport",
            "pnsbox-agent-core",
            "pnsbox-dataplane",
        ],
        "agent and controller meet only in proto",
    ),
    (
        "controller/core",
        &["pnsbox-proto"],
        "a test must own time, entropy and the network",
    ),
    (
        "controller",
        &[
            "pnsbox-proto",
            "pnsbox-program",
            "pnsbox-transport",
            "pnsbox-controller-core",
        ],
        "agent and controller meet only in proto",
    ),
    (
        "tests/bench",
        &["pnsbox-dataplane"],
        "it measures the bare data plane, as it is installed",
    ),
];

/// Crates that a crate of ours must not name, and why.
const BANNED: &[(&str, &[&str], &str)] = &[
    (
        "proto",
        &["tokio", "quinn", "rustls", "nix", "libc"],
        "types and their encoding, no behaviour",
    ),
    ("agent/core", SHELL_CRATES, "a core decides, the shell does"),
    (
        "controller/core",
        SHELL_CRATES,
        "a core decides, the shell does",
    ),
    (
        "agent/dataplane",
        &["tokio", "quinn", "rustls", "toml", "serde", "serde_json"],
        "plain threads, plain types",
    ),
    (
        "agent",
        &["rusqlite", "boringtun"],
        "the store is the controller's, the tunnels are the data plane's",
    ),
    (
        "controller",
        &["boringtun", "rtnetlink", "netlink-packet-route"],
        "it carries no user traffic",
    ),
];

const SHELL_CRATES: &[&str] = &[
    "tokio",
    "quinn",
    "rustls",
    "boringtun",
    "nix",
    "libc",
    "rtnetlink",
    "netlink-packet-route",
    "prometheus",
    "toml",
    "rusqlite",
    "axum",
    "hyper",
    "getrandom",
    "rand",
    "socket2",
    "tempfile",
];

/// Words that a file below a folder must not contain, and why.
const WORDS: &[(&str, &[&str], &str)] = &[
    (
        "agent/core/src/",
        STD_BANS,
        "a core has no clock, socket, file, thread or environment",
    ),
    (
        "controller/core/src/",
        STD_BANS,
        "a core has no clock, socket, file, thread or environment",
    ),
    (
        "proto/src/",
        STD_BANS,
        "types and their encoding, no behaviour",
    ),
    (
        "agent/src/host/",
        &[
            "crate::config",
            "crate::control",
            "crate::links",
            "agent::Agent",
        ],
        "a reconciler has no opinion",
    ),
    (
        "agent/src/metrics.rs",
        &["crate::host", "crate::eventloop", "crate::links"],
        "names live in one place",
    ),
];

const STD_BANS: &[&str] = &[
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "Instant::now",
    "SystemTime::now",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "UnixStream",
];

#[test]
fn crates_depend_only_along_the_arrows() {
    for (folder, allowed, reason) in ARROWS {
        let ours: BTreeSet<String> = dependencies(folder)
            .into_iter()
            .filter(|name| name.starts_with("pnsbox-"))
            .collect();
        let allowed: BTreeSet<String> = allowed.iter().map(|&name| name.to_owned()).collect();
        let strangers: Vec<_> = ours.difference(&allowed).collect();
        assert!(
            strangers.is_empty(),
            "{folder} must not depend on {strangers:?}: {reason}"
        );
    }
}

#[test]
fn crates_do_not_name_what_is_banned_for_them() {
    for (folder, banned, reason) in BANNED {
        let named = dependencies(folder);
        for name in *banned {
            assert!(
                !named.contains(*name),
                "{folder} must not depend on {name}: {reason}"
            );
        }
    }
}

#[test]
fn every_member_has_its_arrows() {
    let manifest = manifest("");
    let members = manifest["workspace"]["members"].as_array().unwrap();
    let drawn: BTreeSet<&str> = ARROWS
        .iter()
        .map(|(folder, ..)| *folder)
        .chain(["tests"])
        .collect();
    let members: BTreeSet<&str> = members.iter().map(|m| m.as_str().unwrap()).collect();
    assert_eq!(
        members, drawn,
        "a new crate needs a line in ARROWS, with the reason"
    );
}

#[test]
fn files_do_not_use_what_is_banned_for_them() {
    let files: BTreeMap<String, String> = rust_files().into_iter().collect();
    for (place, words, reason) in WORDS {
        let mut seen = 0;
        for (path, text) in files.iter().filter(|(path, _)| path.starts_with(place)) {
            seen += 1;
            let code = text.split("#[cfg(test)]").next().unwrap_or("");
            for (number, line) in code
                .lines()
                .enumerate()
                .filter(|(_, l)| !l.trim_start().starts_with("//"))
            {
                for word in *words {
                    assert!(
                        !line.contains(word),
                        "{path}:{}: {word}: {reason}",
                        number + 1
                    );
                }
            }
        }
        assert!(seen > 0, "{place} holds files");
    }
}

#[test]
fn versions_are_declared_once_in_the_root() {
    for (folder, ..) in ARROWS {
        let manifest = manifest(folder);
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(table).and_then(|t| t.as_table()) else {
                continue;
            };
            for (name, value) in table {
                let inherits = value.get("workspace").and_then(|w| w.as_bool()) == Some(true);
                assert!(inherits, "{folder}: {name} must say workspace = true");
            }
        }
    }
}

fn dependencies(folder: &str) -> BTreeSet<String> {
    let manifest = manifest(folder);
    let table = manifest["dependencies"].as_table().unwrap();
    assert!(!table.is_empty(), "{folder} has dependencies");
    table.keys().cloned().collect()
}

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    std::fs::read_to_string(&path).unwrap().parse().unwrap()
}
