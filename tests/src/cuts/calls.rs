//! The log of strace(1), read: what was done to files, in order. It knows no disk and no program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// What strace must record, for [`read`] to see every change of a file.
/// `mmap` is here to be refused: what is written through memory is not seen.
pub const TRACED: &str = "openat,open,creat,lseek,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,\
    fsync,fdatasync,sync_file_range,syncfs,sync,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,\
    mkdir,mkdirat,rmdir,copy_file_range,sendfile,splice,mmap";

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A file was opened; `create` makes it where there is none.
    Open {
        /// The file.
        path: PathBuf,
        /// Mode, if it may be made.
        create: Option<u32>,
        /// Whether it is emptied.
        truncate: bool,
        /// Whether writing begins at its end.
        append: bool,
    },
    /// The next write goes elsewhere.
    Seek {
        /// The file.
        path: PathBuf,
        /// Where to.
        to: u64,
    },
    /// Bytes were written.
    Write {
        /// The file.
        path: PathBuf,
        /// Where; after the last write if not said.
        at: Option<u64>,
        /// What.
        data: Vec<u8>,
    },
    /// It was cut or grown.
    Resize {
        /// The file.
        path: PathBuf,
        /// Its length now.
        length: u64,
    },
    /// A file or directory was synced.
    Sync {
        /// Which.
        path: PathBuf,
    },
    /// A directory was made.
    MakeDir {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A name was moved, over what had it before.
    Rename {
        /// Old name.
        from: PathBuf,
        /// New name.
        to: PathBuf,
    },
    /// A second name was made.
    Link {
        /// The name that is there.
        from: PathBuf,
        /// The new one.
        to: PathBuf,
    },
    /// A name was removed.
    Remove {
        /// Which.
        path: PathBuf,
    },
    /// Not a change: somebody outside was told `what`, and holds us to it.
    Told {
        /// What.
        what: String,
    },
}

impl Step {
    /// The names that it touches.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Open { path, .. }
            | Self::Seek { path, .. }
            | Self::Write { path, .. }
            | Self::Resize { path, .. }
            | Self::Sync { path }
            | Self::MakeDir { path, .. }
            | Self::Remove { path } => vec![path],
            Self::Rename { from, to } | Self::Link { from, to } => vec![from, to],
            Self::Told { .. } => Vec::new(),
        }
    }
}

/// What the recorder says on its own output when somebody outside was told something.
pub const TOLD: &str = "told ";

/// Every change below `folder` in a log of strace, and everything told, in order.
pub fn read(log: &str, folder: &Path) -> Result<Vec<Step>> {
    let mut open: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let (mut steps, mut ended) = (Vec::new(), 0);
    for (number, line) in log.lines().enumerate() {
        let at = || format!("line {} of the log of strace: {line:.200}", number + 1);
        let (pid, rest) = line.split_once(' ').with_context(at)?;
        let rest = rest.trim_start();
        let (begun, call) = if let Some(half) = rest.strip_suffix(" <unfinished ...>") {
            open.insert(pid, (number, half.to_owned()));
            continue;
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, tail) = resumed.split_once(" resumed>").with_context(at)?;
            let Some((begun, half)) = open.remove(pid) else {
                continue;
            };
            (begun, format!("{half}{tail}"))
        } else {
            (number, rest.to_owned())
        };
        let Some(step) = Call::parse(&call).with_context(at)? else {
            continue;
        };
        let step = step.into_step(folder).with_context(at)?;
        let Some(step) = step.filter(|step| concerns(step, folder)) else {
            continue;
        };
        if !matches!(step, Step::Told { .. }) {
            // Of two at once nobody knows which came first.
            let folder = folder.display();
            ensure!(begun >= ended, "two changes of {folder} at once: {}", at());
            ended = number;
        }
        steps.push(step);
    }
    Ok(steps)
}

fn concerns(step: &Step, folder: &Path) -> bool {
    let paths = step.paths();
    // SQLite's index of its log is written through memory, belongs to running processes, and is made anew by the
    // first that opens the database.
    let shared = |path: &Path| path.as_os_str().to_string_lossy().ends_with("-shm");
    let within = |path: &&Path| {
        let syncs_parent = matches!(step, Step::Sync { .. }) && folder.parent() == Some(path);
        (path.starts_with(folder) || syncs_parent) && !shared(path)
    };
    paths.is_empty() || paths.iter().any(within)
}

/// A call that succeeded.
struct Call {
    name: String,
    arguments: Vec<String>,
    result: u64,
}

