//! Whether the data plane is a good WireGuard citizen: checks in network namespaces, with the kernel's own tools.
//!
//! With `PNSBOX_TABLE=1` (and `--nocapture --test-threads=1`) each check says what was expected and what was seen.
//! Needs root, iproute2, iputils-ping, iperf3, nftables and wireguard-go; `scripts/test.sh` installs them.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod counters;
mod families;
mod flood;
mod keys;
#[path = "../net/mod.rs"]
mod net;
mod node;
mod pair;
mod path_mtu;
mod roaming;
mod routing;
mod silence;
mod table;
mod teardown;
mod theirs;
mod weather;
