//! What the kernel dropped because we were too slow: it keeps these counts, we only read them.

use std::fs;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

/// Places of `SO_MEMINFO` (linux/sock_diag.h), and that of the drops among them.
const MEMINFO: usize = 9;
const DROPS: usize = 8;

/// Datagrams that found the socket's receive buffer full.
#[expect(unsafe_code, reason = "SO_MEMINFO has no safe wrapper")]
pub(crate) fn receive_drops(socket: &UdpSocket) -> io::Result<u64> {
    let mut places = [0u32; MEMINFO];
    let mut length = size_of_val(&places) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes, all of them ours.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            places.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(places[DROPS]))
}

/// Packets that found the interface's queue full. Called in the network namespace of the interface.
pub(crate) fn tun_drops(interface: &str) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    transmit_drops(&text, interface)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such line in /proc/net/dev"))
}

/// `drop` of the transmitting half of the interface's line in `/proc/net/dev` (proc(5)):
/// eight columns of receiving, then bytes, packets, errs, drop.
fn transmit_drops(text: &str, interface: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| {
        let (name, columns) = line.split_once(':')?;
        (name.trim() == interface).then_some(columns)
    })?;
    line.split_ascii_whitespace().nth(8 + 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transmitting_drops_of_the_right_interface_are_read() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n    \
                    lo:  100  1    2    3    0     0          0         0   100       1    4    5    0     0       0          0\n  \
                    pns0: 9 8 7 6 5 4 3 2 19 18 17 16 15 14 13 12\n";
        assert_eq!(transmit_drops(text, "pns0"), Some(16));
        assert_eq!(transmit_drops(text, "lo"), Some(5));
        assert_eq!(transmit_drops(text, "pns"), None);
        assert_eq!(transmit_drops("pns0: 1 2", "pns0"), None);
    }

    #[test]
    fn a_socket_that_nobody_reads_counts_what_it_drops() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let small = socket2::SockRef::from(&socket);
        small.set_recv_buffer_size(1).unwrap();
        assert_eq!(receive_drops(&socket).unwrap(), 0);
        let to = socket.local_addr().unwrap();
        for _ in 0..100 {
            socket.send_to(&[0; 1000], to).unwrap();
        }
        assert!(receive_drops(&socket).unwrap() > 50);
    }
}
