//! The configuration as written: `agent.toml` and its drop-ins, merged, each value with the file that it came from.
//! What a key means is not known here.
//!
//! Drop-ins are the `*.toml` of `agent.d` beside the file, in lexical order.
//! Tables merge, values and arrays replace, and `[[service]]` appends.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::Mistake;

/// One table of the merged configuration.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RawTable {
    /// Keys with a value.
    pub(super) values: BTreeMap<String, RawValue>,
    /// Keys with a table.
    pub(super) tables: BTreeMap<String, Self>,
    /// Keys with an array of tables.
    pub(super) lists: BTreeMap<String, Vec<ListedTable>>,
    /// The file that opened the table first.
    pub(super) file: Arc<Path>,
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RawValue {
    pub(super) value: toml::Value,
    pub(super) file: Arc<Path>,
}

/// A table of an array, and its number in its file, from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ListedTable {
    pub(super) number: usize,
    pub(super) table: RawTable,
}

/// Reads and merges. A missing `path` is an empty configuration; files that cannot be read are mistakes.
pub(super) fn read(path: &Path) -> (RawTable, Vec<Mistake>) {
    let mut merged = RawTable::empty(&Arc::from(path));
    let mut mistakes = Vec::new();
    let drop_ins = drop_ins(&path.with_extension("d")).unwrap_or_else(|mistake| {
        mistakes.push(mistake);
        Vec::new()
    });
    for file in std::iter::once(path.to_owned()).chain(drop_ins) {
        match std::fs::read_to_string(&file) {
            Ok(text) => match parse(&file, &text) {
                Ok(table) => merged.merge(table),
                Err(mistake) => mistakes.push(mistake),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound && file == path => {}
            Err(error) => {
                mistakes.push(Mistake::of_file(&file, format!("cannot be read: {error}")))
            }
        }
    }
    (merged, mistakes)
}

fn drop_ins(dir: &Path) -> Result<Vec<PathBuf>, Mistake> {
    let unreadable = |error: io::Error| Mistake::of_file(dir, format!("cannot be read: {error}"));
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let paths: Result<Vec<PathBuf>, io::Error> =
        entries.map(|entry| entry.map(|e| e.path())).collect();
    let mut paths = paths.map_err(unreadable)?;
    paths.retain(|path| path.extension() == Some(OsStr::new("toml")));
    paths.sort();
    Ok(paths)
}

fn parse(file: &Path, text: &str) -> Result<RawTable, Mistake> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let rule = format!(
            "is not TOML: {}",
            error.message().trim().replace('\n', ", ")
        );
        Mistake::of_file(&at(file, text, error.span()), rule)
    })?;
    Ok(RawTable::new(table, &Arc::from(file)))
}

/// `FILE:LINE:COLUMN`, both from 1.
fn at(file: &Path, text: &str, span: Option<Range<usize>>) -> PathBuf {
    let Some(before) = span.and_then(|span| text.get(..span.start)) else {
        return file.to_owned();
    };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    PathBuf::from(format!("{}:{line}:{column}", file.display()))
}

impl RawTable {
    /// Nothing yet, opened by `file`.
    pub(super) fn empty(file: &Arc<Path>) -> Self {
        let (values, tables, lists) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            values,
            tables,
            lists,
            file: Arc::clone(file),
        }
    }

    fn new(table: toml::Table, file: &Arc<Path>) -> Self {
        let mut raw = Self::empty(file);
        for (key, value) in table {
            match value {
                toml::Value::Table(table) => {
                    raw.tables.insert(key, Self::new(table, file));
                }
                toml::Value::Array(items) if is_list_of_tables(&items) => {
                    raw.lists.insert(key, listed(items, file));
                }
                value => {
                    raw.values.insert(
                        key,
                        RawValue {
                            value,
                            file: Arc::clone(file),
                        },
                    );
                }
            }
        }
        raw
    }

    fn merge(&mut self, later: Self) {
        // A key has one kind only: the later file's.
        for key in later.values.keys() {
            self.tables.remove(key);
            self.lists.remove(key);
        }
        self.values
            .retain(|key, _| !later.tables.contains_key(key) && !later.lists.contains_key(key));
        self.values.extend(later.values);
        for (key, table) in later.tables {
            self.lists.remove(&key);
            match self.tables.get_mut(&key) {
                Some(earlier) => earlier.merge(table),
                None => drop(self.tables.insert(key, table)),
            }
        }
        for (key, list) in later.lists {
            self.tables.remove(&key);
            self.lists.entry(key).or_default().extend(list);
        }
    }
}

fn is_list_of_tables(items: &[toml::Value]) -> bool {
    !items.is_empty() && items.iter().all(toml::Value::is_table)
}

fn listed(items: Vec<toml::Value>, file: &Arc<Path>) -> Vec<ListedTable> {
    let tables = items.into_iter().filter_map(|item| match item {
        toml::Value::Table(table) => Some(table),
        _ => None,
    });
    let tables = tables.map(|table| RawTable::new(table, file));
    tables
        .enumerate()
        .map(|(i, table)| ListedTable {
            number: i + 1,
            table,
        })
        .collect()
}
