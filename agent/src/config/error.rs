//! Mistakes in a configuration, one line each: file, key, value, rule.

use std::fmt;
use std::path::{Path, PathBuf};

use pnsbox_proto::text::one_line;

/// Every mistake of a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Mistake>);

/// One mistake. Shown as `FILE: [service.2] endpoint = "x": must be ADDR:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The file, with `:LINE:COLUMN` if it is not even TOML.
    pub file: PathBuf,
    /// The table, for example `service.2`; empty for the top of the file.
    pub table: String,
    /// The key; empty if the mistake concerns the whole file.
    pub key: String,
    /// The value as written; `None` if it is missing.
    pub value: Option<String>,
    /// What is right.
    pub rule: String,
}

impl ConfigErrors {
    /// One line for each mistake.
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(Mistake::to_string).collect()
    }

    /// The mistakes; `None` if there are none.
    pub(super) fn from_mistakes(mistakes: Vec<Mistake>) -> Option<Self> {
        (!mistakes.is_empty()).then_some(Self(mistakes))
    }
}

impl Mistake {
    /// A mistake that concerns a whole file.
    pub(super) fn of_file(file: &Path, rule: String) -> Self {
        let (table, key) = (String::new(), String::new());
        Self {
            file: file.to_owned(),
            table,
            key,
            value: None,
            rule,
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if !self.table.is_empty() {
            write!(f, "[{}] ", self.table)?;
        }
        let key = one_line(&self.key, MAX_CHARS);
        match (&self.value, key.is_empty()) {
            (Some(value), _) => write!(f, "{key} = {}: ", one_line(value, MAX_CHARS))?,
            (None, false) => write!(f, "{key}: ")?,
            (None, true) => {}
        }
        f.write_str(&one_line(&self.rule, MAX_CHARS))
    }
}

/// Enough to recognise a value; every rule is shorter.
const MAX_CHARS: usize = 400;
