//! What agencies say for themselves, and nobody can say for them.
//!
//! Every document of an agency takes the next number of one counter, its `sequence`: of two with the same subject
//! the higher one counts. A [`Statement`] says from time to time how far the counter is, and what is void.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

use crate::access::{Allow, Opening};
use crate::envelope::{Document, Envelope};
use crate::id::{AgencyName, NetworkName, NodeName};
use crate::key::{Digest, IdentityKey, WireguardKey};
use crate::time::UnixTime;

/// "This is the key of an agency that had none", signed by an admission key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The network.
    pub network: NetworkName,
    /// The agency.
    pub agency: AgencyName,
    /// Its first key.
    pub key: IdentityKey,
    /// When; within the time of the admission key.
    pub issued: UnixTime,
}

/// "This key takes the place of that one", signed by the one before, or by the root if that is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession {
    /// The network.
    pub network: NetworkName,
    /// The agency.
    pub agency: AgencyName,
    /// Fingerprint of the key before.
    pub before: Digest,
    /// The key from now on. What the one before signed is void.
    pub key: IdentityKey,
    /// When.
    pub issued: UnixTime,
}

/// "This box is ours, and these prefixes are behind it."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeClaim {
    /// The network.
    pub network: NetworkName,
    /// The node.
    pub node: NodeName,
    /// Its key of sessions and links; its overlay IPv6 address follows from it.
    pub identity: IdentityKey,
    /// Its key of tunnels.
    pub wireguard: WireguardKey,
    /// Its overlay IPv4 address, as the controller allotted it.
    pub overlay_v4: Ipv4Addr,
    /// LAN prefixes behind it.
    pub prefixes: Vec<IpNet>,
    /// Number of the document.
    pub sequence: u64,
    /// When.
    pub issued: UnixTime,
}

/// "This plain WireGuard device is ours."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceClaim {
    /// The network.
    pub network: NetworkName,
    /// The device.
    pub device: NodeName,
    /// Its key; its overlay IPv6 address follows from it.
    pub wireguard: WireguardKey,
    /// Its overlay IPv4 address, as the controller allotted it.
    pub overlay_v4: Ipv4Addr,
    /// The node that it dials.
    pub gateway: NodeName,
    /// Number of the document.
    pub sequence: u64,
    /// When.
    pub issued: UnixTime,
}

/// "We want this link." It holds when the other agency says the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkConsent {
    /// The network.
    pub network: NetworkName,
    /// Who consents.
    pub agency: AgencyName,
    /// With whom.
    pub with: AgencyName,
    /// The most that the operator's policy may open of this agency to the other; `None`: whatever policy says.
    pub opens: Option<Vec<Opening>>,
    /// When it ends; `None`: when it is revoked.
    pub until: Option<UnixTime>,
    /// Number of the document.
    pub sequence: u64,
    /// When.
    pub issued: UnixTime,
}

/// "This is how far we are, and this is void." Signed anew every few minutes: its age is how old one's knowledge is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The network.
    pub network: NetworkName,
    /// The agency.
    pub agency: AgencyName,
    /// Number of the document.
    pub sequence: u64,
    /// When.
    pub issued: UnixTime,
    /// What is void, whatever signature it has.
    pub void: Vec<Void>,
}

/// Documents of one subject that are void.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Void {
    /// Of what.
    pub subject: Subject,
    /// Those with a lower sequence than this.
    pub below: u64,
}

/// What a document is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A [`NodeClaim`] or a [`DeviceClaim`].
    Node(NodeName),
    /// The agency's [`LinkConsent`] with this one.
    Consent(AgencyName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "the claim of {node}"),
            Self::Consent(with) => write!(f, "the consent with {with}"),
        }
    }
}

/// A signed document of an agency on its way to the controller or over links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "signed", rename_all = "snake_case")]
pub enum AgencyDocument {
    /// A [`Succession`].
    Succession(Envelope),
    /// A [`NodeClaim`].
    Claim(Envelope),
    /// A [`DeviceClaim`].
    Device(Envelope),
    /// A [`LinkConsent`].
    Consent(Envelope),
    /// A [`Statement`].
    Statement(Envelope),
}

/// "These are shut out", signed by a controller. It travels over links as well: the highest sequence counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineList {
    /// The network.
    pub network: NetworkName,
    /// Grows with each change.
    pub sequence: u64,
    /// When.
    pub issued: UnixTime,
    /// Nodes that are shut out.
    pub nodes: Vec<NodeName>,
    /// Agencies that are shut out, with all their nodes.
    pub agencies: Vec<AgencyName>,
}

