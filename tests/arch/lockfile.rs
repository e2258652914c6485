//! What is in `Cargo.lock` and in that of the fuzz targets, where it comes from, and what must never be there.

use super::root;

/// Crates that must not be in the lock at all, and why.
const BANNED: &[(&str, &str)] = &[
    (
        "aws-lc-rs",
        "one TLS crypto provider: ring, which boringtun brings",
    ),
    ("aws-lc-sys", "one TLS crypto provider: ring"),
    ("openssl", "one TLS crypto provider: ring"),
    ("openssl-sys", "one TLS crypto provider: ring"),
    ("native-tls", "one TLS crypto provider: ring"),
    ("bincode", "unmaintained (RUSTSEC-2025-0141)"),
    ("backoff", "unmaintained"),
    ("async-std", "one runtime: tokio"),
    (
        "mock_instant",
        "boringtun's mock clock must not reach a production build",
    ),
];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn every_crate_comes_from_the_registry() {
    for package in locks().into_iter().flatten() {
        let name = package["name"].as_str().unwrap();
        match package.get("source").and_then(|s| s.as_str()) {
            Some(source) => assert_eq!(
                source, CRATES_IO,
                "{name}: no git sources, no other registries"
            ),
            None => assert!(
                name.starts_with("pnsbox-"),
                "{name}: only our own crates have no source"
            ),
        }
    }
}

#[test]
fn banned_crates_are_not_in_the_lock() {
    for (banned, reason) in BANNED {
        for packages in locks() {
            assert!(
                packages.iter().all(|p| p["name"].as_str() != Some(banned)),
                "{banned}: {reason}"
            );
        }
    }
}

#[test]
fn there_is_one_ring_and_one_rustls() {
    for name in ["ring", "rustls", "ed25519-dalek", "tokio", "quinn"] {
        for packages in locks() {
            let count = packages
                .iter()
                .filter(|p| p["name"].as_str() == Some(name))
                .count();
            assert_eq!(count, 1, "{name} is {count} times in the lock");
        }
    }
}

#[test]
fn fuzz_targets_are_built_from_the_versions_of_the_programs() {
    let [programs, fuzz] = locks();
    let version = |p: &toml::Table| (p["name"].clone(), p["version"].clone());
    let programs: Vec<_> = programs.iter().map(version).collect();
    for package in fuzz.iter().map(version) {
        let (name, version) = &package;
        let theirs = programs.iter().any(|(other, _)| other == name);
        assert!(
            !theirs || programs.contains(&package),
            "tests/fuzz/Cargo.lock has {name} {version}: run 'cargo update -p {name}' there"
        );
    }
}

/// The workspace's, and the fuzz targets'.
fn locks() -> [Vec<toml::Table>; 2] {
    ["Cargo.lock", "tests/fuzz/Cargo.lock"].map(packages)
}

fn packages(path: &str) -> Vec<toml::Table> {
    let lock: toml::Table = std::fs::read_to_string(root().join(path))
        .unwrap()
        .parse()
        .unwrap();
    let packages = lock["package"].as_array().unwrap();
    assert!(packages.len() > 50, "the lock was read: {}", packages.len());
    packages
        .iter()
        .map(|p| p.as_table().unwrap().clone())
        .collect()
}
