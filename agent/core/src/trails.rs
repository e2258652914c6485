//! The controller's audit trail, as boxes were shown it: peers tell each other, so that a controller which tells two
//! boxes different histories is found out. Of each length there is one trail.
//!
//! It keeps what was shown since the start; that no view follows from a shorter trail is for [`crate::view`].

use std::collections::BTreeMap;

use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::Digest;
use pnsbox_proto::view::AuditHead;

/// Lengths that are remembered, the greatest ones: views of two boxes seldom have the same at the same time.
const MAX_LENGTHS: usize = 1024;

/// What was shown to this box and to its peers.
#[derive(Debug, Default)]
pub(crate) struct Trails {
    ours: BTreeMap<u64, Digest>,
    theirs: BTreeMap<NodeName, AuditHead>,
    told: Option<AuditHead>,
}

impl Trails {
    /// This box was shown `head`: whether peers have to be told, and who was shown another of that length.
    pub(crate) fn shown(&mut self, head: AuditHead) -> Option<Vec<(NodeName, AuditHead)>> {
        if self.told == Some(head) {
            return None;
        }
        self.told = Some(head);
        self.ours.insert(head.entries, head.digest);
        if self.ours.len() > MAX_LENGTHS {
            self.ours.pop_first();
        }
        let other = |(_, theirs): &(&NodeName, &AuditHead)| {
            theirs.entries == head.entries && theirs.digest != head.digest
        };
        let others = self.theirs.iter().filter(other);
        Some(
            others
                .map(|(peer, theirs)| (peer.clone(), *theirs))
                .collect(),
        )
    }

    /// A peer was shown `head`: what this box was shown of that length, if it was another.
    pub(crate) fn heard(&mut self, peer: NodeName, head: AuditHead) -> Option<AuditHead> {
        self.theirs.insert(peer, head);
        let digest = *self.ours.get(&head.entries)?;
        let ours = AuditHead {
            entries: head.entries,
            digest,
        };
        (ours != head).then_some(ours)
    }

    /// The link with a peer ended.
    pub(crate) fn lost(&mut self, peer: &NodeName) {
        self.theirs.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(entries: u64, history: &[u8]) -> AuditHead {
        AuditHead {
            entries,
            digest: Digest::of(history),
        }
    }

    #[test]
    fn another_trail_of_a_length_is_found_whoever_is_shown_it_first_and_whenever() {
        let peer: NodeName = "prov-jateng/gw1".parse().unwrap();
        let mut trails = Trails::default();
        assert_eq!(trails.shown(head(7, b"one")), Some(Vec::new()));
        assert_eq!(trails.shown(head(7, b"one")), None, "peers know");
        assert_eq!(trails.heard(peer.clone(), head(7, b"one")), None);
        assert_eq!(trails.shown(head(9, b"one")), Some(Vec::new()));
        assert_eq!(
            trails.heard(peer.clone(), head(7, b"two")),
            Some(head(7, b"one")),
            "longer since, and still known"
        );
        assert_eq!(trails.heard(peer.clone(), head(11, b"two")), None);
        assert_eq!(
            trails.shown(head(11, b"one")),
            Some(vec![(peer.clone(), head(11, b"two"))])
        );
        trails.lost(&peer);
        assert_eq!(trails.shown(head(11, b"three")), Some(Vec::new()));
    }
}
