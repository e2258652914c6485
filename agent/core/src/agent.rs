//! The agent: hands each input to the machine that it concerns and collects what they want done.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use pnsbox_proto::PROTOCOL_VERSION;
use pnsbox_proto::certificate::ControllerCertificate;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};
use pnsbox_proto::message::{JoinRequest, ToAgent, ToController, ViewOutcome};
use pnsbox_proto::view::{PeerPath, SignedView};
use tracing::{info, warn};

use crate::catalogue::Catalogue;
use crate::control::{Control, Expected, Session, judge_certificate};
use crate::event::{
    ConnectionId, HostFacts, Identity, Input, JoinCommand, Joined, Now, Output, SavedState,
    SavedView, Start, TunnelState,
};
use crate::force::{Candidate, Ended, Force};
use crate::host_config::Settings;
use crate::jitter::Jitter;
use crate::links::{LinkNews, Links};
use crate::report::Reporter;
use crate::view::{Judge, Refusal, View};

/// How often timers are looked at. Everything that waits here waits for seconds.
const TICK: Duration = Duration::from_millis(250);
/// An endpoint that moves more often is not worth the disk.
const ENDPOINTS_SAVED_AT_MOST_EVERY: Duration = Duration::from_secs(60);

/// One agent.
#[derive(Debug)]
pub struct Agent {
    pub(crate) identity: Identity,
    pub(crate) software: String,
    link_port: u16,
    pub(crate) saved: Option<SavedState>,
    pub(crate) facts: HostFacts,
    pub(crate) control: Control,
    pub(crate) force: Force,
    pub(crate) links: Option<Links>,
    pub(crate) catalogue: Catalogue,
    pub(crate) tunnels: BTreeMap<WireguardKey, TunnelState>,
    pub(crate) reporter: Reporter,
    pub(crate) broken_state: Option<String>,
    jitter: Jitter,
    endpoints_saved_at: Option<Duration>,
    tick_at: Duration,
    outputs: VecDeque<Output>,
}

impl Agent {
    /// An agent as it was saved, or one that has not joined. Its saved view comes into force at once.
    pub fn new(start: Start, now: Now) -> Self {
        let mut agent = Self {
            identity: start.identity,
            software: start.software,
            link_port: start.link_port,
            facts: HostFacts::default(),
            control: Control::new(start.saved.as_ref().map(|_| now.monotonic)),
            force: Force::new(Settings {
                link: start.link_port,
                http: start.http_port,
                mtu: start.mtu,
                endpoints: start
                    .saved
                    .as_ref()
                    .map_or_else(BTreeMap::new, |saved| saved.endpoints.clone()),
            }),
            links: start
                .saved
                .as_ref()
                .map(|saved| Links::new(saved.joined.node.clone())),
            catalogue: Catalogue::new(start.services),
            tunnels: BTreeMap::new(),
            reporter: Reporter::new(now),
            broken_state: None,
            jitter: Jitter::new(start.seed),
            endpoints_saved_at: None,
            tick_at: now.monotonic,
            outputs: VecDeque::new(),
            saved: start.saved,
        };
        agent.restore();
        agent.tick(now);
        agent
    }

