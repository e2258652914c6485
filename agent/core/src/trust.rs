//! Who is believed: what agencies signed, as far as this box has seen it, and what of a view follows from it.
//!
//! The controller says what to do; whose a box is, what is behind it and which links are wanted say only the agencies.
//! What was seen once is kept (pinned): an older document, another key, a prefix that changes hands are refused,
//! whoever sends them. It signs for this box's own agency too, if the box has that key (`issue`).
//! It does not talk: who is told what is `gossip` and [`crate::agent`].

mod issue;
mod judge;
mod learn;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ed25519_dalek::SigningKey;
use ipnet::IpNet;
use pnsbox_proto::agency::{
    AgencyDocument, DeviceClaim, LinkConsent, NodeClaim, QuarantineList, SignedQuarantine,
    Statement, Subject, Succession,
};
use pnsbox_proto::envelope::{Document, Envelope};
use pnsbox_proto::id::{AgencyName, NetworkName, NodeName};
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};
use pnsbox_proto::time::UnixTime;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) use issue::{Signed, Unsigned};
pub(crate) use learn::Lesson;

/// What must survive a restart: without it an old document would be as good as a new one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustState {
    /// By agency.
    pub agencies: BTreeMap<AgencyName, Pinned>,
    /// Whom the controller shut out last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<SignedQuarantine>,
}

/// What one agency said, the newest of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// Its key.
    pub key: IdentityKey,
    /// How it came from the first.
    pub successions: Vec<Envelope>,
    /// How far it is, and what is void.
    pub statement: Option<Envelope>,
    /// When that came.
    pub heard: UnixTime,
    /// Claims of boxes.
    pub claims: BTreeMap<NodeName, Envelope>,
    /// Claims of plain WireGuard devices.
    pub devices: BTreeMap<NodeName, Envelope>,
    /// Consents: of another agency, the one with ours.
    pub consents: BTreeMap<AgencyName, Envelope>,
    /// What each box has that was a peer. It does not go to another agency before the claim of the box is void.
    pub held: BTreeMap<NodeName, Held>,
}

/// What a box had when it was a peer last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The key of its tunnel.
    pub wireguard: WireguardKey,
    /// Its overlay address.
    pub overlay_v4: Ipv4Addr,
    /// Prefixes that were routed to it.
    pub prefixes: Vec<IpNet>,
}

/// Which box judges.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    pub(crate) network: NetworkName,
    pub(crate) root: IdentityKey,
    pub(crate) node: NodeName,
    pub(crate) identity: IdentityKey,
    pub(crate) wireguard: WireguardKey,
    /// LAN prefixes as its admin claimed them.
    pub(crate) prefixes: Vec<IpNet>,
}

/// Pins, and the keys that this box can sign with.
#[derive(Debug)]
pub(crate) struct Trust {
    own: Own,
    state: TrustState,
    keys: Vec<SigningKey>,
    /// Counts what was learnt and may change what is believed: a view that was judged at another count is judged again.
    revision: u64,
    /// Counts all that was learnt: peers are told of it.
    news: u64,
    /// What was learnt must be on disk soon. A statement that says nothing new need not: there is one every few minutes.
    must_save: bool,
    /// Envelopes whose signature was good: most come again with each view.
    checked: BTreeSet<Digest>,
    /// Statements of agencies whose key is not known yet: the view that shows it is on its way.
    early: BTreeMap<AgencyName, AgencyDocument>,
    /// By how many seconds this box's clock was set since somebody else's agreed with it; `None` if none has.
    clock_set: Option<i64>,
    /// What was learnt when the last statement was signed.
    stated: u64,
    /// When the next consent ends that is in force.
    ends_at: Option<UnixTime>,
}

impl Trust {
    pub(crate) fn new(own: Own, state: TrustState, keys: Vec<SigningKey>) -> Self {
        Self {
            own,
            state,
            keys,
            revision: 1,
            news: 1,
            must_save: false,
            checked: BTreeSet::new(),
            early: BTreeMap::new(),
            clock_set: None,
            stated: 0,
            ends_at: None,
        }
    }

