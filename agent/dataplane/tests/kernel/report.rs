//! What a check expected and saw, a line for each, so that a person can read what was proved.

use std::fmt::Debug;

use libtest_mimic::Failed;

/// One check's lines.
#[derive(Debug)]
pub(crate) struct Report {
    name: String,
    lines: u32,
    failed: u32,
}

impl Report {
    pub(crate) fn new(check: &str, core: &str) -> Self {
        let check = check.rsplit("::").next().unwrap_or(check);
        Self {
            name: format!("{core}: {check}"),
            lines: 0,
            failed: 0,
        }
    }

    /// `seen` must be `expected`.
    pub(crate) fn equal<T: PartialEq + Debug>(&mut self, what: &str, expected: T, seen: T) {
        let holds = seen == expected;
        self.line(what, &format!("{expected:?}"), &format!("{seen:?}"), holds);
    }

    /// `seen` must be from `least` to `most`.
    pub(crate) fn between<T: PartialOrd + Debug>(
        &mut self,
        what: &str,
        (least, most): (T, T),
        seen: T,
    ) {
        let holds = least <= seen && seen <= most;
        let expected = format!("{least:?} to {most:?}");
        self.line(what, &expected, &format!("{seen:?}"), holds);
    }

    /// It must be so.
    pub(crate) fn holds(&mut self, what: &str, seen: bool) {
        self.equal(what, true, seen);
    }

    /// Passed if every line was as expected, and there was one.
    pub(crate) fn end(self) -> Result<(), Failed> {
        match (self.failed, self.lines) {
            (0, 1..) => Ok(()),
            (failed, lines) => Err(format!("{failed} of {lines} lines are not as expected").into()),
        }
    }

    #[expect(clippy::print_stdout, reason = "scripts/interop.sh reads these lines")]
    fn line(&mut self, what: &str, expected: &str, seen: &str, holds: bool) {
        self.lines += 1;
        self.failed += u32::from(!holds);
        let result = if holds { "ok    " } else { "FAILED" };
        println!(
            "check: {result} {}: {what} | {expected} | {seen}",
            self.name
        );
    }
}
