//! The operator's socket with garbage on it, and a store that somebody changed.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use pnsbox_controller::store::Store;
use pnsbox_controller_core::store::Transaction;

use crate::program::Place;
use crate::random::Random;

#[test]
fn random_bytes_on_the_operators_socket_are_refused_and_harm_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::found(folder.path());
    let serving = place.serve("info");
    let mut random = Random(11);
    for number in 0..300 {
        let mut stream = UnixStream::connect(place.socket()).unwrap();
        let size = random.below(3_000);
        let mut bytes = random.bytes(size);
        if number % 3 == 0 {
            bytes = b"{\"command\":\"reboot\"}\n".to_vec();
        }
        // It may be answered before the last byte.
        drop(stream.write_all(&bytes));
        drop(stream.shutdown(Shutdown::Write));
        let mut answer = String::new();
        drop(stream.read_to_string(&mut answer));
        assert!(
            answer.is_empty() || answer.contains("the request cannot be read"),
            "{answer}"
        );
        assert!(number % 3 != 0 || answer.contains("unknown variant `reboot`"));
    }
    let list = place.run(&["agency", "list"]);
    assert!(list.status.success(), "{list:?}");
    let log = place.logged();
    assert!(!log.contains("panicked"), "{log}");
    assert!(
        log.matches("a command was not answered").count() <= 1,
        "{log}"
    );
    drop(serving);
}

#[test]
fn a_changed_audit_is_told_at_start_and_in_status() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::found(folder.path());
    let add = place.run(&["agency", "add", "kab-demak", "--prefix", "10.44.0.0/16"]);
    assert!(add.status.success(), "{add:?}");
    let mut store = Store::open(&place.state_dir(), Duration::ZERO).unwrap();
    let first = store.get("audit/0000000000").unwrap().unwrap();
    let changed = first.value.unwrap().replace("uid 0", "uid 7");
    let mut transaction = Transaction::default();
    transaction.set(first.key, first.revision, Some(changed));
    store.transact(&transaction).unwrap();
    drop(store);

    let serving = place.serve("info");
    let status = String::from_utf8(place.run(&["status"]).stdout).unwrap();
    for text in [place.logged(), status] {
        assert!(
            text.contains("the audit trail is broken at entry 1"),
            "{text}"
        );
    }
    assert!(place.logged().contains("compare with a backup"));
    drop(serving);
}
