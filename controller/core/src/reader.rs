//! Takes checked values out of a table that a person wrote, and collects every mistake instead of the first.
//!
//! The table is TOML, read by the shell; here it is plain JSON values.

use std::collections::BTreeSet;
use std::fmt;

use pnsbox_proto::text::one_line;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One mistake. Shown as `[link.1.open.2] prefix = "10.9.0.0/16": must lie in ...`; the shell puts the file in front.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mistake {
    /// The table, for example `link.1`, counted from 1; empty for the top of the file.
    pub table: String,
    /// The key.
    pub key: String,
    /// The value as written; `None` if it is missing.
    pub value: Option<String>,
    /// What is right.
    pub rule: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.table.is_empty() {
            write!(f, "[{}] ", self.table)?;
        }
        f.write_str(&one_line(&self.key, MAX_CHARS))?;
        if let Some(value) = &self.value {
            write!(f, " = {}", one_line(value, MAX_CHARS))?;
        }
        write!(f, ": {}", one_line(&self.rule, MAX_CHARS))
    }
}

/// Enough to recognise a value; a rule that names prefixes of an agency may be cut.
pub const MAX_CHARS: usize = 400;

/// Reads one table. Keys that nobody asked for are mistakes: say [`Reader::finish`] at the end.
#[derive(Debug)]
pub struct Reader<'a> {
    table: String,
    map: Option<&'a Map<String, Value>>,
    known: BTreeSet<&'static str>,
}

impl<'a> Reader<'a> {
    /// The top of a file.
    pub fn top(value: &'a Value) -> Self {
        Self::named(String::new(), Some(value))
    }

    /// The value of `key`, parsed; a mistake with `rule` if it is there and is something else.
    pub fn value<T>(
        &mut self,
        mistakes: &mut Vec<Mistake>,
        key: &'static str,
        rule: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        self.known.insert(key);
        let value = self.map?.get(key)?;
        let parsed = parse(value);
        if parsed.is_none() {
            mistakes.push(self.mistake(key, Some(value), rule));
        }
        parsed
    }

    /// Like [`Reader::value`], but a missing key is a mistake.
    pub fn required<T>(
        &mut self,
        mistakes: &mut Vec<Mistake>,
        key: &'static str,
        rule: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        if self.map.is_some_and(|map| !map.contains_key(key)) {
            mistakes.push(self.mistake(key, None, &format!("is missing: {rule}")));
        }
        self.value(mistakes, key, rule, parse)
    }

    /// A list of texts, each parsed; a mistake for each that is something else.
    pub fn texts<T>(
        &mut self,
        mistakes: &mut Vec<Mistake>,
        key: &'static str,
        rule: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let list = self.value(mistakes, key, rule, |value| value.as_array().cloned())?;
        let mut parsed = Vec::new();
        for value in list {
            match value.as_str().and_then(&parse) {
                Some(item) => parsed.push(item),
                None => mistakes.push(self.mistake(key, Some(&value), rule)),
            }
        }
        Some(parsed)
    }

    /// A table inside this one; empty if it is missing.
    pub fn table(&mut self, mistakes: &mut Vec<Mistake>, key: &'static str) -> Self {
        self.known.insert(key);
        let value = self.map.and_then(|map| map.get(key));
        if let Some(value) = value.filter(|value| !value.is_object()) {
            mistakes.push(self.mistake(
                key,
                Some(value),
                &format!("must be a table, written [{key}]"),
            ));
        }
        Self::named(self.path(key), value)
    }

    /// A list of tables inside this one, written `[[key]]`; empty if it is missing.
    pub fn tables(&mut self, mistakes: &mut Vec<Mistake>, key: &'static str) -> Vec<Self> {
        self.known.insert(key);
        let Some(value) = self.map.and_then(|map| map.get(key)) else {
            return Vec::new();
        };
        let list = value
            .as_array()
            .filter(|list| list.iter().all(Value::is_object));
        let Some(list) = list else {
            let rule = format!(
                "must be a list of tables, each written [[{}]]",
                bare(&self.path(key))
            );
            mistakes.push(self.mistake(key, Some(value), &rule));
            return Vec::new();
        };
        let path = self.path(key);
        list.iter()
            .enumerate()
            .map(|(i, item)| Self::named(format!("{path}.{}", i + 1), Some(item)))
            .collect()
    }

    /// A mistake in this table, for rules that concern more than one value.
    pub fn mistake(&self, key: &str, value: Option<&Value>, rule: &str) -> Mistake {
        let value = value.map(|value| value.to_string().chars().take(80).collect());
        Mistake {
            table: self.table.clone(),
            key: key.to_owned(),
            value,
            rule: rule.to_owned(),
        }
    }

    /// The value of `key` as it was written.
    pub fn written(&self, key: &str) -> Option<&'a Value> {
        self.map?.get(key)
    }

    /// Names every key that nobody asked for.
    pub fn finish(self, mistakes: &mut Vec<Mistake>) {
        let Some(map) = self.map else { return };
        for (key, value) in map
            .iter()
            .filter(|(key, _)| !self.known.contains(key.as_str()))
        {
            let known: Vec<&str> = self.known.iter().copied().collect();
            let rule = format!("is not a key here; keys are {}", known.join(", "));
            mistakes.push(self.mistake(
                key,
                Some(value).filter(|v| !v.is_object() && !v.is_array()),
                &rule,
            ));
        }
    }

    fn named(table: String, value: Option<&'a Value>) -> Self {
        Self {
            table,
            map: value.and_then(Value::as_object),
            known: BTreeSet::new(),
        }
    }

    fn path(&self, key: &str) -> String {
        if self.table.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.table)
        }
    }
}

/// The path without the numbers: `link.1.open` as it is written, `link.open`.
fn bare(path: &str) -> String {
    let parts: Vec<&str> = path
        .split('.')
        .filter(|part| part.parse::<usize>().is_err())
        .collect();
    parts.join(".")
}
