//! What an agent makes of its state directory after a cut: the steps of its start, and the real program.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result, ensure};
use pnsbox_agent::{keys, store};
use pnsbox_proto::key::IdentityKey;
use pnsbox_tests::cuts::calls::Step;
use pnsbox_tests::cuts::explore::{Judge, Parts};
use serde_json::Value;

const SCRATCH: &str = ".unfinished-";

/// Reads as the agent does.
pub(crate) struct Reads {
    programs: PathBuf,
    /// What the real program was started with already.
    started: Mutex<BTreeSet<Parts>>,
    agents: tempfile::TempDir,
}

impl Reads {
    pub(crate) fn new(programs: PathBuf) -> Result<Self> {
        Ok(Self {
            programs,
            started: Mutex::default(),
            agents: tempfile::tempdir()?,
        })
    }
}

impl Judge for Reads {
    fn judge(&self, folder: &Path) -> Result<Parts> {
        let mut parts = Parts::new();
        for (name, bytes) in crate::files(folder, |name| name.starts_with(SCRATCH))? {
            parts.insert(name, String::from_utf8(bytes)?);
        }
        if let Some(text) = parts.get(store::STATE_FILE) {
            let state: Value = serde_json::from_str(text)?;
            let state = &state["state"];
            let node = state["joined"]["node"].as_str().context("a node")?;
            parts.insert("joined".to_owned(), node.to_owned());
            if let Some(manifest) = state["view"]["view"]["manifest"]["payload"].as_str() {
                let manifest: Value = serde_json::from_str(manifest)?;
                parts.insert("view".to_owned(), manifest["version"].to_string());
            }
            if let Some(signed) = signed(state, node)? {
                parts.insert("signed".to_owned(), signed);
            }
        }
        if crate::is_first(&self.started, &parts) {
            self.start(folder, &parts)?;
        }
        self.start_in_process(folder)?;
        Ok(parts)
    }

    fn begins(&self, step: &Step) -> bool {
        matches!(step, Step::Open { path, create: Some(_), .. }
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SCRATCH)))
    }
}

/// What the box's own agency has signed, and with which key it goes on; nothing before it is admitted.
fn signed(state: &Value, node: &str) -> Result<Option<String>> {
    let (agency, _) = node.split_once('/').context("an agency")?;
    let own = &state["trust"]["agencies"][agency];
    if own.is_null() {
        return Ok(None);
    }
    let what = [
        "key",
        "successions",
        "statement",
        "claims",
        "devices",
        "consents",
    ];
    Ok(Some(what.map(|part| own[part].to_string()).join("\n")))
}

impl Reads {
    /// What `run` does with the directory, in its order; and then it can write.
    fn start_in_process(&self, folder: &Path) -> Result<()> {
        store::make_dir(folder)?;
        store::remove_unfinished(folder);
        let keys = keys::load_or_create(folder)?;
        if let Some(state) = store::load(folder)? {
            let own = state.trust.agencies.get(&state.joined.node.agency());
            let held = |key: IdentityKey| {
                let mut held = keys.agency.iter();
                held.any(|held| held.verifying_key().to_bytes() == key.0)
            };
            ensure!(
                own.is_none_or(|own| held(own.key)),
                "the agency has a key that the box has lost"
            );
            store::save(folder, &state)?;
            ensure!(store::load(folder)?.as_ref() == Some(&state));
        }
        let left = crate::files(folder, |name| !name.starts_with(SCRATCH))?;
        ensure!(left.is_empty(), "an unfinished file stays");
        Ok(())
    }

    /// The real program, once for each thing that can be found: it answers, is who it was, and has its view in force.
    fn start(&self, folder: &Path, parts: &Parts) -> Result<()> {
        let here = tempfile::tempdir_in(self.agents.path())?;
        let path = |name: &str| here.path().join(name).display().to_string();
        std::fs::write(
            path("agent.toml"),
            format!(
                "state_dir = \"{}\"\nsocket = \"{}\"\n",
                folder.display(),
                path("socket")
            ),
        )?;
        let script = "mkdir -p /run/wireguard && mount -t tmpfs cuts /run/wireguard
            ip link set lo up
            \"$1/pnsbox-agent\" run --config \"$2/agent.toml\" 2>\"$2/log\" & agent=$!
            for try in $(seq 100); do
                \"$1/pnsbox\" --socket \"$2/socket\" --json status >\"$2/status\" 2>\"$2/said\" &&
                    grep -q \"\\\"view_applied\\\":$3,\" \"$2/status\" && cat \"$2/status\" && break
                kill -0 $agent 2>/dev/null || break
                sleep 0.05
            done
            kill $agent; wait $agent";
        let output = Command::new("unshare")
            .args(["--net", "--mount", "--propagation=private"])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", script, "sh"])
            .args([&self.programs, here.path()])
            .arg(parts.get("view").map_or("0", String::as_str))
            .stdin(Stdio::null())
            .output()?;
        let log = std::fs::read_to_string(path("log")).unwrap_or_default();
        let status: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("the agent does not start with its view: {log}"))?;
        let status = &status["status"];
        let expected = parts.get("joined").map(String::as_str);
        ensure!(status["node"].as_str() == expected, "{status}");
        Ok(())
    }
}
