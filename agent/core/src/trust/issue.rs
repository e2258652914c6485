//! This box signs for its agency, if it has the agency's key: claims, consents, and every few minutes a statement.
//!
//! Nothing is signed that this box's admin did not ask for, but for two things: its own claim, as its admin joined,
//! and the statement, which grants nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use pnsbox_proto::access::Opening;
use pnsbox_proto::agency::{
    AgencyDocument, DeviceClaim, LinkConsent, NodeClaim, Statement, Subject, Succession, Void,
};
use pnsbox_proto::envelope::{Document, Envelope};
use pnsbox_proto::id::AgencyName;
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{MemberKind, MemberRecord};

use super::{Lesson, Pinned, Trust, envelope};
use crate::view::Accepted;

/// A statement that is older is signed anew.
const STATE_EVERY: Duration = Duration::from_secs(600);

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsigned {
    #[error(
        "the key of {0} is not on this box: say this on the box that has it, or bring it here with 'pnsbox agency restore'"
    )]
    NoKey(AgencyName),
    #[error("{0} has no key in this network yet; wait until this box has its first view")]
    NotAdmitted(AgencyName),
    #[error("{0}")]
    NotSo(String),
}

/// What was signed, newest last.
pub(crate) type Signed = Vec<AgencyDocument>;

impl Trust {
    /// The agency's key, if it is on this box.
    pub(crate) fn key(&self) -> Result<SigningKey, Unsigned> {
        let agency = self.own_agency();
        let Some(pinned) = self.pinned(&agency) else {
            return Err(Unsigned::NotAdmitted(agency));
        };
        let is_it = |key: &&SigningKey| public(key) == pinned.key;
        let key = self.keys.iter().find(is_it).cloned();
        key.ok_or(Unsigned::NoKey(agency))
    }

    /// A key came to this box.
    pub(crate) fn add_key(&mut self, key: SigningKey) {
        if !self.keys.iter().any(|held| public(held) == public(&key)) {
            self.keys.push(key);
        }
    }

    /// Public keys that this box can sign with.
    pub(crate) fn public_keys(&self) -> impl Iterator<Item = IdentityKey> {
        self.keys.iter().map(public)
    }

    /// Signs this box's own claim, if its agency has not claimed it as it is.
    pub(crate) fn claim_own(&mut self, view: &Accepted, now: UnixTime) -> Signed {
        let Some(member) = view.members.get(&self.own.node) else {
            return Vec::new();
        };
        let MemberKind::Box { identity, prefixes } = &member.what else {
            return Vec::new();
        };
        let is_me = *identity == self.own.identity
            && member.wireguard == self.own.wireguard
            && *prefixes == self.own.prefixes;
        if !is_me || self.is_claimed(member) || self.key().is_err() {
            return Vec::new();
        }
        self.claim(member, now).unwrap_or_default()
    }

    /// Claims a box or a device of the agency.
    pub(crate) fn claim(
        &mut self,
        member: &MemberRecord,
        now: UnixTime,
    ) -> Result<Signed, Unsigned> {
        let (network, sequence) = (self.own.network.clone(), self.next_sequence(now));
        let document = match &member.what {
            MemberKind::Box { identity, prefixes } => {
                let claim = NodeClaim {
                    network,
                    node: member.name.clone(),
                    identity: *identity,
                    wireguard: member.wireguard,
                    overlay_v4: member.overlay_v4,
                    prefixes: prefixes.clone(),
                    sequence,
                    issued: now,
                };
                AgencyDocument::Claim(self.sign(&claim)?)
            }
            MemberKind::Device { gateway } => {
                let claim = DeviceClaim {
                    network,
                    device: member.name.clone(),
                    wireguard: member.wireguard,
                    overlay_v4: member.overlay_v4,
                    gateway: gateway.clone(),
                    sequence,
                    issued: now,
                };
                AgencyDocument::Device(self.sign(&claim)?)
            }
        };
        self.issue(document, now)
    }

    /// Consents to a link with `with`.
    pub(crate) fn consent(
        &mut self,
        with: &AgencyName,
        opens: Option<Vec<Opening>>,
        until: Option<UnixTime>,
        now: UnixTime,
    ) -> Result<Signed, Unsigned> {
        let consent = LinkConsent {
            network: self.own.network.clone(),
            agency: self.own_agency(),
            with: with.clone(),
            opens,
            until,
            sequence: self.next_sequence(now),
            issued: now,
        };
        let document = AgencyDocument::Consent(self.sign(&consent)?);
        self.issue(document, now)
    }

