//! Links with peers: whom to dial, whose connection counts, who is silent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pnsbox_proto::PROTOCOL_VERSION;
use pnsbox_proto::agency::{AgencyDocument, SignedQuarantine};
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::message::LinkMessage;
use pnsbox_proto::probe::Probe;
use pnsbox_proto::service::Service;
use pnsbox_proto::view::AuditHead;
use tracing::{debug, info};

use crate::event::{ConnectionId, Output};
use crate::jitter::{Backoff, Jitter};
use crate::path_stats::PathStats;
use crate::view::View;

/// A peer that shares a service and was not heard for this long hides its services.
const HIDE_AFTER: Duration = Duration::from_secs(4);
/// A link that was not heard for this long is dialled anew: where services are shared, and elsewhere.
const SILENT_SHARED: Duration = Duration::from_secs(5);
const SILENT: Duration = Duration::from_secs(35);
/// Time between probes: where services are shared, and elsewhere.
const PROBE_SHARED: Duration = Duration::from_secs(1);
const PROBE: Duration = Duration::from_secs(10);
/// A connection whose peer never said hello is given up.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Pauses between dials: a tunnel that comes up should have its link at once, a dead peer costs little.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// All links of this node.
#[derive(Debug)]
pub(crate) struct Links {
    own: NodeName,
    peers: BTreeMap<NodeName, PeerLink>,
}

#[derive(Debug)]
struct PeerLink {
    key: IdentityKey,
    address: SocketAddr,
    connection: Option<Connection>,
    dialling: bool,
    dial_at: Duration,
    backoff: Backoff,
    heard_at: Option<Duration>,
    shared_since: Option<Duration>,
    probe_at: Duration,
    stats: PathStats,
}

#[derive(Debug, Clone, Copy)]
struct Connection {
    id: ConnectionId,
    since: Duration,
    is_up: bool,
}

/// What a message on a link means for others.
#[derive(Debug, PartialEq)]
pub(crate) enum LinkNews {
    /// Nothing.
    None,
    /// The peer said hello: tell it our services.
    Up(NodeName, ConnectionId),
    /// The peer announced its services.
    Services(NodeName, Vec<Service>),
    /// The peer said which agencies concern it, and how far it is.
    Known {
        peer: NodeName,
        statements: BTreeMap<AgencyName, u64>,
        quarantine: u64,
    },
    /// The peer was shown the controller's audit trail.
    Trail(NodeName, AuditHead),
    /// The peer told what this node lacked.
    Documents {
        peer: NodeName,
        documents: Vec<AgencyDocument>,
        quarantine: Option<Box<SignedQuarantine>>,
    },
}

impl Links {
    pub(crate) fn new(own: NodeName) -> Self {
        Self {
            own,
            peers: BTreeMap::new(),
        }
    }

    /// Takes over the peers of a view. Connections of keys that left are closed.
    pub(crate) fn reconcile(
        &mut self,
        view: &View,
        port: u16,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let mut old = std::mem::take(&mut self.peers);
        for peer in view.peers.values() {
            let address = SocketAddr::new(peer.overlay_v4.into(), port);
            let link = match old.remove(&peer.node) {
                Some(link) if link.key == peer.identity && link.address == address => link,
                replaced => {
                    if let Some(connection) = replaced.and_then(|link| link.connection) {
                        close(connection.id, "its key or address changed", out);
                    }
                    PeerLink::new(peer.identity, address, now)
                }
            };
            self.peers.insert(peer.node.clone(), link);
        }
        for connection in old.into_values().filter_map(|link| link.connection) {
            close(connection.id, "it is no peer any more", out);
        }
        out.push(Output::AcceptLinks {
            keys: self.peers.values().map(|link| link.key).collect(),
        });
    }

    /// A connection stands; the newest with a peer counts.
    pub(crate) fn opened(
        &mut self,
        id: ConnectionId,
        key: &IdentityKey,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let own = self.own.clone();
        let Some(link) = self.peers.values_mut().find(|link| link.key == *key) else {
            return close(id, "it is no peer any more", out);
        };
        link.dialling = false;
        if let Some(old) = link.connection.replace(Connection {
            id,
            since: now,
            is_up: false,
        }) {
            close(old.id, "replaced by a newer one", out);
        }
        let message = LinkMessage::Hello {
            protocol: PROTOCOL_VERSION,
            node: own,
        };
        out.push(Output::SendLink {
            connection: id,
            message,
        });
    }

