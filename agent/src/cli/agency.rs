//! What the agency signs, as its admin types it: consents, boxes and devices, the key.

use std::path::Path;

use clap::Subcommand;
use pnsbox_agent_core::agency::{
    AgencyAnswer, AgencyCommand, ConsentLine, ConsentState, KeyLine, MemberLine,
};
use pnsbox_proto::access::Opening;
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::time::UnixTime;
use serde_json::json;

use super::{object, render};
use crate::admin::{AskError, KeyAnswer, KeyCommand, Request, SecretText, ask_agent};

/// Links with other agencies: nothing passes before both sides consent.
#[derive(Debug, Subcommand)]
pub(super) enum ConsentCommand {
    /// Links that the operator's policy wants, with what each opens and who consents.
    List,
    /// Consent to a link, as the policy proposes it now.
    Grant {
        /// The other agency; without it, every agency that waits.
        #[arg(required_unless_present = "all")]
        with: Option<AgencyName>,
        /// With every agency that waits.
        #[arg(long, conflicts_with = "with")]
        all: bool,
        /// To whatever the operator's policy opens from now on, and not only to what it opens now.
        #[arg(long)]
        any: bool,
        /// Last day, for example 2027-12-31; without it, until it is revoked.
        #[arg(long, value_name = "DATE", value_parser = UnixTime::end_of_day)]
        until: Option<UnixTime>,
    },
    /// Take a consent back: the link ends within seconds.
    Revoke {
        /// The other agency.
        with: AgencyName,
    },
}

/// Boxes and devices of this agency.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// All of them, and whether the agency approves each.
    List,
    /// Approve one that has joined: only then has it peers. Compare its fingerprint on its own screen first.
    Approve {
        /// For example kab-demak/gw2.
        node: NodeName,
    },
    /// Take the approval back: all drop it within seconds.
    Revoke {
        /// Which.
        node: NodeName,
    },
}

/// The key with which the agency signs.
#[derive(Debug, Subcommand)]
pub(super) enum AgencySubcommand {
    /// Show the key, and whether it is on this box.
    Key,
    /// Print the private key as one line, to be kept under lock. Whoever has it can sign for the agency.
    Backup,
    /// Bring the key to this box: reads the line from standard input.
    Restore,
    /// Put a new key in the place of this one, and sign anew all that is in force.
    Rotate,
    /// Make a key on this box for the operator to put in the place of one that was lost; prints its public key.
    NewKey,
}

pub(super) fn consent(
    socket: &Path,
    as_json: bool,
    command: ConsentCommand,
) -> Result<String, AskError> {
    let command = match command {
        ConsentCommand::List => AgencyCommand::Consents,
        ConsentCommand::Grant {
            with, any, until, ..
        } => AgencyCommand::Grant { with, any, until },
        ConsentCommand::Revoke { with } => AgencyCommand::Revoke { with },
    };
    ask(socket, as_json, command)
}

pub(super) fn node(socket: &Path, as_json: bool, command: NodeCommand) -> Result<String, AskError> {
    let command = match command {
        NodeCommand::List => AgencyCommand::Members,
        NodeCommand::Approve { node } => AgencyCommand::Approve { node },
        NodeCommand::Revoke { node } => AgencyCommand::Disown { node },
    };
    ask(socket, as_json, command)
}

pub(super) fn agency(
    socket: &Path,
    as_json: bool,
    command: AgencySubcommand,
) -> Result<String, AskError> {
    let command = match command {
        AgencySubcommand::Key => return ask(socket, as_json, AgencyCommand::Key),
        AgencySubcommand::Backup => KeyCommand::Backup,
        AgencySubcommand::Restore => {
            let line = std::io::read_to_string(std::io::stdin()).map_err(AskError::NoInput)?;
            KeyCommand::Restore { line: line.into() }
        }
        AgencySubcommand::Rotate => KeyCommand::Rotate,
        AgencySubcommand::NewKey => KeyCommand::New,
    };
    let answer: KeyAnswer = ask_agent(socket, &Request::AgencyKey(command))?;
    Ok(match answer {
        KeyAnswer::Done(answer) => shown(as_json, &answer),
        KeyAnswer::Backup(line) => backup(as_json, &line),
    })
}

