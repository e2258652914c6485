//! QUIC links with peers, on this node's overlay address: sockets and TLS.
//! Whom to dial, whose key to accept and what to say, the core decides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use parking_lot::RwLock;
use pnsbox_agent_core::event::{ConnectionId, Input};
use pnsbox_proto::LINK_ALPN;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::message::LinkMessage;
use pnsbox_proto::probe::Probe;
use pnsbox_transport::limits::{self, KeepAlive};
use pnsbox_transport::{
    FramedReceiver, FramedSender, KeyPolicy, OnlyKey, client_config, peer_key, server_config,
};
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

use crate::eventloop::Event;

/// A handshake through a tunnel takes two round trips and may have to wait for the tunnel's own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The core judges silence and closes; this bounds what it forgets.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Messages waiting for one peer; a list of services is one message.
const QUEUE: usize = 16;

/// The links of this node. Dropping it closes them.
#[derive(Debug)]
pub struct Links {
    key: SigningKey,
    port: u16,
    events: mpsc::Sender<Event>,
    accepted: Arc<AcceptedKeys>,
    listener: Option<Listener>,
    connections: BTreeMap<ConnectionId, Link>,
    next: ConnectionId,
}

#[derive(Debug)]
struct Listener {
    address: SocketAddr,
    endpoint: Endpoint,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
        self.endpoint.close(0u32.into(), b"the agent stops");
    }
}

#[derive(Debug)]
struct Link {
    connection: Connection,
    outgoing: mpsc::Sender<LinkMessage>,
}

/// The keys that the view names, judged anew for each connection.
#[derive(Debug, Default)]
struct AcceptedKeys(RwLock<BTreeSet<IdentityKey>>);

impl KeyPolicy for AcceptedKeys {
    fn accepts(&self, key: &IdentityKey) -> bool {
        self.0.read().contains(key)
    }
}

/// A connection that is about to become a link.
#[derive(Debug)]
pub struct NewLink {
    connection: Connection,
    key: IdentityKey,
    stream: (SendStream, RecvStream),
    dialled: bool,
}

impl Links {
    /// No listener yet, and no key is accepted.
    pub fn new(key: SigningKey, port: u16, events: mpsc::Sender<Event>) -> Self {
        Self {
            key,
            port,
            events,
            accepted: Arc::default(),
            listener: None,
            connections: BTreeMap::new(),
            next: 0,
        }
    }

    /// Listens on `overlay`, or nowhere. Links on another address are closed.
    pub fn listen(&mut self, overlay: Option<IpAddr>) -> anyhow::Result<()> {
        let address = overlay.map(|ip| SocketAddr::new(ip, self.port));
        if self.listener.as_ref().map(|l| l.address) == address {
            return Ok(());
        }
        self.listener = None;
        let Some(address) = address else {
            return Ok(());
        };
        let mut config = server_config(&self.key, self.accepted.clone(), LINK_ALPN)?;
        config.transport_config(limits::transport(IDLE_TIMEOUT, KeepAlive::Never));
        limits::listener(&mut config);
        let endpoint = Endpoint::server(config, address)
            .map_err(|e| anyhow::anyhow!("UDP {address} for links cannot be used: {e}; another program may hold it, see 'ss -lunp' or set [link] port"))?;
        let task = tokio::spawn(accept(endpoint.clone(), self.events.clone()));
        self.listener = Some(Listener {
            address,
            endpoint,
            task,
        });
        Ok(())
    }

    /// Where links are accepted.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.listener
            .as_ref()
            .and_then(|listener| listener.endpoint.local_addr().ok())
    }

    /// Keys to accept from now on.
    pub fn accept_keys(&self, keys: Vec<IdentityKey>) {
        *self.accepted.0.write() = keys.into_iter().collect();
    }

    /// Dials a peer; ends in [`Event::NewLink`] or [`Input::LinkFailed`].
    pub fn dial(&self, node: NodeName, key: IdentityKey, address: SocketAddr) {
        let events = self.events.clone();
        let endpoint = self.listener.as_ref().map(|l| l.endpoint.clone());
        let own_key = self.key.clone();
        tokio::spawn(async move {
            let event = match dial(endpoint, &own_key, key, address).await {
                Ok(new) => Event::NewLink(Box::new(new)),
                Err(error) => Event::Core(Box::new(Input::LinkFailed {
                    node,
                    reason: format!("{error:#}"),
                })),
            };
            // The event loop is gone only when the program ends.
            drop(events.send(event).await);
        });
    }

    /// Takes a new connection in; the returned input tells the core of it.
    pub fn open(&mut self, new: NewLink) -> Input {
        self.next += 1;
        let id = self.next;
        let (outgoing, messages) = mpsc::channel(QUEUE);
        let NewLink {
            connection,
            key,
            stream,
            dialled,
        } = new;
        tokio::spawn(run(
            id,
            connection.clone(),
            stream,
            messages,
            self.events.clone(),
        ));
        self.connections.insert(
            id,
            Link {
                connection,
                outgoing,
            },
        );
        Input::LinkUp {
            connection: id,
            key,
            dialled,
        }
    }

    /// Whether the core still should hear of this connection.
    pub fn is_open(&self, id: ConnectionId) -> bool {
        self.connections.contains_key(&id)
    }

    /// Queues a message; a peer that does not drain is closed, and the core hears of it through [`Input::LinkDown`].
    pub fn send(&self, id: ConnectionId, message: LinkMessage) {
        if let Some(link) = self.connections.get(&id)
            && link.outgoing.try_send(message).is_err()
        {
            link.connection.close(2u32.into(), b"does not drain");
        }
    }

    /// Sends a probe; one that does not fit or finds no session is lost, as on any path.
    pub fn send_probe(&self, id: ConnectionId, probe: Probe) {
        if let Some(link) = self.connections.get(&id)
            && let Err(error) = link
                .connection
                .send_datagram(probe.encode().to_vec().into())
        {
            debug!(connection = id, %error, "a probe was not sent");
        }
    }

    /// Closes a link and forgets it.
    pub fn close(&mut self, id: ConnectionId, reason: &str) {
        if let Some(link) = self.connections.remove(&id) {
            link.connection.close(1u32.into(), reason.as_bytes());
        }
    }
}

