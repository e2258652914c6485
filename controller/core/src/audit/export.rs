//! The audit trail as a file that proves itself elsewhere: a header, the entries as they are, a signed checkpoint.
//!
//! It reads and writes texts; files are the shell's business.

use ed25519_dalek::SigningKey;
use pnsbox_proto::certificate::ControllerCertificate;
use pnsbox_proto::envelope::{Document, Envelope, EnvelopeError};
use pnsbox_proto::id::NetworkName;
use pnsbox_proto::key::{Digest, IdentityKey};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::AuditHead;
use serde::{Deserialize, Serialize};

use super::{Broken, Trail};
use crate::registry::Network;

const SCHEMA: &str = "pnsbox.audit/1";

/// "This was the trail of this network then", signed by the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The network.
    pub network: NetworkName,
    /// The trail's end.
    pub head: AuditHead,
    /// When it was signed.
    pub when: UnixTime,
}

impl Document for Checkpoint {
    const DOMAIN: &'static str = "audit checkpoint";
}

/// The first line: whose trail it is, and what makes the checkpoint's signer a controller.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    schema: String,
    network: NetworkName,
    root: IdentityKey,
    certificate: Envelope,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
struct Footer {
    checkpoint: Envelope,
}

/// A trail that was exported, and holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// What the controller signed.
    pub checkpoint: Checkpoint,
    /// Fingerprint of the root key that the header names. Only if it was expected is it proved.
    pub root: Digest,
    /// The trail.
    pub trail: Trail,
}

/// Why an export proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// Something else, or cut off.
    #[error("it is no whole export: {0}; make one with: pnsbox-controller audit export")]
    NotAnExport(&'static str),
    /// Another network's, or a forgery.
    #[error("its root key is {found}, not {expected}: it is of another network, or forged")]
    OtherRoot {
        /// In the file.
        found: Digest,
        /// Expected.
        expected: Digest,
    },
    /// Not signed as it should be.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The checkpoint is of another network than the certificate.
    #[error("its checkpoint is of network {found}, its certificate of {expected}")]
    OtherNetwork {
        /// In the checkpoint.
        found: NetworkName,
        /// In the certificate.
        expected: NetworkName,
    },
    /// The entries do not follow from each other, or are not those that were signed.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// Entries that nobody signed.
    #[error("it has {entries} entries, but its checkpoint was signed after {signed}")]
    Beyond {
        /// In the file.
        entries: u64,
        /// Signed.
        signed: u64,
    },
}

/// The lines of an export of `texts`, which are all entries of `network`.
pub fn export<'a>(
    network: &Network,
    texts: impl IntoIterator<Item = &'a str> + Clone,
    key: &SigningKey,
    when: UnixTime,
) -> Vec<String> {
    let header = Header {
        schema: SCHEMA.to_owned(),
        network: network.name.clone(),
        root: network.root,
        certificate: network.certificate.clone(),
    };
    let checkpoint = Checkpoint {
        network: network.name.clone(),
        head: Trail::unverified(texts.clone()).head(),
        when,
    };
    let footer = Footer {
        checkpoint: Envelope::sign(&checkpoint, key),
    };
    let mut lines = vec![line(&header)];
    lines.extend(texts.into_iter().map(str::to_owned));
    lines.push(line(&footer));
    lines
}

fn line<T: Serialize>(part: &T) -> String {
    serde_json::to_string(part).expect("the parts are plain structs")
}

