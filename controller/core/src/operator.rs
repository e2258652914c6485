//! What an operator can ask, and the answers: the words between the commands and the program that owns the state.
//!
//! How they are shown is the shell's business.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::{AgencyName, NetworkName, NodeName};
use pnsbox_proto::key::{IdentityKey, WireguardKey};
use pnsbox_proto::time::UnixTime;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::difference::Difference;
use crate::fleet::FleetStatus;
use crate::reader::Mistake;
use crate::registry::quarantine::Subject;
use crate::rollout::{Canary, RolloutStatus};

/// A request as it is asked over the socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// What.
    #[serde(flatten)]
    pub request: Request,
    /// From where, as the command says: the controller sees only that it is on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// A question or a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// Registers an agency.
    AgencyAdd {
        /// Its name.
        name: AgencyName,
        /// What its nodes may claim.
        prefixes: Vec<IpNet>,
        /// For people.
        class: Option<String>,
        /// For people.
        region: Option<String>,
    },
    /// Lists agencies.
    AgencyList,
    /// Makes an anchor for a new node.
    Invite {
        /// Of which agency.
        agency: AgencyName,
        /// The node's own label, for example `gw1`.
        node: String,
        /// For how long the token is good.
        expires_in_s: u64,
    },
    /// Admits a plain WireGuard device.
    ExternalAdd {
        /// Its name.
        device: NodeName,
        /// Its public key; the private one stays with the device.
        wireguard: WireguardKey,
    },
    /// Lists devices.
    ExternalList,
    /// What one device must be set up with, as things are.
    ExternalShow {
        /// Which.
        device: NodeName,
    },
    /// Removes a device.
    ExternalRemove {
        /// Which.
        device: NodeName,
    },
    /// What applying this policy would change.
    Plan {
        /// The table of the policy file.
        policy: Value,
    },
    /// Applies this policy.
    Apply {
        /// The table of the policy file.
        policy: Value,
    },
    /// Every policy that was in force.
    History,
    /// A policy that was in force.
    Version {
        /// Its number.
        number: u64,
    },
    /// What one policy says and another does not.
    Diff {
        /// Number of the one.
        from: u64,
        /// Number of the other; the one in force, if absent.
        to: Option<u64>,
    },
    /// Applies a policy that was in force.
    Rollback {
        /// Its number.
        to: u64,
        /// Only says what would change.
        dry_run: bool,
    },
    /// Brings a policy to everybody in waves.
    RollOut {
        /// Which.
        policy: Source,
        /// How.
        canary: Canary,
        /// Only says what would change, and who would be first.
        dry_run: bool,
    },
    /// The rollout under way, or the last one.
    Rollout,
    /// Takes back what the rollout under way has done.
    HaltRollout,
    /// Shuts a node or an agency out.
    Quarantine {
        /// Whom.
        subject: Subject,
        /// Why, for its admin too.
        reason: String,
    },
    /// Lets it in again.
    Release {
        /// Whom.
        subject: Subject,
    },
    /// The root lets this controller admit agencies for longer.
    AdmissionRenew {
        /// An `AdmissionCertificate`, signed by the root.
        certificate: Envelope,
    },
    /// The root puts another key in the place of one that an agency lost.
    AgencySucceed {
        /// A `Succession`, signed by the root.
        succession: Envelope,
    },
    /// What the root needs to know to sign for this network.
    RootWork {
        /// Of which agency, if it is about one.
        agency: Option<AgencyName>,
    },
    /// The fleet.
    Status,
}

