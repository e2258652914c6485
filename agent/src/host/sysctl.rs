//! Kernel switches below `/proc/sys/net`, of the network namespace of the calling thread.
//!
//! Plain file calls, on purpose on the calling thread: another thread may live in another namespace.
//! What is turned on stays on at shutdown: forwarding may have been asked for by others meanwhile,
//! and a router that stops forwarding is an outage, while forwarding alone opens nothing of ours.

use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

/// A switch that could not be turned.
#[derive(Debug, thiserror::Error)]
#[error("kernel switch {name} is {found} and cannot be set to {wanted}")]
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

/// Switches of our own interface; they go with it.
pub(super) fn prepare_interface(interface: &str, ipv6: bool) -> Result<(), SysctlError> {
    // The data plane judges sources peer by peer. Strict filtering would add nothing,
    // and drop packets in the moments in which routes follow a change.
    set(&format!("net/ipv4/conf/{interface}/rp_filter"), LOOSE)?;
    if ipv6 {
        // No link-local address, no router solicitation: there is nobody to hear them.
        set(
            &format!("net/ipv6/conf/{interface}/addr_gen_mode"),
            NO_LINK_LOCAL,
        )?;
        set(&format!("net/ipv6/conf/{interface}/accept_ra"), "0")?;
    }
    Ok(())
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
/// ip-sysctl: `rp_filter` 2, RFC 3704 loose; the larger of this and `all` counts.
const LOOSE: &str = "2";
/// ip-sysctl: `addr_gen_mode` 1.
const NO_LINK_LOCAL: &str = "1";
/// ip-sysctl: `accept_ra` 2.
const LISTEN_THOUGH_FORWARDING: &str = "2";