/// Judges an export. Who knows the fingerprint of the network's `root` has it proved that its controller signed this.
pub fn verify(text: &str, root: Option<Digest>) -> Result<Exported, ExportError> {
    let lines: Vec<&str> = text.lines().collect();
    let [first, texts @ .., last] = &lines[..] else {
        return Err(ExportError::NotAnExport("it has fewer than two lines"));
    };
    let header: Header = serde_json::from_str(first)
        .ok()
        .filter(|header: &Header| header.schema == SCHEMA)
        .ok_or(ExportError::NotAnExport("its first line is no header"))?;
    let footer: Footer = serde_json::from_str(last).map_err(|_| {
        ExportError::NotAnExport("its last line is no checkpoint, so something may be cut off")
    })?;
    let found = header.root.fingerprint();
    if let Some(expected) = root.filter(|expected| *expected != found) {
        return Err(ExportError::OtherRoot { found, expected });
    }
    let certificate: ControllerCertificate = header.certificate.open(&header.root)?;
    let checkpoint: Checkpoint = footer.checkpoint.open(&certificate.controller)?;
    if checkpoint.network != certificate.network {
        return Err(ExportError::OtherNetwork {
            found: checkpoint.network,
            expected: certificate.network,
        });
    }
    let trail = Trail::verify(texts.iter().copied())?;
    trail.contains(checkpoint.head, "its checkpoint")?;
    let (entries, signed) = (trail.head().entries, checkpoint.head.entries);
    if entries != signed {
        return Err(ExportError::Beyond { entries, signed });
    }
    Ok(Exported {
        checkpoint,
        root: found,
        trail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Origin;

    const DEEDS: [&str; 5] = ["init", "agency add a1", "invite a1/gw1", "join", "apply"];

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn public(seed: u8) -> IdentityKey {
        IdentityKey(key(seed).verifying_key().to_bytes())
    }

    fn network(root: u8, controller: u8) -> Network {
        let certificate = ControllerCertificate {
            network: "pns".parse().unwrap(),
            controller: public(controller),
            issued: UnixTime(5),
        };
        Network {
            name: "pns".parse().unwrap(),
            root: public(root),
            controller: public(controller),
            certificate: Envelope::sign(&certificate, &key(root)),
            admission: Envelope::sign(&certificate, &key(root)),
            addresses: Vec::new(),
            pool: "100.127.0.0/16".parse().unwrap(),
            created: UnixTime(5),
        }
    }

    /// An export of these deeds, by the controller with key 2 unless `root` or `controller` say otherwise.
    fn exported(deeds: &[&str], root: u8, controller: u8) -> Vec<String> {
        let mut trail = Trail::default();
        let origin = Origin::here("uid 0");
        let texts: Vec<String> = deeds
            .iter()
            .map(|deed| trail.append(UnixTime(9), &origin, deed).1)
            .collect();
        let texts = texts.iter().map(String::as_str);
        let network = network(root, controller);
        export(&network, texts, &key(controller), UnixTime(100))
    }

    fn judge(lines: &[String]) -> Result<Exported, ExportError> {
        verify(&lines.join("\n"), Some(public(1).fingerprint()))
    }

    #[test]
    fn an_export_proves_itself() {
        let lines = exported(&DEEDS, 1, 2);
        let good = judge(&lines).unwrap();
        assert_eq!((good.checkpoint.head.entries, lines.len()), (5, 7));
        assert_eq!(good.checkpoint.when, UnixTime(100));
        let later = judge(&exported(&[&DEEDS[..], &["revoke"]].concat(), 1, 2)).unwrap();
        let seen = good.checkpoint.head;
        assert_eq!(later.trail.contains(seen, "the older"), Ok(()));
    }

    #[test]
    fn every_way_to_tamper_is_told() {
        let anew = exported(
            &["init", "agency add b2", "invite b2/gw1", "join", "apply"],
            1,
            2,
        );
        let more = exported(&[&DEEDS[..], &["more"]].concat(), 1, 2);
        let forged = exported(&DEEDS, 1, 3);
        let elsewhere = exported(&DEEDS, 7, 2);
        type Change<'a> = &'a dyn Fn(&mut Vec<String>);
        let cases: [(&str, Change<'_>, &str); 9] = [
            (
                "a bit is flipped",
                &|lines| lines[3] = lines[3].replace("gw1", "gw0"),
                "broken at entry 3: it does not follow",
            ),
            (
                "a line is dropped",
                &|lines| drop(lines.remove(3)),
                "broken at entry 2: entry 3 stands in its place",
            ),
            (
                "two lines are swapped",
                &|lines| lines.swap(2, 3),
                "broken at entry 1: entry 2 stands in its place",
            ),
            (
                "the last entry is cut off",
                &|lines| drop(lines.remove(5)),
                "ends after 4 entries, but its checkpoint has seen 5",
            ),
            (
                "the end is cut off",
                &|lines| lines.truncate(4),
                "its last line is no checkpoint",
            ),
            (
                "all is hashed anew, without the key",
                &|lines| lines[1..6].clone_from_slice(&anew[1..6]),
                "is not the one that its checkpoint has seen up to its entry 4",
            ),
            (
                "an entry is added",
                &|lines| lines.insert(6, more[6].clone()),
                "it has 6 entries, but its checkpoint was signed after 5",
            ),
            (
                "another key signs the checkpoint",
                &|lines| lines[6].clone_from(&forged[6]),
                "signed by key",
            ),
            (
                "all is of another root",
                &|lines| lines.clone_from(&elsewhere),
                "it is of another network, or forged",
            ),
        ];
        for (what, change, expected) in cases {
            let mut lines = exported(&DEEDS, 1, 2);
            change(&mut lines);
            let said = judge(&lines).unwrap_err().to_string();
            assert!(said.contains(expected), "{what}: {said}");
        }
        // What a controller signed twice, its key cannot unsay.
        let one = judge(&exported(&DEEDS, 1, 2)).unwrap();
        let other = judge(&anew).unwrap().checkpoint.head;
        let said = one.trail.contains(other, "the other");
        assert!(matches!(said, Err(Broken::Other { last: 4, .. })));
    }
}
