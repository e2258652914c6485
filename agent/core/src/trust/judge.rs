//! From what the controller said to what is believed: first every document of a view is learnt, then each record is
//! held against what is known. What is refused is left out and named; the rest is as if it had never been there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use pnsbox_proto::access::Opening;
use pnsbox_proto::address;
use pnsbox_proto::agency::{AgencyDocument, DeviceClaim, NodeClaim};
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::key::WireguardKey;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{
    DeviceBehind, ExternalRecord, LinkRecord, MemberKind, NodeRecord, PeerPath, PeerRecord,
};

use super::{Held, Lesson, Trust, read};
use crate::view::{Accepted, Behind, Device, Peer, RefusedRecord, View};

/// A wider prefix (fewer bits) is no LAN, in either version of IP.
const WIDEST: u8 = 8;

/// What is refused, by record.
#[derive(Default)]
struct Refusals(Vec<RefusedRecord>);

impl Refusals {
    fn add(&mut self, id: &str, reason: impl Into<String>, may_pass: bool) {
        self.0.push(RefusedRecord {
            id: id.to_owned(),
            reason: reason.into(),
            may_pass,
        });
    }

    fn judge(&mut self, id: &str, lesson: Lesson) {
        if let Lesson::Refused { reason, is_older } = lesson {
            self.add(id, reason, is_older);
        }
    }

    /// Refuses what a record says beyond its document. If a newer document or another key has replaced that, this is why
    /// it does not hold, and whoever sent it need not know of that yet.
    fn follow(&mut self, id: &str, reason: String, may_pass: bool) {
        let mut before = self.0.iter();
        let is_overtaken = before.any(|refused| refused.id == id && refused.may_pass);
        self.add(id, reason, may_pass || is_overtaken);
    }

    /// Whether a record's document is not what it should be. One that is merely older does no harm.
    fn forges(&self, id: &str) -> bool {
        self.0
            .iter()
            .any(|refused| refused.id == id && !refused.may_pass)
    }
}

impl Trust {
    /// What of a view is believed now.
    pub(crate) fn judge(&mut self, accepted: Accepted, now: UnixTime) -> View {
        let mut refusals = Refusals::default();
        self.learn_view(&accepted, now, &mut refusals);
        let node = self.own_record(&accepted.node, &mut refusals);
        let links = self.links(&accepted, &node, now, &mut refusals);
        let peers = self.peers(&accepted, &node, &links, &mut refusals);
        let is_peer = |member: &NodeName| peers.contains_key(member);
        let relays = accepted.relays.iter();
        let relays = relays
            .filter(|relay| relay.members.iter().all(is_peer))
            .cloned();
        let externals = self.externals(&accepted, &node, &mut refusals);
        View {
            overlay_v6: address::node_v6(&self.own.root, &self.own.identity),
            node,
            relays: relays.collect(),
            peers,
            links,
            externals,
            refused: refusals.0,
            judged: self.revision,
            accepted,
        }
    }

    fn learn_view(&mut self, view: &Accepted, now: UnixTime, refusals: &mut Refusals) {
        let own = self.own_agency();
        for (agency, record) in &view.agencies {
            let lesson = self.learn_agency(record, &view.admissions, now);
            refusals.judge(&format!("agency {agency}"), lesson);
        }
        for (name, record) in &view.peers {
            let id = format!("peer {name}");
            let claim = AgencyDocument::Claim(record.claim.clone());
            refusals.judge(&id, self.learn(&name.agency(), &claim, now));
            for device in &record.devices {
                let claim = AgencyDocument::Device(device.claim.clone());
                refusals.judge(&id, self.learn(&name.agency(), &claim, now));
            }
        }
        for (with, record) in &view.links {
            let id = format!("link {with}");
            let (ours, theirs) = (record.ours.clone(), record.theirs.clone());
            refusals.judge(&id, self.learn(&own, &AgencyDocument::Consent(ours), now));
            refusals.judge(&id, self.learn(with, &AgencyDocument::Consent(theirs), now));
        }
        for (name, record) in &view.externals {
            let claim = AgencyDocument::Device(record.claim.clone());
            refusals.judge(&format!("external {name}"), self.learn(&own, &claim, now));
        }
        // What only the key's holder needs: a box that gets the key by a backup has to know it all.
        for (name, record) in &view.members {
            let Some(claim) = record.claim.clone() else {
                continue;
            };
            let claim = match record.what {
                MemberKind::Box { .. } => AgencyDocument::Claim(claim),
                MemberKind::Device { .. } => AgencyDocument::Device(claim),
            };
            refusals.judge(&format!("member {name}"), self.learn(&own, &claim, now));
        }
        for (with, record) in &view.proposals {
            let Some(ours) = record.ours.clone() else {
                continue;
            };
            let lesson = self.learn(&own, &AgencyDocument::Consent(ours), now);
            refusals.judge(&format!("proposal {with}"), lesson);
        }
    }