    /// A peer spoke.
    pub(crate) fn heard(
        &mut self,
        id: ConnectionId,
        message: LinkMessage,
        now: Duration,
        jitter: &mut Jitter,
        out: &mut Vec<Output>,
    ) -> LinkNews {
        let Some((node, link)) = self.by_connection(id) else {
            return LinkNews::None;
        };
        let node = node.clone();
        let is_up = link.connection.is_some_and(|connection| connection.is_up);
        match message {
            LinkMessage::Hello { node: said, .. } if said != node => {
                close(id, "hello by another name than the key's", out);
                let pause = link.backoff.pause(jitter);
                link.lost(now, pause);
                LinkNews::None
            }
            LinkMessage::Hello { .. } => {
                if let Some(connection) = &mut link.connection {
                    connection.is_up = true;
                }
                link.heard_at = Some(now);
                link.backoff.reset();
                info!(peer = %node, "link up");
                LinkNews::Up(node, id)
            }
            LinkMessage::Services { services } if is_up => {
                link.heard_at = Some(now);
                LinkNews::Services(node, services)
            }
            LinkMessage::Known {
                statements,
                quarantine,
            } if is_up => LinkNews::Known {
                peer: node,
                statements,
                quarantine,
            },
            LinkMessage::Trail { audit } if is_up => LinkNews::Trail(node, audit),
            LinkMessage::Documents {
                documents,
                quarantine,
            } if is_up => LinkNews::Documents {
                peer: node,
                documents,
                quarantine,
            },
            LinkMessage::Services { .. }
            | LinkMessage::Known { .. }
            | LinkMessage::Trail { .. }
            | LinkMessage::Documents { .. } => {
                close(id, "spoke before hello", out);
                let pause = link.backoff.pause(jitter);
                link.lost(now, pause);
                LinkNews::None
            }
        }
    }

    /// A probe, which is echoed, or an echo, which is counted: then returns who sent it.
    pub(crate) fn probed(
        &mut self,
        id: ConnectionId,
        probe: Probe,
        now: Duration,
        out: &mut Vec<Output>,
    ) -> Option<NodeName> {
        let (node, link) = self.by_connection(id)?;
        if !link.connection.is_some_and(|connection| connection.is_up) {
            return None;
        }
        link.heard_at = Some(now);
        if probe.echo {
            link.stats.echo(probe, now);
            Some(node.clone())
        } else {
            out.push(Output::SendProbe {
                connection: id,
                probe: Probe {
                    echo: true,
                    ..probe
                },
            });
            None
        }
    }

    /// Probes a peer before its time, if its link is up.
    pub(crate) fn probe(&mut self, node: &NodeName, now: Duration, out: &mut Vec<Output>) {
        let Some(link) = self.peers.get_mut(node) else {
            return;
        };
        if let Some(connection) = link.connection.filter(|connection| connection.is_up) {
            let probe = link.stats.probe(now);
            out.push(Output::SendProbe {
                connection: connection.id,
                probe,
            });
        }
    }

    /// A connection ended.
    pub(crate) fn closed(
        &mut self,
        id: ConnectionId,
        reason: &str,
        now: Duration,
        jitter: &mut Jitter,
    ) {
        let Some((node, link)) = self.by_connection(id) else {
            return;
        };
        info!(peer = %node, reason, "link down");
        let pause = link.backoff.pause(jitter);
        link.lost(now, pause);
    }

    /// Dialling failed.
    pub(crate) fn failed(
        &mut self,
        node: &NodeName,
        reason: &str,
        now: Duration,
        jitter: &mut Jitter,
    ) {
        let Some(link) = self.peers.get_mut(node) else {
            return;
        };
        debug!(peer = %node, reason, "a link was not made");
        let pause = link.backoff.pause(jitter);
        link.dialling = false;
        link.dial_at = now + pause;
    }

