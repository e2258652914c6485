//! What an admin asks of the box that signs for the agency, and the answers: plain data.

use ipnet::IpNet;
use pnsbox_proto::access::Opening;
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};
use pnsbox_proto::time::UnixTime;
use serde::{Deserialize, Serialize};

/// A question or a command about what the agency signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "agency", rename_all = "snake_case")]
pub enum AgencyCommand {
    /// Consents and links that wait for one.
    Consents,
    /// Consents to links that policy proposes.
    Grant {
        /// With whom; every agency that waits, if absent.
        with: Option<AgencyName>,
        /// Whatever policy will open, and not only what it opens now.
        any: bool,
        /// When it ends.
        until: Option<UnixTime>,
    },
    /// Takes a consent back.
    Revoke {
        /// With whom.
        with: AgencyName,
    },
    /// Boxes and devices of the agency.
    Members,
    /// Claims a box or a device.
    Approve {
        /// Which.
        node: NodeName,
    },
    /// Takes a claim back.
    Disown {
        /// Which.
        node: NodeName,
    },
    /// The agency's key.
    Key,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum AgencyAnswer {
    /// Consents and links that wait for one.
    Consents {
        /// By the other agency.
        consents: Vec<ConsentLine>,
    },
    /// Boxes and devices of the agency.
    Members {
        /// By name.
        members: Vec<MemberLine>,
    },
    /// The agency's key.
    Key {
        /// Whose it is, and where it is.
        key: KeyLine,
    },
    /// These were signed, in words.
    Signed {
        /// One line each.
        lines: Vec<String>,
    },
}

/// A link with another agency, as both consented to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentLine {
    /// The other agency.
    pub with: AgencyName,
    /// Ours.
    pub ours: ConsentState,
    /// Theirs, as far as is known here.
    pub theirs: bool,
    /// What policy opens of ours, or would open.
    pub opens: Vec<Opening>,
    /// What it opens of theirs, or would open.
    pub opened: Vec<Opening>,
    /// The most that our consent allows; absent: whatever policy says, or no consent.
    pub most: Option<Vec<Opening>>,
    /// When ours ends.
    pub until: Option<UnixTime>,
    /// Until when what the other agency revoked is known here.
    pub heard: Option<UnixTime>,
}

/// How far this agency consents to what policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsentState {
    /// All of it.
    Granted,
    /// To less than policy opens.
    Partly,
    /// Not, or no more.
    Missing,
}

/// A box or a device of the agency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberLine {
    /// Its name.
    pub name: NodeName,
    /// Whether the agency claims it as it is.
    pub approved: bool,
    /// Fingerprint of its identity key; absent for a device.
    pub identity: Option<Digest>,
    /// Its WireGuard key.
    pub wireguard: WireguardKey,
    /// LAN prefixes behind it.
    pub prefixes: Vec<IpNet>,
}

/// The agency's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLine {
    /// The agency.
    pub agency: AgencyName,
    /// The key that it has in the network, if it has one.
    pub key: Option<IdentityKey>,
    /// Whether this box can sign with it.
    pub here: bool,
    /// A key of this box that it could have instead, under the root.
    pub other: Vec<IdentityKey>,
}