    /// Something happened.
    pub fn handle(&mut self, input: Input, now: Now) {
        match input {
            Input::Join(command) => self.join(command, now),
            Input::ControlUp { key } => {
                self.control.connected(key, now);
                let view = self.force.newest().map(|view| view.id.digest);
                let hello = ToController::Hello {
                    protocol: PROTOCOL_VERSION,
                    software: self.software.clone(),
                    view,
                };
                self.say(hello);
            }
            Input::Control(message) => self.controller_said(*message, now),
            Input::ControlDown { reason } => self.control_lost(reason, now),
            Input::LinkUp {
                connection, key, ..
            } => {
                self.with_links(|links, out| links.opened(connection, &key, now.monotonic, out));
            }
            Input::Link {
                connection,
                message,
            } => {
                let news = self
                    .with_links(|links, out| links.heard(connection, message, now.monotonic, out));
                self.link_news(news.unwrap_or(LinkNews::None));
            }
            Input::Probe { connection, probe } => {
                self.with_links(|links, out| links.probed(connection, probe, now.monotonic, out));
            }
            Input::LinkDown { connection, reason } => {
                if let Some(links) = &mut self.links {
                    links.closed(connection, &reason, now.monotonic, &mut self.jitter);
                }
            }
            Input::LinkFailed { node, reason } => {
                if let Some(links) = &mut self.links {
                    links.failed(&node, &reason, now.monotonic, &mut self.jitter);
                }
            }
            Input::Check { service, result } => {
                let label = service.as_str().split('/').next_back().unwrap_or_default();
                if self.catalogue.checked(label, result) {
                    self.announce();
                }
            }
            Input::Tunnels(tunnels) => {
                self.tunnels = tunnels
                    .into_iter()
                    .map(|tunnel| (tunnel.key, tunnel))
                    .collect();
            }
            Input::HostFacts(facts) => {
                self.facts = facts;
                let mut out = Vec::new();
                self.force.facts_changed(&self.facts, &mut out);
                self.outputs.extend(out);
            }
            Input::HostApplied { generation, result } => {
                let ended = self.force.applied(generation, result, now.monotonic);
                self.attempt_ended(ended, now);
            }
            Input::Timeout => {}
        }
        if now.monotonic >= self.tick_at {
            self.tick(now);
        }
    }

    /// The next thing to do. Drain to empty after each input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call again though nothing happened; on the scale of [`Now::monotonic`].
    pub fn next_timeout(&self) -> Option<Duration> {
        Some(self.tick_at)
    }

    /// This node's name, once it has joined.
    pub fn node(&self) -> Option<&NodeName> {
        self.saved.as_ref().map(|saved| &saved.joined.node)
    }

    /// The host's own network, as last told.
    pub fn facts(&self) -> &HostFacts {
        &self.facts
    }

    /// The connection of the link with a peer, if it is up.
    pub fn link(&self, node: &NodeName) -> Option<ConnectionId> {
        self.links.as_ref()?.connection(node)
    }

    /// Whether the agent does all it can: the saved view is in force, or there is none.
    pub fn is_applied(&self) -> bool {
        self.force.view().is_some() || self.saved.as_ref().is_none_or(|saved| saved.view.is_none())
    }

    /// Puts the saved view into force, without asking anybody.
    fn restore(&mut self) {
        let Some(saved) = &self.saved else { return };
        let Some(view) = &saved.view else { return };
        match judge_saved(saved, view) {
            Ok(view) => self.put(Candidate {
                view,
                sent_by: None,
            }),
            Err(reason) => {
                warn!(%reason, "the saved view is not used");
                self.broken_state = Some(reason);
            }
        }
    }

    fn tick(&mut self, now: Now) {
        self.tick_at = now.monotonic + TICK;
        self.tick_control(now);
        let mut out = Vec::new();
        let ended = self.force.next(&self.facts, now.monotonic, &mut out);
        self.outputs.extend(out);
        if let Some(ended) = ended {
            self.attempt_ended(ended, now);
        }
        if let Some(links) = &mut self.links {
            let own = self.saved.as_ref().map(|saved| &saved.joined.node);
            let shares = |peer: &NodeName| own.is_some_and(|own| self.catalogue.shares(own, peer));
            let mut out = Vec::new();
            links.tick(now.monotonic, shares, &mut out);
            self.outputs.extend(out);
        }
        self.save_endpoints(now);
        self.report(now);
    }

    /// Keeps the endpoints of peers that dial us for the next start; disks of edge boxes do not like to be written often.
    fn save_endpoints(&mut self, now: Now) {
        let saved_lately = self
            .endpoints_saved_at
            .is_some_and(|at| now.monotonic < at + ENDPOINTS_SAVED_AT_MOST_EVERY);
        let (Some(saved), Some(view), false) = (&mut self.saved, self.force.view(), saved_lately)
        else {
            return;
        };
        let dialling_us = view
            .peers
            .values()
            .filter(|peer| peer.path == PeerPath::Passive);
        let seen: BTreeMap<_, _> = dialling_us
            .filter_map(|peer| Some((peer.wireguard, self.tunnels.get(&peer.wireguard)?.endpoint?)))
            .collect();
        if seen.is_empty() || seen == saved.endpoints {
            return;
        }
        saved.endpoints = seen;
        self.endpoints_saved_at = Some(now.monotonic);
        self.outputs
            .push_back(Output::Persist(Box::new(saved.clone())));
    }

