//! Answers as people and scripts read them.

use ipnet::IpNet;
use pnsbox_controller_core::difference::{Difference, TouchedNode};
use pnsbox_controller_core::operator::{AgencyLine, Answer, ExternalLine, VersionLine};
use pnsbox_controller_core::rollout::RolloutStatus;
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::time::UnixTime;
use serde::Serialize;
use serde_json::{Value, json};

use super::external::configuration;
use super::{fleet, rollout};

/// One object with its schema.
pub(super) fn json(answer: &Answer) -> String {
    match answer {
        Answer::AgencyAdded { agency } => object("pnsbox.agency/1", &json!({ "agency": agency })),
        Answer::Agencies { agencies } => {
            object("pnsbox.agencies/1", &json!({ "agencies": agencies }))
        }
        Answer::Invited {
            anchor,
            node,
            expires,
            replaced,
        } => {
            let body =
                json!({ "anchor": anchor, "node": node, "expires": expires, "replaced": replaced });
            object("pnsbox.invite/1", &body)
        }
        Answer::ExternalAdded { external } | Answer::External { external } => {
            let body =
                json!({ "external": external, "configuration": configuration(external, None) });
            object("pnsbox.external/1", &body)
        }
        Answer::Externals { externals } => {
            object("pnsbox.externals/1", &json!({ "externals": externals }))
        }
        Answer::ExternalRemoved { device } => {
            object("pnsbox.external.removed/1", &json!({ "device": device }))
        }
        Answer::Difference {
            difference,
            applied,
        } => {
            let schema = if *applied {
                "pnsbox.apply/1"
            } else {
                "pnsbox.plan/1"
            };
            object(schema, difference)
        }
        Answer::Rollout { rollout } => rollout_json(rollout.as_deref()),
        Answer::History { versions } => {
            object("pnsbox.history/1", &json!({ "versions": versions }))
        }
        Answer::Version { number, policy } => object(
            "pnsbox.version/1",
            &json!({ "version": number, "policy": policy }),
        ),
        Answer::Changes { from, to, changes } => object(
            "pnsbox.diff/1",
            &json!({ "from": from, "to": to, "changes": changes }),
        ),
        Answer::Quarantined {
            subject,
            released,
            nodes,
            touched,
        } => object(
            "pnsbox.quarantine/1",
            &json!({ "subject": subject, "released": released, "nodes": nodes, "touched": touched }),
        ),
        Answer::AdmissionRenewed { ends } => object("pnsbox.admission/1", &json!({ "ends": ends })),
        Answer::AgencyKeyReplaced { agency, key } => object(
            "pnsbox.agency-key/1",
            &json!({ "agency": agency, "key": key }),
        ),
        Answer::RootWork {
            network,
            root,
            admission,
            ends,
            agency,
        } => object(
            "pnsbox.root-work/1",
            &json!({ "network": network, "root": root, "admission": admission, "ends": ends, "agency": agency }),
        ),
        Answer::Status { fleet } => object("pnsbox.controller.status/1", fleet),
    }
}

