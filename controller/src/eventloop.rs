//! The only caller of the core: what happened goes in, the transaction is committed, and only then messages leave.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use pnsbox_controller_core::audit::Origin;
use pnsbox_controller_core::controller::{Controller, Now, Output, Target};
use pnsbox_controller_core::operator::{Answer, Refusal, Request};
use pnsbox_controller_core::session::SessionId;
use pnsbox_controller_core::store::Transaction;
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::message::{ToAgent, ToController};
use pnsbox_proto::time::UnixTime;
use quinn::VarInt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tracing::warn;

use crate::agents::Agent;
use crate::failpoint;
use crate::http::Directory;
use crate::keys;
use crate::metrics::Metrics;
use crate::store::Store;

/// Events waiting for the loop. Readers of sessions wait beyond that, which slows their agents down.
pub const EVENTS: usize = 1024;

/// Events that share one transaction: a herd of acknowledgements costs few writes, and no answer waits for long.
const BATCH: usize = 64;

/// How often time goes by for the core.
const TICK: Duration = Duration::from_secs(1);

/// Something happened outside.
#[derive(Debug)]
pub enum Event {
    /// A session stands.
    Connected {
        /// Its number.
        id: SessionId,
        /// The key that TLS proved.
        key: IdentityKey,
        /// Where it comes from.
        observed: SocketAddr,
        /// How to reach it.
        agent: Agent,
    },
    /// An agent said something.
    Message {
        /// Its session.
        id: SessionId,
        /// What.
        message: ToController,
    },
    /// A session ended.
    Closed {
        /// Which.
        id: SessionId,
    },
    /// An operator asks.
    Request {
        /// What.
        request: Box<Request>,
        /// Who, for the audit trail.
        by: Origin,
        /// Where the answer goes.
        reply: Reply,
    },
}

/// Where an operator waits for the answer.
pub type Reply = oneshot::Sender<Result<Answer, Refusal>>;

/// The loop and what it owns.
#[derive(Debug)]
pub struct EventLoop {
    controller: Controller,
    store: Store,
    metrics: Arc<Metrics>,
    targets: Arc<[Target]>,
    directory: watch::Sender<Option<Directory>>,
    agents: BTreeMap<SessionId, Agent>,
    replies: Vec<(Reply, Result<Answer, Refusal>)>,
    begun: Instant,
}

impl EventLoop {
    /// Takes over core and store.
    pub fn new(
        controller: Controller,
        store: Store,
        metrics: Arc<Metrics>,
        directory: watch::Sender<Option<Directory>>,
    ) -> Self {
        let (agents, replies) = (BTreeMap::new(), Vec::new());
        Self {
            controller,
            store,
            metrics,
            targets: Arc::default(),
            directory,
            agents,
            replies,
            begun: Instant::now(),
        }
    }

