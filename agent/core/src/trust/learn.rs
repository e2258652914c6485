//! Documents come in, by a view, from a peer or from this box itself: the right signer, newer than what is here.

use pnsbox_proto::agency::{
    Admission, AgencyDocument, DeviceClaim, LinkConsent, NodeClaim, QuarantineList,
    SignedQuarantine, Statement, Subject, Succession,
};
use pnsbox_proto::certificate::{AdmissionCertificate, ControllerCertificate};
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::{AgencyName, NetworkName};
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{AdmissionRecord, AgencyRecord};
use serde::de::DeserializeOwned;

use super::{MAX_EARLY, Pinned, Trust, envelope, read};

/// What a document was worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lesson {
    /// It is newer than what was here, and is kept.
    New,
    /// It was here.
    Known,
    /// Nothing can be said of it yet: the agency's key is not known.
    Early,
    /// It is not believed: why, for people.
    Refused {
        /// Why.
        reason: String,
        /// It was good once, and a newer one is here.
        is_older: bool,
    },
}

impl Lesson {
    fn forged(reason: impl Into<String>) -> Self {
        Self::Refused {
            reason: reason.into(),
            is_older: false,
        }
    }

    fn older(what: &str, sequence: u64, held: u64) -> Self {
        Self::Refused {
            reason: format!("{what} {sequence} is older than {held}, which was seen before"),
            is_older: true,
        }
    }
}

impl Trust {
    /// An agency's key, as a view shows it.
    pub(super) fn learn_agency(
        &mut self,
        record: &AgencyRecord,
        admissions: &[AdmissionRecord],
        now: UnixTime,
    ) -> Lesson {
        let judged = match self.state.agencies.get(&record.agency) {
            Some(pinned) => self.follow(&record.agency, pinned.clone(), &record.successions),
            None => self.admit(record, admissions),
        };
        let shown = shown_key(record);
        match judged {
            Ok(Some(pinned)) if Some(pinned.key) == shown => {
                self.state.agencies.insert(record.agency.clone(), pinned);
                self.learnt();
                if let Some(early) = self.early.remove(&record.agency) {
                    self.learn(&record.agency, &early, now);
                }
                Lesson::New
            }
            Ok(None) if self.pinned(&record.agency).map(|pinned| pinned.key) == shown => {
                Lesson::Known
            }
            Ok(_) => Lesson::forged(format!(
                "{} is shown with another key than was seen before",
                record.agency
            )),
            Err(lesson) => lesson,
        }
    }

    /// A document of `agency`, wherever it came from.
    pub(crate) fn learn(
        &mut self,
        agency: &AgencyName,
        document: &AgencyDocument,
        now: UnixTime,
    ) -> Lesson {
        let Some(pinned) = self.state.agencies.get(agency) else {
            return self.keep_for_later(agency, document);
        };
        if let Some(lesson) = of_a_former_key(pinned, document) {
            return lesson;
        }
        let key = pinned.key;
        let lesson = match document {
            AgencyDocument::Succession(envelope) => self.learn_succession(agency, envelope),
            AgencyDocument::Claim(envelope) => self.learn_claim(agency, envelope, &key),
            AgencyDocument::Device(envelope) => self.learn_device(agency, envelope, &key),
            AgencyDocument::Consent(envelope) => self.learn_consent(agency, envelope, &key),
            AgencyDocument::Statement(envelope) => {
                return self.learn_statement(agency, envelope, &key, now);
            }
        };
        if lesson == Lesson::New {
            self.learnt();
        }
        lesson
    }

    fn keep_for_later(&mut self, agency: &AgencyName, document: &AgencyDocument) -> Lesson {
        let is_statement = matches!(document, AgencyDocument::Statement(_));
        if is_statement && self.early.len() < MAX_EARLY {
            self.early.insert(agency.clone(), document.clone());
        }
        Lesson::Early
    }

    /// A list of whom the controller shut out.
    pub(crate) fn learn_quarantine(&mut self, signed: &SignedQuarantine) -> Lesson {
        let root = self.own.root;
        let controller = match self.open::<ControllerCertificate>(&signed.certificate, &root) {
            Ok(certificate) if certificate.network == self.own.network => certificate.controller,
            Ok(certificate) => {
                return Lesson::forged(format!("of network {}", certificate.network));
            }
            Err(reason) => return Lesson::forged(reason),
        };
        let list: QuarantineList = match self.open(&signed.list, &controller) {
            Ok(list) => list,
            Err(reason) => return Lesson::forged(reason),
        };
        if list.network != self.own.network {
            return Lesson::forged(format!("of network {}", list.network));
        }
        let held = self
            .state
            .quarantine
            .as_ref()
            .map(|signed| signed.list.clone());
        let known = self.quarantine().map(|held| held.sequence);
        let lesson = compare(
            held.as_ref(),
            &signed.list,
            list.sequence,
            |held: QuarantineList| held.sequence,
        );
        match lesson {
            Lesson::New => {}
            // The controller signs these itself, and numbers them by its audit trail.
            Lesson::Refused { reason, .. } if Some(list.sequence) == known => {
                return Lesson::forged(reason);
            }
            lesson => return lesson,
        }
        self.state.quarantine = Some(signed.clone());
        self.learnt();
        Lesson::New
    }