    /// Dials, probes and gives up silent links. `shares` says with whom services are shared.
    pub(crate) fn tick(
        &mut self,
        now: Duration,
        shares: impl Fn(&NodeName) -> bool,
        out: &mut Vec<Output>,
    ) {
        for (node, link) in &mut self.peers {
            link.note_sharing(shares(node), now);
            if let Some(connection) = link.connection {
                if link.is_silent(connection, now) {
                    info!(peer = %node, "link silent");
                    close(connection.id, "silent", out);
                    link.lost(now, Duration::ZERO);
                } else if connection.is_up && now >= link.probe_at {
                    link.probe_at = now + link.pace();
                    let probe = link.stats.probe(now);
                    out.push(Output::SendProbe {
                        connection: connection.id,
                        probe,
                    });
                }
            }
            let may_dial = self.own < *node && link.connection.is_none() && !link.dialling;
            if may_dial && now >= link.dial_at {
                link.dialling = true;
                out.push(Output::DialLink {
                    node: node.clone(),
                    key: link.key,
                    address: link.address,
                });
            }
        }
    }

    /// The connection of a link that is up.
    pub(crate) fn connection(&self, node: &NodeName) -> Option<ConnectionId> {
        let connection = self.peers.get(node)?.connection?;
        connection.is_up.then_some(connection.id)
    }

    /// The peer that a connection is with.
    pub(crate) fn peer_of(&self, id: ConnectionId) -> Option<&NodeName> {
        let mut links = self.peers.iter();
        let found = links.find(|(_, link)| link.connection.is_some_and(|c| c.id == id));
        found.map(|(node, _)| node)
    }

    /// Every link that is up.
    pub(crate) fn up(&self) -> impl Iterator<Item = (&NodeName, ConnectionId)> {
        let up =
            |(node, link): (_, &PeerLink)| Some((node, link.connection.filter(|c| c.is_up)?.id));
        self.peers.iter().filter_map(up)
    }

    /// Whether a peer was heard lately enough for its services to be shown.
    pub(crate) fn hears(&self, node: &NodeName, now: Duration) -> bool {
        let heard = self.peers.get(node).and_then(|link| link.heard_at);
        heard.is_some_and(|heard| now.saturating_sub(heard) <= HIDE_AFTER)
    }

    /// What probes say of the path to a peer.
    pub(crate) fn stats(&self, node: &NodeName) -> Option<&PathStats> {
        self.peers.get(node).map(|link| &link.stats)
    }

    fn by_connection(&mut self, id: ConnectionId) -> Option<(&NodeName, &mut PeerLink)> {
        self.peers.iter_mut().find(|(_, link)| {
            link.connection
                .is_some_and(|connection| connection.id == id)
        })
    }
}

impl PeerLink {
    fn new(key: IdentityKey, address: SocketAddr, now: Duration) -> Self {
        Self {
            key,
            address,
            connection: None,
            dialling: false,
            dial_at: now,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            heard_at: None,
            shared_since: None,
            probe_at: now,
            stats: PathStats::default(),
        }
    }

    /// Services began or ceased to be shared: the next probe comes at the new pace.
    fn note_sharing(&mut self, shared: bool, now: Duration) {
        if shared == self.shared_since.is_some() {
            return;
        }
        self.shared_since = shared.then_some(now);
        self.probe_at = self.probe_at.min(now + self.pace());
    }

    fn pace(&self) -> Duration {
        if self.shared_since.is_some() {
            PROBE_SHARED
        } else {
            PROBE
        }
    }

    /// Silence counts from the last word, but not from before the pace of probes made words due.
    fn is_silent(&self, connection: Connection, now: Duration) -> bool {
        let begun = [self.heard_at, self.shared_since, Some(connection.since)];
        let since = begun.into_iter().flatten().max().unwrap_or_default();
        let limit = match (connection.is_up, self.shared_since) {
            (false, _) => HELLO_WITHIN,
            (true, Some(_)) => SILENT_SHARED,
            (true, None) => SILENT,
        };
        now.saturating_sub(since) > limit
    }

    fn lost(&mut self, now: Duration, pause: Duration) {
        self.connection = None;
        self.dial_at = now + pause;
    }
}

fn close(connection: ConnectionId, reason: &str, out: &mut Vec<Output>) {
    out.push(Output::CloseLink {
        connection,
        reason: reason.into(),
    });
}
