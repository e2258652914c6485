//! Attacks on whose key is whose: peers, agencies and those who admit them.

use std::time::Duration;

use anyhow::Result;
use ed25519_dalek::SigningKey;
use pnsbox_proto::agency::{Admission, Succession};
use pnsbox_proto::certificate::AdmissionCertificate;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::view::{AdmissionRecord, AgencyRecord, Record};

use super::Reported::{Distrusted, Refused};
use super::{Attack, Attacker, Blow, EVIL};
use crate::captured::{public, read, records};

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "a box of prov-jateng, claimed by the controller's key",
        never: "it is a peer",
        reported: Distrusted("peer prov-jateng/gw2: signed by key"),
        act: |a| {
            let signer = a.captured.keys().controller.clone();
            injected(a, &signer)
        },
    },
    Attack {
        name: "a box of prov-jateng, claimed by an invented agency's key",
        never: "it is a peer",
        reported: Distrusted("peer prov-jateng/gw2: signed by key"),
        act: |a| {
            let signer = a.invented.clone();
            injected(a, &signer)
        },
    },
    Attack {
        name: "a box of the victim's own agency, claimed by the admission key",
        never: "it is a peer",
        reported: Distrusted("peer kab-demak/gw2: signed by key"),
        act: |a| {
            let signer = a.captured.keys().admission.clone();
            let mut all = a.honest.clone();
            let peer = a.peer_of("kab-demak/gw2", "10.44.9.0/24", &signer)?;
            records::put(&mut all, Record::Peer(peer));
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "another key for prov-jateng, by a new admission",
        never: "its key counts",
        reported: Distrusted("peer prov-jateng/gw1: signed by key"),
        act: |a| {
            let admission = a.captured.keys().admission.clone();
            let other = a.agency_of("prov-jateng", &a.invented, &admission)?;
            taken_over(a, other)
        },
    },
    Attack {
        name: "another key for prov-jateng, by a succession of the admission key",
        never: "its key counts",
        reported: Distrusted("peer prov-jateng/gw1: signed by key"),
        act: |a| {
            let admission = a.captured.keys().admission.clone();
            let mut record = shown(a)?;
            let first: Admission = read(&record.admission)?;
            let succession = Succession {
                network: first.network,
                agency: first.agency,
                before: first.key.fingerprint(),
                key: public(&a.invented),
                issued: crate::captured::now(),
            };
            let signed = Envelope::sign(&succession, &admission);
            record.successions.push(signed);
            taken_over(a, record)
        },
    },
    Attack {
        name: "an agency admitted by a key that only the controller certified",
        never: "it has a key",
        reported: Distrusted("agency kab-jahat: signed by key"),
        act: |a| {
            let now = crate::captured::now();
            let certificate = AdmissionCertificate {
                network: a.captured.network().name.clone(),
                admission: public(&a.invented),
                issued: now,
                ends: now.plus(Duration::from_secs(86_400)),
            };
            let certificate = Envelope::sign(&certificate, &a.captured.keys().controller);
            let mut all = a.honest.clone();
            all.retain(|record| !matches!(record, Record::Admission(_)));
            all.push(Record::Admission(AdmissionRecord { certificate }));
            let agency = a.agency_of("kab-jahat", &a.invented, &a.invented)?;
            all.push(Record::Agency(agency));
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "an agency admitted after the time of the admission key",
        never: "it has a key",
        reported: Distrusted("of another network, agency or time"),
        act: |a| {
            let network = a.captured.network();
            let certificate: AdmissionCertificate = read(&network.admission)?;
            let admission = Admission {
                network: network.name.clone(),
                agency: "kab-jahat".parse()?,
                key: public(&a.invented),
                issued: certificate.ends.plus(Duration::from_secs(1)),
            };
            let mut all = a.honest.clone();
            all.push(Record::Agency(AgencyRecord {
                agency: "kab-jahat".parse()?,
                admission: Envelope::sign(&admission, &a.captured.keys().admission),
                successions: Vec::new(),
            }));
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "a whole invented agency, rightly admitted",
        never: "its box is a peer without consent",
        reported: Refused("there is no link with kab-evil"),
        act: |a| {
            let mut all = a.honest.clone();
            all.push(a.evil_agency()?);
            all.push(Record::Peer(a.evil_peer()?));
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "the claims of two peers swapped",
        never: "either has the other's key",
        reported: Distrusted("signed by key"),
        act: |a| {
            let mut all = a.honest.clone();
            let one = records::peer(&mut all, "prov-jateng/gw1")?.claim.clone();
            let other = &mut records::peer(&mut all, "pusat/gw1")?.claim;
            let other = std::mem::replace(other, one);
            records::peer(&mut all, "prov-jateng/gw1")?.claim = other;
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "the WireGuard key of prov-jateng in a claim of an agency that plays along",
        never: "prov-jateng's tunnel carries another's prefixes",
        reported: Distrusted("peer kota-malang/gw1: prov-jateng/gw1 has its key"),
        act: |a| {
            let mut all = a.honest.clone();
            let theirs = records::peer(&mut all, "prov-jateng/gw1")?;
            let theirs: pnsbox_proto::agency::NodeClaim = read(&theirs.claim)?;
            let claim = a.complicit_claim(|claim| claim.wireguard = theirs.wireguard)?;
            records::peer(&mut all, super::COMPLICIT)?.claim = claim;
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "the victim's own WireGuard key in a claim of an agency that plays along",
        never: "it is a peer of itself",
        reported: Distrusted("has the key of this box"),
        act: |a| {
            let own = a.captured.nodes[&a.victim].wireguard;
            let claim = a.complicit_claim(|claim| claim.wireguard = own)?;
            let mut all = a.honest.clone();
            records::peer(&mut all, super::COMPLICIT)?.claim = claim;
            Ok(a.of(&all))
        },
    },
];

fn injected(a: &Attacker, signer: &SigningKey) -> Result<Blow> {
    let mut all = a.honest.clone();
    all.push(a.evil_agency()?);
    let peer = a.peer_of("prov-jateng/gw2", "10.33.9.0/24", signer)?;
    records::put(&mut all, Record::Peer(peer));
    Ok(a.of(&all))
}

/// How the controller shows prov-jateng's key.
fn shown(a: &Attacker) -> Result<AgencyRecord> {
    let mut agencies = a.honest.iter().filter_map(|record| match record {
        Record::Agency(agency) if agency.agency.as_str() == "prov-jateng" => Some(agency),
        _ => None,
    });
    let found = agencies.next().cloned();
    found.ok_or_else(|| anyhow::anyhow!("prov-jateng is shown, beside {EVIL}"))
}

/// prov-jateng with a key of the attacker's, and its box with a claim of that key.
fn taken_over(a: &Attacker, agency: AgencyRecord) -> Result<Blow> {
    let mut all = a.honest.clone();
    records::put(&mut all, Record::Agency(agency));
    let claim = a.claim_of("prov-jateng/gw1", "10.33.1.0/24", &a.invented)?;
    records::peer(&mut all, "prov-jateng/gw1")?.claim = claim;
    Ok(a.of(&all))
}
