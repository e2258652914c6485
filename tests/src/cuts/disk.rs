//! A disk below a file system that promises no more than POSIX: what was synced is there, all else may be.
//!
//! Bytes of a file are safe once it was synced, names in a directory once the directory was. Until then a cut may
//! lose them, keep later ones and lose earlier ones, tear a write at a sector, or keep a file's length without its bytes.
//! A rename is atomic: every file system in use promises that.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::calls::Step;

/// A disk writes one of these whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What was done below one folder, and how much of it is safe.
#[derive(Debug, Default)]
pub struct Disk {
    nodes: Vec<Node>,
    /// Names in each node that is a directory: as programs see them, and as they are after a cut at the worst.
    names: Vec<Names>,
    safe_names: Vec<Names>,
    /// Name changes that are not safe yet, in order.
    unsafe_names: Vec<Naming>,
}

type Names = BTreeMap<String, usize>;

#[derive(Debug, Default)]
struct Node {
    mode: u32,
    is_dir: bool,
    /// Of a file, likewise.
    bytes: Vec<u8>,
    safe_bytes: Vec<u8>,
    unsafe_changes: Vec<Change>,
    /// Where the next write goes. Our programs never have one file open for writing twice.
    position: usize,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, data: Vec<u8> },
    Resize(usize),
}

#[derive(Debug, Clone)]
struct Naming {
    /// The name that goes.
    from: Option<(usize, String)>,
    /// The name that comes, and whose it is.
    to: Option<(usize, String, usize)>,
}

/// How much of one kind of unsafe thing is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    All,
    None,
    /// Each with so many chances in eight.
    Each(u64),
    /// Those up to some moment, as a journal keeps them.
    First,
}

/// What a cut does with what is not safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    names: Kept,
    data: Kept,
    /// A file is as long as it was, whether or not its bytes are there.
    lengths: bool,
    /// What stands where bytes were lost: zeros, or what was on the disk before.
    noise: bool,
    seed: u64,
}

impl Outcome {
    /// Nothing is lost: what a killed program leaves.
    pub const NOTHING_LOST: Self = Self::plain(Kept::All, Kept::All, true);

    const fn plain(names: Kept, data: Kept, lengths: bool) -> Self {
        Self {
            names,
            data,
            lengths,
            noise: false,
            seed: 0,
        }
    }

    /// The plain ones, which find most: all is lost, files are empty, files are zeros, names are lost.
    pub const PLAIN: [Self; 4] = [
        Self::plain(Kept::None, Kept::None, false),
        Self::plain(Kept::All, Kept::None, false),
        Self::plain(Kept::All, Kept::None, true),
        Self::plain(Kept::None, Kept::All, true),
    ];

    /// Any one, chosen by a seed.
    pub fn random(seed: u64) -> Self {
        let mut chance = Chance(seed);
        Self {
            names: match chance.below(3) {
                0 => Kept::First,
                1 => Kept::All,
                _ => Kept::Each(1 + chance.below(7)),
            },
            data: match chance.below(4) {
                0 => Kept::First,
                _ => Kept::Each(1 + chance.below(7)),
            },
            lengths: chance.below(2) == 0,
            noise: chance.below(2) == 0,
            seed: chance.next(),
        }
    }
}

/// Files by their path below the folder; directories have no bytes.
pub type Image = BTreeMap<PathBuf, (u32, Option<Vec<u8>>)>;

impl Disk {
    /// An empty folder.
    pub fn new() -> Self {
        let root = Node {
            is_dir: true,
            mode: 0o755,
            ..Node::default()
        };
        Self {
            nodes: vec![root],
            names: vec![Names::new()],
            safe_names: vec![Names::new()],
            unsafe_names: Vec::new(),
        }
    }

