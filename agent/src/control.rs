//! The session with a controller: sockets and TLS. What is said, and whether the key is good, the core decides.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use pnsbox_agent_core::event::Input;
use pnsbox_proto::CONTROL_ALPN;
use pnsbox_proto::message::{ToAgent, ToController};
use pnsbox_transport::limits::{self, KeepAlive};
use pnsbox_transport::{AnyKey, FramedReceiver, FramedSender, TlsError, client_config, peer_key};
use quinn::{Connection, Endpoint, TransportConfig};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

use crate::eventloop::Event;

/// How long one controller address may take to answer before the next is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A session without a packet for this long is dead.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Holds the NAT mapping: shorter than the 30 s after which the least patient NATs forget UDP (RFC 4787 REQ-5 asks 2 min).
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Messages waiting to be sent; the core reports at most once a second, so more means that the session hangs.
const QUEUE: usize = 64;

/// Dials controllers and carries messages; at most one session at a time.
#[derive(Debug)]
pub struct Control {
    tls: quinn::ClientConfig,
    events: mpsc::Sender<Event>,
    session: Option<Session>,
    dialled: u64,
}

#[derive(Debug)]
struct Session {
    number: u64,
    outgoing: mpsc::Sender<ToController>,
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Control {
    /// Nothing is dialled yet. Sessions prove `key`.
    pub fn new(key: &SigningKey, events: mpsc::Sender<Event>) -> Result<Self, TlsError> {
        let mut tls = client_config(key, Arc::new(AnyKey), CONTROL_ALPN)?;
        tls.transport_config(transport());
        Ok(Self {
            tls,
            events,
            session: None,
            dialled: 0,
        })
    }

    /// Dials `controllers` in order, in place of any session before.
    pub fn dial(&mut self, controllers: Vec<SocketAddr>) {
        self.dialled += 1;
        let number = self.dialled;
        let (outgoing, messages) = mpsc::channel(QUEUE);
        let (tls, events) = (self.tls.clone(), self.events.clone());
        let task = tokio::spawn(async move {
            let reason = session(number, tls, &controllers, messages, &events).await;
            // The event loop is gone only when the program ends.
            drop(
                events
                    .send(Event::Control {
                        session: number,
                        input: Box::new(Input::ControlDown { reason }),
                    })
                    .await,
            );
        });
        self.session = Some(Session {
            number,
            outgoing,
            task,
        });
    }

    /// Whether an event of session `number` is news: not of one that was replaced or closed.
    pub fn is_current(&self, number: u64) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.number == number)
    }

    /// Queues a message; a session that does not drain its queue is given up.
    pub fn send(&mut self, message: ToController) {
        let Some(session) = &self.session else { return };
        if session.outgoing.try_send(message).is_err() {
            debug!("the controller session does not drain, giving it up");
            session.task.abort();
            let number = session.number;
            let input = Box::new(Input::ControlDown {
                reason: "the session hangs".into(),
            });
            drop(self.events.try_send(Event::Control {
                session: number,
                input,
            }));
        }
    }

    /// Ends the session, or stops dialling.
    pub fn close(&mut self) {
        self.session = None;
    }
}

fn transport() -> Arc<TransportConfig> {
    limits::transport(IDLE_TIMEOUT, KeepAlive::Every(KEEP_ALIVE))
}

/// Dials, then carries messages until the session ends; returns why it did.
async fn session(
    number: u64,
    tls: quinn::ClientConfig,
    controllers: &[SocketAddr],
    messages: mpsc::Receiver<ToController>,
    events: &mpsc::Sender<Event>,
) -> String {
    let (endpoint, connection) = match connect(tls, controllers).await {
        Ok(connected) => connected,
        Err(reason) => return reason,
    };
    let reason = match carry(number, &connection, messages, events).await {
        Ok(()) => "the session was closed".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    connection.close(0u32.into(), b"");
    endpoint.close(0u32.into(), b"");
    reason
}

async fn connect(
    tls: quinn::ClientConfig,
    controllers: &[SocketAddr],
) -> Result<(Endpoint, Connection), String> {
    let mut failures = Vec::new();
    for &address in controllers {
        match connect_one(tls.clone(), address).await {
            Ok(connected) => return Ok(connected),
            Err(reason) => failures.push(format!("controller {address}: {reason}")),
        }
    }
    Err(failures.join("; "))
}

async fn connect_one(
    tls: quinn::ClientConfig,
    address: SocketAddr,
) -> Result<(Endpoint, Connection), String> {
    let any: SocketAddr = if address.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let endpoint = Endpoint::client(any).map_err(|e| format!("no UDP socket: {e}"))?;
    let connecting = endpoint
        .connect_with(tls, address, "pnsbox")
        .map_err(|e| format!("cannot be dialled: {e}"))?;
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => Ok((endpoint, connection)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "no answer in {} s over UDP",
            CONNECT_TIMEOUT.as_secs()
        )),
    }
}

async fn carry(
    number: u64,
    connection: &Connection,
    mut messages: mpsc::Receiver<ToController>,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    let key =
        peer_key(connection).ok_or_else(|| anyhow::anyhow!("the controller proved no key"))?;
    let (send, receive) = connection.open_bi().await?;
    let mut sender = FramedSender::<ToController>::new(send);
    let mut receiver = FramedReceiver::<ToAgent>::new(receive);
    let event = |input| Event::Control {
        session: number,
        input: Box::new(input),
    };
    events.send(event(Input::ControlUp { key })).await?;
    let incoming = async {
        loop {
            let message = receiver.receive().await?;
            events
                .send(event(Input::Control(Box::new(message))))
                .await?;
        }
    };
    let outgoing = async {
        while let Some(message) = messages.recv().await {
            sender.send(&message).await?;
        }
        Ok(())
    };
    tokio::select! {
        result = incoming => result,
        result = outgoing => result,
    }
}