/// A [`QuarantineList`] with the proof of who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedQuarantine {
    /// A [`ControllerCertificate`](crate::certificate::ControllerCertificate).
    pub certificate: Envelope,
    /// The list.
    pub list: Envelope,
}

impl QuarantineList {
    /// Whether a node is shut out, by itself or with its agency.
    pub fn holds(&self, node: &NodeName) -> bool {
        self.nodes.contains(node) || self.agencies.contains(&node.agency())
    }
}

impl Statement {
    /// Whether it makes a document of this subject and sequence void.
    pub fn voids(&self, subject: &Subject, sequence: u64) -> bool {
        let of_it = |void: &&Void| void.subject == *subject;
        let void = self.void.iter().find(of_it);
        void.is_some_and(|void| sequence < void.below)
    }
}

impl LinkConsent {
    /// Whether policy may open `opening` of the consenting agency to the other.
    pub fn allows(&self, opening: &Opening) -> bool {
        self.opens.as_ref().is_none_or(|most| {
            opening
                .allow
                .iter()
                .all(|allow| covers(most, &opening.prefix, allow))
        })
    }

    /// Whether it has ended at `now`.
    pub fn has_ended(&self, now: UnixTime) -> bool {
        self.until.is_some_and(|until| until < now)
    }
}

/// Whether one of `most` covers all of `prefix` and `allow`.
fn covers(most: &[Opening], prefix: &IpNet, allow: &Allow) -> bool {
    most.iter().any(|opening| {
        opening.prefix.contains(prefix)
            && opening
                .allow
                .iter()
                .any(|most| most.intersection(allow).as_ref() == Some(allow))
    })
}

impl Document for Admission {
    const DOMAIN: &'static str = "agency admission";
}

impl Document for Succession {
    const DOMAIN: &'static str = "agency key succession";
}

impl Document for NodeClaim {
    const DOMAIN: &'static str = "node claim";
}

impl Document for DeviceClaim {
    const DOMAIN: &'static str = "device claim";
}

impl Document for LinkConsent {
    const DOMAIN: &'static str = "link consent";
}

impl Document for Statement {
    const DOMAIN: &'static str = "agency statement";
}

impl Document for QuarantineList {
    const DOMAIN: &'static str = "quarantine list";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(prefix: &str, allow: &[&str]) -> Opening {
        Opening {
            prefix: prefix.parse().unwrap(),
            allow: allow.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn consent(opens: Option<Vec<Opening>>) -> LinkConsent {
        LinkConsent {
            network: "pns".parse().unwrap(),
            agency: "kab-demak".parse().unwrap(),
            with: "prov-jateng".parse().unwrap(),
            opens,
            until: Some(UnixTime(50)),
            sequence: 1,
            issued: UnixTime(0),
        }
    }

    #[test]
    fn a_consent_covers_what_it_names_and_no_more() {
        let most = vec![opening("10.44.0.0/16", &["tcp/1-100", "icmp"])];
        let consent_of = |opens| consent(opens);
        let narrow = consent_of(Some(most));
        assert!(narrow.allows(&opening("10.44.1.0/24", &["tcp/80-100", "icmp"])));
        for (prefix, allow) in [
            ("10.0.0.0/8", "tcp/80"),
            ("10.45.0.0/16", "tcp/80"),
            ("10.44.1.0/24", "tcp/80-101"),
            ("10.44.1.0/24", "udp/80"),
        ] {
            assert!(
                !narrow.allows(&opening(prefix, &[allow])),
                "{prefix} {allow}"
            );
            assert!(!narrow.allows(&opening(prefix, &["icmp", allow])));
            assert!(consent_of(None).allows(&opening(prefix, &[allow])));
        }
        assert!(!consent_of(Some(Vec::new())).allows(&opening("10.44.1.0/24", &["icmp"])));
        assert!(!narrow.has_ended(UnixTime(50)) && narrow.has_ended(UnixTime(51)));
    }

    #[test]
    fn a_statement_voids_what_is_older_than_it_says() {
        let subject = Subject::Node("kab-demak/gw2".parse().unwrap());
        let statement = Statement {
            network: "pns".parse().unwrap(),
            agency: "kab-demak".parse().unwrap(),
            sequence: 9,
            issued: UnixTime(0),
            void: vec![Void {
                subject: subject.clone(),
                below: 8,
            }],
        };
        assert!(statement.voids(&subject, 7) && !statement.voids(&subject, 8));
        assert!(!statement.voids(&Subject::Consent("kab-demak".parse().unwrap()), 7));
        let text = serde_json::to_string(&statement).unwrap();
        assert!(
            text.contains(r#"{"subject":{"node":"kab-demak/gw2"},"below":8}"#),
            "{text}"
        );
    }
}