    /// What this node is told of itself, as far as its agency or its admin said the same.
    fn own_record(&self, said: &NodeRecord, refusals: &mut Refusals) -> NodeRecord {
        let id = format!("node {}", said.node);
        let mut node = said.clone();
        node.prefixes.retain(|prefix| {
            let claimed = self.own.prefixes.contains(prefix);
            if !claimed {
                refusals.add(&id, format!("{prefix} is not what this box claims"), false);
            }
            claimed
        });
        let claim = self
            .pinned(&self.own_agency())
            .and_then(|pinned| pinned.claim(&said.node));
        if let Some((claim, false)) = claim
            && claim.identity == self.own.identity
            && claim.overlay_v4 != said.overlay_v4
        {
            let reason = format!("{} is not the address that this box has", said.overlay_v4);
            refusals.add(&id, reason, false);
            node.overlay_v4 = claim.overlay_v4;
        }
        node
    }

    fn links(
        &mut self,
        view: &Accepted,
        node: &NodeRecord,
        now: UnixTime,
        refusals: &mut Refusals,
    ) -> BTreeMap<AgencyName, LinkRecord> {
        let mut links = BTreeMap::new();
        self.ends_at = None;
        for (with, record) in &view.links {
            let id = format!("link {with}");
            if refusals.forges(&id) {
                continue;
            }
            match self.consented(with, now) {
                Ok(()) => {
                    let mut link = record.clone();
                    link.opens = self.allowed(&id, with, &record.opens, node, refusals);
                    links.insert(with.clone(), link);
                }
                Err((reason, may_pass)) => refusals.follow(&id, reason, may_pass),
            }
        }
        links
    }

    /// Whether both agencies want a link, as far as this box knows; else who does not.
    fn consented(&mut self, with: &AgencyName, now: UnixTime) -> Result<(), (String, bool)> {
        let own = self.own_agency();
        for (agency, other) in [(&own, with), (with, &own)] {
            let consent = self.pinned(agency).and_then(|pinned| pinned.consent(other));
            match consent {
                None => return Err((format!("{agency} has not consented"), false)),
                Some((_, true)) => {
                    return Err((format!("{agency} has taken its consent back"), true));
                }
                Some((consent, false)) if consent.has_ended(now) && self.clock_is_confirmed() => {
                    return Err((format!("the consent of {agency} has ended"), true));
                }
                Some((consent, false)) => {
                    let ends = self.ends_at.into_iter().chain(consent.until).min();
                    self.ends_at = ends;
                }
            }
        }
        Ok(())
    }

    /// Those of `opens` that this agency's consent with `to` covers and that lie in this node's prefixes.
    fn allowed(
        &self,
        id: &str,
        to: &AgencyName,
        opens: &[Opening],
        node: &NodeRecord,
        refusals: &mut Refusals,
    ) -> Vec<Opening> {
        let own = self.own_agency();
        let consent = self.pinned(&own).and_then(|pinned| pinned.consent(to));
        let may = |opening: &Opening| {
            let is_ours = node
                .prefixes
                .iter()
                .any(|own| own.contains(&opening.prefix));
            let consented = *to == own
                || consent
                    .as_ref()
                    .is_some_and(|(consent, void)| !void && consent.allows(opening));
            is_ours && consented
        };
        let (allowed, refused): (Vec<_>, Vec<_>) = opens.iter().cloned().partition(may);
        for opening in refused {
            let reason = format!("{} is more than this agency consented to", opening.prefix);
            refusals.add(id, reason, true);
        }
        allowed
    }

    fn peers(
        &mut self,
        view: &Accepted,
        node: &NodeRecord,
        links: &BTreeMap<AgencyName, LinkRecord>,
        refusals: &mut Refusals,
    ) -> BTreeMap<NodeName, Peer> {
        let own = self.own_agency();
        let relaying = relaying(view);
        let mut taken = Taken::default();
        let mut peers = BTreeMap::new();
        for (name, record) in &view.peers {
            let id = format!("peer {name}");
            if refusals.forges(&id) {
                continue;
            }
            let agency = name.agency();
            let is_linked = agency == own || links.contains_key(&agency);
            let is_used = is_linked || relaying.contains(name);
            let claim = match self.judge_peer(name, is_used, &node.pool, &mut taken) {
                Ok(claim) => claim,
                Err((reason, may_pass)) => {
                    refusals.follow(&id, reason, may_pass);
                    continue;
                }
            };
            let (mut prefixes, mut devices) = (Vec::new(), Vec::new());
            if is_linked {
                prefixes = self.routed(record, &claim, node, &mut taken, refusals);
                let behind = record.devices.iter();
                let behind = behind
                    .filter_map(|device| self.behind(name, device, node, &mut taken, refusals));
                devices = behind.collect();
            } else if !(record.prefixes.is_empty() && record.devices.is_empty()) {
                let reason = format!("there is no link with {agency}: it relays, and no more");
                // Where the view shows a link, what is said of that is why.
                refusals.add(&id, reason, view.links.contains_key(&agency));
            }
            peers.insert(
                name.clone(),
                Peer {
                    node: name.clone(),
                    identity: claim.identity,
                    wireguard: claim.wireguard,
                    overlay_v4: claim.overlay_v4,
                    overlay_v6: address::node_v6(&self.own.root, &claim.identity),
                    prefixes,
                    path: record.path.clone(),
                    keepalive: record.keepalive,
                    devices,
                    is_linked,
                },
            );
        }
        peers
    }

