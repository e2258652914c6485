//! A peer's side of WireGuard, by boringtun: a handshake with the hub, and the session that comes of it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use crate::member::{self, HUB_KEY};

/// The hub answers so many handshakes a second and no more; what it did not answer is tried again.
const ATTEMPTS: u32 = 20;
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);
/// Larger than any message of a handshake.
const BUFFER_BYTES: usize = 256;

/// One peer with a socket and an address of its own.
pub(crate) struct Session {
    pub(crate) socket: UdpSocket,
    pub(crate) tunnel: Tunn,
}

impl Session {
    /// A socket towards the hub; no handshake yet.
    pub(crate) fn new(peer: u16, hub: SocketAddr) -> Result<Self> {
        let address = member::outer_address(peer);
        let socket = UdpSocket::bind((address, 0))
            .with_context(|| format!("the address {address} of peer {peer} cannot be had"))?;
        socket.connect(hub)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let hub_key = PublicKey::from(&StaticSecret::from(HUB_KEY));
        let private = member::private_key(peer);
        let tunnel = Tunn::new(private, hub_key, None, None, u32::from(peer), None);
        Ok(Self { socket, tunnel })
    }

    /// Makes a new session with the hub, whether or not there is one.
    pub(crate) fn handshake(&mut self) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let mut message = [0; BUFFER_BYTES];
            // It sets the clock that the tunnel goes by; what it would send, the next line sends.
            self.tunnel.update_timers(&mut message);
            match self.tunnel.format_handshake_initiation(&mut message, true) {
                TunnResult::WriteToNetwork(initiation) => self.socket.send(initiation)?,
                other => bail!("no handshake could be begun: {other:?}"),
            };
            if self.answered()? {
                return Ok(());
            }
        }
        bail!(
            "the hub did not answer {ATTEMPTS} handshakes from {:?}",
            self.socket.local_addr()
        )
    }

    /// Reads until the hub's response has made a session; false when time is over.
    fn answered(&mut self) -> Result<bool> {
        let (mut datagram, mut message) = ([0; BUFFER_BYTES], [0; BUFFER_BYTES]);
        loop {
            let length = match self.socket.recv(&mut datagram) {
                Ok(length) => length,
                Err(error) if timed_out(&error) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            // A keepalive confirms the session to the hub.
            if let TunnResult::WriteToNetwork(keepalive) =
                self.tunnel
                    .decapsulate(None, &datagram[..length], &mut message)
            {
                self.socket.send(keepalive)?;
                return Ok(true);
            }
        }
    }
}

fn timed_out(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