    /// The first key of an agency, and the way to the one that it has now.
    fn admit(
        &mut self,
        record: &AgencyRecord,
        admissions: &[AdmissionRecord],
    ) -> Result<Option<Pinned>, Lesson> {
        let (root, network) = (self.own.root, self.own.network.clone());
        let agency = &record.agency;
        let mut refused = "no admission certificate of the root is here".to_owned();
        for admitting in admissions {
            let certificate: AdmissionCertificate = match self.open(&admitting.certificate, &root) {
                Ok(certificate) => certificate,
                Err(reason) => {
                    refused = reason;
                    continue;
                }
            };
            match self.open::<Admission>(&record.admission, &certificate.admission) {
                Ok(admission) => {
                    let right = certificate.network == network
                        && admission.network == network
                        && admission.agency == *agency;
                    let in_time =
                        (certificate.issued..=certificate.ends).contains(&admission.issued);
                    if !right || !in_time {
                        refused = "the admission is of another network, agency or time".into();
                        continue;
                    }
                    let first = Pinned::new(admission.key, Vec::new());
                    let last = self.follow(agency, first.clone(), &record.successions)?;
                    return Ok(Some(last.unwrap_or(first)));
                }
                Err(reason) => refused = reason,
            }
        }
        Err(Lesson::forged(refused))
    }

    /// The pin after `successions`, if they lead further than it is.
    fn follow(
        &mut self,
        agency: &AgencyName,
        mut pinned: Pinned,
        successions: &[Envelope],
    ) -> Result<Option<Pinned>, Lesson> {
        let known = pinned.successions.len();
        if successions.len() < known {
            return Err(Lesson::older(
                "the key of succession",
                successions.len() as u64,
                known as u64,
            ));
        }
        if known > 0 && successions[known - 1] != pinned.successions[known - 1] {
            return Err(Lesson::forged(format!(
                "the key of {agency} came another way than was seen before"
            )));
        }
        for envelope in &successions[known..] {
            pinned = self.succeed(agency, pinned, envelope)?;
        }
        Ok((successions.len() > known).then_some(pinned))
    }

    /// The pin after one succession. All that the key before signed is forgotten; what its boxes had, stays theirs.
    fn succeed(
        &mut self,
        agency: &AgencyName,
        pinned: Pinned,
        envelope: &Envelope,
    ) -> Result<Pinned, Lesson> {
        let (root, network) = (self.own.root, self.own.network.clone());
        let signer = if envelope.key_id == root.fingerprint() {
            root
        } else {
            pinned.key
        };
        let succession: Succession = self.open(envelope, &signer).map_err(Lesson::forged)?;
        let right = succession.network == network
            && succession.agency == *agency
            && succession.before == pinned.key.fingerprint();
        if !right {
            return Err(Lesson::forged(format!(
                "the succession does not follow the key {} of {agency}",
                pinned.key.fingerprint()
            )));
        }
        let mut successions = pinned.successions;
        successions.push(envelope.clone());
        let held = pinned.held;
        Ok(Pinned {
            held,
            ..Pinned::new(succession.key, successions)
        })
    }

    fn learn_succession(&mut self, agency: &AgencyName, envelope: &Envelope) -> Lesson {
        let Some(pinned) = self.state.agencies.get(agency).cloned() else {
            return Lesson::forged("no key is known");
        };
        if pinned.successions.contains(envelope) {
            return Lesson::Known;
        }
        match self.succeed(agency, pinned, envelope) {
            Ok(pinned) => {
                self.state.agencies.insert(agency.clone(), pinned);
                Lesson::New
            }
            Err(lesson) => lesson,
        }
    }

    fn learn_claim(
        &mut self,
        agency: &AgencyName,
        envelope: &Envelope,
        key: &IdentityKey,
    ) -> Lesson {
        let claim: NodeClaim = match self.open(envelope, key) {
            Ok(claim) => claim,
            Err(reason) => return Lesson::forged(reason),
        };
        if let Err(lesson) = self.is_of(&claim.network, agency, &claim.node.agency()) {
            return lesson;
        }
        let Some(pinned) = self.state.agencies.get_mut(agency) else {
            return Lesson::Known;
        };
        let held = pinned.claims.get(&claim.node);
        let lesson = compare(held, envelope, claim.sequence, |claim: NodeClaim| {
            claim.sequence
        });
        if lesson == Lesson::New {
            pinned.claims.insert(claim.node, envelope.clone());
        }
        lesson
    }

    fn learn_device(
        &mut self,
        agency: &AgencyName,
        envelope: &Envelope,
        key: &IdentityKey,
    ) -> Lesson {
        let claim: DeviceClaim = match self.open(envelope, key) {
            Ok(claim) => claim,
            Err(reason) => return Lesson::forged(reason),
        };
        if let Err(lesson) = self.is_of(&claim.network, agency, &claim.device.agency()) {
            return lesson;
        }
        let Some(pinned) = self.state.agencies.get_mut(agency) else {
            return Lesson::Known;
        };
        let held = pinned.devices.get(&claim.device);
        let lesson = compare(held, envelope, claim.sequence, |claim: DeviceClaim| {
            claim.sequence
        });
        if lesson == Lesson::New {
            pinned.devices.insert(claim.device, envelope.clone());
        }
        lesson
    }

