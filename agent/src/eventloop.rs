//! The only owner of the core: waits for something to happen, tells the core, does what it says.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use pnsbox_agent_core::agent::Agent;
use pnsbox_agent_core::event::{
    ConnectionId, Input, JoinCommand, Joined, Now, Output, SavedState, Start,
};
use pnsbox_agent_core::lan::lan_prefixes;
use pnsbox_proto::anchor::Anchor;
use pnsbox_proto::id::{NodeName, ServiceName};
use pnsbox_proto::probe::Probe;
use pnsbox_proto::time::UnixTime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::{error, info, warn};

use crate::admin::{Pong, Question};
use crate::checks::Checks;
use crate::config::Config;
use crate::control::Control;
use crate::failpoint::step;
use crate::handshakes::Handshakes;
use crate::host::{Host, HostObject};
use crate::http::HttpServer;
use crate::links::{Links, NewLink};
use crate::metrics::ShellTally;
use crate::{store, systemd};

mod agency;
mod upkeep;

/// Something for the event loop. The channel holds 1,024: a burst of every peer of a large hub at once.
#[derive(Debug)]
pub enum Event {
    /// For the core, as it is.
    Core(Box<Input>),
    /// Of one control session; stale ones are dropped.
    Control {
        /// The session's number.
        session: u64,
        /// What happened in it.
        input: Box<Input>,
    },
    /// A connection with a peer's key stands.
    NewLink(Box<NewLink>),
    /// A probe came in on a link.
    Probe {
        /// The connection.
        connection: ConnectionId,
        /// Which.
        probe: Probe,
    },
    /// Somebody asks.
    Question(Box<Question>),
}

/// Bound of the event channel.
pub const EVENTS: usize = 1024;

/// Sequence numbers from here on are `pnsbox ping`'s; below are the core's own. Peers echo both.
const PING_SEQUENCES: u64 = 1 << 63;
const PING_TIMEOUT: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_secs(1);

/// The parts that the loop drives.
#[derive(Debug)]
pub struct EventLoop {
    config: Config,
    agent: Agent,
    handshakes: Handshakes,
    host: Host,
    control: Control,
    links: Links,
    checks: Checks,
    http: HttpServer,
    tally: ShellTally,
    events: mpsc::Sender<Event>,
    started: Instant,
    overlay: Option<IpAddr>,
    join: Option<oneshot::Sender<Result<Joined, String>>>,
    pings: BTreeMap<u64, Ping>,
    next_ping: u64,
    progress: Option<u64>,
    progressed: Option<UnixTime>,
    repaired: Instant,
    drops_read: Option<Instant>,
    ready: bool,
}

#[derive(Debug)]
struct Ping {
    sent: Instant,
    answer: oneshot::Sender<Result<Pong, String>>,
}

/// What [`EventLoop::new`] puts together.
#[derive(Debug)]
pub struct Parts {
    /// Checked configuration.
    pub config: Config,
    /// What the core must know at birth.
    pub start: Start,
    /// Whose clock the data plane has.
    pub handshakes: Handshakes,
    /// Kernel and data plane.
    pub host: Host,
    /// Towards the controller.
    pub control: Control,
    /// Towards peers.
    pub links: Links,
    /// `/metrics`.
    pub http: HttpServer,
}

impl EventLoop {
    /// Ready to run.
    pub fn new(parts: Parts, events: mpsc::Sender<Event>) -> Self {
        let started = Instant::now();
        Self {
            agent: Agent::new(parts.start, now(started)),
            config: parts.config,
            handshakes: parts.handshakes,
            host: parts.host,
            control: parts.control,
            links: parts.links,
            checks: Checks::default(),
            http: parts.http,
            tally: ShellTally {
                repairs: HostObject::ALL.map(|object| (object.as_str(), 0)).into(),
                ..ShellTally::default()
            },
            events,
            started,
            overlay: None,
            join: None,
            pings: BTreeMap::new(),
            next_ping: PING_SEQUENCES,
            progress: None,
            progressed: None,
            repaired: started,
            drops_read: None,
            ready: false,
        }
    }

    /// Runs until `shutdown`, then leaves the host as it was.
    pub async fn run(
        mut self,
        mut incoming: mpsc::Receiver<Event>,
        shutdown: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut host_changes = self.host.watch_facts();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.read_facts().await;
        loop {
            self.drain().await;
            tokio::select! {
                () = &mut shutdown => break,
                event = incoming.recv() => match event {
                    Some(event) => self.handle_event(event).await,
                    None => break,
                },
                changed = host_changes.recv() => match changed {
                    Some(()) => self.read_facts().await,
                    None => anyhow::bail!("the kernel's address and route notices ended"),
                },
                _ = ticks.tick() => self.tick().await,
                () = sleep_until(self.deadline()) => self.handle(Input::Timeout),
            }
        }
        systemd::stopping();
        self.control.close();
        self.host.shutdown().await;
        Ok(())
    }