    fn tick_control(&mut self, now: Now) {
        if self
            .control
            .join
            .as_ref()
            .is_some_and(|join| join.until <= now.monotonic)
        {
            let why = self
                .control
                .last_error
                .clone()
                .unwrap_or_else(|| "no controller answered".into());
            self.end_join(
                Err(format!(
                    "{why}; check that this box reaches the controller over UDP, then try again"
                )),
                now,
            );
        }
        if self.control.welcome_is_overdue(now.monotonic) {
            self.close_control("the controller did not introduce itself", now);
        }
        if self.control.dial_is_due(now.monotonic) {
            let controllers = match (&self.control.join, &self.saved) {
                (Some(join), _) => join.command.anchor.controllers.clone(),
                (None, Some(saved)) => saved.controllers.clone(),
                (None, None) => return,
            };
            self.control.session = Session::Dialling;
            self.outputs.push_back(Output::DialControl { controllers });
        }
    }

    fn join(&mut self, command: JoinCommand, now: Now) {
        let refusal = match &self.saved {
            Some(SavedState { joined, .. }) if joined.network == command.anchor.network => {
                Some(format!(
                    "this box already is {} of network {}",
                    joined.node, joined.network
                ))
            }
            Some(SavedState { joined, .. }) => Some(format!(
                "this box already is {} of network {}, and the anchor is of network {}: \
                 a box belongs to one network; start with an empty state directory to change it",
                joined.node, joined.network, command.anchor.network
            )),
            None if self.control.join.is_some() => {
                Some("a join is already under way; wait for its answer".into())
            }
            None => None,
        };
        if let Some(reason) = refusal {
            self.outputs.push_back(Output::JoinOutcome(Err(reason)));
            return;
        }
        let controllers = command.anchor.controllers.clone();
        self.control.begin_join(command, now);
        self.outputs.push_back(Output::DialControl { controllers });
    }

    fn end_join(&mut self, outcome: Result<Joined, String>, now: Now) {
        self.control.join = None;
        if outcome.is_err() {
            self.outputs.push_back(Output::CloseControl {
                reason: "the join failed".into(),
            });
            self.control.session = Session::Offline { dial_at: None };
            self.control.since = Some(now.wall);
        }
        self.outputs.push_back(Output::JoinOutcome(outcome));
    }

    fn controller_said(&mut self, message: ToAgent, now: Now) {
        match message {
            ToAgent::Welcome {
                root,
                certificate,
                observed,
                node,
                ..
            } => {
                let Session::Greeting { key, .. } = self.control.session else {
                    return;
                };
                match self.welcome(&root, &certificate, &key, node.as_ref()) {
                    Ok(()) => {
                        self.control.online(key, certificate, observed, now);
                        self.greeted();
                    }
                    Err(reason) if self.control.join.is_some() => self.end_join(Err(reason), now),
                    Err(reason) => self.close_control(&reason, now),
                }
            }
            ToAgent::Joined {
                network,
                node,
                controllers,
            } if self.control.is_online() => {
                let Some(join) = self.control.join.clone() else {
                    return;
                };
                let Some(root) = self.control.root else {
                    return;
                };
                if network != join.command.anchor.network {
                    return self.end_join(
                        Err(format!(
                            "the controller let this box into network {network}"
                        )),
                        now,
                    );
                }
                let joined = Joined { network, node };
                self.links = Some(Links::new(joined.node.clone()));
                let saved = SavedState {
                    joined: joined.clone(),
                    root,
                    controllers,
                    view: None,
                    endpoints: BTreeMap::new(),
                };
                self.outputs
                    .push_back(Output::Persist(Box::new(saved.clone())));
                self.saved = Some(saved);
                self.end_join(Ok(joined), now);
                self.announce();
            }
            ToAgent::JoinRefused { reason } if self.control.join.is_some() => {
                self.end_join(Err(reason.to_string()), now);
            }
            ToAgent::View(offered) if self.control.is_online() => self.offered(&offered, now),
            ToAgent::Joined { .. } | ToAgent::JoinRefused { .. } | ToAgent::View(_) => {}
        }
    }

