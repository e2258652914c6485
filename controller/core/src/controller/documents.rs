//! What agencies signed comes in from their boxes, is kept with what it changes, and is handed to whom it concerns.

use std::collections::{BTreeMap, BTreeSet};

use pnsbox_proto::agency::{
    AgencyDocument, DeviceClaim, LinkConsent, NodeClaim, Statement, Subject, Succession,
};
use pnsbox_proto::envelope::{Document, Envelope};
use pnsbox_proto::id::{AgencyName, NetworkName, NodeName};
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::message::ToAgent;
use tracing::{info, warn};

use super::{Controller, Now, Output, said};
use crate::audit::Origin;
use crate::image::{Deed, Draft};
use crate::plan;
use crate::registry::signed::{Consent, Direction};
use crate::session::SessionId;

/// Consents that one agency may give; there are some 650 agencies.
const MAX_CONSENTS: usize = 4096;

impl Controller {
    /// A box of `node`'s agency hands in what the agency signed.
    pub(super) fn signed(
        &mut self,
        id: SessionId,
        node: &NodeName,
        documents: Vec<AgencyDocument>,
        now: Now,
    ) {
        if self.store_failure.is_some() {
            // Nothing is decided now: it is asked to say it again.
            self.untaken.insert(node.clone());
            return;
        }
        let agency = node.agency();
        let mut desk = Desk {
            network: self.image.registry.network.name.clone(),
            root: self.image.registry.network.root,
            agency: agency.clone(),
            draft: self.image.draft(),
            statement: self.image.statements.get(&agency).cloned(),
            taken: Vec::new(),
        };
        for document in documents {
            if let Err(reason) = desk.take(document) {
                warn!(%node, reason, "a document is not taken");
            }
        }
        let Desk {
            mut draft,
            statement,
            taken,
            ..
        } = desk;
        let states_news =
            statement.is_some() && statement.as_ref() != self.image.statements.get(&agency);
        if states_news && let Some(known) = draft.registry.agencies.get_mut(&agency) {
            // Who brings what nobody else brought has the key, or all that it signed.
            known.keepers.insert(node.clone());
        }
        let signs_news = draft.registry != self.image.registry;
        if signs_news || states_news {
            self.untaken.insert(node.clone());
        }
        let observed = self.sessions.get(&id).map(|session| session.observed);
        if signs_news {
            let scope = plan::touched_by_signing(
                &draft.registry,
                draft.policies(),
                &[agency.clone()].into(),
            );
            let by = Origin {
                who: format!("node {node}"),
                from: observed.map_or_else(String::new, |observed| observed.to_string()),
            };
            let what = match taken.is_empty() {
                true => format!("{agency} signs on {node}"),
                false => said::line(&format!("{agency} signs {}", taken.join(", "))),
            };
            let deed = Deed {
                by: &by,
                what: &what,
                when: now.wall,
            };
            let touched = self.image.commit(draft, Some(&scope), deed, &self.key);
            info!(%node, views = touched.len(), what, "signed");
            self.push(&touched.into_iter().collect(), now);
        }
        if states_news {
            self.image.state(&agency, statement);
            self.tell_partners(&agency);
        }
    }

    /// Tells a node all that concerns it and that this session was not told.
    pub(super) fn tell(&mut self, node: &NodeName) {
        let Some(id) = self.occupied.get(node).copied() else {
            return;
        };
        let own = node.agency();
        let partners = self.image.policies().partners(&own);
        let concerned: BTreeSet<AgencyName> = partners.chain([own.clone()]).collect();
        let quarantine = self.image.quarantine.clone();
        let wanted = self.image.views.get(node);
        let records = wanted.map_or(&[][..], |view| &view.records);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let mut documents = Vec::new();
        for agency in concerned {
            let id = format!("agency {agency}");
            let shown = records.iter().find(|record| record.id == id);
            // A view with the agency's key as it is now comes first: the statement is judged by it.
            if shown.is_some_and(|record| !session.was_shown(&record.sha256)) {
                continue;
            }
            let Some(statement) = self.image.statements.get(&agency) else {
                continue;
            };
            if !session.is_news(&agency, statement) {
                continue;
            }
            let known = self.image.registry.agencies.get(&agency);
            let key = known.and_then(|known| known.key.as_ref());
            // A view that shows the key may be on its way, be refused, or go back to the one before.
            let successions = key.into_iter().flat_map(|key| key.successions.clone());
            documents.extend(successions.map(AgencyDocument::Succession));
            documents.push(AgencyDocument::Statement(statement.clone()));
        }
        let quarantine = quarantine.filter(|signed| session.is_news_of_quarantine(&signed.list));
        if documents.is_empty() && quarantine.is_none() {
            return;
        }
        let message = ToAgent::Documents {
            documents,
            quarantine,
        };
        self.outputs.push_back(Output::Send {
            session: id,
            message: Box::new(message),
        });
    }