    fn now(&self) -> Now {
        now(self.started)
    }

    /// When the core wants to be woken; a day from now if it does not.
    fn deadline(&self) -> tokio::time::Instant {
        let idle = self.started.elapsed() + Duration::from_secs(86_400);
        (self.started + self.agent.next_timeout().unwrap_or(idle)).into()
    }

    fn handle(&mut self, input: Input) {
        let now = self.now();
        self.agent.handle(input, now);
    }

    async fn handle_event(&mut self, event: Event) {
        match event {
            Event::Core(input) => match *input {
                Input::Link { connection, .. } | Input::LinkDown { connection, .. }
                    if !self.links.is_open(connection) => {}
                Input::LinkDown { connection, reason } => {
                    self.links.close(connection, "");
                    self.handle(Input::LinkDown { connection, reason });
                }
                input => self.handle(input),
            },
            Event::Control { session, input } if self.control.is_current(session) => {
                if let Input::ControlDown { .. } = *input {
                    self.control.close();
                }
                self.handle(*input);
            }
            Event::Control { .. } => {}
            Event::NewLink(new) => {
                let input = self.links.open(*new);
                self.handle(input);
            }
            Event::Probe { connection, probe } => self.handle_probe(connection, probe),
            Event::Question(question) => self.handle_question(*question).await,
        }
    }

    fn handle_probe(&mut self, connection: ConnectionId, probe: Probe) {
        if probe.echo && probe.sequence >= PING_SEQUENCES {
            if let Some(ping) = self.pings.remove(&probe.sequence) {
                let rtt_ms = ping.sent.elapsed().as_secs_f64() * 1e3;
                // Whoever asked may have left.
                drop(ping.answer.send(Ok(Pong { rtt_ms })));
            }
        } else if self.links.is_open(connection) {
            self.handle(Input::Probe { connection, probe });
        }
    }

    /// Whoever asked may have left, so answers may go nowhere.
    async fn handle_question(&mut self, question: Question) {
        let now = self.now();
        match question {
            Question::Status(answer) => drop(answer.send(self.agent.status(now))),
            Question::Services(answer) => drop(answer.send(self.agent.services(now))),
            Question::Metrics(answer) => drop(answer.send(self.metrics_text().await)),
            Question::Tunnels(answer) => drop(answer.send(self.host.device())),
            Question::Agency { command, answer } => drop(answer.send(self.agency(command).await)),
            Question::AgencyKey { command, answer } => {
                drop(answer.send(self.agency_key(command).await));
            }
            Question::Ping { node, answer } => self.ping(&node, answer),
            Question::Join {
                anchor,
                lan,
                public,
                answer,
            } => self.join(anchor.expose(), lan, public, answer),
        }
    }

    fn ping(&mut self, node: &NodeName, answer: oneshot::Sender<Result<Pong, String>>) {
        let Some(connection) = self.agent.link(node) else {
            let known = self
                .agent
                .status(self.now())
                .peers
                .iter()
                .any(|p| p.node == *node);
            let reason = if known {
                format!("there is no link with {node} at the moment; see 'pnsbox peers'")
            } else {
                format!("{node} is not a peer of this box; 'pnsbox peers' lists them")
            };
            drop(answer.send(Err(reason)));
            return;
        };
        let sequence = self.next_ping;
        self.next_ping = self.next_ping.wrapping_add(1) | PING_SEQUENCES;
        self.pings.insert(
            sequence,
            Ping {
                sent: Instant::now(),
                answer,
            },
        );
        self.links.send_probe(
            connection,
            Probe {
                echo: false,
                sequence,
                sent_us: 0,
            },
        );
    }

    fn join(
        &mut self,
        anchor: &str,
        lan: Option<Vec<IpNet>>,
        public: Vec<SocketAddr>,
        answer: oneshot::Sender<Result<Joined, String>>,
    ) {
        let command = if self.join.is_some() {
            Err("a join is already under way; wait for its answer".to_owned())
        } else {
            self.join_command(anchor, lan, &public)
        };
        match command {
            Ok(command) => {
                self.join = Some(answer);
                self.handle(Input::Join(command));
            }
            Err(reason) => drop(answer.send(Err(reason))),
        }
    }

