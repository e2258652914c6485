//! Stopped and started a hundred times, by request and by SIGKILL: nothing is left over and nothing grows.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program::Place;

fn names(folder: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_hundred_restarts_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::found(folder.path());
    let size = || {
        std::fs::metadata(place.state_dir().join("pnsbox.db"))
            .unwrap()
            .len()
    };
    let mut sizes = Vec::new();
    for number in 0..100 {
        let mut serving = place.serve("info");
        if number == 0 {
            let add = place.run(&["agency", "add", "kab-demak", "--prefix", "10.44.0.0/16"]);
            assert!(add.status.success(), "{add:?}");
        }
        let killed = number % 10 == 5;
        let signal = if killed {
            Signal::SIGKILL
        } else {
            Signal::SIGTERM
        };
        kill(Pid::from_raw(serving.id().cast_signed()), signal).unwrap();
        let status = serving.wait();
        if !killed {
            assert!(status.success(), "{status}: {}", place.logged());
            let state = [
                "admission.key",
                "controller.key",
                "lock",
                "pnsbox.db",
                "root.key",
            ];
            assert_eq!(names(&place.state_dir()), state);
            assert!(!place.socket().exists(), "the socket is gone");
            sizes.push(size());
        }
    }
    assert_eq!(sizes.first(), sizes.last(), "the store does not grow");
    assert_eq!(
        names(folder.path()),
        ["controller.toml", "log", "run", "state"]
    );
    assert!(!place.logged().contains("panicked"));
    let status = place.run(&["status", "--json"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("\"warnings\":[]"));
}