    /// Tells everybody who is online, for example whom the operator shut out.
    pub(super) fn tell_all(&mut self) {
        let online: Vec<NodeName> = self.occupied.keys().cloned().collect();
        for node in online {
            self.tell(&node);
        }
    }

    fn tell_partners(&mut self, agency: &AgencyName) {
        let partners: BTreeSet<AgencyName> = self.image.policies().partners(agency).collect();
        let concerned = |node: &&NodeName| {
            let of = node.agency();
            of == *agency || partners.contains(&of)
        };
        let online: Vec<NodeName> = self.occupied.keys().filter(concerned).cloned().collect();
        for node in online {
            self.tell(&node);
        }
    }
}

/// Where the documents of one agency are looked at, before anything is changed.
struct Desk {
    network: NetworkName,
    root: IdentityKey,
    agency: AgencyName,
    draft: Draft,
    statement: Option<Envelope>,
    /// What was taken, in words.
    taken: Vec<String>,
}

impl Desk {
    fn take(&mut self, document: AgencyDocument) -> Result<(), String> {
        match document {
            AgencyDocument::Succession(envelope) => self.succession(envelope),
            AgencyDocument::Claim(envelope) => self.claim(envelope),
            AgencyDocument::Device(envelope) => self.device(envelope),
            AgencyDocument::Consent(envelope) => self.consent(envelope),
            AgencyDocument::Statement(envelope) => self.statement(envelope),
        }
    }

    fn succession(&mut self, envelope: Envelope) -> Result<(), String> {
        let agency = self.draft.registry.agencies.get_mut(&self.agency);
        let key = agency.and_then(|agency| agency.key.as_mut());
        let key = key.ok_or("the agency has no key yet")?;
        if key.successions.contains(&envelope) {
            return Ok(());
        }
        let succession = succession(&envelope, &key.key, &self.root, &self.network, &self.agency)?;
        key.key = succession.key;
        key.successions.push(envelope);
        self.draft.registry.forget_signed(&self.agency);
        self.statement = None;
        self.taken
            .push(format!("its next key {}", succession.key.fingerprint()));
        Ok(())
    }

    fn claim(&mut self, envelope: Envelope) -> Result<(), String> {
        let claim: NodeClaim = self.open(&envelope)?;
        self.is_of(&claim.network, &claim.node.agency())?;
        self.is_in_force(&Subject::Node(claim.node.clone()), claim.sequence)?;
        let node = self.draft.registry.nodes.get_mut(&claim.node);
        let node = node.ok_or_else(|| format!("{} has not joined", claim.node))?;
        let held = sequence_of(&node.claim, |held: NodeClaim| held.sequence);
        if node.claim.as_ref() == Some(&envelope) {
            return Ok(());
        }
        is_newer(claim.sequence, held)?;
        let is_it = claim.identity == node.identity
            && claim.wireguard == node.wireguard
            && claim.overlay_v4 == node.overlay_v4
            && claim.prefixes == node.claimed;
        if !is_it {
            return Err(format!(
                "the claim of {} is not what that box is",
                claim.node
            ));
        }
        node.claim = Some(envelope);
        self.taken
            .push(format!("the claim of {} ({})", claim.node, claim.sequence));
        Ok(())
    }

    fn device(&mut self, envelope: Envelope) -> Result<(), String> {
        let claim: DeviceClaim = self.open(&envelope)?;
        self.is_of(&claim.network, &claim.device.agency())?;
        self.is_in_force(&Subject::Node(claim.device.clone()), claim.sequence)?;
        let device = self.draft.registry.externals.get_mut(&claim.device);
        let device = device.ok_or_else(|| format!("{} is no device", claim.device))?;
        let held = sequence_of(&device.claim, |held: DeviceClaim| held.sequence);
        if device.claim.as_ref() == Some(&envelope) {
            return Ok(());
        }
        is_newer(claim.sequence, held)?;
        let is_it = claim.wireguard == device.wireguard
            && claim.overlay_v4 == device.overlay_v4
            && claim.gateway == device.gateway;
        if !is_it {
            return Err(format!(
                "the claim of {} is not what that device is",
                claim.device
            ));
        }
        device.claim = Some(envelope);
        self.taken.push(format!(
            "the claim of {} ({})",
            claim.device, claim.sequence
        ));
        Ok(())
    }

