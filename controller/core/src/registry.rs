//! Who is in the network: agencies, nodes, devices, invitations, and what was allocated to them for good.
//!
//! It knows nothing of links and openings; those are policy.

pub mod endpoint;
pub mod prefix;
pub mod quarantine;
pub mod signed;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use pnsbox_proto::address;
use pnsbox_proto::certificate::AdmissionCertificate;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::{AgencyName, NetworkName, NodeName};
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};
use pnsbox_proto::message::JoinRefusal;
use pnsbox_proto::time::UnixTime;
use serde::{Deserialize, Serialize};

use self::quarantine::{Quarantine, Subject};
use self::signed::{AgencyKey, Consent, Direction};

/// The network itself, made once by `init`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: NetworkName,
    /// Its root key.
    pub root: IdentityKey,
    /// The controller's key.
    pub controller: IdentityKey,
    /// A `ControllerCertificate` of that key, signed by the root.
    pub certificate: Envelope,
    /// An `AdmissionCertificate` of the controller's admission key, signed by the root.
    pub admission: Envelope,
    /// Where controllers listen.
    pub addresses: Vec<SocketAddr>,
    /// Overlay IPv4 addresses.
    pub pool: Ipv4Net,
    /// When.
    pub created: UnixTime,
}

impl Network {
    /// Until when the controller may admit agencies.
    pub fn admission_certificate(&self) -> Option<AdmissionCertificate> {
        self.admission.open(&self.root).ok()
    }

    /// Every overlay address lies in one of these.
    pub fn overlay(&self) -> [IpNet; 2] {
        [self.pool.into(), address::overlay_v6(&self.root).into()]
    }
}

/// A body that takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agency {
    /// What its nodes may claim, without overlap with any other agency's.
    pub prefixes: Vec<IpNet>,
    /// For example `kabupaten`; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Kemendagri region code, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// When.
    pub added: UnixTime,
    /// Its key, since its first box joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<AgencyKey>,
    /// Boxes that sign with it or brought what it signed: they are shown all boxes and devices of the agency.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keepers: BTreeSet<NodeName>,
}

/// A box that has joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its key of sessions and links.
    pub identity: IdentityKey,
    /// Its key of tunnels.
    pub wireguard: WireguardKey,
    /// Its address from the pool, for as long as it exists.
    pub overlay_v4: Ipv4Addr,
    /// Where others reach its WireGuard port, if it has a public address.
    pub public_endpoint: Option<SocketAddr>,
    /// The same in the other version of IP, if it has both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_endpoint: Option<SocketAddr>,
    /// LAN prefixes as it claimed them.
    pub claimed: Vec<IpNet>,
    /// Those of them that the network routes.
    pub active: Vec<IpNet>,
    /// When.
    pub joined: UnixTime,
    /// Counts joins: who came first among those that joined in one second.
    pub order: u64,
    /// A `NodeClaim` of its agency: before that it is nobody's peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Envelope>,
}

/// A plain WireGuard device, admitted without an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// Its key.
    pub wireguard: WireguardKey,
    /// Its address from the pool, for as long as it exists.
    pub overlay_v4: Ipv4Addr,
    /// The node of its agency that it dials, for as long as it exists: its configuration says so.
    pub gateway: NodeName,
    /// A `DeviceClaim` of its agency: before that nobody serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Envelope>,
    /// When.
    pub added: UnixTime,
}

/// An invitation, by the digest of its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The node that it makes.
    pub node: NodeName,
    /// When it ends.
    pub expires: UnixTime,
    /// Who used it.
    pub spent: Option<Spent>,
}

/// The use of an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// By the box with this key.
    pub by: IdentityKey,
    /// When.
    pub when: UnixTime,
}

/// Channel numbers of one relay. A number is never given to another pair.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channels {
    /// The next number.
    pub next: u32,
    /// Number by pair, members in order of name.
    #[serde(with = "pairs")]
    pub by_pair: BTreeMap<[NodeName; 2], u32>,
    /// The same for pairs that another relay serves now, as long as one of both may still be on its way there.
    #[serde(with = "pairs", default)]
    pub leaving: BTreeMap<[NodeName; 2], u32>,
}

/// Everything that is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// The network.
    pub network: Network,
    /// By name.
    pub agencies: BTreeMap<AgencyName, Agency>,
    /// By name.
    pub nodes: BTreeMap<NodeName, Node>,
    /// By name; no node has the same.
    pub externals: BTreeMap<NodeName, External>,
    /// By the digest of the token.
    pub invitations: BTreeMap<Digest, Invitation>,
    /// Which links agencies want.
    pub consents: BTreeMap<Direction, Consent>,
    /// Who is shut out for now.
    pub quarantined: BTreeMap<Subject, Quarantine>,
    /// By relay.
    pub channels: BTreeMap<NodeName, Channels>,
}

