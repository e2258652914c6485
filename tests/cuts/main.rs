//! The power is cut at every step of writing state, agent and controller: what the real programs do to files is recorded
//! once, then every disk that a cut can leave is given to the real programs again. How: `pnsbox_tests::cuts`.
//!
//! `PNSBOX_LONG=1` tries many more outcomes; `PNSBOX_CUTS_LOG` replays the log that a failure names.

mod agent;
mod controller;
mod world;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::cuts::calls::{self, Step};
use pnsbox_tests::cuts::explore::{Judge, Parts, explore};

/// Any number: with the log it says which outcomes are tried.
const SEED: u64 = 18;

#[test]
fn a_power_cut_at_any_step_leaves_the_agent_its_keys_and_its_state_old_or_new() -> Result<()> {
    cut_everywhere("agent", &agent::Reads::new(programs()?)?, 6, 120)
}

#[test]
fn a_power_cut_at_any_step_leaves_the_controller_its_keys_and_its_store_old_or_new() -> Result<()> {
    cut_everywhere("controller", &controller::Reads::new(programs()?), 2, 60)
}

fn cut_everywhere(name: &str, judge: &dyn Judge, random: usize, random_long: usize) -> Result<()> {
    let random = match std::env::var_os("PNSBOX_LONG") {
        Some(_) => random_long,
        None => random,
    };
    let recording = world::recording()?;
    let folder = recording.disk.join(name);
    let steps: Vec<Step> = calls::read(&recording.log, &folder)?;
    let tried = explore(&steps, &folder, judge, random, SEED)?;
    // Past the test harness, which swallows what is printed.
    writeln!(std::io::stderr(), "    {tried}, seed {SEED}")?;
    let wrong = tried.wrong.join("\n");
    let log = recording.log_at.display();
    ensure!(wrong.is_empty(), "{tried}; PNSBOX_CUTS_LOG={log}\n{wrong}");
    Ok(())
}

/// Where this build's programs are: two folders above the test itself.
fn programs() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let programs = test.ancestors().nth(2).context("a test is in deps")?;
    ensure!(
        programs.join("pnsbox-agent").exists(),
        "no programs in {}: run 'cargo build --workspace' first",
        programs.display()
    );
    Ok(programs.to_owned())
}

/// Whether this was not found before.
fn is_first(seen: &Mutex<BTreeSet<Parts>>, parts: &Parts) -> bool {
    seen.lock().expect("no panic").insert(parts.clone())
}

/// Files of a state directory that are not scratch, with what is in them.
fn files(folder: &Path, is_scratch: impl Fn(&str) -> bool) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    // A directory that is not there has no files.
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_scratch(&name) {
            files.push((name, std::fs::read(entry.path())?));
        }
    }
    Ok(files)
}