    /// Does what a program did; paths are those below `base`.
    pub fn apply(&mut self, step: &Step, base: &Path) -> Result<()> {
        let place = |path: &Path| {
            let below = path.strip_prefix(base);
            below.map(Path::to_owned).context("below the folder")
        };
        match step {
            Step::Open {
                path,
                create,
                truncate,
                append,
            } => self.open(&place(path)?, *create, *truncate, *append)?,
            Step::Seek { path, to } => self.node(&place(path)?)?.position = usize::try_from(*to)?,
            Step::Write { path, at, data } => {
                let node = self.node(&place(path)?)?;
                let at = at.map_or(Ok(node.position), usize::try_from)?;
                node.position = at + data.len();
                let data = data.clone();
                node.change(Change::Write { at, data });
            }
            Step::Resize { path, length } => {
                let length = usize::try_from(*length)?;
                self.node(&place(path)?)?.change(Change::Resize(length));
            }
            Step::Sync { path } => self.sync(&place(path)?)?,
            Step::MakeDir { path, mode } => self.make(&place(path)?, *mode, true)?,
            Step::Rename { from, to } => {
                let node = self.find(&place(from)?).context("what is renamed")?;
                let (from, to) = (self.name(&place(from)?)?, self.name(&place(to)?)?);
                self.rename(Some(from), Some((to.0, to.1, node)));
            }
            Step::Link { from, to } => {
                let node = self.find(&place(from)?).context("what is linked")?;
                let to = self.name(&place(to)?)?;
                self.rename(None, Some((to.0, to.1, node)));
            }
            Step::Remove { path } => {
                let from = self.name(&place(path)?)?;
                self.rename(Some(from), None);
            }
            Step::Told { .. } => {}
        }
        Ok(())
    }

    /// What is on the disk when the power comes back.
    pub fn cut(&self, outcome: Outcome) -> Image {
        let mut chance = Chance(outcome.seed);
        let mut names = self.safe_names.clone();
        let kept = choose(outcome.names, self.unsafe_names.len(), &mut chance);
        for (naming, _) in self.unsafe_names.iter().zip(kept).filter(|(_, kept)| *kept) {
            naming.apply(&mut names);
        }
        let mut image = Image::new();
        self.lay_out(0, Path::new(""), &names, outcome, &mut chance, &mut image);
        image
    }

    fn lay_out(
        &self,
        dir: usize,
        place: &Path,
        names: &[Names],
        outcome: Outcome,
        chance: &mut Chance,
        image: &mut Image,
    ) {
        for (name, &number) in &names[dir] {
            let (place, node) = (place.join(name), &self.nodes[number]);
            let bytes = (!node.is_dir).then(|| node.after(outcome, chance));
            image.insert(place.clone(), (node.mode, bytes));
            if node.is_dir {
                self.lay_out(number, &place, names, outcome, chance, image);
            }
        }
    }

    fn open(
        &mut self,
        path: &Path,
        create: Option<u32>,
        truncate: bool,
        append: bool,
    ) -> Result<()> {
        if let Some(mode) = create.filter(|_| self.find(path).is_none()) {
            self.make(path, mode, false)?;
        }
        let node = self.node(path)?;
        if truncate && !node.bytes.is_empty() {
            node.change(Change::Resize(0));
        }
        node.position = if append { node.bytes.len() } else { 0 };
        Ok(())
    }

    fn make(&mut self, path: &Path, mode: u32, is_dir: bool) -> Result<()> {
        let number = self.nodes.len();
        let to = self.name(path)?;
        self.nodes.push(Node {
            // umask(2) of the recorder.
            mode: mode & !0o022,
            is_dir,
            ..Node::default()
        });
        self.names.push(Names::new());
        self.safe_names.push(Names::new());
        self.rename(None, Some((to.0, to.1, number)));
        Ok(())
    }

    fn rename(&mut self, from: Option<(usize, String)>, to: Option<(usize, String, usize)>) {
        let naming = Naming { from, to };
        naming.apply(&mut self.names);
        self.unsafe_names.push(naming);
    }