    /// Takes a claim or a consent back.
    pub(crate) fn revoke(&mut self, subject: Subject, now: UnixTime) -> Result<Signed, Unsigned> {
        self.key()?;
        let pinned = self.pinned(&self.own_agency());
        let sequence = pinned.and_then(|pinned| match &subject {
            Subject::Node(node) => {
                let claim = pinned
                    .claim(node)
                    .map(|(claim, void)| (claim.sequence, void));
                claim.or_else(|| {
                    pinned
                        .device(node)
                        .map(|(claim, void)| (claim.sequence, void))
                })
            }
            Subject::Consent(with) => pinned
                .consent(with)
                .map(|(consent, void)| (consent.sequence, void)),
        });
        match sequence {
            Some((sequence, false)) => {
                let below = sequence + 1;
                let mut void = self.void();
                void.insert(subject, below);
                self.state_void(void, now)
            }
            Some((_, true)) | None => Err(Unsigned::NotSo(format!(
                "{subject} is not in force; nothing was changed"
            ))),
        }
    }

    /// A statement, if the last is old or says less than was signed since.
    pub(crate) fn restate(&mut self, now: UnixTime) -> Signed {
        let Some(pinned) = self.pinned(&self.own_agency()) else {
            return Vec::new();
        };
        let is_old = |statement: &Statement| {
            // A clock that was set back must not silence it.
            now.0.abs_diff(statement.issued.0) >= STATE_EVERY.as_secs()
        };
        let statement = pinned.statement();
        if self.stated == self.revision && statement.as_ref().is_some_and(|s| !is_old(s)) {
            return Vec::new();
        }
        let due = statement
            .is_none_or(|statement| is_old(&statement) || statement.sequence < highest(pinned));
        let mut signed = Vec::new();
        if due && self.key().is_ok() {
            signed = self.state_void(self.void(), now).unwrap_or_default();
        }
        self.stated = self.revision;
        signed
    }

    /// Puts `next` in the place of the agency's key, and signs all that is in force anew.
    pub(crate) fn rotate(&mut self, next: SigningKey, now: UnixTime) -> Result<Signed, Unsigned> {
        let agency = self.own_agency();
        let old = self.key()?;
        let Some(pinned) = self.pinned(&agency).cloned() else {
            return Err(Unsigned::NotAdmitted(agency));
        };
        let succession = Succession {
            network: self.own.network.clone(),
            agency,
            before: public(&old).fingerprint(),
            key: public(&next),
            issued: now,
        };
        let envelope = Envelope::sign(&succession, &old);
        let floor = highest(&pinned).max(pinned.sequence());
        self.add_key(next);
        let mut signed = self.issue(AgencyDocument::Succession(envelope), now)?;
        let claims = pinned.claims.keys().filter_map(|node| pinned.claim(node));
        for (mut claim, _) in claims.filter(|(_, void)| !void) {
            claim.sequence = self.next_sequence(now).max(floor + 1);
            let document = AgencyDocument::Claim(self.sign(&claim)?);
            signed.extend(self.issue(document, now)?);
        }
        let devices = pinned.devices.keys().filter_map(|node| pinned.device(node));
        for (mut claim, _) in devices.filter(|(_, void)| !void) {
            claim.sequence = self.next_sequence(now).max(floor + 1);
            let document = AgencyDocument::Device(self.sign(&claim)?);
            signed.extend(self.issue(document, now)?);
        }
        let consents = pinned
            .consents
            .keys()
            .filter_map(|with| pinned.consent(with));
        for (mut consent, _) in consents.filter(|(_, void)| !void) {
            consent.sequence = self.next_sequence(now).max(floor + 1);
            let document = AgencyDocument::Consent(self.sign(&consent)?);
            signed.extend(self.issue(document, now)?);
        }
        signed.extend(self.restate(now));
        Ok(signed)
    }

    /// Whether the agency's claim says of a member what the controller says.
    pub(crate) fn is_claimed(&self, member: &MemberRecord) -> bool {
        let Some(pinned) = self.pinned(&self.own_agency()) else {
            return false;
        };
        match &member.what {
            MemberKind::Box { identity, prefixes } => {
                pinned.claim(&member.name).is_some_and(|(claim, void)| {
                    !void
                        && claim.identity == *identity
                        && claim.wireguard == member.wireguard
                        && claim.overlay_v4 == member.overlay_v4
                        && claim.prefixes == *prefixes
                })
            }
            MemberKind::Device { gateway } => {
                pinned.device(&member.name).is_some_and(|(claim, void)| {
                    !void
                        && claim.gateway == *gateway
                        && claim.wireguard == member.wireguard
                        && claim.overlay_v4 == member.overlay_v4
                })
            }
        }
    }