    /// Runs until `stopped`, or until the store can neither be written nor read.
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        stopped: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopped = std::pin::pin!(stopped);
        self.controller.begin_serving(self.now());
        self.settle()?;
        self.list();
        loop {
            tokio::select! {
                () = &mut stopped => break,
                _ = tick.tick() => {
                    self.try_store()?;
                    self.controller.handle_tick(self.now());
                    self.metrics.observe(&self.controller);
                    self.publish();
                }
                event = events.recv() => match event {
                    Some(event) => self.handle(event)?,
                    None => break,
                },
            }
            for _ in 1..BATCH {
                match events.try_recv() {
                    Ok(event) => self.handle(event)?,
                    Err(_) => break,
                }
            }
            self.settle()?;
        }
        for (id, agent) in std::mem::take(&mut self.agents) {
            agent
                .connection
                .close(VarInt::from_u32(0), b"the controller stops");
            self.controller.handle_closed(id, self.now());
        }
        self.settle()
    }

    fn handle(&mut self, event: Event) -> anyhow::Result<()> {
        let now = self.now();
        match event {
            Event::Connected {
                id,
                key,
                observed,
                agent,
            } => {
                self.agents.insert(id, agent);
                self.controller.handle_connected(id, key, observed, now);
            }
            Event::Message { id, message } => self.controller.handle_message(id, message, now),
            Event::Closed { id } => {
                self.agents.remove(&id);
                self.controller.handle_closed(id, now);
            }
            Event::Request { request, by, reply } => {
                self.metrics.requested();
                let answer = self
                    .controller
                    .handle_request(*request, &by, now, keys::random()?);
                self.replies.push((reply, answer));
            }
        }
        Ok(())
    }

    /// Commits, then lets messages and answers out. What cannot be committed is taken back before anybody hears of it.
    fn settle(&mut self) -> anyhow::Result<()> {
        // What agents said waits for the next try; nothing is decided meanwhile.
        if self.controller.store_failure().is_none() {
            self.commit()?;
        }
        while let Some(output) = self.controller.poll_output() {
            self.perform(output);
        }
        if !self.replies.is_empty() {
            failpoint::step("loop_before_replies");
        }
        for (reply, answer) in self.replies.drain(..) {
            // An operator who went away needs no answer.
            drop(reply.send(answer));
        }
        Ok(())
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        let transaction = self.controller.take_transaction();
        if transaction.is_empty() {
            return Ok(());
        }
        match tokio::task::block_in_place(|| self.store.transact(&transaction)) {
            Ok(revision) => {
                self.controller.committed(&transaction, revision);
                self.metrics.committed();
                failpoint::step("loop_before_outputs");
                let listed = |key: &String| key.starts_with("node/");
                if transaction.changes.keys().any(listed) {
                    self.list();
                }
            }
            Err(error) => self.take_back(transaction, error.into())?,
        }
        Ok(())
    }

    fn take_back(&mut self, transaction: Transaction, error: anyhow::Error) -> anyhow::Result<()> {
        let reason = format!("{error:#}");
        if self.controller.not_written(transaction, reason.clone()) {
            let read = tokio::task::block_in_place(|| self.store.list(""));
            let entries = read.context("state can neither be written nor read")?;
            self.controller.roll_back(&entries, self.now())?;
            let message = format!("{reason}; nothing was changed");
            for (_, answer) in &mut self.replies {
                *answer = Err(Refusal::Refused {
                    message: message.clone(),
                });
            }
        }
        self.list();
        Ok(())
    }

    /// Tries a store that failed, once a second.
    fn try_store(&mut self) -> anyhow::Result<()> {
        if self.controller.store_failure().is_none() {
            return Ok(());
        }
        if let Err(error) = tokio::task::block_in_place(|| self.store.probe()) {
            let reason = format!("{:#}", anyhow::Error::from(error));
            self.controller.not_written(Transaction::default(), reason);
            return Ok(());
        }
        self.controller.store_recovered(self.now());
        self.commit()?;
        self.publish();
        Ok(())
    }

    /// Takes over who is to be scraped, and says so.
    fn list(&mut self) {
        self.targets = self.controller.targets().into();
        self.publish();
    }

    /// Says that the list stands, and that this loop lives.
    fn publish(&self) {
        self.directory.send_replace(Some(Directory {
            network: self.controller.network().name.clone(),
            targets: Arc::clone(&self.targets),
            doubt: self.controller.store_failure().map(str::to_owned),
            said: Instant::now(),
        }));
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Send { session, message } => {
                let Some(agent) = self.agents.get_mut(&session) else {
                    return;
                };
                if matches!(
                    *message,
                    ToAgent::Joined { .. } | ToAgent::Welcome { node: Some(_), .. }
                ) {
                    agent.admit();
                }
                if agent.outbox.try_send(*message).is_err() {
                    warn!(session, "an agent takes its messages too slowly");
                    agent
                        .connection
                        .close(VarInt::from_u32(1), b"messages are taken too slowly");
                }
            }
            Output::Close { session, reason } => {
                if let Some(agent) = self.agents.remove(&session) {
                    agent
                        .connection
                        .close(VarInt::from_u32(1), reason.as_bytes());
                }
            }
        }
    }

    fn now(&self) -> Now {
        Now {
            monotonic: self.begun.elapsed(),
            wall: UnixTime::from(SystemTime::now()),
        }
    }
}
