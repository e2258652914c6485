//! Messages. Each travels in one [`frame`](crate::frame).
//!
//! A control session is one bidirectional stream that the agent opens, and goes:
//! `Hello` → `Welcome`, then either `Join` → `Joined | JoinRefused`, or nothing; then views and reports for ever.
//! The agent says nothing secret before it has judged the certificate in `Welcome` against the TLS key.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::agency::{AgencyDocument, SignedQuarantine};
use crate::envelope::Envelope;
use crate::health::HealthReport;
use crate::id::{AgencyName, NetworkName, NodeName};
use crate::key::{Digest, IdentityKey, WireguardKey};
use crate::service::Service;
use crate::time::UnixTime;
use crate::view::{AuditHead, SignedView};

/// From an agent to the controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToController {
    /// First message of every session.
    Hello {
        /// [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION) of the agent.
        protocol: u32,
        /// Version of the agent's software.
        software: String,
        /// Payload digest of the manifest that was accepted last, if any: the controller sends nothing that is already there.
        /// Whether it is in force, [`ToController::ViewOutcome`] and health say.
        view: Option<Digest>,
        /// The audit trail as that manifest has it: a controller that does not have it has lost or changed its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        audit: Option<AuditHead>,
        /// Drawn at random when the agent starts: two that take turns are two boxes with one key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<u64>,
    },
    /// Claims a place in the network with a token.
    Join(JoinRequest),
    /// Health, every 10 s and on change.
    Health(HealthReport),
    /// The services that the node announces, all of them, healthy ones only; replaces the list before.
    Services {
        /// The list.
        services: Vec<Service>,
    },
    /// "Do you hear me with this view?" Answered at once by [`ToAgent::Checked`].
    Check {
        /// Payload digest of its manifest.
        view: Digest,
    },
    /// Documents that the node's agency signed.
    Documents {
        /// The documents.
        documents: Vec<AgencyDocument>,
    },
    /// What became of a view.
    ViewOutcome {
        /// Its version.
        version: u64,
        /// Payload digest of its manifest.
        digest: Digest,
        /// Applied or refused.
        outcome: ViewOutcome,
        /// Ids of the records that could not be read and were left out.
        quarantined: Vec<String>,
    },
}

/// What a new node asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The anchor's token.
    pub token: Token,
    /// The node's WireGuard key; its identity key is the one of the TLS session.
    pub wireguard: WireguardKey,
    /// A key that this box can sign with for its agency, if that has none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agency: Option<IdentityKey>,
    /// The node's LAN prefixes.
    pub prefixes: Vec<IpNet>,
    /// Where others reach its WireGuard port, if it has a public address.
    pub public_endpoint: Option<SocketAddr>,
    /// The same in the other version of IP, if it has both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_endpoint: Option<SocketAddr>,
}

/// What became of a view at an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ViewOutcome {
    /// In force and on disk.
    Applied,
    /// In force, and yet to prove itself: whether it is kept is said later. A newer view need not wait for that.
    OnTrial,
    /// Not in force; the view before still is.
    Refused {
        /// Why, for the operator.
        reason: String,
    },
    /// It was in force, and the box lost its way to the controller or to peers; the view before is in force again.
    RolledBack {
        /// Whom it lost, for the operator.
        reason: String,
    },
    /// Records are missing that the controller thought were there: it must send them all.
    Incomplete,
}

/// From the controller to an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// First answer of every session: proof that the root certified this controller.
    Welcome {
        /// The network's root key.
        root: IdentityKey,
        /// A [`ControllerCertificate`](crate::certificate::ControllerCertificate) signed by the root.
        certificate: Envelope,
        /// The address from which the controller sees the agent.
        observed: SocketAddr,
        /// The controller's clock.
        now: UnixTime,
        /// Whether the controller knows the TLS key of the session, and as which node.
        node: Option<NodeName>,
    },
    /// The node has joined, or had already joined with this key and token.
    Joined {
        /// The network.
        network: NetworkName,
        /// The node's name.
        node: NodeName,
        /// Where controllers listen.
        controllers: Vec<SocketAddr>,
    },
    /// The node has not joined.
    JoinRefused {
        /// Stable reason.
        reason: JoinRefusal,
    },
    /// A new view for this node.
    View(SignedView),
    /// What agencies said that this node has to do with, and what the controller shuts out.
    Documents {
        /// Newer than what was sent before.
        documents: Vec<AgencyDocument>,
        /// Who is shut out, if that changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quarantine: Option<SignedQuarantine>,
    },
    /// The answer to [`ToController::Check`].
    Checked {
        /// Of which view.
        view: Digest,
    },
}

/// Why a node could not join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum JoinRefusal {
    /// Nobody issued it.
    #[error(
        "the controller does not know this token: the anchor is forged, or its invitation was withdrawn; ask the operator for a new one"
    )]
    UnknownToken,
    /// Too late.
    #[error("the anchor expired at {expired}: ask the operator for a new one")]
    Expired {
        /// When.
        expired: UnixTime,
    },
    /// Another key used it.
    #[error(
        "the anchor was already used, at {when}, by another box, now {node}: ask the operator for a new one"
    )]
    Spent {
        /// When.
        when: UnixTime,
        /// The node that it became.
        node: NodeName,
    },
    /// The key is already a node.
    #[error("this box already is {node} of this network")]
    AlreadyJoined {
        /// Which.
        node: NodeName,
    },
    /// The pool has no address left.
    #[error("the overlay pool has no address left; tell the operator of the network")]
    PoolExhausted,
    /// The request makes no sense.
    #[error("the controller refused the request: {reason}")]
    Invalid {
        /// Which value, which rule.
        reason: String,
    },
}

/// A one-time token of 128 bits. Prints as `…`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token(pub [u8; 16]);

impl Token {
    /// How the controller stores it.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl TryFrom<String> for Token {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        crate::key::hex_decode(&text)
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or("a token is 32 hexadecimal digits")
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        crate::key::hex_encode(&token.0)
    }
}

/// Between two agents, on the one bidirectional stream of a link that the dialling side opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LinkMessage {
    /// First message of each side. Until it arrives the link is not up:
    /// a TLS 1.3 client believes itself connected before the server has judged its key.
    Hello {
        /// [`PROTOCOL_VERSION`](crate::PROTOCOL_VERSION).
        protocol: u32,
        /// Who speaks; must be the owner of the TLS key.
        node: NodeName,
    },
    /// The services that the sender announces to the receiver's agency, all of them; replaces the list before.
    Services {
        /// The list.
        services: Vec<Service>,
    },
    /// Of which agencies the sender wants documents, and what it has: after each hello.
    Known {
        /// The sequence of the newest statement, 0 without any.
        statements: BTreeMap<AgencyName, u64>,
        /// The sequence of the newest quarantine list, 0 without any.
        quarantine: u64,
    },
    /// The controller's audit trail as the sender's newest view has it: after each hello, and when it is another.
    /// Of one length there is only one.
    Trail {
        /// Its end.
        audit: AuditHead,
    },
    /// What the sender has and the receiver lacked.
    Documents {
        /// By agencies.
        documents: Vec<AgencyDocument>,
        /// Who is shut out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quarantine: Option<Box<SignedQuarantine>>,
    },
}