    fn join_command(
        &self,
        anchor: &str,
        lan: Option<Vec<IpNet>>,
        public: &[SocketAddr],
    ) -> Result<JoinCommand, String> {
        let (public_endpoint, second_endpoint) = endpoints(public)?;
        let anchor: Anchor = anchor
            .parse()
            .map_err(|e: pnsbox_proto::anchor::AnchorError| e.to_string())?;
        let prefixes = match lan {
            Some(prefixes) => prefixes,
            None => lan_prefixes(self.agent.facts())?,
        };
        Ok(JoinCommand {
            anchor,
            prefixes,
            public_endpoint,
            second_endpoint,
        })
    }

    async fn read_facts(&mut self) {
        match self.host.facts().await {
            Ok(facts) => self.handle(Input::HostFacts(facts)),
            Err(error) => warn!(%error, "the host's addresses and routes cannot be read"),
        }
    }

    /// Does everything that the core wants done, until it wants nothing.
    async fn drain(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            self.perform(output).await;
        }
        self.start_checks();
        if !self.ready && self.agent.is_applied() {
            self.ready = true;
            systemd::ready();
        }
    }

    async fn perform(&mut self, output: Output) {
        match output {
            Output::DialControl { controllers } => self.control.dial(controllers),
            Output::SendControl(message) => self.control.send(*message),
            Output::CloseControl { reason } => {
                info!(%reason, "closing the session with the controller");
                self.control.close();
            }
            Output::Apply { generation, host } => {
                let result = self.apply(&host).await.map_err(|e| format!("{e:#}"));
                if let Err(reason) = &result {
                    error!(%reason, "the host refused the configuration");
                }
                step("view_applied");
                self.handle(Input::HostApplied { generation, result });
            }
            Output::Persist(state) => self.persist(&state),
            Output::DialLink { node, key, address } => self.links.dial(node, key, address),
            Output::AcceptLinks { keys } => self.links.accept_keys(keys),
            Output::SendLink {
                connection,
                message,
            } => self.links.send(connection, message),
            Output::SendProbe { connection, probe } => self.links.send_probe(connection, probe),
            Output::CloseLink { connection, reason } => self.links.close(connection, &reason),
            Output::JoinOutcome(outcome) => {
                if let Some(answer) = self.join.take() {
                    // Whoever asked may have left; the outcome stands all the same.
                    drop(answer.send(outcome));
                }
            }
            Output::Status(text) => {
                info!(status = %text, "status");
                systemd::status(&text);
            }
        }
    }

    fn persist(&mut self, state: &SavedState) {
        let handshakes = self.handshakes.keep_again();
        let saved = store::save(&self.config.state_dir, state);
        let saved = saved.map_err(|error| format!("{:#}", anyhow::Error::from(error)));
        let result = saved.and(handshakes);
        self.tally.state_write_failures += u64::from(result.is_err());
        if let Err(reason) = &result {
            error!(%reason, "the state was not saved: a restart would go back to the one before");
        }
        self.handle(Input::Persisted(result));
    }

    async fn apply(&mut self, host: &pnsbox_agent_core::host::HostConfig) -> anyhow::Result<()> {
        if host.interface.is_some() {
            // Before the first handshake.
            self.keep_handshakes();
        }
        self.host.apply(host).await?;
        let overlay = host.interface.as_ref().map(|i| IpAddr::from(i.overlay_v4));
        if overlay != self.overlay {
            self.links.listen(overlay)?;
            let v6 = host.interface.as_ref().map(|i| IpAddr::from(i.overlay_v6));
            let v6 = v6.filter(|_| self.host.has_ipv6());
            let both: Vec<IpAddr> = overlay.into_iter().chain(v6).collect();
            self.http.listen_overlay(&both).await?;
            self.overlay = overlay;
        }
        Ok(())
    }

    /// Services have names, and so checks, once the node has a place in the network.
    fn start_checks(&mut self) {
        if !self.checks.is_empty() || self.config.services.is_empty() {
            return;
        }
        let Some(agency) = self.agent.node().map(NodeName::agency) else {
            return;
        };
        for service in &self.config.services {
            let name = ServiceName::new(&agency, &service.core.name)
                .expect("the configuration was checked to hold service labels");
            let (endpoint, check) = (service.core.endpoint, service.check.clone());
            self.checks
                .start(name, endpoint, check, self.events.clone());
        }
    }
}

fn now(started: Instant) -> Now {
    Now {
        monotonic: started.elapsed(),
        wall: UnixTime::from(SystemTime::now()),
    }
}

/// One address, or one of each version of IP.
fn endpoints(public: &[SocketAddr]) -> Result<(Option<SocketAddr>, Option<SocketAddr>), String> {
    match *public {
        [] => Ok((None, None)),
        [one] => Ok((Some(one), None)),
        [first, second] if first.is_ipv4() != second.is_ipv4() => Ok((Some(first), Some(second))),
        _ => Err("--public may be given twice at most, once for IPv4 and once for IPv6".to_owned()),
    }
}
