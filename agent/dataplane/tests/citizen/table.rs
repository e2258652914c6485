//! What was expected and what was seen, one line for each check.

use std::fmt::{Debug, Display};
use std::io::Write as _;

/// Judges a check; the line appears if somebody wants the table, or in the failure.
pub(crate) fn check(what: &str, expected: impl Display, seen: impl Display, is_right: bool) {
    if std::env::var_os("PNSBOX_TABLE").is_some() {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{what} | {expected} | {seen}").unwrap();
    }
    assert!(is_right, "{what}: expected {expected}, saw {seen}");
}

/// A check for exactly this.
pub(crate) fn exactly<T: PartialEq + Debug>(what: &str, expected: T, seen: T) {
    let is_right = expected == seen;
    check(what, format!("{expected:?}"), format!("{seen:?}"), is_right);
}
