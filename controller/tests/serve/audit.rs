//! Who did what, when and from where: shown, exported and verified by commands, while a controller serves and without one.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::Place;

/// What a command that succeeds prints.
fn said(place: &Place, arguments: &[&str]) -> String {
    let output = place.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `audit verify` complains of.
fn complaint(place: &Place, arguments: &[&str]) -> String {
    let output = place.run(&[&["audit", "verify"], arguments].concat());
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn add(place: &Place, agency: &str, prefix: &str) {
    said(place, &["agency", "add", agency, "--prefix", prefix]);
}

fn head(place: &Place) -> String {
    let text = said(place, &["audit", "verify", "--json"]);
    let answer: Value = serde_json::from_str(&text).unwrap();
    format!("{}:{}", answer["entries"], answer["head"].as_str().unwrap())
}

fn export(place: &Place, name: &str) -> PathBuf {
    let path = place.folder.join(name);
    std::fs::write(&path, said(place, &["audit", "export"])).unwrap();
    path
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn it_says_who_when_and_from_where() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::found(folder.path());
    add(&place, "kab-demak", "10.44.0.0/16");
    let serving = place.serve("info");
    let mut over_ssh = place.command(&["agency", "add", "prov-jateng", "--prefix", "10.33.0.0/16"]);
    over_ssh.env("SSH_CONNECTION", "198.51.100.7 50000 203.0.113.10 22");
    assert!(over_ssh.output().unwrap().status.success());

    let shown = said(&place, &["audit", "show", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let entries = shown["entries"].as_array().unwrap();
    let word = |place: usize, word: &str| entries[place][word].as_str().unwrap().to_owned();
    assert_eq!(entries.len(), 3);
    assert!(
        (0..3).all(|n| word(n, "who").starts_with("uid 0")),
        "{shown}"
    );
    assert_eq!(
        [0, 1, 2].map(|n| word(n, "from")),
        ["this machine", "this machine", "198.51.100.7 over SSH"]
    );
    assert_eq!(word(2, "what"), "agency add prov-jateng 10.33.0.0/16");
    let screen = said(&place, &["audit", "show", "--last", "1"]);
    assert_eq!(screen.lines().count(), 2, "{screen}");
    assert!(screen.contains("198.51.100.7 over SSH"), "{screen}");
    // Also while it serves.
    assert!(head(&place).starts_with("3:"));
    drop(serving);
}

#[test]
fn an_export_proves_itself_where_the_store_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::found(folder.path());
    let first = export(&place, "first");
    add(&place, "kab-demak", "10.44.0.0/16");
    let second = export(&place, "second");
    let nowhere = tempfile::tempdir().unwrap();
    let auditor = Place::new(nowhere.path());
    let [first, second] = [&first, &second].map(|path| path.to_str().unwrap());
    let text = said(&auditor, &["audit", "verify", first, second, "--json"]);
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&answer["entries"], &answer["verified"]),
        (&2.into(), &2.into())
    );
    let root = answer["root"].as_str().unwrap();
    said(&auditor, &["audit", "verify", second, "--root", root]);
    let other = "00".repeat(32);
    let said = complaint(&auditor, &[second, "--root", &other]);
    assert!(said.contains("of another network, or forged"), "{said}");

    let text = std::fs::read_to_string(second).unwrap();
    std::fs::write(second, text.replace("kab-demak", "kab-jepara")).unwrap();
    let said = complaint(&auditor, &[second]);
    assert!(said.contains("not the one that its checkpoint"), "{said}");
}

#[test]
fn an_old_copy_and_a_second_history_are_told_by_who_saw_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::found(folder.path());
    let old = folder.path().join("old");
    copy(&place.state_dir(), &old);
    add(&place, "kab-demak", "10.44.0.0/16");
    let (seen, first) = (head(&place), export(&place, "first"));
    said(&place, &["audit", "verify", "--witness", &seen]);
    let garbage = place.run(&["audit", "verify", "--witness", "2"]);
    assert_eq!(garbage.status.code(), Some(64), "{garbage:?}");

    std::fs::remove_dir_all(place.state_dir()).unwrap();
    copy(&old, &place.state_dir());
    let told = complaint(&place, &["--witness", &seen]);
    assert!(told.contains("an old copy was put back"), "{told}");

    add(&place, "kab-jepara", "10.44.0.0/16");
    let told = complaint(&place, &["--witness", &seen]);
    assert!(told.contains("written anew"), "{told}");
    // Two checkpoints of one length with different ends, both signed.
    let second = export(&place, "second");
    let files = [&first, &second].map(|path| path.to_str().unwrap());
    let told = complaint(&place, &files);
    assert!(told.contains("is not the one that"), "{told}");
}
