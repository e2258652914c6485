//! The UDP socket of tunnels and relay frames.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// Bytes that the kernel may hold for us: 10 ms of 1 Gbit/s and a burst; it grants what `rmem_max` allows.
const SOCKET_BUFFER: usize = 4 << 20;

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
            Ok(socket) => Ok(Self {
                socket,
                is_v6: true,
            }),
            Err(error) if lacks_ipv6(&error) => {
                let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
                Ok(Self {
                    socket: bind(v4, fwmark)?,
                    is_v6: false,
                })
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Receives one datagram; the source of IPv4 is IPv4, whatever the socket.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (length, from) = self.socket.recv_from(buffer)?;
        Ok((
            length,
            SocketAddr::new(from.ip().to_canonical(), from.port()),
        ))
    }

    pub(crate) fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.socket.send_to(datagram, self.mapped(to)).map(drop)
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
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}