    /// The claim of a peer, if it may be one.
    fn judge_peer(
        &self,
        name: &NodeName,
        is_used: bool,
        pool: &Ipv4Net,
        taken: &mut Taken,
    ) -> Result<NodeClaim, (String, bool)> {
        let agency = name.agency();
        if self.quarantine().is_some_and(|list| list.holds(name)) {
            return Err(("it is shut out".to_owned(), true));
        }
        let claim = self.pinned(&agency).and_then(|pinned| pinned.claim(name));
        let claim = match claim {
            Some((claim, false)) => claim,
            Some((_, true)) => return Err((format!("{agency} has taken its claim back"), true)),
            None => return Err((format!("{agency} does not claim it"), false)),
        };
        if !is_used {
            let reason = format!("there is no link with {agency}, and it relays nothing");
            return Err((reason, true));
        }
        if claim.identity == self.own.identity || claim.wireguard == self.own.wireguard {
            return Err(("it has the key of this box".to_owned(), false));
        }
        if let Some(other) = self.holder(&agency, |held| held.wireguard == claim.wireguard) {
            return Err((format!("{other} has its key"), false));
        }
        if let Some(other) = self.holder_of_address(claim.overlay_v4, &agency) {
            return Err((format!("{other} has its address"), false));
        }
        if let Some(other) = taken.keys.insert(claim.wireguard, name.clone()) {
            return Err((format!("{other} has its key"), false));
        }
        let is_overlay = pool.contains(&claim.overlay_v4) && address::may_be_pool(pool);
        if !is_overlay || !taken.hosts.insert(claim.overlay_v4) {
            let reason = format!("it cannot have the address {}", claim.overlay_v4);
            return Err((reason, false));
        }
        Ok(claim)
    }

    /// The prefixes of a peer that are routed to it: what it claims, nobody else had before, and can be a LAN.
    fn routed(
        &mut self,
        record: &PeerRecord,
        claim: &NodeClaim,
        node: &NodeRecord,
        taken: &mut Taken,
        refusals: &mut Refusals,
    ) -> Vec<IpNet> {
        let agency = record.node.agency();
        let mut prefixes = Vec::new();
        for prefix in &record.prefixes {
            match self.may_be_routed(prefix, &agency, claim, node) {
                Ok(()) if taken.prefixes.insert(*prefix) => prefixes.push(*prefix),
                Ok(()) => {}
                Err(reason) => refusals.add(&format!("peer {}", record.node), reason, false),
            }
        }
        if let Some(pinned) = self.state.agencies.get_mut(&agency) {
            let held = Held {
                wireguard: claim.wireguard,
                overlay_v4: claim.overlay_v4,
                prefixes: prefixes.clone(),
            };
            let before = pinned.held.insert(record.node.clone(), held.clone());
            self.must_save |= before.as_ref() != Some(&held);
        }
        prefixes
    }

    fn may_be_routed(
        &self,
        prefix: &IpNet,
        agency: &AgencyName,
        claim: &NodeClaim,
        node: &NodeRecord,
    ) -> Result<(), String> {
        if !claim.prefixes.contains(prefix) {
            return Err(format!("{agency} does not claim {prefix}"));
        }
        if let Some(rule) = address::never_a_lan(prefix) {
            return Err(format!("{prefix}: {rule}"));
        }
        if prefix.prefix_len() < WIDEST {
            return Err(format!("{prefix} is wider than /{WIDEST}"));
        }
        let overlay = [node.pool.into(), address::overlay_v6(&self.own.root).into()];
        if overlay.iter().any(|pool| address::overlap(pool, prefix)) {
            return Err(format!("{prefix} overlaps overlay addresses"));
        }
        let is_ours = |own: &IpNet| address::overlap(own, prefix);
        if *agency != self.own_agency() && node.prefixes.iter().any(is_ours) {
            return Err(format!("{prefix} is behind this box"));
        }
        let overlaps = |held: &Held| held.prefixes.iter().any(|p| address::overlap(p, prefix));
        match self.holder(agency, overlaps) {
            Some(holder) => Err(format!(
                "{prefix} is routed to {holder}, which has not let it go"
            )),
            None => Ok(()),
        }
    }

