//! Who did what, when and from where: entries chained by SHA-256, so that none can be changed or taken out unseen.
//!
//! The head stands in every manifest, so agents hold witnesses of the trail. It knows no store and no file.

pub mod export;

use pnsbox_proto::key::Digest;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::AuditHead;
use serde::{Deserialize, Serialize};

/// Who does something, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// For example `uid 0` or `node kab-demak/gw1`.
    pub who: String,
    /// For example `this machine`, or an address.
    pub from: String,
}

impl Origin {
    /// Somebody on the controller's own machine.
    pub fn here(who: &str) -> Self {
        Self {
            who: who.to_owned(),
            from: "this machine".to_owned(),
        }
    }
}

/// One deed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts from 0 without gaps.
    pub number: u64,
    /// When.
    pub when: UnixTime,
    /// Who, for example `uid 0` or `node kab-demak/gw1`.
    pub who: String,
    /// From where, for example `this machine` or `203.0.113.7:40000`.
    pub from: String,
    /// What, in words.
    pub what: String,
    /// SHA-256 of the text of the entry before; all zero for the first.
    pub previous: Digest,
}

/// The trail, by what each entry's text hashes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trail {
    digests: Vec<Digest>,
}

/// Where a trail is broken. Whatever it is, it was not done by pnsbox-controller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// An entry does not fit.
    #[error("the audit trail is broken at entry {number}: {reason}")]
    Entry {
        /// The first that does not fit.
        number: u64,
        /// Why.
        reason: String,
    },
    /// What should witness the trail is not what the controller signed.
    #[error("{witness} says nothing about the audit trail: {reason}")]
    Witness {
        /// Which.
        witness: String,
        /// Why not.
        reason: String,
    },
    /// Somebody saw more.
    #[error(
        "the audit trail ends after {entries} entries, but {witness} has seen {seen}: \
         entries were cut off, or an old copy was put back"
    )]
    Short {
        /// Who.
        witness: String,
        /// How many it saw.
        seen: u64,
        /// How many there are.
        entries: u64,
    },
    /// Somebody saw something else.
    #[error(
        "the audit trail is not the one that {witness} has seen up to its entry {last}: \
         that entry or one before it was written anew"
    )]
    Other {
        /// Who.
        witness: String,
        /// Number of the last entry that it saw.
        last: u64,
    },
}

impl Trail {
    /// Appends an entry; returns its number and text, which must be stored as it is.
    pub fn append(&mut self, when: UnixTime, origin: &Origin, what: &str) -> (u64, String) {
        let AuditHead { entries, digest } = self.head();
        let entry = Entry {
            number: entries,
            when,
            who: origin.who.clone(),
            from: origin.from.clone(),
            what: what.to_owned(),
            previous: digest,
        };
        let text = serde_json::to_string(&entry).expect("an entry is a plain struct");
        self.digests.push(Digest::of(text.as_bytes()));
        (entries, text)
    }

    /// Its end.
    pub fn head(&self) -> AuditHead {
        self.digests
            .last()
            .map_or(AuditHead::EMPTY, |digest| AuditHead {
                entries: length(&self.digests),
                digest: *digest,
            })
    }

    /// Whether this trail is what `witness` saw, gone on.
    pub fn contains(&self, seen: AuditHead, witness: &str) -> Result<(), Broken> {
        let digest = match seen.entries {
            0 => Some(&AuditHead::EMPTY.digest),
            entries => usize::try_from(entries - 1)
                .ok()
                .and_then(|last| self.digests.get(last)),
        };
        match digest {
            Some(digest) if *digest == seen.digest => Ok(()),
            Some(_) => Err(Broken::Other {
                witness: witness.to_owned(),
                last: seen.entries.saturating_sub(1),
            }),
            None => Err(Broken::Short {
                witness: witness.to_owned(),
                seen: seen.entries,
                entries: length(&self.digests),
            }),
        }
    }