    fn sync(&mut self, path: &Path) -> Result<()> {
        let number = self.find(path).context("what is synced")?;
        self.node(path)?.sync();
        let (safe, not): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unsafe_names)
            .into_iter()
            .partition(|naming| naming.concerns(number));
        self.unsafe_names = not;
        for naming in safe {
            naming.apply(&mut self.safe_names);
        }
        Ok(())
    }

    fn find(&self, path: &Path) -> Option<usize> {
        path.iter()
            .try_fold(0, |dir, name| self.names[dir].get(name.to_str()?).copied())
    }

    fn node(&mut self, path: &Path) -> Result<&mut Node> {
        let number = self.find(path);
        let number =
            number.with_context(|| format!("{} was not seen being made", path.display()))?;
        Ok(&mut self.nodes[number])
    }

    /// The directory of a name, and the name in it.
    fn name(&self, path: &Path) -> Result<(usize, String)> {
        let dir = path.parent().and_then(|parent| self.find(parent));
        let name = path.file_name().and_then(|name| name.to_str());
        let both = dir.zip(name.map(str::to_owned));
        both.with_context(|| format!("{} has no directory here", path.display()))
    }
}

impl Naming {
    fn concerns(&self, dir: usize) -> bool {
        self.from.as_ref().is_some_and(|from| from.0 == dir)
            || self.to.as_ref().is_some_and(|to| to.0 == dir)
    }

    fn apply(&self, names: &mut [Names]) {
        if let Some((dir, name)) = &self.from {
            names[*dir].remove(name);
        }
        if let Some((dir, name, node)) = &self.to {
            names[*dir].insert(name.clone(), *node);
        }
    }
}

impl Node {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.bytes, |_| true, &mut || 0);
        self.unsafe_changes.push(change);
    }

    fn sync(&mut self) {
        self.safe_bytes.clone_from(&self.bytes);
        self.unsafe_changes.clear();
    }

    fn after(&self, outcome: Outcome, chance: &mut Chance) -> Vec<u8> {
        let mut bytes = self.safe_bytes.clone();
        let kept = choose(outcome.data, self.unsafe_changes.len(), chance);
        let noise = chance.next();
        let mut filler = Chance(noise);
        let mut fill = || if outcome.noise { filler.byte() } else { 0 };
        for (change, kept) in self.unsafe_changes.iter().zip(kept) {
            let torn = matches!(outcome.data, Kept::Each(_)) && chance.below(4) == 0;
            if kept {
                change.apply(&mut bytes, |_| !torn || chance.below(2) == 0, &mut fill);
            }
        }
        if outcome.lengths {
            bytes.resize_with(self.bytes.len(), &mut fill);
        }
        bytes
    }
}

impl Change {
    /// Of a write, only the sectors that `keeps` says.
    fn apply(
        &self,
        bytes: &mut Vec<u8>,
        mut keeps: impl FnMut(usize) -> bool,
        fill: &mut impl FnMut() -> u8,
    ) {
        match self {
            Self::Resize(length) => bytes.resize(*length, 0),
            Self::Write { at, data } => {
                let mut done = 0;
                while done < data.len() {
                    let begin = at + done;
                    let length = (SECTOR_BYTES - begin % SECTOR_BYTES).min(data.len() - done);
                    if keeps(begin / SECTOR_BYTES) {
                        if bytes.len() < begin + length {
                            bytes.resize_with(begin + length, &mut *fill);
                        }
                        bytes[begin..begin + length].copy_from_slice(&data[done..done + length]);
                    }
                    done += length;
                }
            }
        }
    }
}

fn choose(kept: Kept, count: usize, chance: &mut Chance) -> Vec<bool> {
    let first = chance.below(count as u64 + 1);
    let mut one = |number: u64| match kept {
        Kept::All => true,
        Kept::None => false,
        Kept::Each(eighths) => chance.below(8) < eighths,
        Kept::First => number < first,
    };
    (0..count as u64).map(&mut one).collect()
}

