//! The UDP socket of tunnels and relay frames.
//!
//! Many datagrams pass in one system call: [`receive`] and [`send`].

mod control;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::debug;

pub(crate) use self::receive::Inbox;
pub(crate) use self::send::Outbox;

/// Bytes that the kernel may hold for us: 10 ms of 3 Gbit/s; without CAP_NET_ADMIN it grants what `rmem_max` allows.
const SOCKET_BUFFER: usize = 4 << 20;

/// As many messages as go in one system call, as the kernel wants them.
struct Headers {
    names: Vec<libc::sockaddr_in6>,
    pieces: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Headers {
    #[expect(unsafe_code, reason = "kernel structures begin as zeros")]
    fn new(count: usize) -> Self {
        // SAFETY: all three are plain data, numbers and raw pointers, for which all zeros is a valid value.
        let (name, piece, header) = unsafe { std::mem::zeroed() };
        Self {
            names: vec![name; count],
            pieces: vec![piece; count],
            headers: vec![header; count],
        }
    }
}

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Udp {
    socket: UdpSocket,
    is_v6: bool,
}

impl Udp {
    /// Binds `port` on every address, IPv6 and IPv4, or IPv4 alone where the host has no IPv6.
    pub(crate) fn bind(port: u16, fwmark: u32) -> io::Result<Self> {
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        match bind(v6, fwmark) {
            Ok(socket) => Ok(Self::new(socket, true)),
            Err(error) if lacks_ipv6(&error) => {
                let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
                Ok(Self::new(bind(v4, fwmark)?, false))
            }
            Err(error) => Err(error),
        }
    }

    fn new(socket: UdpSocket, is_v6: bool) -> Self {
        let udp = Self { socket, is_v6 };
        udp.discover(Discover::Ordinary);
        udp
    }

    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// How the datagrams that follow are treated.
    fn discover(&self, discover: Discover) {
        let (v4, v6) = match discover {
            // IPv4's routers may fragment; IPv6's tell the kernel, if they are let.
            Discover::Ordinary => (libc::IP_PMTUDISC_DONT, libc::IPV6_PMTUDISC_WANT),
            Discover::Probe => (libc::IP_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_PROBE),
        };
        let mut set = set_number(&self.socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, v4);
        if self.is_v6 {
            let option = libc::IPV6_MTU_DISCOVER;
            set = set.and_then(|()| set_number(&self.socket, libc::IPPROTO_IPV6, option, v6));
        }
        if let Err(error) = set {
            debug!(%error, ?discover, "the socket keeps its way with large datagrams");
        }
    }

    fn mapped(&self, to: SocketAddr) -> SocketAddr {
        match to.ip() {
            IpAddr::V4(v4) if self.is_v6 => {
                SocketAddrV6::new(v4.to_ipv6_mapped(), to.port(), 0, 0).into()
            }
            IpAddr::V4(_) | IpAddr::V6(_) => to,
        }
    }
}

fn bind(address: SocketAddr, fwmark: u32) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if fwmark != 0 {
        socket.set_mark(fwmark)?;
    }
    // Beyond what others may take: CAP_NET_ADMIN allows it.
    if setsockopt(&socket, RcvBufForce, &SOCKET_BUFFER).is_err() {
        socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    }
    if setsockopt(&socket, SndBufForce, &SOCKET_BUFFER).is_err() {
        socket.set_send_buffer_size(SOCKET_BUFFER)?;
    }
    socket.set_nonblocking(true)?;
    receive::accept_runs(&socket);
    receive::accept_tos(&socket, address.is_ipv6())?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Whether datagrams may be fragmented (ip(7), ipv6(7)). What the other thread sends meanwhile is treated the same way:
/// that is little, and what is lost of it is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Discover {
    /// They may.
    Ordinary,
    /// By nobody, whatever the kernel believes of the path.
    Probe,
}

/// Sets an option that is a number.
#[expect(unsafe_code, reason = "these options have no safe wrapper")]
fn set_number(
    socket: &impl AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads one int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}
