//! Cuts the power after every step of a recording, in many ways, and says whether a judge found what had to be there.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

use super::calls::Step;
use super::disk::{Disk, Image, Outcome, write};

/// What the real loader found, by name: files, and what is in them.
pub type Parts = BTreeMap<String, String>;

/// Who starts the real loader.
pub trait Judge: Sync {
    /// What is in a state directory after a cut. It may not be there. An error is a state that nobody can start with.
    fn judge(&self, folder: &Path) -> Result<Parts>;

    /// Whether a program that does this relies on all it did before being durable.
    fn begins(&self, step: &Step) -> bool;
}

/// How it went.
#[derive(Debug)]
pub struct Tried {
    name: String,
    operations: usize,
    outcomes: usize,
    states: usize,
    distinct: usize,
    /// What was wrong, one line each; not all of them.
    pub wrong: Vec<String>,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            operations,
            outcomes,
            states,
            distinct,
            wrong,
        } = self;
        write!(
            f,
            "{name}: {operations} operations x {outcomes} outcomes, {states} states, {distinct} of them distinct, {} corrupt",
            wrong.len()
        )
    }
}

/// Enough to see a pattern.
const WRONG_AT_MOST: usize = 12;

/// Cuts after every step below `folder`, each in the plain outcomes and `random` others, drawn from `seed`.
/// What was told is held against the programs if it begins with the folder's name: `agent PART`, as it was then,
/// or `agent PART=VALUE`.
pub fn explore(
    steps: &[Step],
    folder: &Path,
    judge: &dyn Judge,
    random: usize,
    seed: u64,
) -> Result<Tried> {
    let base = folder.parent().context("a folder in a folder")?;
    let name = folder.file_name().and_then(|name| name.to_str());
    let name = name.context("a name")?;
    let operations = steps.iter().filter(|step| changes(step)).count();
    ensure!(operations > 0, "nothing was written");
    let mut cuts = Cuts {
        judge,
        name,
        judged: HashMap::new(),
    };
    let mut tried = Tried {
        name: name.to_owned(),
        operations,
        outcomes: 1 + Outcome::PLAIN.len() + random,
        states: 0,
        distinct: 0,
        wrong: Vec::new(),
    };
    let (mut disk, mut past) = (Disk::new(), Past::default());
    for number in 0..=steps.len() {
        let before = number.checked_sub(1).map(|before| &steps[before]);
        if let Some(step) = before {
            if judge.begins(step) {
                past.rely();
            }
            disk.apply(step, base)
                .with_context(|| format!("{step:.300?}"))?;
        }
        if let Some(Step::Told { what }) = before {
            past.told(name, what)?;
        }
        if !matches!(before, Some(Step::Seek { .. })) {
            let draw = |draw| Outcome::random(seed ^ (number * 1_000_003 + draw) as u64);
            let outcomes = std::iter::once(Outcome::NOTHING_LOST)
                .chain(Outcome::PLAIN)
                .chain((0..random).map(draw));
            let images: Vec<_> = outcomes.map(|o| (o, disk.cut(o))).collect();
            let found = cuts.judge_all(&images)?;
            tried.states += images.len();
            for ((outcome, _), found) in images.iter().zip(&found) {
                let wrong = match found {
                    Ok(parts) if *outcome == Outcome::NOTHING_LOST => past.now(parts),
                    Ok(parts) => past.allows(parts),
                    Err(error) => Err(error.clone()),
                };
                let Err(wrong) = wrong else { continue };
                let after = before.map_or_else(String::new, |step| format!("{step:.160?}"));
                let at = format!("{name}: cut after step {number}, {after}, {outcome:?}");
                tried.wrong.push(format!("{at}: {wrong}"));
            }
        }
        if tried.wrong.len() >= WRONG_AT_MOST {
            break;
        }
    }
    tried.distinct = cuts.judged.len();
    Ok(tried)
}

fn changes(step: &Step) -> bool {
    !matches!(step, Step::Told { .. } | Step::Seek { .. })
}

type Found = Result<Parts, String>;

struct Cuts<'a> {
    judge: &'a dyn Judge,
    name: &'a str,
    /// By a hash of the image. The same disk is judged the same.
    judged: HashMap<u64, Found>,
}