/// Writes an image below a folder that is there.
pub fn write(image: &Image, folder: &Path) -> Result<()> {
    for (place, (mode, bytes)) in image {
        let path = folder.join(place);
        match bytes {
            None => std::fs::create_dir(&path)?,
            Some(bytes) => std::fs::write(&path, bytes)?,
        }
        std::fs::set_permissions(&path, Permissions::from_mode(*mode))?;
    }
    Ok(())
}

/// Repeatable chance: SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn done(steps: &[Step]) -> Result<Disk> {
        let mut disk = Disk::new();
        for step in steps {
            disk.apply(step, Path::new("/"))?;
        }
        Ok(disk)
    }

    fn open(path: &str) -> Step {
        Step::Open {
            path: path.into(),
            create: Some(0o600),
            truncate: false,
            append: false,
        }
    }

    fn write(path: &str, data: &[u8]) -> Step {
        Step::Write {
            path: path.into(),
            at: None,
            data: data.to_vec(),
        }
    }

    fn sync(path: &str) -> Step {
        Step::Sync { path: path.into() }
    }

    fn rename(from: &str, to: &str) -> Step {
        Step::Rename {
            from: from.into(),
            to: to.into(),
        }
    }

    /// What the name `a` can be after a cut; nothing, if it can be gone.
    fn fates(disk: &Disk) -> BTreeSet<Option<Vec<u8>>> {
        let random = (0..500).map(Outcome::random);
        let outcomes = Outcome::PLAIN.into_iter().chain(random);
        let fate =
            |outcome| -> Option<Vec<u8>> { disk.cut(outcome).get(Path::new("a"))?.1.clone() };
        outcomes.map(fate).collect()
    }

    #[test]
    fn only_what_was_synced_with_its_name_is_safe() -> Result<()> {
        let mut steps = vec![open("/a"), write("/a", b"new")];
        assert!(fates(&done(&steps)?).is_superset(&BTreeSet::from([
            None,
            Some(Vec::new()),
            Some(b"\0\0\0".to_vec()),
            Some(b"new".to_vec()),
        ])));
        steps.push(sync("/a"));
        let expected = BTreeSet::from([None, Some(b"new".to_vec())]);
        assert_eq!(fates(&done(&steps)?), expected);
        steps.push(sync("/"));
        let expected = BTreeSet::from([Some(b"new".to_vec())]);
        assert_eq!(fates(&done(&steps)?), expected);
        Ok(())
    }

    #[test]
    fn a_file_replaced_with_every_sync_is_old_or_new_and_empty_without() -> Result<()> {
        let old = [open("/a"), write("/a", b"old"), sync("/a"), sync("/")];
        let new = [open("/b"), write("/b", b"new"), rename("/b", "/a")];
        let without: Vec<Step> = old.iter().chain(&new).cloned().collect();
        assert!(fates(&done(&without)?).contains(&Some(Vec::new())));
        let mut with = without;
        with.insert(old.len() + 2, sync("/b"));
        let expected = [&b"old"[..], b"new"].map(|text| Some(text.to_vec()));
        assert_eq!(fates(&done(&with)?), BTreeSet::from(expected));
        Ok(())
    }

    #[test]
    fn a_long_write_is_torn_and_writes_are_lost_out_of_order() -> Result<()> {
        let parts = [[b'1'; 512], [b'2'; 512]];
        let torn = fates(&done(&[
            open("/a"),
            sync("/"),
            write("/a", &parts.concat()),
        ])?);
        let second = [[0; 512], parts[1]].concat();
        assert!(torn.contains(&Some(second.clone())), "torn");
        let two = [write("/a", &parts[0]), write("/a", &parts[1])];
        let two = [&[open("/a"), sync("/")][..], &two].concat();
        assert!(fates(&done(&two)?).contains(&Some(second)), "out of order");
        Ok(())
    }
}
