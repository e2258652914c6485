//! What is made is gone again: descriptors, threads, memory, and the kernel's namespace itself.

use std::process::Command;

use crate::net::{Net, wait};
use crate::node::{Node, PORT, at, peer};
use crate::pair::{A, B, MTU, Pair, ping};
use crate::table::{check, exactly};

/// Set in a process of its own, in which nobody else makes threads.
const ALONE: &str = "PNSBOX_ALONE";
const ROUNDS: usize = 10;

#[test]
fn nothing_is_left_of_a_data_plane_whose_namespace_was_deleted() {
    if std::env::var_os(ALONE).is_some() {
        return deletes_again_and_again();
    }
    let name = "teardown::nothing_is_left_of_a_data_plane_whose_namespace_was_deleted";
    let outcome = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ALONE, "1")
        // One heap (mallopt(3)), so that what is freed is used again.
        .env("MALLOC_ARENA_MAX", "1")
        .status()
        .unwrap();
    assert!(outcome.success(), "alone: {outcome}");
}

fn deletes_again_and_again() {
    // What the allocator keeps for the next time is not lost.
    (0..5).for_each(|_| round());
    let before = [entries("fd"), entries("task")];
    let memory = resident();
    for _ in 0..ROUNDS {
        round();
    }
    let after = [entries("fd"), entries("task")];
    exactly("descriptors and threads after ten deletions", before, after);
    let grown = resident().saturating_sub(memory);
    check("memory grown meanwhile, KiB", "< 1024", grown, grown < 1024);
}

/// Deletes the namespaces of two nodes that talk, while they do.
fn round() {
    let pair = Pair::up();
    assert_eq!(pair.ping("a", 1, "", B), 1);
    let Pair { a, b, net } = pair;
    let busy = net.namespace("a");
    let mut flood = Command::new("ip")
        .args(["netns", "exec", &busy, "ping", "-fnq", "-w", "5", B])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait("packets flow", || a.peer(b.key()).tx_packets > 20);
    drop(net);
    let before = a.peer(b.key()).rx_packets;
    wait("packets flow on without a name", || {
        a.peer(b.key()).rx_packets > before
    });
    flood.kill().unwrap();
    flood.wait().unwrap();
    drop((a, b));
}

fn entries(folder: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{folder}"))
        .unwrap()
        .count()
}

/// Memory in use, in KiB (proc(5), `VmRSS`).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn the_kernel_frees_a_deleted_namespace_when_its_data_plane_ends() {
    let keeper = Net::of(&["keeper"]);
    let gone = Net::of(&["gone"]);
    let far = gone.namespace("gone");
    keeper.ip(
        "keeper",
        &format!("link add u0 type veth peer name u0 netns {far}"),
    );
    for (net, side, address) in [
        (&keeper, "keeper", "192.0.2.1"),
        (&gone, "gone", "192.0.2.2"),
    ] {
        net.ip(side, &format!("address add {address}/24 dev u0"));
        net.ip(side, "link set u0 up");
    }
    let one = Node::up(&keeper, "keeper", 1, &["10.200.0.1/24"], MTU);
    let other = Node::up(&gone, "gone", 2, &["10.200.0.2/24"], MTU);
    one.set(vec![peer(
        other.key(),
        &["10.200.0.2/32"],
        at(&format!("192.0.2.2:{PORT}")),
    )]);
    other.set(vec![peer(
        one.key(),
        &["10.200.0.1/32"],
        at(&format!("192.0.2.1:{PORT}")),
    )]);
    assert_eq!(ping(&keeper, "keeper", 1, "", B), 1);
    // The veth's near end lives as long as the namespace of its far one.
    let has_veth = || keeper.run("keeper", "ip link show u0").status.success();
    drop(gone);
    std::thread::sleep(std::time::Duration::from_millis(300));
    exactly(
        "the namespace lives on with its data plane",
        true,
        has_veth(),
    );
    assert_eq!(
        ping(&keeper, "keeper", 1, "", B),
        1,
        "and it works, also for {A}"
    );
    drop(other);
    wait("the kernel freed the namespace", || !has_veth());
    exactly("and is gone after it", false, has_veth());
}
