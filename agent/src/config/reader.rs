//! Takes checked values out of a raw table and collects what is wrong, so that every mistake shows at once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::Mistake;
use super::raw::{ListedTable, RawTable, RawValue};

/// Reads one table. Keys that nobody asked for are mistakes: say [`Reader::finish`] at the end.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    raw: &'a RawTable,
    name: String,
    known: BTreeSet<&'static str>,
    mistakes: &'a mut Vec<Mistake>,
}

impl<'a> Reader<'a> {
    /// `name` is how mistakes call the table.
    pub(super) fn new(raw: &'a RawTable, name: String, mistakes: &'a mut Vec<Mistake>) -> Self {
        Self {
            raw,
            name,
            known: BTreeSet::new(),
            mistakes,
        }
    }

    /// The value of `key` if it is there and `parse` accepts it; otherwise `default`, and a mistake if it was refused.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        rule: &str,
        default: T,
        parse: impl FnOnce(&toml::Value) -> Option<T>,
    ) -> T {
        self.optional(key, rule, parse).unwrap_or(default)
    }

    /// Like [`Reader::value`], but a missing key is a mistake.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        rule: &str,
        parse: impl FnOnce(&toml::Value) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            let file = Arc::clone(&self.raw.file);
            self.mistake(&file, key, None, format!("is missing: {rule}"));
        }
        self.optional(key, rule, parse)
    }

    /// The value of `key` if it is there and `parse` accepts it.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        rule: &str,
        parse: impl FnOnce(&toml::Value) -> Option<T>,
    ) -> Option<T> {
        self.known.insert(key);
        if let Some(RawValue { value, file }) = self.raw.values.get(key) {
            let parsed = parse(value);
            if parsed.is_none() {
                self.mistake(file, key, Some(value.to_string()), rule.to_owned());
            }
            return parsed;
        }
        let table = self.raw.tables.get(key).map(|table| &table.file);
        let list = || {
            self.raw
                .lists
                .get(key)
                .and_then(|list| list.first())
                .map(|l| &l.table.file)
        };
        if let Some(file) = table.or_else(list) {
            self.mistake(file, key, None, format!("is a table: {rule}"));
        }
        None
    }

    /// The table `key`; an empty one if it is not there. Mistakes in it carry `name`.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        name: &str,
        read: impl FnOnce(&mut Reader<'_>) -> T,
    ) -> T {
        self.known.insert(key);
        self.refuse_kind(key, "must be a table");
        let empty = RawTable::empty(&self.raw.file);
        let table = self.raw.tables.get(key).unwrap_or(&empty);
        let mut reader = Reader::new(table, name.to_owned(), self.mistakes);
        let value = read(&mut reader);
        reader.finish();
        value
    }

    /// Each table of the array `key`.
    pub(super) fn each(&mut self, key: &'static str, mut read: impl FnMut(&mut Reader<'_>)) {
        self.known.insert(key);
        self.refuse_kind(key, "must be written as [[service]] tables");
        if let Some(table) = self.raw.tables.get(key) {
            let file = Arc::clone(&table.file);
            self.mistake(
                &file,
                key,
                None,
                "must be written with two brackets, [[service]]".to_owned(),
            );
        }
        for ListedTable { number, table } in self.raw.lists.get(key).into_iter().flatten() {
            let mut reader = Reader::new(table, format!("{key}.{number}"), self.mistakes);
            read(&mut reader);
            reader.finish();
        }
    }

    /// Notes a mistake of a value that each rule alone accepts.
    pub(super) fn refuse(&mut self, key: &'static str, rule: impl Into<String>) {
        let (file, value) = match self.raw.values.get(key) {
            Some(raw) => (Arc::clone(&raw.file), Some(raw.value.to_string())),
            None => (Arc::clone(&self.raw.file), None),
        };
        self.mistake(&file, key, value, rule.into());
    }

    /// How mistakes call the table.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the table has `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.raw.values.contains_key(key)
            || self.raw.tables.contains_key(key)
            || self.raw.lists.contains_key(key)
    }

    /// Notes the keys that nobody asked for.
    pub(super) fn finish(self) {
        let raw = self.raw;
        let values = raw
            .values
            .iter()
            .map(|(k, v)| (k, &v.file, Some(v.value.to_string())));
        let tables = raw.tables.iter().map(|(k, t)| (k, &t.file, None));
        let lists = raw
            .lists
            .iter()
            .map(|(k, l)| (k, l.first().map_or(&raw.file, |t| &t.table.file), None));
        let known = self.known.iter().copied().collect::<Vec<_>>().join(", ");
        for (key, file, value) in values.chain(tables).chain(lists) {
            if !self.known.contains(key.as_str()) {
                self.mistakes.push(Mistake {
                    file: file.to_path_buf(),
                    table: self.name.clone(),
                    key: key.clone(),
                    value,
                    rule: format!("is not a known key here; known: {known}"),
                });
            }
        }
    }

    fn refuse_kind(&mut self, key: &'static str, rule: &str) {
        if let Some(RawValue { value, file }) = self.raw.values.get(key) {
            self.mistake(file, key, Some(value.to_string()), rule.to_owned());
        }
    }

    fn mistake(&mut self, file: &Path, key: &str, value: Option<String>, rule: String) {
        let (file, table, key) = (file.to_owned(), self.name.clone(), key.to_owned());
        self.mistakes.push(Mistake {
            file,
            table,
            key,
            value,
            rule,
        });
    }
}

/// A text that `T` can be parsed from.
pub(super) fn text<T: std::str::FromStr>(value: &toml::Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

/// An integer in `range`.
pub(super) fn integer<T: TryFrom<i64> + PartialOrd>(
    range: std::ops::RangeInclusive<T>,
) -> impl Fn(&toml::Value) -> Option<T> {
    move |value| {
        T::try_from(value.as_integer()?)
            .ok()
            .filter(|number| range.contains(number))
    }
}

/// A duration in `range`, written as a whole number and `ms`, `s`, `m` or `h`.
pub(super) fn duration(
    range: std::ops::RangeInclusive<Duration>,
) -> impl Fn(&toml::Value) -> Option<Duration> {
    move |value| {
        let text = value.as_str()?;
        let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(unit_at);
        let number: u64 = number.parse().ok()?;
        let milliseconds = match unit {
            "ms" => number,
            "s" => number.checked_mul(1_000)?,
            "m" => number.checked_mul(60_000)?,
            "h" => number.checked_mul(3_600_000)?,
            _ => return None,
        };
        Some(Duration::from_millis(milliseconds)).filter(|duration| range.contains(duration))
    }
}
