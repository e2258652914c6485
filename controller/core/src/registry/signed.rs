//! What agencies signed, as the controller keeps it to hand it on. It can lose or withhold it, and not make it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use pnsbox_proto::access::Opening;
use pnsbox_proto::agency::LinkConsent;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::time::UnixTime;
use serde::{Deserialize, Serialize};

use super::Registry;

/// The key of an agency, and how it came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgencyKey {
    /// The key as it is.
    pub key: IdentityKey,
    /// An `AdmissionCertificate` of who admitted it, signed by the root.
    pub certificate: Envelope,
    /// The `Admission` of the first key.
    pub admission: Envelope,
    /// Every `Succession` since, oldest first.
    pub successions: Vec<Envelope>,
}

/// Who consents, and with whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Direction {
    /// Who signs.
    pub agency: AgencyName,
    /// With whom.
    pub with: AgencyName,
}

/// A consent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// A `LinkConsent`, signed.
    pub envelope: Envelope,
    /// The most that may be opened; `None`: whatever policy says.
    pub opens: Option<Vec<Opening>>,
    /// When it ends.
    pub until: Option<UnixTime>,
    /// Its number.
    pub sequence: u64,
}

impl Consent {
    /// As it was signed.
    pub fn of(consent: LinkConsent, envelope: Envelope) -> Self {
        Self {
            envelope,
            opens: consent.opens,
            until: consent.until,
            sequence: consent.sequence,
        }
    }
}

impl Registry {
    /// Whether the node's agency claims it: before that it is nobody's peer.
    pub fn is_claimed(&self, node: &NodeName) -> bool {
        self.nodes
            .get(node)
            .is_some_and(|node| node.claim.is_some())
    }

    /// The consent of `agency` with `with`.
    pub fn consent(&self, agency: &AgencyName, with: &AgencyName) -> Option<&Consent> {
        let direction = Direction {
            agency: agency.clone(),
            with: with.clone(),
        };
        self.consents.get(&direction)
    }

    /// Whether both agencies want a link.
    pub fn both_consent(&self, one: &AgencyName, other: &AgencyName) -> bool {
        self.consent(one, other).is_some() && self.consent(other, one).is_some()
    }

    /// Forgets all that an agency signed with a key that it has no more.
    pub fn forget_signed(&mut self, agency: &AgencyName) {
        let nodes = self.nodes.iter_mut();
        for (_, node) in nodes.filter(|(name, _)| name.agency() == *agency) {
            node.claim = None;
        }
        let externals = self.externals.iter_mut();
        for (_, external) in externals.filter(|(name, _)| name.agency() == *agency) {
            external.claim = None;
        }
        if let Some(agency) = self.agencies.get_mut(agency) {
            agency.keepers.clear();
        }
        self.consents
            .retain(|direction, _| direction.agency != *agency);
    }

    /// Every node of these agencies.
    pub fn nodes_of_all(&self, agencies: &BTreeSet<AgencyName>) -> BTreeSet<NodeName> {
        let nodes = self.nodes.keys();
        nodes
            .filter(|node| agencies.contains(&node.agency()))
            .cloned()
            .collect()
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.agency, self.with)
    }
}

impl FromStr for Direction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (agency, with) = text.split_once('/').ok_or("AGENCY/WITH is expected")?;
        let parse = |name: &str| {
            name.parse()
                .map_err(|e: pnsbox_proto::id::NameError| e.to_string())
        };
        Ok(Self {
            agency: parse(agency)?,
            with: parse(with)?,
        })
    }
}
