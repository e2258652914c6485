//! The audit trail, read from the store or from exports: nobody who serves is asked.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context as _, anyhow};
use clap::Subcommand;
use pnsbox_controller_core::audit::{Entry, Trail, export};
use pnsbox_controller_core::image::Image;
use pnsbox_proto::key::Digest;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::AuditHead;
use serde_json::json;

use super::{exit, fleet, mistakes};
use crate::config::Config;
use crate::{keys, operator};

/// Prefix of the keys under which entries are stored, in their order.
const KEYS: &str = "audit/";

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Show the last entries.
    Show {
        /// How many.
        #[arg(long, default_value_t = 20)]
        last: usize,
    },
    /// Print the whole trail, with a checkpoint that the controller's key signs: a file that proves itself elsewhere.
    Export,
    /// Verify the store's trail, or exports of it: of several, each must be the shorter ones, gone on.
    Verify {
        /// Exports; none means the store.
        exports: Vec<PathBuf>,
        /// Fingerprint of the network's root key, as 'init' printed it: without it an export proves only that it is whole.
        #[arg(long, value_name = "FINGERPRINT")]
        root: Option<Digest>,
        /// What a box has seen of the trail, from 'pnsbox status'; several are possible.
        #[arg(long = "witness", value_name = "ENTRIES:DIGEST")]
        witnesses: Vec<AuditHead>,
    },
}

/// Does it; returns what to print.
pub(super) fn run(config: &Config, command: AuditCommand, json: bool) -> anyhow::Result<String> {
    match command {
        AuditCommand::Show { last } => show(config, last, json),
        AuditCommand::Export => print(config),
        AuditCommand::Verify {
            exports,
            root,
            witnesses,
        } if exports.is_empty() => {
            let found = verify_store(config, root)?;
            conclude(&[found], &witnesses, json)
        }
        AuditCommand::Verify {
            exports,
            root,
            witnesses,
        } => {
            if root.is_none() {
                exit::explain(
                    "without --root nothing proves whose trail it is: compare the root key below",
                );
            }
            let found: Vec<Found> = exports
                .iter()
                .map(|path| verify_export(path, root))
                .collect::<anyhow::Result<_>>()?;
            conclude(&found, &witnesses, json)
        }
    }
}

fn texts(config: &Config) -> anyhow::Result<Vec<String>> {
    let entries = operator::read(config)?.into_iter();
    Ok(entries
        .filter(|entry| entry.key.starts_with(KEYS))
        .filter_map(|entry| entry.value)
        .collect())
}

fn show(config: &Config, last: usize, json: bool) -> anyhow::Result<String> {
    let texts = texts(config)?;
    let entries: Vec<Entry> = texts[texts.len().saturating_sub(last)..]
        .iter()
        .map(|text| serde_json::from_str(text))
        .collect::<Result<_, _>>()
        .context(
            "an entry of the audit trail cannot be read; say: pnsbox-controller audit verify",
        )?;
    if json {
        return Ok(json!({ "schema": "pnsbox.audit-entries/1", "entries": entries }).to_string());
    }
    let mut rows = fleet::table(&["ENTRY", "WHEN", "WHO", "FROM", "WHAT"]);
    for entry in entries {
        let (number, when) = (entry.number.to_string(), entry.when.to_string());
        rows.add_row([number, when, entry.who, entry.from, entry.what]);
    }
    Ok(rows.trim_fmt())
}

fn print(config: &Config) -> anyhow::Result<String> {
    let entries = operator::read(config)?;
    let image = Image::load(&entries)?;
    if let Some(broken) = image.audit_broken {
        return Err(anyhow!(broken).context(
            "what is broken is not signed again; keep the state directory as it is for whoever looks into this",
        ));
    }
    let key = keys::load(&config.state_dir.join(keys::CONTROLLER_KEY))?;
    let texts = texts(config)?;
    let texts = texts.iter().map(String::as_str);
    let now = UnixTime::from(SystemTime::now());
    let lines = export::export(&image.registry.network, texts, &key, now);
    Ok(lines.join("\n"))
}

/// A trail that holds, and where it is.
struct Found {
    place: String,
    root: Digest,
    trail: Trail,
}

fn verify_store(config: &Config, root: Option<Digest>) -> anyhow::Result<Found> {
    let entries = operator::read(config)?;
    let image = Image::load(&entries)?;
    let place = config.state_dir.display().to_string();
    if let Some(broken) = image.audit_broken {
        return Err(anyhow!(broken).context(place));
    }
    let found = image.registry.network.root.fingerprint();
    if let Some(expected) = root.filter(|expected| *expected != found) {
        let error = export::ExportError::OtherRoot { found, expected };
        return Err(anyhow!(error).context(place));
    }
    Ok(Found {
        place,
        root: found,
        trail: image.audit,
    })
}

fn verify_export(path: &PathBuf, root: Option<Digest>) -> anyhow::Result<Found> {
    let place = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("{place} cannot be read"))?;
    let found = export::verify(&text, root).with_context(|| place.clone())?;
    Ok(Found {
        place,
        root: found.root,
        trail: found.trail,
    })
}

/// The longest trail must hold all others, and what was witnessed.
fn conclude(found: &[Found], witnesses: &[AuditHead], json: bool) -> anyhow::Result<String> {
    let longest = found
        .iter()
        .max_by_key(|found| found.trail.head().entries)
        .ok_or_else(|| mistakes(vec!["nothing to verify".to_owned()]))?;
    for other in found {
        let seen = longest.trail.contains(other.trail.head(), &other.place);
        seen.with_context(|| longest.place.clone())?;
    }
    for witness in witnesses {
        let seen = longest
            .trail
            .contains(*witness, &format!("the witness {witness}"));
        seen.with_context(|| longest.place.clone())?;
    }
    let (head, root) = (longest.trail.head(), longest.root);
    if json {
        let answer = json!({
            "schema": "pnsbox.audit-verified/1", "entries": head.entries, "head": head.digest, "root": root,
            "verified": found.len(), "witnesses": witnesses.len(),
        });
        return Ok(answer.to_string());
    }
    Ok(format!(
        "the audit trail holds: {} entries, {} witnesses agree\nhead      {head}\nroot key  {root}",
        head.entries,
        witnesses.len()
    ))
}