/// What goes to standard output, and what is said beside it.
pub(super) fn text(answer: &Answer) -> (String, Option<String>) {
    match answer {
        Answer::AgencyAdded { agency } => {
            let name = &agency.name;
            let next = format!("Next: pnsbox-controller invite {name}");
            (
                format!("agency {name} may claim {}", list(&agency.prefixes)),
                Some(next),
            )
        }
        Answer::Agencies { agencies } => (agency_table(agencies), None),
        Answer::Invited {
            anchor,
            node,
            expires,
            replaced,
        } => {
            let explanation = invitation(node, *expires, *replaced);
            (anchor.clone(), Some(explanation))
        }
        Answer::ExternalAdded { external } | Answer::External { external } => {
            (configuration(external, None), None)
        }
        Answer::Externals { externals } => (external_table(externals), None),
        Answer::ExternalRemoved { device } => {
            let explanation = "Its gateway takes nothing from it any more. What the policy opens to it stays in the policy.";
            (
                format!("device {device} is removed"),
                Some(explanation.to_owned()),
            )
        }
        Answer::Difference {
            difference,
            applied,
        } => (difference_text(difference, *applied), None),
        Answer::Rollout { rollout } => (rollout_text(rollout.as_deref()), None),
        Answer::History { versions } => (history_table(versions), None),
        Answer::Version { policy, .. } => (toml::to_string(policy).unwrap_or_default(), None),
        Answer::Changes { from, to, changes } if changes.is_empty() => {
            (format!("versions {from} and {to} say the same"), None)
        }
        Answer::Changes { changes, .. } => (changes.join("\n"), None),
        Answer::Quarantined {
            subject,
            released,
            nodes,
            touched,
        } => {
            let verb = if *released {
                "let in again"
            } else {
                "shut out"
            };
            let text = format!(
                "{subject} is {verb}: {} of its nodes, {} views changed",
                nodes.len(),
                touched.len()
            );
            let next = "Boxes that are online drop it now, others when they hear from the controller. \
                        To let it in again: pnsbox-controller release";
            let next = format!("{next} {subject}");
            (text, (!released).then_some(next))
        }
        Answer::AdmissionRenewed { ends } => {
            (format!("new agencies can be admitted until {ends}"), None)
        }
        Answer::AgencyKeyReplaced { agency, key } => key_replaced(agency, key),
        Answer::RootWork { root, .. } => (format!("root key {root}"), None),
        Answer::Status { fleet } => (fleet::screen(fleet), None),
    }
}

fn key_replaced(agency: &AgencyName, key: &IdentityKey) -> (String, Option<String>) {
    let next = format!(
        "What it signed before is void. On its box: 'pnsbox node approve' for each box, \
         'pnsbox consent grant' for each link of {agency}."
    );
    (format!("agency {agency} has the key {key} now"), Some(next))
}

pub(super) fn object<T: Serialize>(schema: &str, body: &T) -> String {
    let mut value = serde_json::to_value(body).unwrap_or_default();
    if let Value::Object(map) = &mut value {
        map.insert("schema".to_owned(), Value::from(schema));
    }
    value.to_string()
}

fn agency_table(agencies: &[AgencyLine]) -> String {
    if agencies.is_empty() {
        return "no agency is registered; add one: pnsbox-controller agency add NAME --prefix PREFIX".to_owned();
    }
    let mut table = fleet::table(&[
        "AGENCY", "CLASS", "REGION", "PREFIXES", "NODES", "KEY", "CONSENTS",
    ]);
    for agency in agencies {
        let nodes: Vec<&str> = agency.nodes.iter().map(|node| node.as_str()).collect();
        table.add_row([
            agency.name.to_string(),
            agency.class.clone().unwrap_or_else(|| "-".to_owned()),
            agency.region.clone().unwrap_or_else(|| "-".to_owned()),
            list(&agency.prefixes),
            if nodes.is_empty() {
                "-".to_owned()
            } else {
                nodes.join(", ")
            },
            agency.key.map_or_else(
                || "-".to_owned(),
                |key| key.fingerprint().to_string()[..16].to_owned(),
            ),
            match agency.consents.len() {
                0 => "-".to_owned(),
                count => count.to_string(),
            },
        ]);
    }
    table.trim_fmt()
}

fn history_table(versions: &[VersionLine]) -> String {
    if versions.is_empty() {
        return "no policy was applied yet: nothing is open".to_owned();
    }
    let mut table = fleet::table(&["VERSION", "WHEN", "WHO", "FROM", "CHANGES"]);
    for version in versions.iter().rev() {
        let mark = if version.in_force { " *" } else { "" };
        let restores = version
            .restores
            .map_or_else(String::new, |old| format!("version {old} again: "));
        table.add_row([
            format!("{}{mark}", version.number),
            version.when.to_string(),
            version.who.clone(),
            version.from.clone(),
            format!("{restores}{}", shortened(&version.changes)),
        ]);
    }
    table.trim_fmt()
}

/// The first of them, and how many more there are.
fn shortened(changes: &[String]) -> String {
    match changes {
        [] => "none".to_owned(),
        [only] => only.clone(),
        [first, more @ ..] => format!("{first} and {} more", more.len()),
    }
}

