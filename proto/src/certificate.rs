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
