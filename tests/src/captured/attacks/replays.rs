//! Attacks on what is newest: old views, other histories, other signers, lists of who is shut out.

use pnsbox_proto::agency::QuarantineList;
use pnsbox_proto::key::Digest;
use pnsbox_proto::view::AuditHead;

use super::Reported::{Distrusted, Not, Refused};
use super::{Attack, Attacker};
use crate::captured::{now, records};

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "an old view",
        never: "it is in force",
        reported: Distrusted("was accepted before"),
        act: |a| Ok(a.sent(a.captured.old_view(&a.victim)?)),
    },
    Attack {
        name: "the version that the box has, with other content",
        never: "it is in force",
        reported: Distrusted("was accepted before"),
        act: |a| {
            let signer = &a.captured.keys().controller;
            let mut all = a.honest.clone();
            records::peer(&mut all, "prov-jateng/gw1")?.keepalive ^= true;
            let view = a
                .captured
                .view_with(&a.victim, &all, signer, |manifest| manifest.version -= 1);
            Ok(a.sent(view))
        },
    },
    Attack {
        name: "a newer version with a shorter audit trail",
        never: "it is in force",
        reported: Distrusted("the controller's history was shortened or written anew"),
        act: |a| {
            Ok(with_audit(a, |audit| AuditHead {
                entries: audit.entries - 1,
                ..audit
            }))
        },
    },
    Attack {
        name: "a newer version with an equally long audit trail of other content",
        never: "it is in force",
        reported: Distrusted("the controller's history was shortened or written anew"),
        act: |a| {
            Ok(with_audit(a, |audit| AuditHead {
                digest: Digest::of(b"another"),
                ..audit
            }))
        },
    },
    Attack {
        name: "the consent of prov-jateng from before it took it back and gave it again",
        never: "it counts for more than the new one",
        reported: Refused("which was seen before"),
        act: |a| {
            let mut all = a.honest.clone();
            let mut before = a.captured.honest(&a.victim)?;
            let old = records::link(&mut before, "prov-jateng")?.theirs.clone();
            records::link(&mut all, "prov-jateng")?.theirs = old;
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "the view of prov-jateng's box",
        never: "it is in force",
        reported: Distrusted("the view is for prov-jateng/gw1"),
        act: |a| Ok(a.sent(a.captured.old_view(&"prov-jateng/gw1".parse()?)?)),
    },
    Attack {
        name: "a view of another network",
        never: "it is in force",
        reported: Distrusted("the view is for network lain"),
        act: |a| {
            let signer = &a.captured.keys().controller;
            let lain = "lain".parse()?;
            let change = |manifest: &mut pnsbox_proto::view::Manifest| manifest.network = lain;
            Ok(a.sent(a.captured.view_with(&a.victim, &a.honest, signer, change)))
        },
    },
    Attack {
        name: "a view signed by the admission key",
        never: "it is in force",
        reported: Distrusted("the manifest is refused: signed by key"),
        act: |a| {
            let signer = &a.captured.keys().admission;
            Ok(a.sent(a.captured.view_with(&a.victim, &a.honest, signer, |_| {})))
        },
    },
    Attack {
        name: "a list of who is shut out, signed by the admission key",
        never: "prov-jateng is shut out by it",
        reported: Distrusted("who is shut out: signed by"),
        act: |a| {
            let list = list(a, a.captured.quarantine_sequence() + 1000)?;
            let mut blow = a.of(&a.honest);
            let signer = &a.captured.keys().admission;
            blow.told.1 = Some(a.captured.quarantine(&list, signer));
            Ok(blow)
        },
    },
    Attack {
        name: "a list of who is shut out with the number of the newest, and another content",
        never: "prov-jateng is shut out by it",
        reported: Distrusted("there are two documents with the number"),
        act: |a| {
            let list = list(a, a.captured.quarantine_sequence())?;
            let mut blow = a.of(&a.honest);
            let signer = &a.captured.keys().controller;
            blow.told.1 = Some(a.captured.quarantine(&list, signer));
            Ok(blow)
        },
    },
    Attack {
        name: "an old list of who is shut out",
        never: "it counts",
        reported: Not("nothing comes of it"),
        act: |a| {
            let list = list(a, 0)?;
            let mut blow = a.of(&a.honest);
            let signer = &a.captured.keys().controller;
            blow.told.1 = Some(a.captured.quarantine(&list, signer));
            Ok(blow)
        },
    },
];

fn with_audit(a: &Attacker, change: impl FnOnce(AuditHead) -> AuditHead) -> super::Blow {
    let signer = &a.captured.keys().controller;
    let view = a
        .captured
        .view_with(&a.victim, &a.honest, signer, |manifest| {
            manifest.audit = change(manifest.audit);
        });
    a.sent(view)
}

/// A list that shuts prov-jateng out.
fn list(a: &Attacker, sequence: u64) -> anyhow::Result<QuarantineList> {
    Ok(QuarantineList {
        network: a.captured.network().name.clone(),
        sequence,
        issued: now(),
        nodes: Vec::new(),
        agencies: vec!["prov-jateng".parse()?],
    })
}
