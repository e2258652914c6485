//! Which peer is meant: by inner destination, by key, by receiver index, by relay channel.
//!
//! Built anew from each snapshot and never changed, so workers read it without a lock.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use crate::peer::Peer;
use crate::snapshot::{PathConfig, PublicKey, RelayChannel, Snapshot};

/// Why a snapshot was refused, whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Two peers with one key.
    #[error("two peers have the key {}", hex(.0))]
    DuplicateKey(PublicKey),
    /// A peer with our own key.
    #[error("a peer has this node's own key")]
    OwnKey,
    /// Two peers with one allowed prefix.
    #[error("two peers have the allowed prefix {0}")]
    DuplicatePrefix(IpNet),
    /// A relay that is no peer, or is itself reached through a relay.
    #[error("the relay {} is not a peer that is reached directly", hex(.0))]
    BadRelay(PublicKey),
    /// Two peers behind one relay with one channel.
    #[error("two peers use channel {0} of the same relay")]
    DuplicateChannel(u32),
    /// A relay channel whose members are not two different peers, or are themselves relayed.
    #[error("relay channel {0} must have two different peers of this node as members")]
    BadMembers(u32),
    /// A channel that this node relays, and through which it reaches a peer itself by way of one of the members.
    #[error("channel {0} is relayed here and also leads to a peer through one of its members")]
    AmbiguousChannel(u32),
}

/// The peers of one snapshot.
#[derive(Debug, Default)]
pub(crate) struct Table {
    v4: PrefixMap<Ipv4Net, Arc<Peer>>,
    v6: PrefixMap<Ipv6Net, Arc<Peer>>,
    by_key: HashMap<PublicKey, Arc<Peer>>,
    by_index: HashMap<u32, Arc<Peer>>,
    by_channel: HashMap<u32, Vec<(PublicKey, Arc<Peer>)>>,
    relays: HashMap<u32, [Arc<Peer>; 2]>,
}

impl Table {
    /// Builds the table; `peer` gives the peer of a configuration, old or new.
    pub(crate) fn build(
        snapshot: &Snapshot,
        mut peer: impl FnMut(&crate::PeerConfig) -> Arc<Peer>,
    ) -> Self {
        let mut table = Self::default();
        for config in &snapshot.peers {
            let peer = peer(config);
            for prefix in &config.allowed_prefixes {
                match prefix {
                    IpNet::V4(v4) => drop(table.v4.insert(*v4, peer.clone())),
                    IpNet::V6(v6) => drop(table.v6.insert(*v6, peer.clone())),
                }
            }
            if let PathConfig::Relay { via, channel } = &config.path {
                let through = table.by_channel.entry(*channel).or_default();
                through.push((*via, peer.clone()));
            }
            table.by_index.insert(peer.index, peer.clone());
            table.by_key.insert(config.public_key, peer);
        }
        for relay in &snapshot.relays {
            let [a, b] = relay.members.map(|key| table.by_key.get(&key).cloned());
            if let (Some(a), Some(b)) = (a, b) {
                table.relays.insert(relay.channel, [a, b]);
            }
        }
        table
    }

    /// The peer with the longest allowed prefix that holds `address`.
    pub(crate) fn by_address(&self, address: IpAddr) -> Option<&Arc<Peer>> {
        match address {
            IpAddr::V4(v4) => self.v4.get_lpm(&Ipv4Net::from(v4)).map(|(_, peer)| peer),
            IpAddr::V6(v6) => self.v6.get_lpm(&Ipv6Net::from(v6)).map(|(_, peer)| peer),
        }
    }

    pub(crate) fn by_key(&self, key: &PublicKey) -> Option<&Arc<Peer>> {
        self.by_key.get(key)
    }

    pub(crate) fn by_index(&self, index: u32) -> Option<&Arc<Peer>> {
        self.by_index.get(&index)
    }

    /// Whether `address` is in this peer's allowed prefixes, and in no longer one of another's.
    pub(crate) fn is_owner(&self, peer: &Arc<Peer>, address: IpAddr) -> bool {
        self.by_address(address)
            .is_some_and(|owner| Arc::ptr_eq(owner, peer))
    }

    /// The peers reached through `channel`, each with its relay's key.
    pub(crate) fn by_channel(&self, channel: u32) -> &[(PublicKey, Arc<Peer>)] {
        self.by_channel.get(&channel).map_or(&[], Vec::as_slice)
    }

    /// The members of a channel that this node relays.
    pub(crate) fn relay(&self, channel: u32) -> Option<&[Arc<Peer>; 2]> {
        self.relays.get(&channel)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.by_key.values()
    }
}

/// Judges a snapshot before anything is changed.
pub(crate) fn check(snapshot: &Snapshot, own_key: &PublicKey) -> Result<(), SnapshotError> {
    let mut direct: HashMap<PublicKey, bool> = HashMap::new();
    let mut prefixes = HashSet::new();
    for peer in &snapshot.peers {
        if peer.public_key == *own_key {
            return Err(SnapshotError::OwnKey);
        }
        let is_direct = !matches!(peer.path, PathConfig::Relay { .. });
        if direct.insert(peer.public_key, is_direct).is_some() {
            return Err(SnapshotError::DuplicateKey(peer.public_key));
        }
        for prefix in &peer.allowed_prefixes {
            if !prefixes.insert(prefix.trunc()) {
                return Err(SnapshotError::DuplicatePrefix(*prefix));
            }
        }
    }
    check_paths(snapshot, &direct)?;
    check_relays(&snapshot.relays, &direct)?;
    check_ambiguity(snapshot)
}

fn check_paths(
    snapshot: &Snapshot,
    direct: &HashMap<PublicKey, bool>,
) -> Result<(), SnapshotError> {
    let mut channels = HashSet::new();
    for peer in &snapshot.peers {
        let PathConfig::Relay { via, channel } = &peer.path else {
            continue;
        };
        if direct.get(via) != Some(&true) {
            return Err(SnapshotError::BadRelay(*via));
        }
        if !channels.insert((*via, *channel)) {
            return Err(SnapshotError::DuplicateChannel(*channel));
        }
    }
    Ok(())
}

fn check_relays(
    relays: &[RelayChannel],
    direct: &HashMap<PublicKey, bool>,
) -> Result<(), SnapshotError> {
    let mut channels = HashSet::new();
    for relay in relays {
        let [a, b] = &relay.members;
        if a == b || direct.get(a) != Some(&true) || direct.get(b) != Some(&true) {
            return Err(SnapshotError::BadMembers(relay.channel));
        }
        if !channels.insert(relay.channel) {
            return Err(SnapshotError::DuplicateChannel(relay.channel));
        }
    }
    Ok(())
}

/// A frame from a member must be either for the other one or for us.
fn check_ambiguity(snapshot: &Snapshot) -> Result<(), SnapshotError> {
    let relayed: HashMap<u32, [PublicKey; 2]> = snapshot
        .relays
        .iter()
        .map(|relay| (relay.channel, relay.members))
        .collect();
    for peer in &snapshot.peers {
        if let PathConfig::Relay { via, channel } = &peer.path
            && relayed
                .get(channel)
                .is_some_and(|members| members.contains(via))
        {
            return Err(SnapshotError::AmbiguousChannel(*channel));
        }
    }
    Ok(())
}

fn hex(key: &PublicKey) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}
