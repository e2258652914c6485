//! What the network's root key, which is offline, says about other keys.

use serde::{Deserialize, Serialize};

use crate::envelope::Document;
use crate::id::NetworkName;
use crate::key::IdentityKey;
use crate::time::UnixTime;

/// "This key is a controller of this network", signed by the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerCertificate {
    /// The network it speaks for.
    pub network: NetworkName,
    /// The controller's key: of its TLS sessions and of the manifests that it signs.
    pub controller: IdentityKey,
    /// When it was signed.
    pub issued: UnixTime,
}

impl Document for ControllerCertificate {
    const DOMAIN: &'static str = "controller certificate";
}

/// "This key admits agencies that have no key yet", signed by the root.
///
/// It judges nothing about agencies that are admitted: only they, or the root, replace their key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionCertificate {
    /// The network.
    pub network: NetworkName,
    /// The admission key.
    pub admission: IdentityKey,
    /// First moment at which it may admit.
    pub issued: UnixTime,
    /// Last moment at which it may admit. What was admitted stays admitted.
    pub ends: UnixTime,
}

impl Document for AdmissionCertificate {
    const DOMAIN: &'static str = "admission certificate";
}
