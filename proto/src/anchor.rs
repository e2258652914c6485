//! The one line that an operator hands to a new agency: `pns1.BODY.CHECK`.
//!
//! BODY is base64url of JSON, CHECK the first 8 hexadecimal digits of its SHA-256, which tells a slip of the
//! clipboard from a forgery. There is nothing in it that a shell would interpret.
//! It is a secret until it is used: it carries the token.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::id::{NetworkName, NodeName};
use crate::key::Digest;
use crate::message::Token;
use crate::time::UnixTime;

const PREFIX: &str = "pns1";

/// An invitation to one agency's node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// The network to join.
    pub network: NetworkName,
    /// The node's name in it.
    pub node: NodeName,
    /// Where controllers listen.
    pub controllers: Vec<SocketAddr>,
    /// Fingerprint of the network's root key: whoever is not certified by it is no controller.
    pub root: Digest,
    /// One-time token, bound to the node's name.
    pub token: Token,
    /// When the token ends.
    pub expires: UnixTime,
}

/// Why a text is not an anchor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnchorError {
    /// Something else.
    #[error(
        "this is not an anchor: an anchor is one line that begins with 'pns1.', as printed by 'pnsbox-controller invite'"
    )]
    NotAnAnchor,
    /// Damaged on the way.
    #[error("the anchor is damaged (its check digits do not match): copy the whole line again")]
    Damaged,
    /// Well copied, but not what this version reads.
    #[error("the anchor cannot be read: {0}")]
    Malformed(String),
}

impl FromStr for Anchor {
    type Err = AnchorError;

    fn from_str(text: &str) -> Result<Self, AnchorError> {
        let mut parts = text.trim().split('.');
        let (Some(PREFIX), Some(body), Some(check), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(AnchorError::NotAnAnchor);
        };
        if check_digits(body) != check {
            return Err(AnchorError::Damaged);
        }
        let json = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|e| AnchorError::Malformed(e.to_string()))?;
        let anchor: Self =
            serde_json::from_slice(&json).map_err(|e| AnchorError::Malformed(e.to_string()))?;
        if anchor.controllers.is_empty() {
            return Err(AnchorError::Malformed("it names no controller".into()));
        }
        Ok(anchor)
    }
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_vec(self).map_err(|_| fmt::Error)?;
        let body = URL_SAFE_NO_PAD.encode(json);
        write!(f, "{PREFIX}.{body}.{}", check_digits(&body))
    }
}

fn check_digits(body: &str) -> String {
    Digest::of(body.as_bytes()).to_string()[..8].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor() -> Anchor {
        Anchor {
            network: "pns".parse().unwrap(),
            node: "kab-demak/gw1".parse().unwrap(),
            controllers: vec!["203.0.113.10:443".parse().unwrap()],
            root: Digest([1; 32]),
            token: Token([9; 16]),
            expires: UnixTime(1_795_392_000),
        }
    }

    #[test]
    fn survives_a_line_of_text() {
        let line = anchor().to_string();
        assert!(
            line.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)),
            "{line}"
        );
        assert_eq!(format!("  {line}\n").parse::<Anchor>().unwrap(), anchor());
    }

    #[test]
    fn a_slip_is_told_from_something_else() {
        let line = anchor().to_string();
        assert_eq!(
            line[..line.len() - 1].parse::<Anchor>(),
            Err(AnchorError::Damaged)
        );
        assert_eq!(
            line.replacen('e', "f", 1).parse::<Anchor>(),
            Err(AnchorError::Damaged)
        );
        assert_eq!(
            "ssh-ed25519 AAAA".parse::<Anchor>(),
            Err(AnchorError::NotAnAnchor)
        );
        let body = URL_SAFE_NO_PAD.encode("{}");
        let empty = format!("pns1.{body}.{}", check_digits(&body));
        assert!(matches!(
            empty.parse::<Anchor>(),
            Err(AnchorError::Malformed(_))
        ));
    }

    #[test]
    fn a_forged_anchor_cannot_drive_a_terminal() {
        let json = serde_json::to_string(&anchor()).unwrap();
        let forged = json.replace("kab-demak/gw1", "kab\\u001b[2J/gw1");
        let body = URL_SAFE_NO_PAD.encode(forged);
        let line = format!("pns1.{body}.{}", check_digits(&body));
        let error = line.parse::<Anchor>().unwrap_err().to_string();
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }

    #[test]
    fn debug_output_hides_the_token() {
        assert!(!format!("{:?}", anchor()).contains("0909"));
    }
}