impl Call {
    fn parse(text: &str) -> Result<Option<Self>> {
        // Signals and ends of processes.
        if text.starts_with("---") || text.starts_with("+++") {
            return Ok(None);
        }
        let (name, rest) = text.split_once('(').context("a call has parentheses")?;
        let (arguments, result) = rest.rsplit_once(" = ").context("a call has a result")?;
        let result = result.split([' ', '<']).next().unwrap_or_default();
        let number = match result.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => result.parse().ok(),
        };
        // Negative, or never returned.
        let Some(result) = number else {
            return Ok(None);
        };
        let arguments = arguments
            .trim_end()
            .strip_suffix(')')
            .context("it is closed")?;
        Ok(Some(Self {
            name: name.to_owned(),
            arguments: split(arguments),
            result,
        }))
    }

    fn into_step(self, folder: &Path) -> Result<Option<Step>> {
        let step = match self.name.as_str() {
            "openat" => self.open(1)?,
            "open" => self.open(0)?,
            "lseek" => self.file(0)?.map(|path| Step::Seek {
                path,
                to: self.result,
            }),
            "write" | "writev" => self.written(None)?,
            "pwrite64" | "pwritev" => self.written(Some(self.number(3)?))?,
            "ftruncate" => self.resized(self.number(1)?)?,
            "fsync" | "fdatasync" => self.file(0)?.map(|path| Step::Sync { path }),
            "rename" => self.two_names(self.name_at(None, 0)?, self.name_at(None, 1)?),
            "renameat" | "renameat2" => {
                self.two_names(self.name_at(Some(0), 1)?, self.name_at(Some(2), 3)?)
            }
            "link" => self.two_names(self.name_at(None, 0)?, self.name_at(None, 1)?),
            "linkat" => self.two_names(self.name_at(Some(0), 1)?, self.name_at(Some(2), 3)?),
            "unlink" | "rmdir" => Some(Step::Remove {
                path: self.name_at(None, 0)?,
            }),
            "unlinkat" => Some(Step::Remove {
                path: self.name_at(Some(0), 1)?,
            }),
            "mkdir" => Some(Step::MakeDir {
                path: self.name_at(None, 0)?,
                mode: octal(self.text(1)?)?,
            }),
            "mkdirat" => Some(Step::MakeDir {
                path: self.name_at(Some(0), 1)?,
                mode: octal(self.text(2)?)?,
            }),
            other => {
                self.refuse_unknown(other, folder)?;
                None
            }
        };
        Ok(step)
    }

    /// A call whose effect is not known here must not touch what is watched.
    fn refuse_unknown(&self, name: &str, folder: &Path) -> Result<()> {
        if name == "mmap" && !self.arguments.iter().any(|a| a.contains("MAP_SHARED")) {
            return Ok(());
        }
        for argument in &self.arguments {
            let path = descriptor(argument)?.or(string(argument)?.map(path_of));
            if let Some(path) = path.filter(|path| path.starts_with(folder)) {
                let shared = path.to_string_lossy().ends_with("-shm");
                ensure!(shared, "{name} of {} is not understood", path.display());
            }
        }
        if name == "sync" {
            bail!("sync of everything is not understood");
        }
        Ok(())
    }

    fn open(&self, first: usize) -> Result<Option<Step>> {
        let flags = self.text(first + 1)?;
        let has = |flag: &str| flags.split('|').any(|word| word == flag);
        if !has("O_WRONLY") && !has("O_RDWR") {
            return Ok(None);
        }
        let create = match has("O_CREAT") {
            true => Some(octal(self.text(first + 2)?)?),
            false => None,
        };
        Ok(Some(Step::Open {
            path: self.name_at(first.checked_sub(1), first)?,
            create,
            truncate: has("O_TRUNC"),
            append: has("O_APPEND"),
        }))
    }

    fn written(&self, at: Option<u64>) -> Result<Option<Step>> {
        let mut data = strings(self.text(1)?)?;
        data.truncate(usize::try_from(self.result)?);
        if let Some(said) = std::str::from_utf8(&data)
            .ok()
            .and_then(|said| said.strip_prefix(TOLD))
            && self.text(0)?.starts_with("1<")
        {
            let what = said.trim_end().to_owned();
            return Ok(Some(Step::Told { what }));
        }
        let path = self.file(0)?;
        ensure!(
            path.is_none() || data.len() as u64 == self.result,
            "strace shortened what was written"
        );
        Ok(path.map(|path| Step::Write { path, at, data }))
    }

    fn resized(&self, length: u64) -> Result<Option<Step>> {
        Ok(self.file(0)?.map(|path| Step::Resize { path, length }))
    }

    fn two_names(&self, from: PathBuf, to: PathBuf) -> Option<Step> {
        Some(match self.name.starts_with("link") {
            true => Step::Link { from, to },
            false => Step::Rename { from, to },
        })
    }

    fn text(&self, number: usize) -> Result<&str> {
        let argument = self.arguments.get(number).map(String::as_str);
        argument.with_context(|| format!("argument {number}"))
    }

    fn number(&self, number: usize) -> Result<u64> {
        Ok(self.text(number)?.parse()?)
    }

    /// The file behind a descriptor, if it still has a name.
    fn file(&self, number: usize) -> Result<Option<PathBuf>> {
        descriptor(self.text(number)?)
    }

    fn name_at(&self, folder: Option<usize>, name: usize) -> Result<PathBuf> {
        let name = path_of(string(self.text(name)?)?.context("a name")?);
        let base = match folder {
            Some(folder) => self.file(folder)?,
            None => None,
        };
        // The recorder's programs stand in the root of the file system.
        Ok(base.unwrap_or_else(|| PathBuf::from("/")).join(name))
    }
}