/// What a token is worth to the box with a certain key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenUse {
    /// It makes this node.
    Good(NodeName),
    /// This box used it before: its answer was lost.
    Again(NodeName),
}

impl Registry {
    /// A network without anybody in it.
    pub fn new(network: Network) -> Self {
        Self {
            network,
            agencies: BTreeMap::new(),
            nodes: BTreeMap::new(),
            externals: BTreeMap::new(),
            invitations: BTreeMap::new(),
            consents: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            channels: BTreeMap::new(),
        }
    }

    /// The node with this key.
    pub fn node_of(&self, identity: &IdentityKey) -> Option<&NodeName> {
        self.nodes
            .iter()
            .find(|(_, node)| node.identity == *identity)
            .map(|(name, _)| name)
    }

    /// Addresses of the pool that nodes and devices have.
    pub fn taken_v4(&self) -> BTreeSet<Ipv4Addr> {
        let nodes = self.nodes.values().map(|node| node.overlay_v4);
        let externals = self.externals.values().map(|external| external.overlay_v4);
        nodes.chain(externals).collect()
    }

    /// The node or device with this WireGuard key.
    pub fn holder_of(&self, key: &WireguardKey) -> Option<&NodeName> {
        let nodes = self.nodes.iter().map(|(name, n)| (name, n.wireguard));
        let externals = self.externals.iter().map(|(name, e)| (name, e.wireguard));
        let mut keys = nodes.chain(externals);
        keys.find(|(_, wireguard)| wireguard == key)
            .map(|(name, _)| name)
    }

    /// The nodes of an agency.
    pub fn nodes_of<'a>(
        &'a self,
        agency: &'a AgencyName,
    ) -> impl Iterator<Item = (&'a NodeName, &'a Node)> {
        self.nodes
            .iter()
            .filter(move |(name, _)| name.agency() == *agency)
    }

    /// Judges a token that the box with `identity` shows at `now`.
    pub fn judge_token(
        &self,
        token: Digest,
        identity: &IdentityKey,
        now: UnixTime,
    ) -> Result<TokenUse, JoinRefusal> {
        let already = self.node_of(identity);
        let invitation = self.invitations.get(&token);
        let again = invitation.is_some_and(|i| i.spent.as_ref().is_some_and(|s| s.by == *identity));
        let ended = invitation.is_some_and(|i| i.expires <= now);
        if let Some(node) = already {
            return if again && !ended {
                Ok(TokenUse::Again(node.clone()))
            } else {
                Err(JoinRefusal::AlreadyJoined { node: node.clone() })
            };
        }
        let invitation = invitation.ok_or(JoinRefusal::UnknownToken)?;
        if let Some(spent) = &invitation.spent {
            return Err(JoinRefusal::Spent {
                when: spent.when,
                node: invitation.node.clone(),
            });
        }
        // Whatever the clock says: a place that is taken is never taken again by an older invitation.
        if let Some(node) = self.nodes.get(&invitation.node) {
            return Err(JoinRefusal::Spent {
                when: node.joined,
                node: invitation.node.clone(),
            });
        }
        if ended {
            return Err(JoinRefusal::Expired {
                expired: invitation.expires,
            });
        }
        Ok(TokenUse::Good(invitation.node.clone()))
    }

    /// The order of the next node.
    pub fn next_order(&self) -> u64 {
        self.nodes
            .values()
            .map(|node| node.order + 1)
            .max()
            .unwrap_or(0)
    }

    /// Forgets invitations that ended long ago, so that the store does not grow for ever.
    pub fn forget_old_invitations(&mut self, now: UnixTime) {
        self.invitations
            .retain(|_, invitation| invitation.expires.age(now) < FORGET_AFTER);
    }
}

/// How long the end of an invitation is remembered, so that its user is told "expired" or "spent".
const FORGET_AFTER: std::time::Duration = std::time::Duration::from_secs(90 * 24 * 3600);

/// JSON has no pairs as keys: a list of `[first, second, channel]`.
mod pairs {
    use std::collections::BTreeMap;

    use pnsbox_proto::id::NodeName;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<[NodeName; 2], u32>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        out.collect_seq(
            map.iter()
                .map(|([first, second], channel)| (first, second, channel)),
        )
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<[NodeName; 2], u32>, D::Error> {
        let list = Vec::<(NodeName, NodeName, u32)>::deserialize(from)?;
        Ok(list
            .into_iter()
            .map(|(first, second, channel)| ([first, second], channel))
            .collect())
    }
}
