//! One running lab, driven through `scripts/lab.sh` as a person would.
//!
//! It decides nothing about the product: it runs commands on hosts and waits for what they show.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// How often a condition is looked at while waiting for it.
const LOOK: Duration = Duration::from_millis(50);

/// How long a background command has to end when it is told to.
const END_WITHIN: Duration = Duration::from_secs(5);

/// A lab that is up. Dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    name: String,
}

impl Lab {
    /// Brings up the scenario `three-agencies` with the binaries of this build.
    pub fn up(name: &str) -> Result<Self> {
        Self::up_as(name, "three-agencies")
    }

    /// Brings up a scenario with the binaries of this build.
    pub fn up_as(name: &str, scenario: &str) -> Result<Self> {
        let lab = Self {
            name: name.to_owned(),
        };
        let binaries = binaries()?;
        let output = lab
            .script(&["--bin", path_str(&binaries)?, "up", scenario])
            .output()?;
        if !output.status.success() {
            bail!(
                "the lab did not come up:\n{}{}",
                text(&output.stdout),
                text(&output.stderr)
            );
        }
        Ok(lab)
    }

    /// A command on a host, ready to be run or spawned.
    pub fn command(&self, host: &str, words: &[&str]) -> Command {
        let mut command = self.script(&["exec", host, "--"]);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command on a host, whatever its outcome.
    pub fn output(&self, host: &str, words: &[&str]) -> Result<Output> {
        self.command(host, words)
            .output()
            .with_context(|| format!("{host}: {words:?}"))
    }

    /// Runs a command on a host, which must succeed; returns what it printed.
    pub fn run(&self, host: &str, words: &[&str]) -> Result<String> {
        let output = self.output(host, words)?;
        ensure!(
            output.status.success(),
            "{host}: {words:?} failed with {}:\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }

    /// Runs a command on a host, which must fail with `code`; returns what it said on standard error.
    pub fn fails(&self, host: &str, words: &[&str], code: i32) -> Result<String> {
        let output = self.output(host, words)?;
        let said = text(&output.stderr);
        ensure!(
            output.status.code() == Some(code),
            "{host}: {words:?} ended with {}, not with code {code}:\n{}{said}",
            output.status,
            text(&output.stdout)
        );
        Ok(said)
    }

    /// Runs a command that prints JSON.
    pub fn json(&self, host: &str, words: &[&str]) -> Result<Value> {
        let printed = self.run(host, words)?;
        serde_json::from_str(&printed)
            .with_context(|| format!("{host}: {words:?} printed {printed}"))
    }

    /// `pnsbox status --json` of a gateway, its member `status`.
    pub fn status(&self, host: &str) -> Result<Value> {
        Ok(self.json(host, &["pnsbox", "status", "--json"])?["status"].take())
    }

    /// The service `name` as a gateway lists it, if it does.
    pub fn service(&self, host: &str, name: &str) -> Result<Option<Value>> {
        let listed = self.json(host, &["pnsbox", "services", "--json"])?["services"].take();
        let services = listed.as_array().context("services is a list")?;
        Ok(services
            .iter()
            .find(|service| service["name"] == name)
            .cloned())
    }

    /// Starts a command on a host in the background; dropping it ends it.
    pub fn spawn(&self, host: &str, words: &[&str]) -> Result<Background> {
        // A file, because a pipe that nobody reads would stop the command.
        let output = tempfile::tempfile()?;
        let mut command = self.command(host, words);
        let child = command
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .spawn()?;
        Ok(Background { child, output })
    }

    /// Stops a program of a host with a signal, for example `KILL`.
    pub fn stop_program(&self, host: &str, program: &str, signal: &str) -> Result<()> {
        self.script_ok(&["stop-program", host, program, "--signal", signal])
    }

    /// Starts a program of a host again, as the lab started it.
    pub fn start_program(&self, host: &str, program: &str) -> Result<()> {
        self.script_ok(&["start-program", host, program])
    }

    /// The same, with variables in its environment this time, each `NAME=VALUE`.
    pub fn start_program_with(
        &self,
        host: &str,
        program: &str,
        environment: &[&str],
    ) -> Result<()> {
        // Building one package alone leaves its program there without them.
        let dies = self.output(
            host,
            &["env", "FAILPOINTS=start=return", program, "--version"],
        )?;
        ensure!(
            !dies.status.success(),
            "{program} was built without failpoints: cargo build --workspace"
        );
        let variables = environment.iter().flat_map(|variable| ["--env", variable]);
        let words: Vec<&str> = ["start-program", host, program]
            .into_iter()
            .chain(variables)
            .collect();
        self.script_ok(&words)
    }

    /// Process id of a program of a host.
    pub fn pid(&self, host: &str, program: &str) -> Result<u64> {
        self.shown(host)?["pids"][program]
            .as_u64()
            .with_context(|| format!("{program} runs on {host}"))
    }

    /// All that a program of a host has said.
    pub fn log(&self, host: &str, program: &str) -> Result<String> {
        let shown = self.shown(host)?;
        let file = shown["logs"][program].as_str();
        let file = file.with_context(|| format!("{program} of {host} has a log"))?;
        Ok(text(&std::fs::read(file)?))
    }

    fn shown(&self, host: &str) -> Result<Value> {
        let output = self.script(&["status", "--json"]).output()?;
        let mut status: Value = serde_json::from_slice(&output.stdout)?;
        Ok(status["hosts"][host].take())
    }

    /// Waits until `condition` holds; returns how long that took.
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<Duration> {
        let begun = Instant::now();
        let mut last = String::new();
        loop {
            match condition(self) {
                Ok(true) => return Ok(begun.elapsed()),
                Ok(false) => {}
                Err(error) => last = format!("; last error: {error:#}"),
            }
            ensure!(begun.elapsed() < limit, "not in {limit:?}: {what}{last}");
            std::thread::sleep(LOOK);
        }
    }

    fn script_ok(&self, words: &[&str]) -> Result<()> {
        let output = self.script(words).output()?;
        ensure!(
            output.status.success(),
            "lab.sh {words:?}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(())
    }

    fn script(&self, words: &[&str]) -> Command {
        let mut command = Command::new(root().join("scripts/lab.sh"));
        command.args(["--name", &self.name]).args(words);
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let output = self.script(&["down"]).output();
        assert!(
            output.is_ok_and(|o| o.status.success()),
            "the lab {} did not go down",
            self.name
        );
    }
}

/// A command in the background.
#[derive(Debug)]
pub struct Background {
    child: Child,
    output: File,
}

impl Background {
    /// Whether it has ended.
    pub fn is_over(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits until it ends by itself; returns what it printed.
    pub fn finish(mut self) -> Result<String> {
        self.child.wait()?;
        let mut printed = Vec::new();
        self.output.seek(SeekFrom::Start(0))?;
        self.output.read_to_end(&mut printed)?;
        Ok(text(&printed))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Asked first, so that 'timeout' passes it on and what the program made goes with it.
        let id = self.child.id().to_string();
        drop(Command::new("kill").args(["-TERM", &id]).output());
        let begun = Instant::now();
        while begun.elapsed() < END_WITHIN && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(LOOK);
        }
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_owned)
}

/// Where this build put the programs: the folder above the one that holds this test.
fn binaries() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test
        .parent()
        .and_then(Path::parent)
        .context("a test lies in target/PROFILE/deps")?;
    for program in ["pnsbox-agent", "pnsbox", "pnsbox-controller"] {
        ensure!(
            folder.join(program).is_file(),
            "{program} is not in {}: cargo build first",
            folder.display()
        );
    }
    Ok(folder.to_owned())
}

fn path_str(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