    /// Whether to believe the controller that introduced itself.
    fn welcome(
        &mut self,
        root: &IdentityKey,
        certificate: &Envelope,
        tls_key: &IdentityKey,
        known_as: Option<&NodeName>,
    ) -> Result<(), String> {
        let expected = match (&self.control.join, &self.saved) {
            (Some(join), _) => Expected {
                network: &join.command.anchor.network,
                root: join.command.anchor.root,
            },
            (None, Some(saved)) => Expected {
                network: &saved.joined.network,
                root: saved.root.fingerprint(),
            },
            (None, None) => return Err("nobody asked this box to join".into()),
        };
        judge_certificate(expected, root, certificate, tls_key)?;
        if let (Some(saved), known_as) = (&self.saved, known_as)
            && known_as != Some(&saved.joined.node)
        {
            let known =
                known_as.map_or_else(|| "not at all".to_owned(), |node| format!("as {node}"));
            return Err(format!(
                "the controller knows this box {known}, not as {}",
                saved.joined.node
            ));
        }
        self.control.root = Some(*root);
        Ok(())
    }

    /// The controller is believed: say what it waits for.
    fn greeted(&mut self) {
        if let Some(join) = &self.control.join {
            let request = JoinRequest {
                token: join.command.anchor.token.clone(),
                wireguard: self.identity.wireguard,
                prefixes: join.command.prefixes.clone(),
                public_endpoint: join.command.public_endpoint,
            };
            self.say(ToController::Join(request));
        } else {
            self.tell_controller_services();
            self.reporter.report_soon();
            // The outcome may have been lost with the session before.
            self.acknowledge();
        }
    }

    fn control_lost(&mut self, reason: String, now: Now) {
        let may_dial = self.saved.is_some() || self.control.join.is_some();
        self.control.lost(reason, may_dial, now, &mut self.jitter);
    }

    fn close_control(&mut self, reason: &str, now: Now) {
        self.outputs.push_back(Output::CloseControl {
            reason: reason.into(),
        });
        self.control_lost(reason.into(), now);
    }

    fn offered(&mut self, offered: &SignedView, now: Now) {
        let (Some(saved), Session::Online { key, certificate }) =
            (&self.saved, &self.control.session)
        else {
            return;
        };
        let digest = offered.manifest.payload_digest();
        if self
            .force
            .view()
            .is_some_and(|view| view.id.digest == digest)
        {
            return self.acknowledge();
        }
        let joined = &saved.joined;
        let judge = Judge {
            network: &joined.network,
            node: &joined.node,
            controller: key,
        };
        match judge.accept(offered, self.force.newest()) {
            Ok(view) => {
                if !view.quarantined.is_empty() {
                    warn!(records = ?view.quarantined, "records of the view cannot be read and are left out");
                }
                info!(version = view.id.version, "a view is accepted");
                let (mut out, sent_by) = (Vec::new(), Some(certificate.clone()));
                let ended = self
                    .force
                    .put(Candidate { view, sent_by }, &self.facts, &mut out);
                self.outputs.extend(out);
                if let Some(ended) = ended {
                    self.attempt_ended(ended, now);
                }
            }
            Err(Refusal::Incomplete(missing)) => {
                info!(missing, "the view needs records that are not here");
                self.refuse(offered, digest, ViewOutcome::Incomplete);
            }
            Err(refusal) => {
                warn!(%refusal, "a view is refused");
                self.refuse(
                    offered,
                    digest,
                    ViewOutcome::Refused {
                        reason: refusal.to_string(),
                    },
                );
            }
        }
    }

    /// Answers for a view that was not accepted. Its version is only what it claims.
    fn refuse(&mut self, offered: &SignedView, digest: Digest, outcome: ViewOutcome) {
        let claimed = serde_json::from_str::<serde_json::Value>(&offered.manifest.payload).ok();
        let version = claimed
            .and_then(|manifest| manifest["version"].as_u64())
            .unwrap_or(0);
        self.say(ToController::ViewOutcome {
            version,
            digest,
            outcome,
            quarantined: Vec::new(),
        });
    }

    fn put(&mut self, candidate: Candidate) {
        let mut out = Vec::new();
        // At the start there are no facts, and so nothing to refuse for.
        drop(self.force.put(candidate, &self.facts, &mut out));
        self.outputs.extend(out);
    }