    /// The node of another agency that has had something so far.
    fn holder(&self, agency: &AgencyName, has: impl Fn(&Held) -> bool) -> Option<&NodeName> {
        let others = self
            .state
            .agencies
            .iter()
            .filter(|(other, _)| *other != agency);
        let mut held = others.flat_map(|(_, pinned)| &pinned.held);
        held.find(|(_, held)| has(held)).map(|(node, _)| node)
    }

    /// The node that has had an overlay address so far, if it is not of `agency`.
    fn holder_of_address(&self, address: Ipv4Addr, agency: &AgencyName) -> Option<&NodeName> {
        let own = self.pinned(&self.own_agency());
        let own = own.and_then(|pinned| pinned.claim(&self.own.node));
        if own.is_some_and(|(own, _)| own.overlay_v4 == address) {
            return Some(&self.own.node);
        }
        self.holder(agency, |held| held.overlay_v4 == address)
    }

    fn behind(
        &self,
        gateway: &NodeName,
        record: &DeviceBehind,
        node: &NodeRecord,
        taken: &mut Taken,
        refusals: &mut Refusals,
    ) -> Option<Behind> {
        let (id, agency) = (&format!("peer {gateway}"), gateway.agency());
        let said: DeviceClaim = read(&record.claim)?;
        let known = self
            .pinned(&agency)
            .and_then(|pinned| pinned.device(&said.device));
        let claim = match known {
            Some((claim, false)) if claim.gateway == *gateway => claim,
            Some((_, true)) => {
                refusals.add(id, format!("{agency} has taken {} back", said.device), true);
                return None;
            }
            Some(_) | None => {
                refusals.follow(id, format!("{} is not behind it", said.device), false);
                return None;
            }
        };
        let is_free = node.pool.contains(&claim.overlay_v4)
            && self.holder_of_address(claim.overlay_v4, &agency).is_none();
        if !is_free || !taken.hosts.insert(claim.overlay_v4) {
            let reason = format!(
                "{} cannot have the address {}",
                claim.device, claim.overlay_v4
            );
            refusals.add(id, reason, false);
            return None;
        }
        Some(Behind {
            overlay_v4: claim.overlay_v4,
            overlay_v6: address::device_v6(&self.own.root, &claim.wireguard),
            opens: self.allowed(id, &agency, &record.opens, node, refusals),
        })
    }

    fn externals(
        &self,
        view: &Accepted,
        node: &NodeRecord,
        refusals: &mut Refusals,
    ) -> BTreeMap<NodeName, Device> {
        let own = self.own_agency();
        let mut devices = BTreeMap::new();
        for (name, record) in &view.externals {
            let id = format!("external {name}");
            let known = self.pinned(&own).and_then(|pinned| pinned.device(name));
            match known {
                Some((claim, false)) if claim.gateway == self.own.node && !refusals.forges(&id) => {
                    let device = self.device(&id, record, &claim, node, refusals);
                    devices.insert(name.clone(), device);
                }
                Some((_, true)) => refusals.add(&id, format!("{own} has taken it back"), true),
                Some(_) | None => {
                    refusals.follow(&id, format!("{own} does not claim it here"), false);
                }
            }
        }
        devices
    }

    fn device(
        &self,
        id: &str,
        record: &ExternalRecord,
        claim: &DeviceClaim,
        node: &NodeRecord,
        refusals: &mut Refusals,
    ) -> Device {
        Device {
            device: record.device.clone(),
            wireguard: claim.wireguard,
            overlay_v4: claim.overlay_v4,
            overlay_v6: address::device_v6(&self.own.root, &claim.wireguard),
            opens: self.allowed(id, &self.own_agency(), &record.opens, node, refusals),
            beyond: record.beyond.clone(),
        }
    }
}

/// Who is named as a relay, or is relayed for.
fn relaying(view: &Accepted) -> BTreeSet<&NodeName> {
    let relays = view.peers.values().filter_map(|peer| match &peer.path {
        PeerPath::Relay { relay, .. } => Some(relay),
        PeerPath::Direct { .. } | PeerPath::Passive => None,
    });
    let members = view.relays.iter().flat_map(|relay| &relay.members);
    relays.chain(members).collect()
}

/// Addresses, prefixes and keys that peers of this view have.
#[derive(Default)]
struct Taken {
    hosts: BTreeSet<Ipv4Addr>,
    prefixes: BTreeSet<IpNet>,
    keys: BTreeMap<WireguardKey, NodeName>,
}
