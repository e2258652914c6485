//! QUIC sessions with agents: accepts them, proves the controller's key, learns theirs, and carries messages.
//!
//! Any key may connect; what it may say is judged by the core. Nothing larger than what came goes to an address
//! that has not proved that it receives it (docs/decisions/0006), and strangers get little of anything.

mod strangers;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use ed25519_dalek::SigningKey;
use pnsbox_proto::CONTROL_ALPN;
use pnsbox_proto::message::{ToAgent, ToController};
use pnsbox_transport::limits::{self, KeepAlive};
use pnsbox_transport::{AnyKey, FramedReceiver, FramedSender, peer_key, server_config};
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, TokioRuntime, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::eventloop::Event;
use strangers::{Place, Strangers};

/// Silence that ends a session; agents send keep-alives more often.
const IDLE: Duration = Duration::from_secs(30);

/// From the first packet to the agent's stream.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// What a stranger may have under way each way, in bytes: `hello` and `join` are far shorter.
const STRANGER_WINDOW: u32 = 64 << 10;

/// Longest message of a box that has joined: a report of 2,000 peers, or the consents of one agency with all others.
const NODE_FRAME_BYTES: usize = 1 << 20;

/// Longest message of a stranger, in bytes: a `join` with 64 prefixes takes 4 KiB.
const STRANGER_FRAME_BYTES: usize = 16 << 10;

/// What a node may have under way each way, in bytes: four of the largest messages.
const NODE_WINDOW: u32 = 4 << 20;

/// Messages waiting for one agent: `Welcome`, `Joined`, and one view at a time.
const OUTBOX: usize = 8;

/// Socket buffers, in bytes: a herd of 2,000 first packets of 1,200 bytes fits.
const BUFFER_BYTES: usize = 4 << 20;

/// The way to one agent.
#[derive(Debug)]
pub struct Agent {
    /// Messages to it.
    pub outbox: mpsc::Sender<ToAgent>,
    /// Its connection.
    pub connection: Connection,
    place: Option<Place>,
    known: Arc<AtomicBool>,
}

impl Agent {
    /// Its key is a node's: it is a stranger no more. Doing it again changes nothing.
    pub fn admit(&mut self) {
        if self.place.take().is_some() {
            self.known.store(true, Ordering::Release);
            self.connection
                .set_receive_window(VarInt::from_u32(NODE_WINDOW));
            self.connection.set_send_window(NODE_WINDOW.into());
        }
    }
}

/// Listens on the sockets that were passed, or else on every address; `[::]` means IPv4 as well, and becomes
/// `0.0.0.0` where there is no IPv6.
pub fn listen(
    passed: Vec<std::net::UdpSocket>,
    addresses: &[SocketAddr],
    key: &SigningKey,
) -> anyhow::Result<Vec<Endpoint>> {
    let mut config = server_config(key, Arc::new(AnyKey), CONTROL_ALPN)?;
    let mut transport = limits::transport(IDLE, KeepAlive::Never);
    Arc::get_mut(&mut transport)
        .context("the transport's limits are shared")?
        .receive_window(VarInt::from_u32(STRANGER_WINDOW))
        .send_window(STRANGER_WINDOW.into())
        .datagram_receive_buffer_size(None);
    config.transport_config(transport);
    limits::listener(&mut config);
    let open = |socket: std::net::UdpSocket| -> anyhow::Result<Endpoint> {
        let runtime = Arc::new(TokioRuntime);
        Ok(Endpoint::new(
            EndpointConfig::default(),
            Some(config.clone()),
            socket,
            runtime,
        )?)
    };
    if !passed.is_empty() {
        return passed.into_iter().map(open).collect();
    }
    let bound = |address: &SocketAddr| {
        bind(*address).with_context(|| format!("cannot listen on UDP {address} for agents"))
    };
    addresses
        .iter()
        .map(|address| open(bound(address)?))
        .collect()
}

fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    match open(address) {
        // No IPv6 in this kernel, or switched off.
        Err(error)
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && matches!(
                    error.raw_os_error().map(nix::errno::Errno::from_raw),
                    Some(nix::errno::Errno::EAFNOSUPPORT | nix::errno::Errno::EADDRNOTAVAIL)
                ) =>
        {
            open((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        result => result,
    }
}

fn open(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    for result in [
        socket.set_recv_buffer_size(BUFFER_BYTES),
        socket.set_send_buffer_size(BUFFER_BYTES),
    ] {
        if let Err(error) = result {
            debug!(%error, "the socket keeps smaller buffers");
        }
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Accepts sessions until the endpoint is closed.
pub async fn accept(endpoint: Endpoint, ids: Arc<AtomicU64>, events: mpsc::Sender<Event>) {
    let strangers = Strangers::default();
    while let Some(incoming) = endpoint.accept().await {
        if !incoming.remote_address_validated() {
            if let Err(error) = incoming.retry() {
                debug!(%error, "an address could not be validated");
            }
            continue;
        }
        let Some(place) = strangers.place(incoming.remote_address().ip()) else {
            debug!(remote = %incoming.remote_address(), "too many sessions of strangers");
            incoming.refuse();
            continue;
        };
        let id = ids.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(session(id, incoming, place, events.clone()));
    }
}

/// One session, to its end.
async fn session(id: u64, incoming: Incoming, place: Place, events: mpsc::Sender<Event>) {
    let remote = incoming.remote_address();
    let opened = tokio::time::timeout(HANDSHAKE_WITHIN, async {
        let connection = incoming.await?;
        let (send, receive) = connection.accept_bi().await?;
        Ok::<_, quinn::ConnectionError>((connection, send, receive))
    });
    let (connection, send, receive) = match opened.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return debug!(%remote, %error, "a session was not made"),
        Err(_) => return debug!(%remote, "a session was not made in time"),
    };
    let Some(key) = peer_key(&connection) else {
        return connection.close(VarInt::from_u32(1), b"no raw public key");
    };
    let known = Arc::new(AtomicBool::new(false));
    let (outbox, messages) = mpsc::channel(OUTBOX);
    let agent = Agent {
        outbox,
        connection: connection.clone(),
        place: Some(place),
        known: Arc::clone(&known),
    };
    let observed = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    if events
        .send(Event::Connected {
            id,
            key,
            observed,
            agent,
        })
        .await
        .is_err()
    {
        return;
    }
    tokio::spawn(write(FramedSender::new(send), messages, connection.clone()));
    read(
        id,
        FramedReceiver::new(receive),
        &known,
        &events,
        &connection,
    )
    .await;
    // The loop may have ended, and then nobody needs to know.
    drop(events.send(Event::Closed { id }).await);
}

async fn read(
    id: u64,
    mut receiver: FramedReceiver<ToController>,
    known: &AtomicBool,
    events: &mpsc::Sender<Event>,
    connection: &Connection,
) {
    let longest = || {
        if known.load(Ordering::Acquire) {
            NODE_FRAME_BYTES
        } else {
            STRANGER_FRAME_BYTES
        }
    };
    loop {
        match receiver.receive_within(longest).await {
            Ok(message) => {
                if events.send(Event::Message { id, message }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                debug!(session = id, %error, "a session ended");
                return connection.close(VarInt::from_u32(1), error.to_string().as_bytes());
            }
        }
    }
}

async fn write(
    mut sender: FramedSender<ToAgent>,
    mut messages: mpsc::Receiver<ToAgent>,
    connection: Connection,
) {
    while let Some(message) = messages.recv().await {
        if let Err(error) = sender.send(&message).await {
            warn!(remote = %connection.remote_address(), %error, "a message could not be sent");
            return connection.close(VarInt::from_u32(1), b"a message could not be sent");
        }
    }
}
