//! What a controller makes of its state directory after a cut: the real program opens, verifies and changes it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pnsbox_controller::keys::{ADMISSION_KEY, CONTROLLER_KEY, ROOT_KEY};
use pnsbox_controller::store::{FILE, LOCK, Store};
use pnsbox_tests::cuts::calls::Step;
use pnsbox_tests::cuts::explore::{Judge, Parts};
use serde_json::Value;

/// Reads as the controller does.
pub(crate) struct Reads {
    programs: PathBuf,
    /// What the real program was shown already.
    shown: Mutex<BTreeSet<Parts>>,
}

impl Reads {
    pub(crate) fn new(programs: PathBuf) -> Self {
        Self {
            programs,
            shown: Mutex::default(),
        }
    }
}

/// What is no state: the lock, the database, whose content is asked of it, and keys that are not whole yet.
fn is_scratch(name: &str) -> bool {
    name == LOCK || name.starts_with(FILE) || name.ends_with(".new")
}

impl Judge for Reads {
    fn judge(&self, folder: &Path) -> Result<Parts> {
        let mut parts = Parts::new();
        for (name, bytes) in crate::files(folder, is_scratch)? {
            parts.insert(name, String::from_utf8(bytes)?);
        }
        let config = folder.with_extension("toml");
        std::fs::write(
            &config,
            format!(
                "state_dir = \"{0}\"\nsocket = \"{0}.sock\"\n",
                folder.display()
            ),
        )?;
        let run = |command: &[&str]| self.run(&config, command);
        if folder.join(FILE).exists() {
            let entries = Store::open(folder, Duration::ZERO)?.list("")?;
            let audit = entries.iter().filter(|e| e.key.starts_with("audit/"));
            let audit = audit.count();
            if audit > 0 {
                parts.insert("audit".to_owned(), audit.to_string());
                parts.insert("store".to_owned(), format!("{entries:?}"));
            }
        }
        if !parts.contains_key("store") {
            // There is no network yet, and its operator says it again.
            run(&["init", "--network", "pns", "--address", "10.9.0.1:443"])?;
        }
        if crate::is_first(&self.shown, &parts) {
            self.look(&config, parts.get("audit"))?;
        }
        run(&["agency", "add", "kab-new", "--prefix", "10.99.0.0/16"])?;
        for name in [ROOT_KEY, CONTROLLER_KEY, ADMISSION_KEY] {
            let now = std::fs::read_to_string(folder.join(name))?;
            let was = parts.get(name).is_none_or(|was| *was == now);
            ensure!(was, "{name} is another");
        }
        Ok(parts)
    }

    fn begins(&self, step: &Step) -> bool {
        // A command takes the lock first, and is alone then; a key is begun when the one before is made.
        matches!(step, Step::Open { path, create: Some(_), .. }
            if path.file_name().is_some_and(|name| name == LOCK || name.to_string_lossy().ends_with(".new")))
    }
}

impl Reads {
    /// The audit trail is whole and as long as it was found, and the fleet is shown; once for each thing to be found.
    fn look(&self, config: &Path, audit: Option<&String>) -> Result<()> {
        let answer = |command: &[&str]| -> Result<Value> {
            Ok(serde_json::from_slice(&self.run(config, command)?.stdout)?)
        };
        let verified = answer(&["audit", "verify", "--json"])?;
        let entries = verified["entries"].to_string();
        ensure!(audit.is_none_or(|audit| *audit == entries), "{verified}");
        let status = answer(&["status", "--json"])?;
        let warnings = status["warnings"].as_array().context("warnings")?;
        // A link may wait for a consent, and that is all.
        let waits = |warning: &Value| warning.to_string().contains("waits for the consent of");
        ensure!(warnings.iter().all(waits), "{warnings:?}");
        Ok(())
    }

    fn run(&self, config: &Path, command: &[&str]) -> Result<Output> {
        let output = Command::new(self.programs.join("pnsbox-controller"))
            .arg("--config")
            .arg(config)
            .args(command)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?}: {said}");
        Ok(output)
    }
}