    /// What must be saved.
    pub(crate) fn state(&self) -> &TrustState {
        &self.state
    }

    /// Counts what was learnt and may change what is believed.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Counts all that was learnt.
    pub(crate) fn news(&self) -> u64 {
        self.news
    }

    /// Whether something was learnt that must be on disk soon. Asked again, it says no.
    pub(crate) fn take_must_save(&mut self) -> bool {
        std::mem::take(&mut self.must_save)
    }

    fn learnt(&mut self) {
        self.revision += 1;
        self.news += 1;
        self.must_save = true;
    }

    pub(crate) fn pinned(&self, agency: &AgencyName) -> Option<&Pinned> {
        self.state.agencies.get(agency)
    }

    pub(crate) fn own_agency(&self) -> AgencyName {
        self.own.node.agency()
    }

    /// Somebody said what time it is there.
    pub(crate) fn compare_clock(&mut self, theirs: UnixTime, ours: UnixTime) {
        if theirs.0.abs_diff(ours.0) < CLOCKS_AGREE_S {
            self.clock_is(Some(0));
        }
    }

    /// This box's clock was set by so many seconds: who agreed with it would not agree now, or does again.
    pub(crate) fn clock_was_set(&mut self, by_seconds: i64) {
        self.clock_is(self.clock_set.map(|by| by.saturating_add(by_seconds)));
    }

    fn clock_is(&mut self, set: Option<i64>) {
        let was_confirmed = self.clock_is_confirmed();
        self.clock_set = set;
        // What ended by a clock that is confirmed no more has not ended.
        self.revision += u64::from(was_confirmed != self.clock_is_confirmed());
    }

    /// Whether a consent that was in force when a view was judged has ended since.
    pub(crate) fn something_ended(&self, now: UnixTime) -> bool {
        self.clock_is_confirmed() && self.ends_at.is_some_and(|at| at < now)
    }

    /// What is known of `agency` and newer than its statement `sequence`, for a box of `reader`.
    pub(crate) fn newer_than(
        &self,
        agency: &AgencyName,
        sequence: u64,
        reader: &AgencyName,
    ) -> Vec<AgencyDocument> {
        let Some(pinned) = self.pinned(agency).filter(|p| p.sequence() > sequence) else {
            return Vec::new();
        };
        let mut newer: Vec<AgencyDocument> = pinned
            .successions
            .iter()
            .cloned()
            .map(AgencyDocument::Succession)
            .collect();
        let claims = pinned.claims.iter().filter(|(node, _)| {
            let claim = pinned.claim(node);
            claim.is_some_and(|(claim, void)| !void && claim.sequence > sequence)
        });
        newer.extend(claims.map(|(_, claim)| AgencyDocument::Claim(claim.clone())));
        if let Some((consent, false)) = pinned.consent(reader)
            && consent.sequence > sequence
        {
            let consent = pinned.consents.get(reader).cloned();
            newer.extend(consent.map(AgencyDocument::Consent));
        }
        newer.extend(pinned.statement.clone().map(AgencyDocument::Statement));
        newer
    }

    /// Whether consents may end by this box's clock.
    pub(crate) fn clock_is_confirmed(&self) -> bool {
        self.clock_set
            .is_some_and(|by| by.unsigned_abs() < CLOCKS_AGREE_S)
    }

    /// Whom the controller shut out.
    pub(crate) fn quarantine(&self) -> Option<QuarantineList> {
        read(&self.state.quarantine.as_ref()?.list)
    }

    /// The document in `envelope`, if `key` signed it for this network.
    fn open<D: Document>(&mut self, envelope: &Envelope, key: &IdentityKey) -> Result<D, String> {
        let mark = mark(D::DOMAIN, envelope, key);
        if self.checked.contains(&mark)
            && let Some(document) = read(envelope)
        {
            return Ok(document);
        }
        let document = envelope.open(key).map_err(|error| error.to_string())?;
        if self.checked.len() >= MAX_CHECKED {
            self.checked.clear();
        }
        self.checked.insert(mark);
        Ok(document)
    }
}

