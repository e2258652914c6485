//! What must be given before anything can be changed, with a message that says what to do.

use std::fs::OpenOptions;
use std::io;

use super::error::HostError;

/// Checks capability and TUN device.
pub(super) fn check() -> Result<(), HostError> {
    if !has_net_admin() {
        return Err(HostError::NoNetAdmin(io::Error::from_raw_os_error(
            libc::EPERM,
        )));
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map(drop)
        .map_err(HostError::NoTun)
}

fn has_net_admin() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    capabilities(&status).is_some_and(|capabilities| capabilities & CAP_NET_ADMIN != 0)
}

/// The effective set of a `/proc/PID/status`.
fn capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Bit 12 of linux/capability.h.
const CAP_NET_ADMIN: u64 = 1 << 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read() {
        let status = "Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t0000000000001000\n";
        assert_eq!(capabilities(status), Some(CAP_NET_ADMIN));
        assert_eq!(capabilities("CapEff:\tx\n"), None);
        assert_eq!(capabilities(""), None);
    }
}