    /// The trail of these texts as they are: what is appended to a broken one leaves the break visible.
    pub fn unverified<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let digests = texts.into_iter().map(|text| Digest::of(text.as_bytes()));
        Self {
            digests: digests.collect(),
        }
    }

    /// The trail of these texts, if each follows from the one before.
    pub fn verify<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, Broken> {
        let mut trail = Self::default();
        for text in texts {
            let AuditHead { entries, digest } = trail.head();
            let broken = |reason: &str| Broken::Entry {
                number: entries,
                reason: reason.to_owned(),
            };
            let entry: Entry = serde_json::from_str(text)
                .map_err(|error| broken(&format!("it cannot be read: {error}")))?;
            if entry.number != entries {
                return Err(broken(&format!(
                    "entry {} stands in its place",
                    entry.number
                )));
            }
            if entry.previous != digest {
                return Err(broken("it does not follow from the entry before"));
            }
            trail.digests.push(Digest::of(text.as_bytes()));
        }
        Ok(trail)
    }
}

fn length(digests: &[Digest]) -> u64 {
    u64::try_from(digests.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail() -> (Trail, Vec<String>) {
        let mut trail = Trail::default();
        let origin = Origin::here("uid 0");
        let whats = [
            "init",
            "agency add kab-demak",
            "invite kab-demak/gw1",
            "apply",
        ];
        let texts = whats.map(|what| trail.append(UnixTime(1_795_392_000), &origin, what).1);
        (trail, texts.into())
    }

    fn verify(texts: &[String]) -> Result<Trail, Broken> {
        Trail::verify(texts.iter().map(String::as_str))
    }

    fn broken_at(texts: &[String]) -> u64 {
        match verify(texts) {
            Err(Broken::Entry { number, .. }) => number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_trail_verifies_to_its_head() {
        let (trail, texts) = trail();
        assert_eq!(trail.head().entries, 4);
        assert_eq!(verify(&texts), Ok(trail));
        assert_eq!(verify(&[]).unwrap().head(), AuditHead::EMPTY);
    }

    #[test]
    fn a_changed_missing_or_swapped_entry_is_found() {
        let (_, texts) = trail();
        let with = |change: fn(&mut Vec<String>)| {
            let mut texts = texts.clone();
            change(&mut texts);
            texts
        };
        let changed = with(|texts| texts[1] = texts[1].replace("kab-demak", "kab-jepara"));
        assert_eq!(broken_at(&changed), 2);
        assert_eq!(broken_at(&with(|texts| drop(texts.remove(1)))), 1);
        assert_eq!(broken_at(&with(|texts| texts.swap(1, 2))), 1);
        assert_eq!(broken_at(&["{}".to_owned()]), 0);
    }

    #[test]
    fn who_saw_it_knows_when_it_is_shorter_or_written_anew() {
        let (trail, texts) = trail();
        let short = verify(&texts[..3]).unwrap();
        for entries in 0..=4 {
            let seen = verify(&texts[..entries]).unwrap().head();
            assert_eq!(trail.contains(seen, "gw1"), Ok(()), "it went on");
        }
        assert_eq!(
            short.contains(trail.head(), "gw1"),
            Err(Broken::Short {
                witness: "gw1".into(),
                seen: 4,
                entries: 3
            })
        );
        let mut anew = verify(&texts[..1]).unwrap();
        let other = Origin {
            who: "uid 0".into(),
            from: "elsewhere".into(),
        };
        for what in ["agency add kab-jepara", "invite kab-demak/gw1", "apply"] {
            anew.append(UnixTime(1_795_392_000), &other, what);
        }
        let last = 3;
        let witness = "gw1".to_owned();
        assert_eq!(
            anew.contains(trail.head(), "gw1"),
            Err(Broken::Other { witness, last })
        );
        assert_eq!(
            anew.contains(verify(&texts[..1]).unwrap().head(), "gw1"),
            Ok(())
        );
    }
}