/// Arguments at the commas that stand in no bracket. Strings are hexadecimal, so that none stands in a string.
fn split(text: &str) -> Vec<String> {
    let (mut arguments, mut depth) = (vec![String::new()], 0_usize);
    for c in text.chars() {
        match c {
            '[' | '{' | '(' => depth += 1,
            ']' | '}' | ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = arguments.last_mut() {
            last.push(c);
        }
    }
    let trimmed = arguments.iter().map(|text| text.trim().to_owned());
    trimmed.collect()
}

/// `3<\x2f...>`
fn descriptor(argument: &str) -> Result<Option<PathBuf>> {
    let Some((number, rest)) = argument.split_once('<') else {
        return Ok(None);
    };
    let is_one = number.parse::<u32>().is_ok() || number == "AT_FDCWD";
    let Some(name) = rest.strip_suffix('>').filter(|_| is_one) else {
        return Ok(None);
    };
    Ok(Some(path_of(bytes(name)?)))
}

/// `"\x2f..."`
fn string(argument: &str) -> Result<Option<Vec<u8>>> {
    let inner = argument
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    inner.map(bytes).transpose()
}

/// All strings in an argument, one after the other: one, or those of a vector.
fn strings(argument: &str) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for (number, part) in argument.split('"').enumerate() {
        if number % 2 == 1 {
            all.extend(bytes(part)?);
        }
    }
    Ok(all)
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let digits = hex.split("\\x").skip(1);
    let bytes = digits.map(|pair| u8::from_str_radix(pair, 16));
    bytes
        .collect::<Result<_, _>>()
        .with_context(|| format!("no hexadecimal string: {hex:.80}"))
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(String::from_utf8_lossy(&bytes).into_owned())
}

fn octal(text: &str) -> Result<u32> {
    u32::from_str_radix(text, 8).with_context(|| format!("no mode: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_across_threads_and_others_are_left_out() -> Result<()> {
        let log = r#"7 openat(AT_FDCWD<\x2f>, "\x2f\x73\x2f\x61", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0600) = 3<\x2f\x73\x2f\x61>
7 write(3<\x2f\x73\x2f\x61>, "\x31\x32" <unfinished ...>
8 write(1<\x70\x69\x70\x65>, "\x74\x6f\x6c\x64", 4) = 4
7 <... write resumed>, 2) = 2
7 fsync(3<\x2f\x73\x2f\x61>) = -1 EIO (Input/output error)
7 rename("\x2f\x73\x2f\x61", "\x2f\x73\x2f\x62") = 0
7 fsync(4<\x2f\x73>) = 0
8 unlink("\x2f\x74") = 0
8 write(1<\x70\x69\x70\x65>, "\x74\x6f\x6c\x64\x20\x78\x0a", 7) = 7
7 +++ exited with 0 +++
"#;
        let expected = [
            Step::Open {
                path: "/s/a".into(),
                create: Some(0o600),
                truncate: false,
                append: false,
            },
            Step::Write {
                path: "/s/a".into(),
                at: None,
                data: b"12".to_vec(),
            },
            Step::Rename {
                from: "/s/a".into(),
                to: "/s/b".into(),
            },
            Step::Sync { path: "/s".into() },
            Step::Told {
                what: "x".to_owned(),
            },
        ];
        assert_eq!(read(log, Path::new("/s"))?, expected);
        Ok(())
    }

    #[test]
    fn what_is_not_understood_is_refused_where_it_touches_what_is_watched() {
        let copy =
            r"7 copy_file_range(3<\x2f\x73\x2f\x61>, NULL, 4<\x2f\x73\x2f\x62>, NULL, 9, 0) = 9";
        assert!(read(copy, Path::new("/s")).is_err());
        assert!(read(copy, Path::new("/elsewhere")).is_ok());
    }
}