fn ask(socket: &Path, as_json: bool, command: AgencyCommand) -> Result<String, AskError> {
    let answer: AgencyAnswer = ask_agent(socket, &Request::Agency(command))?;
    Ok(shown(as_json, &answer))
}

fn shown(as_json: bool, answer: &AgencyAnswer) -> String {
    match (answer, as_json) {
        (AgencyAnswer::Consents { consents }, true) => {
            object("pnsbox.consents/1", json!({ "consents": consents }))
        }
        (AgencyAnswer::Members { members }, true) => {
            object("pnsbox.nodes/1", json!({ "nodes": members }))
        }
        (AgencyAnswer::Key { key }, true) => object("pnsbox.agency-key/1", json!({ "key": key })),
        (AgencyAnswer::Signed { lines }, true) => {
            object("pnsbox.signed/1", json!({ "signed": lines }))
        }
        (AgencyAnswer::Consents { consents }, false) => consents_text(consents),
        (AgencyAnswer::Members { members }, false) => members_text(members),
        (AgencyAnswer::Key { key }, false) => key_text(key),
        (AgencyAnswer::Signed { lines }, false) if lines.is_empty() => {
            "nothing waits for a signature".to_owned()
        }
        (AgencyAnswer::Signed { lines }, false) => lines.join("\n"),
    }
}

fn backup(as_json: bool, line: &SecretText) -> String {
    match as_json {
        true => object("pnsbox.agency-backup/1", json!({ "key": line.expose() })),
        false => line.expose().to_owned(),
    }
}

fn consents_text(consents: &[ConsentLine]) -> String {
    if consents.is_empty() {
        return "the operator's policy has no link for this agency".to_owned();
    }
    let mut table = render::table(&[
        "WITH",
        "OURS",
        "THEIRS",
        "OPENS OF OURS",
        "OPENS OF THEIRS",
        "UNTIL",
        "HEARD",
    ]);
    for line in consents {
        let ours = match (line.ours, &line.most) {
            (ConsentState::Granted, None) => "any",
            (ConsentState::Granted, Some(_)) => "granted",
            (ConsentState::Partly, _) => "partly",
            (ConsentState::Missing, _) => "missing",
        };
        table.add_row([
            line.with.to_string(),
            ours.to_owned(),
            if line.theirs { "granted" } else { "missing" }.to_owned(),
            openings(&line.opens),
            openings(&line.opened),
            line.until.map_or_else(|| "-".to_owned(), |t| t.to_string()),
            line.heard.map_or_else(|| "-".to_owned(), |t| t.to_string()),
        ]);
    }
    table.trim_fmt()
}

fn openings(openings: &[Opening]) -> String {
    let words = openings.iter().map(|opening| {
        let allow: Vec<String> = opening.allow.iter().map(ToString::to_string).collect();
        format!("{} {}", opening.prefix, allow.join(" "))
    });
    let words: Vec<String> = words.collect();
    if words.is_empty() {
        "nothing".to_owned()
    } else {
        words.join(", ")
    }
}

fn members_text(members: &[MemberLine]) -> String {
    let mut table = render::table(&["NODE", "APPROVED", "FINGERPRINT", "WIREGUARD KEY", "LAN"]);
    for member in members {
        let lan: Vec<String> = member.prefixes.iter().map(ToString::to_string).collect();
        table.add_row([
            member.name.to_string(),
            if member.approved { "yes" } else { "no" }.to_owned(),
            member
                .identity
                .map_or_else(|| "device".to_owned(), |identity| identity.to_string()),
            member.wireguard.to_string(),
            if lan.is_empty() {
                "-".to_owned()
            } else {
                lan.join(", ")
            },
        ]);
    }
    table.trim_fmt()
}

fn key_text(line: &KeyLine) -> String {
    let mut text = match line.key {
        Some(key) => format!(
            "key of {}  {key}\nfingerprint  {}\non this box  {}",
            line.agency,
            key.fingerprint(),
            if line.here { "yes" } else { "no" }
        ),
        None => format!("{} has no key in this network yet", line.agency),
    };
    for other in &line.other {
        text.push_str(&format!("\nanother key of this box  {other}"));
    }
    text
}