/// Where a policy comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The table of a policy file.
    File(Value),
    /// The number of a version that was in force.
    Version(u64),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The agency is registered.
    AgencyAdded {
        /// As it is listed.
        agency: AgencyLine,
    },
    /// Every agency.
    Agencies {
        /// By name.
        agencies: Vec<AgencyLine>,
    },
    /// The invitation.
    Invited {
        /// One line; a secret until it is used.
        anchor: String,
        /// The node that it makes.
        node: NodeName,
        /// When it ends.
        expires: UnixTime,
        /// Whether an unused invitation of that node was withdrawn.
        replaced: bool,
    },
    /// The device is admitted.
    ExternalAdded {
        /// As it is listed.
        external: ExternalLine,
    },
    /// Every device.
    Externals {
        /// By name.
        externals: Vec<ExternalLine>,
    },
    /// One device.
    External {
        /// As it is listed.
        external: ExternalLine,
    },
    /// The device is removed.
    ExternalRemoved {
        /// Which.
        device: NodeName,
    },
    /// What changes, or changed.
    Difference {
        /// In words and names.
        difference: Box<Difference>,
        /// Whether it is in force now.
        applied: bool,
    },
    /// The rollout under way, or the last one.
    Rollout {
        /// None if there never was one.
        rollout: Option<Box<RolloutStatus>>,
    },
    /// Every policy that was in force.
    History {
        /// Oldest first.
        versions: Vec<VersionLine>,
    },
    /// A policy that was in force.
    Version {
        /// Its number.
        number: u64,
        /// The table of the file.
        policy: Value,
    },
    /// What one policy says and another does not.
    Changes {
        /// Number of the one.
        from: u64,
        /// Number of the other.
        to: u64,
        /// One line each, begins with `+` or `-`.
        changes: Vec<String>,
    },
    /// A node or an agency is shut out, or let in again.
    Quarantined {
        /// Which.
        subject: Subject,
        /// Whether it is let in again.
        released: bool,
        /// Its nodes.
        nodes: Vec<NodeName>,
        /// Whose views changed, its own among them.
        touched: Vec<NodeName>,
    },
    /// The admission key admits until then.
    AdmissionRenewed {
        /// When its right ends.
        ends: UnixTime,
    },
    /// The agency has another key.
    AgencyKeyReplaced {
        /// Which.
        agency: AgencyName,
        /// The key.
        key: IdentityKey,
    },
    /// What the root needs to know.
    RootWork {
        /// The network.
        network: NetworkName,
        /// The root's public key.
        root: IdentityKey,
        /// The admission key.
        admission: IdentityKey,
        /// Until when that admits.
        ends: UnixTime,
        /// The key of the agency that was asked for, if it has one.
        agency: Option<IdentityKey>,
    },
    /// The fleet.
    Status {
        /// What needs attention first.
        fleet: Box<FleetStatus>,
    },
}

/// A policy that was in force, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionLine {
    /// Its number.
    pub number: u64,
    /// When it came into force.
    pub when: UnixTime,
    /// Who put it into force.
    pub who: String,
    /// From where.
    pub from: String,
    /// The version that it brought back, if it did.
    pub restores: Option<u64>,
    /// What it changed.
    pub changes: Vec<String>,
    /// Whether it is in force.
    pub in_force: bool,
}

/// An agency as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgencyLine {
    /// Its name.
    pub name: AgencyName,
    /// What its nodes may claim.
    pub prefixes: Vec<IpNet>,
    /// For people.
    pub class: Option<String>,
    /// For people.
    pub region: Option<String>,
    /// Its nodes.
    pub nodes: Vec<NodeName>,
    /// Its key, since its first box joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdentityKey>,
    /// With whom it consents to a link.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consents: Vec<AgencyName>,
}

/// A plain WireGuard device as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalLine {
    /// Its name.
    pub device: NodeName,
    /// Its public key.
    pub wireguard: WireguardKey,
    /// Its overlay address from the pool.
    pub overlay_v4: Ipv4Addr,
    /// Its overlay address derived from its key.
    pub overlay_v6: Ipv6Addr,
    /// The node that it dials.
    pub gateway: NodeName,
    /// The gateway's public key.
    pub gateway_wireguard: WireguardKey,
    /// Where the gateway listens.
    pub endpoint: SocketAddr,
    /// The same in the other version of IP, if it has both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_endpoint: Option<SocketAddr>,
    /// The gateway's overlay addresses, and what policy opens to the device.
    pub allowed_prefixes: Vec<IpNet>,
    /// When it was added.
    pub added: UnixTime,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "refusal", rename_all = "snake_case")]
pub enum Refusal {
    /// In words.
    #[error("{message}")]
    Refused {
        /// What, which value, what to do.
        message: String,
    },
    /// The policy is wrong.
    #[error("the policy has {} mistakes", mistakes.len())]
    Mistakes {
        /// All of them.
        mistakes: Vec<Mistake>,
    },
}

impl Refusal {
    pub(crate) fn because(message: String) -> Self {
        Self::Refused { message }
    }
}
