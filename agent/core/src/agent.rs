//! The agent: hands each input to the machine that it concerns and collects what they want done.

mod agency;
mod knowing;
mod proving;
mod saving;
mod talk;
mod views;

pub(crate) use agency::consents;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use pnsbox_proto::PROTOCOL_VERSION;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::WireguardKey;
use pnsbox_proto::message::{LinkMessage, ToController};
use pnsbox_proto::view::PeerPath;

use crate::catalogue::Catalogue;
use crate::control::Control;
use crate::event::{
    ConnectionId, HostFacts, Identity, Input, Now, Output, SavedState, Start, TunnelState,
};
use crate::force::Force;
use crate::gossip::{self, Gossip};
use crate::host_config::Settings;
use crate::jitter::Jitter;
use crate::links::{LinkNews, Links};
use crate::report::Reporter;
use crate::snapshot::Tally;
use crate::trails::Trails;
use crate::trial::{TakenBack, Trial};
use crate::trust::{Own, Trust, TrustState};
use crate::view::View;
use crate::wall::WallClock;

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
    run: u64,
    pub(crate) saved: Option<SavedState>,
    pub(crate) facts: HostFacts,
    pub(crate) control: Control,
    pub(crate) force: Force,
    pub(crate) trial: Option<Trial>,
    going_back: Option<proving::GoingBack>,
    pub(crate) taken_back: Option<TakenBack>,
    pub(crate) links: Option<Links>,
    pub(crate) trust: Option<Trust>,
    pub(crate) gossip: Gossip,
    pub(crate) trails: Trails,
    pub(crate) distrust: knowing::Distrust,
    agency_keys: Vec<SigningKey>,
    pub(crate) catalogue: Catalogue,
    pub(crate) tunnels: BTreeMap<WireguardKey, TunnelState>,
    pub(crate) reporter: Reporter,
    pub(crate) wall: WallClock,
    pub(crate) broken_state: Option<String>,
    pub(crate) unsaved: Option<saving::Unsaved>,
    pub(crate) tally: Tally,
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
            run: start.seed,
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
            trial: None,
            going_back: None,
            taken_back: None,
            links: start
                .saved
                .as_ref()
                .map(|saved| Links::new(saved.joined.node.clone())),
            trust: None,
            gossip: Gossip::default(),
            trails: Trails::default(),
            distrust: knowing::Distrust::default(),
            agency_keys: start.agency_keys,
            catalogue: Catalogue::new(start.services),
            tunnels: BTreeMap::new(),
            reporter: Reporter::new(),
            wall: WallClock::new(now),
            broken_state: None,
            unsaved: None,
            tally: Tally::default(),
            jitter: Jitter::new(start.seed),
            endpoints_saved_at: None,
            tick_at: now.monotonic,
            outputs: VecDeque::new(),
            saved: start.saved,
        };
        agent.begin_trust();
        agent.restore(now);
        agent.tick(now);
        agent
    }

    /// Something happened.
    pub fn handle(&mut self, input: Input, now: Now) {
        let set_by = self.wall.follow(now);
        if let (Some(by_seconds), Some(trust)) = (set_by, &mut self.trust) {
            trust.clock_was_set(by_seconds);
        }
        match input {
            Input::Join(command) => self.join(command, now),
            Input::ControlUp { key } => {
                self.control.connected(key, now);
                self.greet();
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
                let Some(links) = &mut self.links else { return };
                let mut out = Vec::new();
                let news = links.heard(
                    connection,
                    message,
                    now.monotonic,
                    &mut self.jitter,
                    &mut out,
                );
                self.outputs.extend(out);
                self.link_news(news, now);
            }
            Input::Probe { connection, probe } => {
                let mut heard = None;
                self.with_links(|links, out| {
                    heard = links.probed(connection, probe, now.monotonic, out);
                });
                self.peer_answered(heard, probe, now);
            }
            Input::LinkDown { connection, reason } => self.link_down(connection, &reason, now),
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
                self.force
                    .facts_changed(&self.facts, now.monotonic, &mut out);
                self.outputs.extend(out);
            }
            Input::HostApplied { generation, result } => {
                let ended = self.force.applied(generation, result, now.monotonic);
                self.attempt_ended(ended, now);
            }
            Input::Persisted(result) => self.saved(result, now),
            Input::Timeout => {}
        }
        if now.monotonic >= self.tick_at {
            self.tick(now);
        }
    }

    fn link_down(&mut self, connection: ConnectionId, reason: &str, now: Now) {
        let Some(links) = &mut self.links else { return };
        if let Some(peer) = links.peer_of(connection) {
            self.gossip.lost(peer);
            self.trails.lost(peer);
        }
        links.closed(connection, reason, now.monotonic, &mut self.jitter);
    }

    fn greet(&mut self) {
        let newest = self.force.newest();
        let hello = ToController::Hello {
            protocol: PROTOCOL_VERSION,
            software: self.software.clone(),
            view: newest.map(|view| view.id().digest),
            audit: newest.map(|view| view.accepted.audit),
            run: Some(self.run),
        };
        self.say(hello);
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

    /// What was counted since the start.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The peers' names by the keys of their tunnels.
    pub fn peer_keys(&self) -> impl Iterator<Item = (WireguardKey, &NodeName)> {
        let peers = self
            .force
            .view()
            .into_iter()
            .flat_map(|view| view.peers.values());
        peers.map(|peer| (peer.wireguard, &peer.node))
    }

    /// The host's own network, as last told.
    pub fn facts(&self) -> &HostFacts {
        &self.facts
    }

    /// The connection of the link with a peer, if it is up.
    pub fn link(&self, node: &NodeName) -> Option<ConnectionId> {
        self.links.as_ref()?.connection(node)
    }

    /// Whether the agent does all it can: the saved view is in force, or there is none that can be used.
    pub fn is_applied(&self) -> bool {
        self.force.view().is_some()
            || self.broken_state.is_some()
            || self.saved.as_ref().is_none_or(|saved| saved.view.is_none())
    }

    fn tick(&mut self, now: Now) {
        self.tick_at = now.monotonic + TICK;
        self.tick_control(now);
        let mut out = Vec::new();
        let trust = &mut self.trust;
        let again = |view: View| match trust {
            Some(trust) if view.judged != trust.revision() => trust.judge(view.accepted, now.wall),
            _ => view,
        };
        let ended = self.force.next(&self.facts, now.monotonic, again, &mut out);
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
        self.tick_trust(now);
        self.tick_trial(now);
        self.go_back(now);
        self.save_endpoints(now);
        self.save_again_when_due(now);
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
        self.save();
    }

    /// Who signs and what was seen, once there is a network to belong to.
    pub(crate) fn begin_trust(&mut self) {
        let Some(saved) = &self.saved else { return };
        let own = Own {
            network: saved.joined.network.clone(),
            root: saved.root,
            node: saved.joined.node.clone(),
            identity: self.identity.identity,
            wireguard: self.identity.wireguard,
            prefixes: saved.prefixes.clone(),
        };
        let state: TrustState = saved.trust.clone();
        self.trust = Some(Trust::new(own, state, self.agency_keys.clone()));
    }

    fn link_news(&mut self, news: LinkNews, now: Now) {
        match news {
            LinkNews::None => {}
            LinkNews::Up(peer, connection) => {
                self.tell_peer(&peer, connection);
                if let Some(trust) = &self.trust {
                    let message = gossip::known(trust, self.force.view());
                    self.outputs.push_back(Output::SendLink {
                        connection,
                        message,
                    });
                }
                self.tell_trail(connection);
                self.reporter.report_soon();
            }
            LinkNews::Known {
                peer,
                statements,
                quarantine,
            } => self.gossip.heard(peer, statements, quarantine),
            LinkNews::Trail(peer, audit) => self.compare_trails(&peer, audit, now),
            LinkNews::Documents {
                peer,
                documents,
                quarantine,
            } => self.peer_told(&peer, &documents, quarantine.as_deref(), now),
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
        let is_linked = |view: &View| view.peers.get(peer).is_some_and(|peer| peer.is_linked);
        if !self.force.view().is_some_and(is_linked) {
            return;
        }
        let services = self.catalogue.for_agency(own, &peer.agency());
        let message = LinkMessage::Services { services };
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

    fn with_links(&mut self, act: impl FnOnce(&mut Links, &mut Vec<Output>)) {
        let mut out = Vec::new();
        if let Some(links) = &mut self.links {
            act(links, &mut out);
        }
        self.outputs.extend(out);
    }
}
