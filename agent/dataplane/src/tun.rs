//! The TUN interface: opened here, configured by others. It goes with the process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use tracing::warn;

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The kernel has no TUN, or this root lacks the device.
    #[error(
        "/dev/net/tun is missing: load the module with 'modprobe tun', or give the container the device"
    )]
    NoDevice,
    /// No right to it.
    #[error(
        "interface {name} cannot be made without CAP_NET_ADMIN: run as root, or through the systemd unit"
    )]
    NotPermitted {
        /// The interface.
        name: String,
    },
    /// Somebody else has it.
    #[error(
        "interface {name} is in use by another program: stop it, or set [wireguard] interface to another name"
    )]
    Busy {
        /// The interface.
        name: String,
    },
    /// The name does not fit.
    #[error("'{name}' is not an interface name: 1 to 15 bytes without '/' and white space")]
    BadName {
        /// As given.
        name: String,
    },
    /// Anything else.
    #[error("interface {name} cannot be made")]
    Other {
        /// The interface.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// An interface that is open.
#[derive(Debug)]
pub struct Tun {
    pub(crate) file: File,
    pub(crate) name: String,
}

/// Makes the interface `name`: IP packets behind a virtio header, several merged into one where that is possible,
/// gone when the descriptor is closed.
pub fn open(name: &str) -> Result<Tun, TunError> {
    let fits = !name.is_empty()
        && name.len() < libc::IFNAMSIZ
        && !name.contains(['/', ' ', '\t', '\n', '\0']);
    if !fits {
        return Err(TunError::BadName { name: name.into() });
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(|e| error(name, e))?;
    set_interface(&file, name).map_err(|e| error(name, e))?;
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    // Without TSO_ECN the kernel itself cuts packets that carry CWR, which belongs on the first only (RFC 3168, 6.1.2).
    // Linux knows no super-packets of UDP before 6.2.
    if let Err(error) = set_offload(&file, tcp | udp).or_else(|_| set_offload(&file, tcp)) {
        warn!(interface = name, %error, "the kernel gives packets one by one");
    }
    let name = name.to_owned();
    Ok(Tun { file, name })
}

#[expect(unsafe_code, reason = "TUNSETOFFLOAD has no safe wrapper")]
fn set_offload(file: &File, mask: libc::c_uint) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the argument is a number.
    let outcome = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(mask),
        )
    };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]
fn set_interface(file: &File, name: &str) -> io::Result<()> {
    // SAFETY: ifreq is plain data for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the descriptor is open, and the kernel reads and writes one ifreq, which outlives the call.
    let outcome = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn error(name: &str, source: io::Error) -> TunError {
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDevice,
        Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted { name },
        Some(libc::EBUSY) => TunError::Busy { name },
        Some(_) | None => TunError::Other { name, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_do_not_fit_are_refused_before_the_kernel_is_asked() {
        for name in ["", "a/b", "with space", "sixteen-bytes-ab"] {
            assert!(
                matches!(open(name), Err(TunError::BadName { .. })),
                "{name}"
            );
        }
    }
}