    /// What the agency signed and the controller does not show: it has to be told again.
    pub(crate) fn unheard(&self, view: &Accepted) -> Vec<AgencyDocument> {
        let own = self.own_agency();
        let Some(pinned) = self.pinned(&own) else {
            return Vec::new();
        };
        let shown = view.agencies.get(&own);
        let shown = shown.map_or(0, |record| record.successions.len());
        let successions = pinned.successions.iter().skip(shown).cloned();
        let mut unheard: Vec<_> = successions.map(AgencyDocument::Succession).collect();
        for (name, member) in &view.members {
            let ours = match member.what {
                MemberKind::Box { .. } => pinned
                    .claims
                    .get(name)
                    .map(|c| AgencyDocument::Claim(c.clone())),
                MemberKind::Device { .. } => pinned
                    .devices
                    .get(name)
                    .map(|c| AgencyDocument::Device(c.clone())),
            };
            let is_void = match member.what {
                MemberKind::Box { .. } => pinned.claim(name).is_none_or(|(_, void)| void),
                MemberKind::Device { .. } => pinned.device(name).is_none_or(|(_, void)| void),
            };
            let shown = member.claim.as_ref();
            if let Some(document) = ours.filter(|ours| !is_void && Some(envelope(ours)) != shown) {
                unheard.push(document);
            }
        }
        let linked = view
            .links
            .iter()
            .map(|(with, link)| (with, Some(&link.ours)));
        let proposed = view
            .proposals
            .iter()
            .map(|(with, p)| (with, p.ours.as_ref()));
        let shown: BTreeMap<_, _> = proposed.chain(linked).collect();
        for (with, shown) in shown {
            let in_force = pinned.consent(with).is_some_and(|(_, void)| !void);
            let ours = pinned.consents.get(with).filter(|_| in_force);
            if let Some(ours) = ours.filter(|ours| Some(*ours) != shown) {
                unheard.push(AgencyDocument::Consent(ours.clone()));
            }
        }
        unheard.extend(pinned.statement.clone().map(AgencyDocument::Statement));
        unheard
    }

    fn void(&self) -> BTreeMap<Subject, u64> {
        let statement = self.pinned(&self.own_agency()).and_then(Pinned::statement);
        let void = statement.into_iter().flat_map(|statement| statement.void);
        void.map(|void| (void.subject, void.below)).collect()
    }

    fn state_void(
        &mut self,
        void: BTreeMap<Subject, u64>,
        now: UnixTime,
    ) -> Result<Signed, Unsigned> {
        let void = void
            .into_iter()
            .map(|(subject, below)| Void { subject, below });
        let statement = Statement {
            network: self.own.network.clone(),
            agency: self.own_agency(),
            sequence: self.next_sequence(now),
            issued: now,
            void: void.collect(),
        };
        let document = AgencyDocument::Statement(self.sign(&statement)?);
        self.issue(document, now)
    }

    fn sign<D: Document>(&self, document: &D) -> Result<Envelope, Unsigned> {
        Ok(Envelope::sign(document, &self.key()?))
    }

    /// What is signed here is learnt like everything else.
    fn issue(&mut self, document: AgencyDocument, now: UnixTime) -> Result<Signed, Unsigned> {
        match self.learn(&self.own_agency(), &document, now) {
            Lesson::New | Lesson::Known => Ok(vec![document]),
            Lesson::Early => Err(Unsigned::NotAdmitted(self.own_agency())),
            Lesson::Refused { reason, .. } => Err(Unsigned::NotSo(reason)),
        }
    }

    /// Above all that is known, and no lower than the time: a box that got the key from a backup does not know all.
    fn next_sequence(&self, now: UnixTime) -> u64 {
        let pinned = self.pinned(&self.own_agency());
        let known = pinned.map_or(0, |pinned| highest(pinned).max(pinned.sequence()));
        (known + 1).max(now.0)
    }
}

/// The highest number of claims and consents.
fn highest(pinned: &Pinned) -> u64 {
    let claims = pinned.claims.keys().filter_map(|node| pinned.claim(node));
    let claims = claims.map(|(claim, _)| claim.sequence);
    let devices = pinned.devices.keys().filter_map(|node| pinned.device(node));
    let devices = devices.map(|(claim, _)| claim.sequence);
    let consents = pinned
        .consents
        .keys()
        .filter_map(|with| pinned.consent(with));
    let consents = consents.map(|(consent, _)| consent.sequence);
    claims.chain(devices).chain(consents).max().unwrap_or(0)
}

fn public(key: &SigningKey) -> IdentityKey {
    IdentityKey(key.verifying_key().to_bytes())
}