fn external_table(externals: &[ExternalLine]) -> String {
    if externals.is_empty() {
        return "no device is added; add one: pnsbox-controller external add NAME --agency AGENCY"
            .to_owned();
    }
    let mut table = fleet::table(&["DEVICE", "GATEWAY", "OVERLAY", "MAY REACH", "ADDED", "KEY"]);
    for external in externals {
        table.add_row([
            external.device.to_string(),
            external.gateway.to_string(),
            format!("{}, {}", external.overlay_v4, external.overlay_v6),
            list(&external.allowed_prefixes),
            external.added.to_string(),
            external.wireguard.to_string(),
        ]);
    }
    table.trim_fmt()
}

fn difference_text(difference: &Difference, applied: bool) -> String {
    let mut text = String::new();
    if difference.is_empty() {
        text.push_str("no change: this policy is already in force\n");
    }
    for change in &difference.changes {
        text.push_str(change);
        text.push('\n');
    }
    if !difference.nodes.is_empty() {
        let verb = if applied { "touched" } else { "would touch" };
        line(&mut text, &format!("{verb} {}:", reach(difference)));
        for node in &difference.nodes {
            line(&mut text, &format!("  {}", touched(node)));
        }
    }
    for (number, wave) in (1..).zip(&difference.waves) {
        line(
            &mut text,
            &format!("wave {number}: {}", rollout::names(wave)),
        );
    }
    for held in &difference.held {
        line(&mut text, &format!("held back: {held}"));
    }
    for warning in &difference.warnings {
        line(&mut text, &format!("note: {warning}"));
    }
    text.trim_end().to_owned()
}

/// How far a change reaches.
fn reach(difference: &Difference) -> String {
    let (touched, radius) = (difference.nodes.len(), difference.radius);
    format!(
        "{touched} of {} nodes ({} %), {} of them online, in {} agencies, and {} links",
        radius.fleet,
        (touched * 100).div_ceil(radius.fleet.max(1)),
        radius.online,
        radius.agencies,
        radius.links
    )
}

/// The same object for each step of a rollout that is followed.
pub(super) fn rollout_json(status: Option<&RolloutStatus>) -> String {
    object("pnsbox.rollout/1", &json!({ "rollout": status }))
}

fn invitation(node: &NodeName, expires: UnixTime, replaced: bool) -> String {
    let withdrawn = if replaced {
        "The invitation before, which nobody used, is withdrawn.\n"
    } else {
        ""
    };
    format!(
        "{withdrawn}An anchor for {node}, good once and until {expires}. It is a secret until it is used.\n\
         On the box, as root: pnsbox join ANCHOR --lan PREFIX   (--public ADDR:PORT if it has a public address)"
    )
}

fn rollout_text(status: Option<&RolloutStatus>) -> String {
    let Some(status) = status else {
        return "no policy was rolled out in waves yet".to_owned();
    };
    let restores = status
        .restores
        .map_or_else(String::new, |old| format!(", which is version {old} again"));
    let mut text = format!(
        "policy version {}{restores}, rolled out by {} from {} since {}\n",
        status.number, status.who, status.from, status.began
    );
    for change in &status.changes {
        line(&mut text, &format!("  {change}"));
    }
    for (number, wave) in (1..).zip(&status.waves) {
        line(
            &mut text,
            &format!("  wave {number}: {}", rollout::names(wave)),
        );
    }
    text.push_str(&rollout::progress(status));
    text
}

fn touched(node: &TouchedNode) -> String {
    let mut text = node.node.to_string();
    for (sign, peers) in [('+', &node.peers_added), ('-', &node.peers_removed)] {
        for peer in peers {
            text.push_str(&format!("  {sign}peer {peer}"));
        }
    }
    if !node.records.is_empty() {
        text.push_str("  changed: ");
        text.push_str(&node.records.join(", "));
    }
    text
}

fn line(text: &mut String, content: &str) {
    text.push_str(content);
    text.push('\n');
}

fn list(prefixes: &[IpNet]) -> String {
    let texts: Vec<String> = prefixes.iter().map(IpNet::to_string).collect();
    texts.join(", ")
}