impl Cuts<'_> {
    fn judge_all(&mut self, images: &[(Outcome, Image)]) -> Result<Vec<Found>> {
        let hashes: Vec<u64> = images.iter().map(|(_, image)| hash(image)).collect();
        let mut new: Vec<(u64, &Image)> = Vec::new();
        for (hash, (_, image)) in hashes.iter().zip(images) {
            if !self.judged.contains_key(hash) && new.iter().all(|(there, _)| there != hash) {
                new.push((*hash, image));
            }
        }
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || -> Result<()> {
            while let Some((hash, image)) = new.get(next.fetch_add(1, Ordering::Relaxed)) {
                let place = memory()?;
                write(image, place.path())?;
                let judged = self.judge.judge(&place.path().join(self.name));
                let judged = judged.map_err(|error| format!("{error:#}"));
                found.lock().expect("no panic").push((*hash, judged));
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism()?.get().min(new.len());
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            all.into_iter()
                .try_for_each(|thread| thread.join().expect("a judge does not panic"))
        })?;
        // A panic of a judge has gone on already.
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.judged.extend(found);
        Ok(hashes
            .iter()
            .map(|hash| self.judged[hash].clone())
            .collect())
    }
}

/// A directory in memory, where a sync costs nothing.
fn memory() -> Result<tempfile::TempDir> {
    let shared = Path::new("/dev/shm");
    Ok(match shared.is_dir() {
        true => tempfile::tempdir_in(shared)?,
        false => tempfile::tempdir()?,
    })
}

fn hash(image: &Image) -> u64 {
    let mut hasher = DefaultHasher::new();
    image.hash(&mut hasher);
    hasher.finish()
}

/// What was there when nothing was lost, change by change, and how far back a cut may lead.
#[derive(Debug, Default)]
struct Past {
    parts: BTreeMap<String, Part>,
}

/// Values in their order; `None` while it is not there.
#[derive(Debug)]
struct Part {
    values: Vec<Option<String>>,
    /// The first of them that may come back.
    floor: usize,
}

impl Past {
    fn now(&mut self, found: &Parts) -> Result<(), String> {
        for name in found.keys() {
            self.parts.entry(name.clone()).or_insert_with(|| Part {
                values: vec![None],
                floor: 0,
            });
        }
        for (name, part) in &mut self.parts {
            let value = found.get(name).cloned();
            if part.values.last() != Some(&value) {
                part.values.push(value);
                // Never more than one operation is under way.
                part.floor = part.floor.max(part.values.len() - 2);
            }
        }
        Ok(())
    }

    fn allows(&self, found: &Parts) -> Result<(), String> {
        if let Some(unknown) = found.keys().find(|name| !self.parts.contains_key(*name)) {
            return Err(format!("{unknown} was never there"));
        }
        for (name, part) in &self.parts {
            let value = found.get(name).cloned();
            if part.values[part.floor..].contains(&value) {
                continue;
            }
            let is = match part.values.contains(&value) {
                true => "went back to what it was",
                false => "is none of what it was",
            };
            let shown = value.as_deref().unwrap_or("nothing");
            return Err(format!("{name} {is}: {shown:.120}"));
        }
        Ok(())
    }

    /// All that is there now has to stay, or to be replaced by what comes.
    fn rely(&mut self) {
        for part in self.parts.values_mut() {
            part.floor = part.values.len() - 1;
        }
    }

    fn told(&mut self, name: &str, what: &str) -> Result<()> {
        let Some((_, what)) = what.split_once(' ').filter(|(whose, _)| *whose == name) else {
            return Ok(());
        };
        let (part, value) = match what.split_once('=') {
            Some((part, value)) => (part, Some(value.to_owned())),
            None => (what, None),
        };
        let part = self.parts.get_mut(part);
        let part = part.with_context(|| format!("told of {what}, which was not there"))?;
        let floor = match value {
            None => Some(part.values.len() - 1),
            value => part.values.iter().position(|there| *there == value),
        };
        let floor = floor.with_context(|| format!("told of {what}, which was not so"))?;
        part.floor = part.floor.max(floor);
        Ok(())
    }
}
