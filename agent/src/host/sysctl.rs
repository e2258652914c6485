//! Kernel switches below `/proc/sys/net`, of the network namespace of the calling thread.
//!
//! Plain file calls, on purpose on the calling thread: another thread may live in another namespace.
//! CAP_NET_ADMIN may write them, unless the unit mounts `/proc/sys` read-only, as ours does. Then
//! `sysctl.d/60-pnsbox.conf` has set them before, and here is only looked. Switches of our own interface
//! go through netlink instead.
//! What is turned on stays on at shutdown: forwarding may have been asked for by others meanwhile,
//! and a router that stops forwarding is an outage, while forwarding alone opens nothing of ours.

use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

/// A switch that could not be turned.
#[derive(Debug, thiserror::Error)]
#[error(
    "kernel switch {name} is {found} and cannot be set to {wanted}: put '{name} = {wanted}' \
     into a file in /etc/sysctl.d and run 'sysctl --system' as root"
)]
pub struct SysctlError {
    name: String,
    found: String,
    wanted: &'static str,
    #[source]
    source: io::Error,
}

/// Whether new interfaces get IPv6.
pub(super) fn ipv6_usable() -> bool {
    let disabled = |name: &str| read(name).is_none_or(|value| value != "0");
    !disabled("net/ipv6/conf/all/disable_ipv6") && !disabled("net/ipv6/conf/default/disable_ipv6")
}

/// Forwards IPv4 between interfaces.
pub(super) fn forward_v4() -> Result<(), SysctlError> {
    set("net/ipv4/ip_forward", "1")
}

/// Forwards IPv6. A host that forwards stops listening to router advertisements, unless told otherwise:
/// interfaces that listened go on listening, or the uplink would lose its default route.
pub(super) fn forward_v6() -> Result<(), SysctlError> {
    const FORWARDING: &str = "net/ipv6/conf/all/forwarding";
    if read(FORWARDING).as_deref() == Some("1") {
        return Ok(());
    }
    match std::fs::read_dir(Path::new(ROOT).join("net/ipv6/conf")) {
        Ok(interfaces) => {
            for interface in interfaces.flatten() {
                let name = format!(
                    "net/ipv6/conf/{}/accept_ra",
                    interface.file_name().display()
                );
                if read(&name).as_deref() == Some("1") {
                    set(&name, LISTEN_THOUGH_FORWARDING)?;
                }
            }
        }
        Err(error) => warn!(%error, "interfaces with router advertisements cannot be listed"),
    }
    set(FORWARDING, "1")
}

fn set(name: &str, wanted: &'static str) -> Result<(), SysctlError> {
    let found = read(name);
    if found.as_deref() == Some(wanted) {
        return Ok(());
    }
    match std::fs::write(path(name), wanted) {
        Ok(()) => {
            info!(name = %name.replace('/', "."), from = found.as_deref(), to = wanted, "kernel switch set");
            Ok(())
        }
        Err(source) => {
            let found = found.unwrap_or_else(|| "missing".into());
            Err(SysctlError {
                name: name.replace('/', "."),
                found,
                wanted,
                source,
            })
        }
    }
}

fn read(name: &str) -> Option<String> {
    std::fs::read_to_string(path(name))
        .ok()
        .map(|text| text.trim().to_owned())
}

fn path(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

const ROOT: &str = "/proc/sys";
/// ip-sysctl: `accept_ra` 2.
const LISTEN_THOUGH_FORWARDING: &str = "2";
