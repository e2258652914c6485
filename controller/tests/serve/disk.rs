//! The disk of the state is full or cannot be written: nothing is promised that is not stored, the rest goes on.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use pnsbox_controller::store::Store;
use pnsbox_controller_core::audit::Trail;
use pnsbox_proto::anchor::Anchor;
use pnsbox_proto::message::{JoinRefusal, ToAgent};

use crate::program::{Place, Serving};
use crate::support::{Disk, PATIENCE, connect, request};

fn page(place: &Place, path: &str) -> String {
    let mut stream = TcpStream::connect(place.http_at).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

async fn page_shows(place: &Place, path: &str, expected: &str) {
    let begun = Instant::now();
    loop {
        let page = page(place, path);
        // A metric's help may say the same words as its value.
        let mut lines = page.lines().filter(|line| !line.starts_with('#'));
        if lines.any(|line| line.contains(expected)) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{expected} not in {page}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Takes all room that is left; the file that does.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("filler");
    let mut file = File::create(&path).unwrap();
    for size in [65_536, 4_096, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    path
}

fn anchor(output: &Output) -> Anchor {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .unwrap()
}

fn complaint(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The audit trail and the number of agencies of the store in `folder`, which nobody writes now.
fn looked_at(folder: &Path) -> usize {
    let copy = tempfile::tempdir().unwrap();
    for name in ["pnsbox.db", "pnsbox.db-wal"] {
        std::fs::copy(folder.join(name), copy.path().join(name)).unwrap();
    }
    let store = Store::open(copy.path(), Duration::ZERO).unwrap();
    let deeds = store.list("audit/").unwrap();
    Trail::verify(deeds.iter().filter_map(|entry| entry.value.as_deref())).unwrap();
    store.list("agency/").unwrap().len()
}

fn on_small_disk(place: &Place) -> (Serving, PathBuf) {
    let serving = place.serve_on_tmpfs("1m");
    let state = place.state_dir();
    let seen = PathBuf::from(format!("/proc/{}/root", serving.id()))
        .join(state.strip_prefix("/").unwrap());
    assert!(seen.join("pnsbox.db").exists());
    (serving, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_changes_and_nothing_else_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path());
    let (serving, disk) = on_small_disk(&place);
    let add = |name: &str, prefix: &str| place.run(&["agency", "add", name, "--prefix", prefix]);
    assert!(add("kab-demak", "10.44.0.0/16").status.success());
    let first = anchor(&place.run(&["invite", "kab-demak"]));
    let mut agent = connect(place.agents_at, 1, &Disk::default()).await;
    agent
        .say(&request(1, first.token, "10.44.1.0/24", None))
        .await;
    assert!(matches!(agent.hear().await, ToAgent::Joined { .. }));
    let mut held = Disk::default();
    agent.take_view(&mut held).await;
    let second = anchor(&place.run(&["invite", "kab-demak", "--node", "gw2"]));
    page_shows(&place, "/sd", "kab-demak/gw1").await;

    let filler = fill(&disk);
    let said = complaint(&add("kab-kudus", "10.45.0.0/16"));
    for word in [
        "pnsbox.db cannot be written",
        "is full",
        "make room",
        "nothing was changed",
    ] {
        assert!(said.contains(word), "{word} not in {said}");
    }
    let said = complaint(&place.run(&["invite", "kab-demak", "--node", "gw3"]));
    assert!(said.contains("make room"), "{said}");
    page_shows(&place, "/metrics", "pnsbox_controller_store_healthy 0").await;
    let list = page(&place, "/sd");
    assert!(
        list.starts_with("HTTP/1.1 503") && list.contains("make room"),
        "{list}"
    );
    let status = place.run(&["status"]);
    let status = String::from_utf8_lossy(&status.stdout);
    assert!(
        status.contains("warning: the store") && status.contains("online"),
        "{status}"
    );
    let agencies = place.run(&["agency", "list"]);
    assert!(!String::from_utf8_lossy(&agencies.stdout).contains("kab-kudus"));
    // An agent that is there stays, one that comes back is welcome, one that joins is told.
    agent.hears_nothing().await;
    let mut back = connect(place.agents_at, 1, &held).await;
    back.hears_nothing().await;
    let mut joining = connect(place.agents_at, 2, &Disk::default()).await;
    let join = request(2, second.token, "10.44.2.0/24", None);
    joining.say(&join).await;
    let ToAgent::JoinRefused {
        reason: JoinRefusal::Invalid { reason },
    } = joining.hear().await
    else {
        panic!("a refusal")
    };
    assert!(reason.contains("cannot write its state"), "{reason}");

    std::fs::remove_file(filler).unwrap();
    page_shows(&place, "/metrics", "pnsbox_controller_store_healthy 1").await;
    page_shows(&place, "/sd", "kab-demak/gw1").await;
    assert!(add("kab-kudus", "10.45.0.0/16").status.success());
    joining.say(&join).await;
    let joined = joining.hear().await;
    assert!(matches!(joined, ToAgent::Joined { .. }), "{joined:?}");
    assert_eq!(looked_at(&disk), 2);
    assert!(!place.logged().contains("panicked"));
    drop(serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_meets_a_full_disk_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path());
    let (serving, disk) = on_small_disk(&place);
    let add = place.run(&["agency", "add", "kab-demak", "--prefix", "10.44.0.0/16"]);
    assert!(add.status.success());
    let anchor = anchor(&place.run(&["invite", "kab-demak"]));
    let mut agent = connect(place.agents_at, 1, &Disk::default()).await;
    let join = request(1, anchor.token, "10.44.1.0/24", None);
    let filler = fill(&disk);
    agent.say(&join).await;
    let reason = agent.ended().await;
    assert!(reason.contains("cannot write its state"), "{reason}");
    page_shows(&place, "/metrics", "pnsbox_controller_store_healthy 0").await;
    page_shows(&place, "/metrics", "nodes{state=\"invited\"} 1").await;
    page_shows(&place, "/metrics", "joins_total 0").await;

    std::fs::remove_file(filler).unwrap();
    page_shows(&place, "/metrics", "pnsbox_controller_store_healthy 1").await;
    let mut agent = connect(place.agents_at, 1, &Disk::default()).await;
    agent.say(&join).await;
    let joined = agent.hear().await;
    assert!(
        matches!(joined, ToAgent::Joined { .. }),
        "{joined:?} {}",
        place.logged()
    );
    agent.take_view(&mut Disk::default()).await;
    assert_eq!(looked_at(&disk), 1);
    drop(serving);
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::found(folder.path());
    let before = std::fs::read(place.state_dir().join("pnsbox.db")).unwrap();
    for arguments in [
        &["serve"][..],
        &["invite", "kab-demak"],
        &["init", "--network", "pns", "--address", "203.0.113.10:443"],
    ] {
        let said = complaint(&place.run_read_only(arguments));
        for word in [
            place.state_dir().to_str().unwrap(),
            "Read-only file system",
            "mounted for writing",
        ] {
            assert!(said.contains(word), "{word} not in {said}");
        }
    }
    assert_eq!(
        std::fs::read(place.state_dir().join("pnsbox.db")).unwrap(),
        before
    );
    assert!(place.run(&["agency", "list"]).status.success());
}
