//! Who did what, and when: entries chained by SHA-256, so that one cannot be changed or taken out unseen.
//!
//! The head stands in every manifest, so agents hold witnesses of the chain.

use pnsbox_proto::key::Digest;
use pnsbox_proto::time::UnixTime;
use serde::{Deserialize, Serialize};

/// One deed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts from 0 without gaps.
    pub number: u64,
    /// When.
    pub when: UnixTime,
    /// Who, for example `uid 0` or `node kab-demak/gw1`.
    pub who: String,
    /// What, in words.
    pub what: String,
    /// SHA-256 of the text of the entry before; all zero for the first.
    pub previous: Digest,
}

/// The end of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Number of the next entry.
    pub next: u64,
    /// SHA-256 of the last entry's text.
    pub digest: Digest,
}

/// The head of an empty chain.
pub const EMPTY: Head = Head {
    next: 0,
    digest: Digest([0; 32]),
};

/// Where a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the audit chain is broken at entry {number}: {reason}; it was changed outside pnsbox-controller"
)]
pub struct Broken {
    /// The first entry that does not fit.
    pub number: u64,
    /// Why.
    pub reason: String,
}

impl Head {
    /// Appends an entry; returns its number and text, which must be stored as it is.
    pub fn append(&mut self, when: UnixTime, who: &str, what: &str) -> (u64, String) {
        let entry = Entry {
            number: self.next,
            when,
            who: who.to_owned(),
            what: what.to_owned(),
            previous: self.digest,
        };
        let text = serde_json::to_string(&entry).expect("an entry is a plain struct");
        *self = Self {
            next: self.next + 1,
            digest: Digest::of(text.as_bytes()),
        };
        (entry.number, text)
    }
}

/// Walks the chain from its first entry; returns its head.
pub fn verify<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Head, Broken> {
    let mut head = EMPTY;
    for text in texts {
        let broken = |reason: &str| Broken {
            number: head.next,
            reason: reason.to_owned(),
        };
        let entry: Entry =
            serde_json::from_str(text).map_err(|e| broken(&format!("it cannot be read: {e}")))?;
        if entry.number != head.next {
            return Err(broken(&format!(
                "entry {} stands in its place",
                entry.number
            )));
        }
        if entry.previous != head.digest {
            return Err(broken("it does not follow from the entry before"));
        }
        head = Head {
            next: head.next + 1,
            digest: Digest::of(text.as_bytes()),
        };
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> (Head, Vec<String>) {
        let mut head = EMPTY;
        let texts = ["init", "agency add kab-demak", "invite kab-demak/gw1"]
            .map(|what| head.append(UnixTime(1_795_392_000), "uid 0", what).1);
        (head, texts.into())
    }

    #[test]
    fn a_chain_verifies_to_its_head() {
        let (head, texts) = chain();
        assert_eq!(verify(texts.iter().map(String::as_str)), Ok(head));
    }

    #[test]
    fn a_changed_missing_or_swapped_entry_is_found() {
        let (_, texts) = chain();
        let mut changed = texts.clone();
        changed[1] = changed[1].replace("kab-demak", "kab-jepara");
        assert_eq!(
            verify(changed.iter().map(String::as_str))
                .unwrap_err()
                .number,
            2
        );
        let missing = [texts[0].as_str(), texts[2].as_str()];
        assert_eq!(verify(missing).unwrap_err().number, 1);
        assert_eq!(verify(["{}"]).unwrap_err().number, 0);
    }
}