    fn attempt_ended(&mut self, ended: Ended, now: Now) {
        match ended {
            Ended::Stale => {}
            Ended::InForce { sent_by } => self.in_force(sent_by, now),
            Ended::Refused {
                id,
                reason,
                is_awaited,
            } => {
                warn!(version = id.version, %reason, "the view is not in force");
                if is_awaited {
                    let outcome = ViewOutcome::Refused { reason };
                    let quarantined = Vec::new();
                    self.say(ToController::ViewOutcome {
                        version: id.version,
                        digest: id.digest,
                        outcome,
                        quarantined,
                    });
                }
                self.reporter.report_soon();
            }
        }
    }

    fn in_force(&mut self, sent_by: Option<Envelope>, now: Now) {
        let Some(view) = self.force.view() else {
            return;
        };
        info!(version = view.id.version, "the view is in force");
        let mut out = Vec::new();
        if let Some(links) = &mut self.links {
            links.reconcile(view, self.link_port, now.monotonic, &mut out);
        }
        self.catalogue.retain(view);
        self.reporter.in_force(now);
        let is_awaited = sent_by.is_some();
        if let (Some(saved), Some(certificate)) = (&mut self.saved, sent_by) {
            saved.view = Some(SavedView {
                certificate,
                view: view.signed.clone(),
            });
            out.push(Output::Persist(Box::new(saved.clone())));
        }
        self.outputs.extend(out);
        if is_awaited {
            self.acknowledge();
        }
        self.announce();
        self.reporter.report_soon();
    }

    /// Says that the view in force is in force.
    fn acknowledge(&mut self) {
        let Some(view) = self.force.view() else {
            return;
        };
        let message = ToController::ViewOutcome {
            version: view.id.version,
            digest: view.id.digest,
            outcome: ViewOutcome::Applied,
            quarantined: view.quarantined.clone(),
        };
        self.say(message);
    }

    fn link_news(&mut self, news: LinkNews) {
        match news {
            LinkNews::None => {}
            LinkNews::Up(peer, connection) => {
                self.tell_peer(&peer, connection);
                self.reporter.report_soon();
            }
            LinkNews::Services(peer, services) => {
                if let Some(own) = self.node().map(NodeName::agency) {
                    self.catalogue.announced(&peer, &own, services);
                }
            }
        }
    }

    /// Tells everybody who is told of our services as they are now.
    fn announce(&mut self) {
        let Some(links) = &self.links else { return };
        let up: Vec<_> = links
            .up()
            .map(|(peer, connection)| (peer.clone(), connection))
            .collect();
        for (peer, connection) in up {
            self.tell_peer(&peer, connection);
        }
        self.tell_controller_services();
        self.reporter.report_soon();
    }

    fn tell_peer(&mut self, peer: &NodeName, connection: ConnectionId) {
        let Some(own) = self.node() else { return };
        let services = self.catalogue.for_agency(own, &peer.agency());
        let message = pnsbox_proto::message::LinkMessage::Services { services };
        self.outputs.push_back(Output::SendLink {
            connection,
            message,
        });
    }

    fn tell_controller_services(&mut self) {
        let Some(own) = self.node() else { return };
        let services = self.catalogue.healthy(own);
        self.say(ToController::Services { services });
    }

    /// Says something to a controller that is believed; the greeting itself goes to any.
    pub(crate) fn say(&mut self, message: ToController) {
        let is_greeting = matches!(message, ToController::Hello { .. });
        if is_greeting || self.control.is_online() {
            self.outputs
                .push_back(Output::SendControl(Box::new(message)));
        }
    }

    pub(crate) fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn with_links<T>(&mut self, act: impl FnOnce(&mut Links, &mut Vec<Output>) -> T) -> Option<T> {
        let mut out = Vec::new();
        let result = self.links.as_mut().map(|links| act(links, &mut out));
        self.outputs.extend(out);
        result
    }
}

/// Judges what was on disk as if it came from the network: root, certificate, manifest.
fn judge_saved(saved: &SavedState, view: &SavedView) -> Result<View, String> {
    let certificate: ControllerCertificate = view
        .certificate
        .open(&saved.root)
        .map_err(|e| format!("the saved certificate is not used: {e}"))?;
    let judge = Judge {
        network: &saved.joined.network,
        node: &saved.joined.node,
        controller: &certificate.controller,
    };
    judge
        .accept(&view.view, None)
        .map_err(|e| format!("the saved view is not used: {e}"))
}