    fn consent(&mut self, envelope: Envelope) -> Result<(), String> {
        let consent: LinkConsent = self.open(&envelope)?;
        self.is_of(&consent.network, &consent.agency)?;
        self.is_in_force(&Subject::Consent(consent.with.clone()), consent.sequence)?;
        let direction = Direction {
            agency: consent.agency.clone(),
            with: consent.with.clone(),
        };
        let consents = &mut self.draft.registry.consents;
        match consents.get(&direction) {
            Some(held) if held.envelope == envelope => return Ok(()),
            Some(held) => is_newer(consent.sequence, Some(held.sequence))?,
            None => {
                let of_it = consents.keys().filter(|held| held.agency == consent.agency);
                if of_it.count() >= MAX_CONSENTS {
                    return Err(format!("it has {MAX_CONSENTS} consents already"));
                }
            }
        }
        self.taken.push(format!(
            "the consent with {} ({})",
            consent.with, consent.sequence
        ));
        consents.insert(direction, Consent::of(consent, envelope));
        Ok(())
    }

    fn statement(&mut self, envelope: Envelope) -> Result<(), String> {
        let statement: Statement = self.open(&envelope)?;
        self.is_of(&statement.network, &statement.agency)?;
        if self.statement.as_ref() == Some(&envelope) {
            return Ok(());
        }
        let held = sequence_of(&self.statement, |held: Statement| held.sequence);
        is_newer(statement.sequence, held)?;
        let registry = &mut self.draft.registry;
        for void in &statement.void {
            let below = |claim: &Option<Envelope>| {
                let sequence = sequence_of(claim, |claim: BTreeMap<String, serde_json::Value>| {
                    claim
                        .get("sequence")
                        .and_then(serde_json::Value::as_u64)
                        .unwrap_or(0)
                });
                sequence.is_some_and(|sequence| sequence < void.below)
            };
            let mut went = false;
            match &void.subject {
                Subject::Node(name) if name.agency() == self.agency => {
                    if let Some(node) = registry.nodes.get_mut(name) {
                        went |= below(&node.claim) && node.claim.take().is_some();
                    }
                    if let Some(device) = registry.externals.get_mut(name) {
                        went |= below(&device.claim) && device.claim.take().is_some();
                    }
                }
                Subject::Node(_) => {}
                Subject::Consent(with) => {
                    let direction = Direction {
                        agency: self.agency.clone(),
                        with: with.clone(),
                    };
                    let held = registry.consents.get(&direction);
                    if held.is_some_and(|held| held.sequence < void.below) {
                        registry.consents.remove(&direction);
                        went = true;
                    }
                }
            }
            if went {
                self.taken.push(format!("that {} is void", void.subject));
            }
        }
        self.statement = Some(envelope);
        Ok(())
    }

    fn open<D: Document>(&self, envelope: &Envelope) -> Result<D, String> {
        let agency = self.draft.registry.agencies.get(&self.agency);
        let key = agency.and_then(|agency| agency.key.as_ref());
        let key = key.ok_or("the agency has no key yet")?;
        envelope.open(&key.key).map_err(|error| error.to_string())
    }

    fn is_of(&self, network: &NetworkName, agency: &AgencyName) -> Result<(), String> {
        if *network == self.network && *agency == self.agency {
            return Ok(());
        }
        Err(format!("it is of {agency} in network {network}"))
    }

    fn is_in_force(&self, subject: &Subject, sequence: u64) -> Result<(), String> {
        let statement = self.statement.as_ref();
        let statement = statement.and_then(|s| serde_json::from_str::<Statement>(&s.payload).ok());
        match statement.is_some_and(|statement| statement.voids(subject, sequence)) {
            true => Err(format!("{subject} ({sequence}) is void")),
            false => Ok(()),
        }
    }
}

/// The succession in `envelope`, if it follows `key` of `agency`: signed by that key, or by the root.
pub(super) fn succession(
    envelope: &Envelope,
    key: &IdentityKey,
    root: &IdentityKey,
    network: &NetworkName,
    agency: &AgencyName,
) -> Result<Succession, String> {
    let signer = match envelope.key_id == root.fingerprint() {
        true => root,
        false => key,
    };
    let succession: Succession = envelope.open(signer).map_err(|error| error.to_string())?;
    let follows = succession.network == *network
        && succession.agency == *agency
        && succession.before == key.fingerprint();
    match follows {
        true => Ok(succession),
        false => Err(format!(
            "it does not follow the key {} of {agency}",
            key.fingerprint()
        )),
    }
}

fn sequence_of<D: serde::de::DeserializeOwned>(
    held: &Option<Envelope>,
    sequence: impl Fn(D) -> u64,
) -> Option<u64> {
    let held = held.as_ref()?;
    serde_json::from_str(&held.payload).ok().map(sequence)
}

fn is_newer(sequence: u64, held: Option<u64>) -> Result<(), String> {
    match held {
        Some(held) if sequence <= held => Err(format!(
            "its number is {sequence}, and {held} was taken before"
        )),
        Some(_) | None => Ok(()),
    }
}
