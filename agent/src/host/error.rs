//! What can go wrong when the host is changed.

use std::io;

use pnsbox_dataplane::tun::TunError;
use pnsbox_dataplane::{SnapshotError, StartError};

use super::netlink::NetlinkError;
use super::nftables::NftError;
use super::sysctl::SysctlError;

/// Why the host is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The process may not change the network.
    #[error(
        "the agent may not change the network: run it as root, or give its unit AmbientCapabilities=CAP_NET_ADMIN"
    )]
    NoNetAdmin(#[source] io::Error),
    /// There is no TUN device.
    #[error(
        "/dev/net/tun cannot be opened: load the kernel module (modprobe tun); \
         in a container, give it the device; without udev, let the agent's user open it (chmod 666 /dev/net/tun)"
    )]
    NoTun(#[source] io::Error),
    /// Two agents on one host would undo each other's routes and rules for ever.
    #[error(
        "another agent runs on this host (it holds the socket @{name}, see 'ss -xlp'): stop it first"
    )]
    AnotherAgent {
        /// The socket.
        name: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The name is taken.
    #[error(
        "interface {name} exists and is not this agent's: stop the program that made it, \
         or choose another name with interface in [wireguard]"
    )]
    InterfaceTaken {
        /// The name.
        name: String,
    },
    /// The interface could not be made.
    #[error("interface {name} cannot be made")]
    Tun {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: TunError,
    },
    /// The data plane did not start.
    #[error("the data plane did not start")]
    Start(#[source] StartError),
    /// The data plane refused its peers.
    #[error("the data plane refused its peers")]
    Snapshot(#[source] SnapshotError),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The packet filter.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// A kernel switch.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The kernel took everything and shows something else.
    #[error("the host was told, and then shows {found}")]
    ReadBack {
        /// What is not as it should be.
        object: HostObject,
        /// How it is.
        found: String,
    },
    /// A change failed, and so did the way back.
    #[error("{change}; and what was before did not come back: {back}")]
    NotRestored {
        /// Why the change failed, with its causes.
        change: String,
        /// Why the way back failed, with its causes.
        back: String,
    },
}

/// Something in the kernel that is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostObject {
    /// Our interface, its state and MTU.
    Interface,
    /// Its addresses.
    Address,
    /// Our table's routes, and the rule that looks it up.
    Routing,
    /// Our nftables table.
    Filter,
}

impl HostObject {
    /// Every object.
    pub const ALL: [Self; 4] = [Self::Interface, Self::Address, Self::Routing, Self::Filter];

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::Address => "address",
            Self::Routing => "routing",
            Self::Filter => "filter",
        }
    }
}

impl HostError {
    pub(super) fn read_back(object: HostObject, found: String) -> Self {
        Self::ReadBack { object, found }
    }

    /// The message with its causes, for where it ends up inside another.
    pub(super) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
