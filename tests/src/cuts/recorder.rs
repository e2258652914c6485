//! A shell under strace(1), in namespaces of its own. It runs what a test says, and writes down what happens to files.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::calls::{TOLD, TRACED};

/// How often a command is tried until it says what is waited for, and how long.
const LOOK: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(30);

/// What the shell says when a command has ended, before its exit code.
const ENDED: &str = "ended ";

/// A running recording. Dropping it ends everything that was started in it.
#[derive(Debug)]
pub struct Recorder {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Recorder {
    /// Starts recording into `log`. Programs are found in `programs` first.
    pub fn start(log: &Path, programs: &Path) -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path);
        let path = std::env::join_paths(std::iter::once(programs.to_owned()).chain(found))?;
        let mut child = Command::new("unshare")
            .args(["--net", "--mount", "--propagation=private"])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            // Strings whole and in hexadecimal, descriptors with their paths.
            .args(["strace", "-f", "--seccomp-bpf", "-qq", "-y", "-xx"])
            .args(["-s", "16777216", "-e", "signal=none", "-e"])
            .arg(format!("trace={TRACED}"))
            .args([OsStr::new("-o"), log.as_os_str(), OsStr::new("sh")])
            .env("PATH", path)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare is in Debian's package util-linux, strace in strace")?;
        let commands = child.stdin.take().context("a pipe")?;
        let answers = BufReader::new(child.stdout.take().context("a pipe")?);
        Ok(Self {
            child,
            commands,
            answers,
            log: log.to_owned(),
        })
    }

    /// Runs a line of shell, which must succeed; returns what it printed.
    pub fn run(&mut self, line: &str) -> Result<String> {
        let (code, said) = self.try_to(line)?;
        ensure!(code == 0, "'{line}' ended with {code}: {said}");
        Ok(said)
    }

    /// Tries a line of shell until it succeeds and `is_there` likes what it prints.
    pub fn wait(&mut self, line: &str, is_there: impl Fn(&str) -> bool) -> Result<String> {
        let begun = Instant::now();
        loop {
            let (code, said) = self.try_to(line)?;
            if code == 0 && is_there(&said) {
                return Ok(said);
            }
            let waited = begun.elapsed();
            ensure!(waited < PATIENCE, "'{line}' still says {code}: {said}");
            std::thread::sleep(LOOK);
        }
    }

    /// Notes that somebody outside was told this, at this moment.
    pub fn tell(&mut self, what: &str) -> Result<()> {
        let (code, _) = self.try_to(&format!("echo '{TOLD}{what}'"))?;
        ensure!(code == 0, "the shell has no voice");
        Ok(())
    }

    /// Ends everything, and returns the log.
    pub fn finish(mut self) -> Result<String> {
        writeln!(self.commands, "exit")?;
        self.child.wait()?;
        Ok(std::fs::read_to_string(&self.log)?)
    }

    fn try_to(&mut self, line: &str) -> Result<(i32, String)> {
        writeln!(self.commands, "{{ {line}\n}} 2>&1\necho \"\n{ENDED}$?\"")?;
        let mut said = String::new();
        loop {
            let mut line = String::new();
            if self.answers.read_line(&mut line)? == 0 {
                bail!("the recording has ended: {said}");
            }
            if let Some(code) = line.strip_prefix(ENDED) {
                return Ok((code.trim_end().parse()?, said));
            }
            said.push_str(&line);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // It may have ended already; its children go with it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