    fn learn_consent(
        &mut self,
        agency: &AgencyName,
        envelope: &Envelope,
        key: &IdentityKey,
    ) -> Lesson {
        let consent: LinkConsent = match self.open(envelope, key) {
            Ok(consent) => consent,
            Err(reason) => return Lesson::forged(reason),
        };
        if let Err(lesson) = self.is_of(&consent.network, agency, &consent.agency) {
            return lesson;
        }
        let own = self.own_agency();
        if *agency != own && consent.with != own {
            return Lesson::forged(format!("the consent is with {}", consent.with));
        }
        let Some(pinned) = self.state.agencies.get_mut(agency) else {
            return Lesson::Known;
        };
        let held = pinned.consents.get(&consent.with);
        let lesson = compare(held, envelope, consent.sequence, |held: LinkConsent| {
            held.sequence
        });
        if lesson == Lesson::New {
            pinned.consents.insert(consent.with, envelope.clone());
        }
        lesson
    }

    fn learn_statement(
        &mut self,
        agency: &AgencyName,
        envelope: &Envelope,
        key: &IdentityKey,
        now: UnixTime,
    ) -> Lesson {
        let statement: Statement = match self.open(envelope, key) {
            Ok(statement) => statement,
            Err(reason) => return Lesson::forged(reason),
        };
        if let Err(lesson) = self.is_of(&statement.network, agency, &statement.agency) {
            return lesson;
        }
        let Some(pinned) = self.state.agencies.get_mut(agency) else {
            return Lesson::Known;
        };
        let held = pinned.statement.as_ref();
        let lesson = compare(held, envelope, statement.sequence, |held: Statement| {
            held.sequence
        });
        if lesson != Lesson::New {
            return lesson;
        }
        let voided = pinned
            .statement()
            .map_or_else(Vec::new, |before| before.void);
        pinned.statement = Some(envelope.clone());
        pinned.heard = now;
        // Whoever lost its claim holds nothing any more.
        let claims: Vec<_> = pinned.held.keys().cloned().collect();
        for node in claims {
            let sequence = pinned.claim(&node).map_or(0, |(claim, _)| claim.sequence);
            if statement.voids(&Subject::Node(node.clone()), sequence) {
                pinned.held.remove(&node);
            }
        }
        let is_own = *agency == self.own_agency();
        // What this box signs itself always agrees with its clock.
        if !is_own {
            self.compare_clock(statement.issued, now);
        }
        if statement.void == voided {
            self.news += 1;
            // Its number does not follow from the time, so it could be given twice after a power cut.
            self.must_save |= is_own && statement.sequence > now.0;
        } else {
            self.learnt();
        }
        Lesson::New
    }

    fn is_of(
        &self,
        network: &NetworkName,
        agency: &AgencyName,
        found: &AgencyName,
    ) -> Result<(), Lesson> {
        if *network == self.own.network && found == agency {
            return Ok(());
        }
        Err(Lesson::forged(format!(
            "it is of {found} in network {network}, not of {agency} in {}",
            self.own.network
        )))
    }
}

/// What a key signed that its agency has no more is void, and was good once.
fn of_a_former_key(pinned: &Pinned, document: &AgencyDocument) -> Option<Lesson> {
    let signer = envelope(document).key_id;
    let is_succession = matches!(document, AgencyDocument::Succession(_));
    let mut successions = pinned.successions.iter();
    let is_former = !is_succession
        && successions.any(|succession| {
            read(succession).is_some_and(|succession: Succession| succession.before == signer)
        });
    is_former.then(|| Lesson::Refused {
        reason: format!("it is signed by the key {signer}, which the agency has no more"),
        is_older: true,
    })
}

/// The key that an agency has, as a record shows it.
fn shown_key(record: &AgencyRecord) -> Option<IdentityKey> {
    match record.successions.last() {
        Some(last) => read(last).map(|succession: Succession| succession.key),
        None => read(&record.admission).map(|admission: Admission| admission.key),
    }
}

fn compare<D: DeserializeOwned>(
    held: Option<&Envelope>,
    envelope: &Envelope,
    sequence: u64,
    sequence_of: impl Fn(D) -> u64,
) -> Lesson {
    let Some(held) = held else { return Lesson::New };
    if held.payload == envelope.payload {
        return Lesson::Known;
    }
    let known = read(held).map_or(0, sequence_of);
    match sequence.cmp(&known) {
        std::cmp::Ordering::Greater => Lesson::New,
        // Its signer made both, perhaps one before a power cut and one after: the first one that came stays.
        std::cmp::Ordering::Equal => Lesson::Refused {
            reason: format!("there are two documents with the number {sequence}"),
            is_older: true,
        },
        std::cmp::Ordering::Less => Lesson::older("document", sequence, known),
    }
}