async fn accept(endpoint: Endpoint, events: mpsc::Sender<Event>) {
    while let Some(incoming) = endpoint.accept().await {
        let events = events.clone();
        tokio::spawn(async move {
            let accepted = async {
                let connection = incoming.await?;
                // The dialler speaks first, so its stream is here as soon as it has judged our key.
                let stream = connection.accept_bi().await?;
                new_link(connection, stream, false)
            };
            match timeout(CONNECT_TIMEOUT, accepted).await {
                Ok(Ok(new)) => drop(events.send(Event::NewLink(Box::new(new))).await),
                Ok(Err(error)) => debug!(error = %format!("{error:#}"), "a link was not accepted"),
                Err(_) => debug!("a link that said nothing was not accepted"),
            }
        });
    }
}

async fn dial(
    endpoint: Option<Endpoint>,
    own_key: &SigningKey,
    key: IdentityKey,
    address: SocketAddr,
) -> anyhow::Result<NewLink> {
    let endpoint =
        endpoint.ok_or_else(|| anyhow::anyhow!("this node has no overlay address yet"))?;
    let mut config = client_config(own_key, Arc::new(OnlyKey(key)), LINK_ALPN)?;
    config.transport_config(limits::transport(IDLE_TIMEOUT, KeepAlive::Never));
    let dialled = async {
        let connection = endpoint.connect_with(config, address, "pnsbox")?.await?;
        let stream = connection.open_bi().await?;
        new_link(connection, stream, true)
    };
    timeout(CONNECT_TIMEOUT, dialled).await.map_err(|_| {
        anyhow::anyhow!(
            "no answer from {address} in {} s",
            CONNECT_TIMEOUT.as_secs()
        )
    })?
}

fn new_link(
    connection: Connection,
    stream: (SendStream, RecvStream),
    dialled: bool,
) -> anyhow::Result<NewLink> {
    let key = peer_key(&connection).ok_or_else(|| anyhow::anyhow!("the peer proved no key"))?;
    Ok(NewLink {
        connection,
        key,
        stream,
        dialled,
    })
}

/// Carries one link until it ends.
async fn run(
    id: ConnectionId,
    connection: Connection,
    (send, receive): (SendStream, RecvStream),
    mut messages: mpsc::Receiver<LinkMessage>,
    events: mpsc::Sender<Event>,
) {
    let mut sender = FramedSender::<LinkMessage>::new(send);
    let mut receiver = FramedReceiver::<LinkMessage>::new(receive);
    let core = |input| Event::Core(Box::new(input));
    let incoming = async {
        loop {
            let message = receiver.receive().await?;
            events
                .send(core(Input::Link {
                    connection: id,
                    message,
                }))
                .await?;
        }
    };
    let outgoing = async {
        while let Some(message) = messages.recv().await {
            sender.send(&message).await?;
        }
        anyhow::Ok(())
    };
    let probes = async {
        loop {
            let datagram = connection.read_datagram().await?;
            if let Some(probe) = Probe::decode(&datagram) {
                events
                    .send(Event::Probe {
                        connection: id,
                        probe,
                    })
                    .await?;
            }
        }
    };
    let ended: anyhow::Result<()> = tokio::select! {
        result = incoming => result,
        result = outgoing => result,
        result = probes => result,
    };
    let reason = ended
        .err()
        .map_or_else(|| "closed here".to_owned(), |error| format!("{error:#}"));
    connection.close(0u32.into(), b"");
    // The event loop is gone only when the program ends.
    drop(
        events
            .send(core(Input::LinkDown {
                connection: id,
                reason,
            }))
            .await,
    );
}
