//! Receiving in bursts: several runs of equal datagrams with one system call (`recvmmsg`, `UDP_GRO`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd as _;

use socket2::Socket;
use tracing::debug;

use super::Headers;
use super::control::Control;
use super::set_number;
use crate::receive::Received;
use crate::tos::Tos;

/// Receives in one burst, when they are single datagrams.
const MOST: usize = 64;
/// Bytes of one receive: the kernel merges datagrams of one sender up to this.
const STRIDE: usize = 65_536;
/// Bytes in a burst that are still in the nearest caches when they are opened.
const ENOUGH: usize = 128 * 1024;

/// Lets the kernel hand over runs of datagrams; without it (before Linux 5.0) they come one by one.
pub(super) fn accept_runs(socket: &Socket) {
    if let Err(error) = set_number(socket, libc::SOL_UDP, libc::UDP_GRO, 1) {
        debug!(%error, "datagrams are received one by one");
    }
}

/// Has the kernel tell each datagram's class and congestion mark.
pub(super) fn accept_tos(socket: &Socket, is_v6: bool) -> io::Result<()> {
    // An IPv6 socket is told them of IPv4 datagrams in IPv4's way.
    socket.set_recv_tos_v4(true)?;
    if is_v6 {
        socket.set_recv_tclass_v6(true)?;
    }
    Ok(())
}

/// A worker's memory for bursts. Not to be sent to another thread.
pub(crate) struct Inbox {
    slab: Vec<u8>,
    received: Vec<Received>,
    headers: Headers,
    controls: Vec<Control>,
    /// Receives in the next burst.
    next: usize,
    /// Bytes for control messages, if a test leaves fewer.
    #[cfg(test)]
    pub(super) room: usize,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self {
            slab: vec![0; MOST * STRIDE],
            received: Vec::with_capacity(MOST),
            headers: Headers::new(MOST),
            controls: vec![Control::EMPTY; MOST],
            next: MOST,
            #[cfg(test)]
            room: size_of::<Control>(),
        }
    }

    /// What was received last, with the slab that holds it.
    pub(crate) fn received(&mut self) -> (&mut [u8], &[Received]) {
        (&mut self.slab, &self.received)
    }

    /// Receives a burst. True if there is probably more.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<bool> {
        self.received.clear();
        let asked = self.next;
        let count = self.call(socket, asked)?;
        for index in 0..count {
            self.received.extend(self.one(index));
        }
        let bytes: usize = self.received.iter().map(|one| one.length).sum();
        self.next = (ENOUGH / (bytes / count.max(1)).max(1)).clamp(2, MOST);
        Ok(count == asked)
    }

    #[expect(
        unsafe_code,
        reason = "recvmmsg has no safe wrapper that does not allocate"
    )]
    fn call(&mut self, socket: &UdpSocket, asked: usize) -> io::Result<usize> {
        let Headers {
            names,
            pieces,
            headers,
        } = &mut self.headers;
        for index in 0..asked {
            pieces[index] = libc::iovec {
                iov_base: self.slab[index * STRIDE..][..STRIDE].as_mut_ptr().cast(),
                iov_len: STRIDE,
            };
            let header = &mut headers[index].msg_hdr;
            header.msg_name = (&raw mut names[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_iov = &raw mut pieces[index];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].as_mut_ptr();
            header.msg_controllen = size_of::<Control>() as _;
            #[cfg(test)]
            {
                header.msg_controllen = self.room as _;
            }
            header.msg_flags = 0;
        }
        // SAFETY: each of the `asked` headers points to a name, a piece of the slab and a control buffer of its own,
        // with their true lengths; all of them are ours, live as long as `self`, and nobody else uses them meanwhile.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                asked as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// Receive number `index`; `None` for one that was cut off.
    fn one(&self, index: usize) -> Option<Received> {
        let length = self.headers.headers[index].msg_len as usize;
        let header = &self.headers.headers[index].msg_hdr;
        // Without all control messages it is not known where a run is cut.
        let is_cut = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
        let from = address(&self.headers.names[index])?;
        let mut received = Received {
            from,
            start: index * STRIDE,
            length,
            segment: length,
            tos: Tos::default(),
        };
        let messages = self.controls[index].messages(header.msg_controllen as _);
        for (level, kind, value) in messages {
            match (level, kind, value) {
                (libc::SOL_UDP, libc::UDP_GRO, value) => {
                    let segment = libc::c_int::from_ne_bytes(*value.first_chunk()?);
                    received.segment = usize::try_from(segment).ok().filter(|s| *s > 0)?;
                }
                // One byte for IPv4.
                (libc::IPPROTO_IP, libc::IP_TOS, [tos, ..]) => received.tos = Tos(*tos),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, value) => {
                    let class = libc::c_int::from_ne_bytes(*value.first_chunk()?);
                    received.tos = Tos(class as u8);
                }
                _ => {}
            }
        }
        (!is_cut).then_some(received)
    }
}

/// The sender; IPv4 is IPv4, whatever the socket.
#[expect(unsafe_code, reason = "the kernel writes one of two structures")]
fn address(name: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match libc::c_int::from(name.sin6_family) {
        libc::AF_INET6 => {
            let port = u16::from_be(name.sin6_port);
            let address = match Ipv6Addr::from(name.sin6_addr.s6_addr).to_canonical() {
                // Only with its interface it can be answered.
                IpAddr::V6(ip) if ip.is_unicast_link_local() => {
                    SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into()
                }
                ip => SocketAddr::new(ip, port),
            };
            Some(address)
        }
        libc::AF_INET => {
            // SAFETY: sockaddr_in is smaller, no more strictly aligned, plain data, and what the kernel wrote here.
            let name = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            Some(SocketAddr::from((ip, u16::from_be(name.sin_port))))
        }
        _ => None,
    }
}