/// Clocks that differ by less say the same time.
const CLOCKS_AGREE_S: u64 = 600;
/// Statements that may wait for a key; a network has some 650 agencies.
const MAX_EARLY: usize = 4096;
/// Envelopes of the largest view, several times.
const MAX_CHECKED: usize = 32_768;

impl Pinned {
    fn new(key: IdentityKey, successions: Vec<Envelope>) -> Self {
        Self {
            key,
            successions,
            statement: None,
            heard: UnixTime(0),
            claims: BTreeMap::new(),
            devices: BTreeMap::new(),
            consents: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    pub(crate) fn statement(&self) -> Option<Statement> {
        read(self.statement.as_ref()?)
    }

    /// Number of the newest statement, 0 without any.
    pub(crate) fn sequence(&self) -> u64 {
        self.statement().map_or(0, |statement| statement.sequence)
    }

    /// The newest claim of a box, and whether it is void.
    fn claim(&self, node: &NodeName) -> Option<(NodeClaim, bool)> {
        let claim: NodeClaim = read(self.claims.get(node)?)?;
        let void = self.is_void(&Subject::Node(node.clone()), claim.sequence);
        Some((claim, void))
    }

    fn device(&self, device: &NodeName) -> Option<(DeviceClaim, bool)> {
        let claim: DeviceClaim = read(self.devices.get(device)?)?;
        let void = self.is_void(&Subject::Node(device.clone()), claim.sequence);
        Some((claim, void))
    }

    /// The newest consent with an agency, and whether it is void.
    pub(crate) fn consent(&self, with: &AgencyName) -> Option<(LinkConsent, bool)> {
        let consent: LinkConsent = read(self.consents.get(with)?)?;
        let void = self.is_void(&Subject::Consent(with.clone()), consent.sequence);
        Some((consent, void))
    }

    fn is_void(&self, subject: &Subject, sequence: u64) -> bool {
        self.statement()
            .is_some_and(|statement| statement.voids(subject, sequence))
    }
}

/// Whose document it says to be.
pub(crate) fn agency_of(document: &AgencyDocument) -> Option<AgencyName> {
    match document {
        AgencyDocument::Succession(envelope) => read::<Succession>(envelope).map(|d| d.agency),
        AgencyDocument::Claim(envelope) => read::<NodeClaim>(envelope).map(|d| d.node.agency()),
        AgencyDocument::Device(envelope) => {
            read::<DeviceClaim>(envelope).map(|d| d.device.agency())
        }
        AgencyDocument::Consent(envelope) => read::<LinkConsent>(envelope).map(|d| d.agency),
        AgencyDocument::Statement(envelope) => read::<Statement>(envelope).map(|d| d.agency),
    }
}

/// The signed part of a document.
fn envelope(document: &AgencyDocument) -> &Envelope {
    match document {
        AgencyDocument::Succession(envelope)
        | AgencyDocument::Claim(envelope)
        | AgencyDocument::Device(envelope)
        | AgencyDocument::Consent(envelope)
        | AgencyDocument::Statement(envelope) => envelope,
    }
}

/// What a document that was judged before says.
pub(crate) fn read<D: DeserializeOwned>(envelope: &Envelope) -> Option<D> {
    serde_json::from_str(&envelope.payload).ok()
}

fn mark(domain: &str, envelope: &Envelope, key: &IdentityKey) -> Digest {
    let payload = envelope.payload_digest();
    let parts: [&[u8]; 5] = [
        domain.as_bytes(),
        payload.0.as_slice(),
        envelope.key_id.0.as_slice(),
        envelope.signature.0.as_slice(),
        key.0.as_slice(),
    ];
    Digest::of(&parts.concat())
}
