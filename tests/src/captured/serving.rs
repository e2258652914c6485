//! The captured controller on the wire: a thread of its own in the controller's network namespace, which greets boxes,
//! answers what they ask on trial, and carries messages. What they are told is decided elsewhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ed25519_dalek::SigningKey;
use nix::sched::{CloneFlags, setns};
use pnsbox_controller::agents::{self, Agent};
use pnsbox_controller::eventloop::Event;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::message::{ToAgent, ToController};
use tokio::sync::{mpsc, oneshot};

/// How long boxes have to hear that the server goes.
const BYE_WITHIN: Duration = Duration::from_secs(2);

/// Whom the boxes see.
#[derive(Debug)]
pub(super) struct Face {
    pub(super) key: SigningKey,
    pub(super) certificate: Envelope,
    pub(super) root: IdentityKey,
    pub(super) nodes: BTreeMap<IdentityKey, NodeName>,
    pub(super) address: SocketAddr,
}

type Outboxes = Arc<Mutex<BTreeMap<NodeName, mpsc::Sender<ToAgent>>>>;

/// The running server. Dropping it gives the address back.
#[derive(Debug)]
pub(super) struct Server {
    outboxes: Outboxes,
    said: Receiver<(NodeName, ToController)>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(namespace: &Path, face: Face) -> Result<Self> {
        let namespace = File::open(namespace)?;
        let outboxes = Outboxes::default();
        let (heard, said) = channel();
        let (stop, stopped) = oneshot::channel();
        let (up, is_up) = channel();
        let shared = Arc::clone(&outboxes);
        let thread = std::thread::Builder::new().spawn(move || {
            let runtime = setns(namespace, CloneFlags::CLONE_NEWNET)
                .context("its network cannot be entered")
                .and_then(|()| {
                    let mut builder = tokio::runtime::Builder::new_current_thread();
                    Ok(builder.enable_all().build()?)
                });
            match runtime {
                Ok(runtime) => runtime.block_on(run(face, shared, heard, stopped, up)),
                Err(error) => drop(up.send(Err(error))),
            }
        })?;
        is_up.recv().context("the server's thread ended")??;
        Ok(Self {
            outboxes,
            said,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Whether the box is there to be told.
    pub(super) fn send(&self, node: &NodeName, message: &ToAgent) -> bool {
        let outboxes = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let outbox = outboxes.get(node);
        outbox.is_some_and(|outbox| outbox.blocking_send(message.clone()).is_ok())
    }

    /// What a box says next.
    pub(super) fn hear(&self, within: Duration) -> Option<(NodeName, ToController)> {
        self.said.recv_timeout(within).ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            drop(thread.join());
        }
    }
}

async fn run(
    face: Face,
    outboxes: Outboxes,
    heard: Sender<(NodeName, ToController)>,
    mut stopped: oneshot::Receiver<()>,
    up: Sender<Result<()>>,
) {
    let endpoint = match agents::listen(Vec::new(), &[face.address], &face.key) {
        Ok(mut endpoints) => endpoints.remove(0),
        Err(error) => return drop(up.send(Err(error))),
    };
    drop(up.send(Ok(())));
    let (events, mut happened) = mpsc::channel(64);
    let ids = Arc::new(AtomicU64::new(1));
    tokio::spawn(agents::accept(endpoint.clone(), ids, events));
    let mut desk = Desk {
        face,
        outboxes,
        heard,
        sessions: BTreeMap::new(),
    };
    loop {
        tokio::select! {
            event = happened.recv() => match event {
                Some(event) => desk.take(event).await,
                None => break,
            },
            _ = &mut stopped => break,
        }
    }
    endpoint.close(0u32.into(), b"the controller stops");
    // Whoever does not hear it finds out by itself.
    drop(tokio::time::timeout(BYE_WITHIN, endpoint.wait_idle()).await);
}

struct Session {
    node: Option<NodeName>,
    observed: SocketAddr,
    agent: Agent,
}

struct Desk {
    face: Face,
    outboxes: Outboxes,
    heard: Sender<(NodeName, ToController)>,
    sessions: BTreeMap<u64, Session>,
}

impl Desk {
    async fn take(&mut self, event: Event) {
        match event {
            Event::Connected {
                id,
                key,
                observed,
                mut agent,
            } => {
                let node = self.face.nodes.get(&key).cloned();
                agent.admit();
                let session = Session {
                    node,
                    observed,
                    agent,
                };
                self.sessions.insert(id, session);
            }
            Event::Message { id, message } => self.message(id, message).await,
            Event::Closed { id } => drop(self.sessions.remove(&id)),
            Event::Request { .. } => {}
        }
    }

    async fn message(&self, id: u64, message: ToController) {
        let Some(Session {
            node: Some(node),
            observed,
            agent,
        }) = self.sessions.get(&id)
        else {
            return;
        };
        let answer = match &message {
            ToController::Hello { .. } => Some(ToAgent::Welcome {
                root: self.face.root,
                certificate: self.face.certificate.clone(),
                observed: *observed,
                node: Some(node.clone()),
                now: super::now(),
            }),
            ToController::Check { view } => Some(ToAgent::Checked { view: *view }),
            _ => None,
        };
        if let Some(answer) = answer {
            // A session that ended needs no answer.
            drop(agent.outbox.send(answer).await);
        }
        if matches!(message, ToController::Hello { .. }) {
            let mut outboxes = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
            outboxes.insert(node.clone(), agent.outbox.clone());
        }
        // Nobody listens any more when the scenario is over.
        drop(self.heard.send((node.clone(), message)));
    }
}
