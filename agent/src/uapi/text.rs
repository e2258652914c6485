//! Requests and answers of WireGuard's cross-platform interface, as text. No socket.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use pnsbox_dataplane::PublicKey;

/// What `wg show` shows. There is no private key in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// UDP port.
    pub listen_port: u16,
    /// Mark of our datagrams.
    pub fwmark: u32,
    /// Every tunnel.
    pub peers: Vec<Peer>,
}

/// One tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The peer's key.
    pub public_key: PublicKey,
    /// Where its datagrams go, if that is known and no relay is between.
    pub endpoint: Option<SocketAddr>,
    /// Inner sources accepted from it.
    pub allowed_prefixes: Vec<IpNet>,
    /// Completion of the last handshake.
    pub last_handshake: Option<SystemTime>,
    /// WireGuard messages received, in bytes.
    pub rx_bytes: u64,
    /// WireGuard messages sent, in bytes.
    pub tx_bytes: u64,
    /// In seconds; 0 for none.
    pub persistent_keepalive: u64,
}

/// What a visitor wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// To see everything.
    Get,
    /// To change something.
    Set,
    /// Something that the interface does not know.
    Unknown,
}

/// Why a request gets nothing, in the kernel's numbers (errno(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errno {
    /// EPERM.
    NotPermitted = 1,
    /// ENODEV: the box has not joined, so there is no interface.
    NoDevice = 19,
    /// EINVAL.
    Invalid = 22,
}

/// Where the first request ends, its empty line included.
pub fn end_of_request(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n")?;
    Some(end + 2)
}

impl Request {
    /// Reads a whole request; its first line says what it is.
    pub fn parse(bytes: &[u8]) -> Self {
        match bytes.split(|byte| *byte == b'\n').next() {
            Some(b"get=1") => Self::Get,
            Some(b"set=1") => Self::Set,
            _ => Self::Unknown,
        }
    }
}

/// The answer to a request that gets nothing.
pub fn refusal(errno: Errno) -> String {
    format!("errno=-{}\n\n", errno as u8)
}

/// The answer to [`Request::Get`].
pub fn shown(device: &Device) -> String {
    let mut text = String::new();
    write_device(&mut text, device).expect("writing to a String cannot fail");
    text
}

fn write_device(out: &mut String, device: &Device) -> std::fmt::Result {
    writeln!(out, "listen_port={}", device.listen_port)?;
    writeln!(out, "fwmark={}", device.fwmark)?;
    for peer in &device.peers {
        let hex = peer
            .public_key
            .iter()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        writeln!(out, "public_key={hex}")?;
        if let Some(endpoint) = peer.endpoint {
            writeln!(out, "endpoint={endpoint}")?;
        }
        let handshake = peer
            .last_handshake
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let handshake = handshake.unwrap_or_default();
        writeln!(out, "last_handshake_time_sec={}", handshake.as_secs())?;
        writeln!(out, "last_handshake_time_nsec={}", handshake.subsec_nanos())?;
        writeln!(out, "tx_bytes={}", peer.tx_bytes)?;
        writeln!(out, "rx_bytes={}", peer.rx_bytes)?;
        writeln!(
            out,
            "persistent_keepalive_interval={}",
            peer.persistent_keepalive
        )?;
        for prefix in &peer.allowed_prefixes {
            writeln!(out, "allowed_ip={}", prefix.trunc())?;
        }
        writeln!(out, "protocol_version=1")?;
    }
    writeln!(out, "errno=0\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn everything_is_shown_as_wg_reads_it() {
        let device = Device {
            listen_port: 51820,
            fwmark: 0x5182,
            peers: vec![
                Peer {
                    public_key: [0xab; 32],
                    endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
                    allowed_prefixes: vec![
                        "10.33.1.9/24".parse().unwrap(),
                        "fd33::/16".parse().unwrap(),
                    ],
                    last_handshake: Some(UNIX_EPOCH + Duration::new(1_795_392_000, 5)),
                    rx_bytes: 148,
                    tx_bytes: 92,
                    persistent_keepalive: 25,
                },
                Peer {
                    public_key: [1; 32],
                    endpoint: None,
                    allowed_prefixes: Vec::new(),
                    last_handshake: None,
                    rx_bytes: 0,
                    tx_bytes: 0,
                    persistent_keepalive: 0,
                },
            ],
        };
        let (first, second) = ("ab".repeat(32), "01".repeat(32));
        let expected = format!(
            "listen_port=51820\nfwmark=20866\npublic_key={first}\nendpoint=[2001:db8::1]:51820\n\
             last_handshake_time_sec=1795392000\nlast_handshake_time_nsec=5\ntx_bytes=92\nrx_bytes=148\n\
             persistent_keepalive_interval=25\nallowed_ip=10.33.1.0/24\nallowed_ip=fd33::/16\nprotocol_version=1\n\
             public_key={second}\nlast_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n\
             persistent_keepalive_interval=0\nprotocol_version=1\nerrno=0\n\n"
        );
        assert_eq!(shown(&device), expected);
    }

    #[test]
    fn a_request_ends_with_an_empty_line_and_begins_with_what_it_is() {
        for (bytes, request) in [
            (&b"get=1\n\n"[..], Request::Get),
            (b"set=1\nlisten_port=1\n\n", Request::Set),
            (b"get=2\n\n", Request::Unknown),
            (b"\n\n", Request::Unknown),
            (b"GET / HTTP/1.1\r\n\n\n", Request::Unknown),
            (b"\xff\0\n\n", Request::Unknown),
        ] {
            let end = end_of_request(bytes).unwrap();
            assert_eq!(Request::parse(&bytes[..end]), request, "{bytes:?}");
            for cut in 0..end - 1 {
                assert_eq!(end_of_request(&bytes[..cut]), None, "{bytes:?} {cut}");
            }
        }
        assert_eq!(
            end_of_request(b"get=1\n\nset=1\n\n"),
            Some(7),
            "one after the other"
        );
        assert_eq!(refusal(Errno::NotPermitted), "errno=-1\n\n");
    }
}
