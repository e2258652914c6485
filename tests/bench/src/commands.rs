//! Commands from standard input, one a line, each answered by one line of JSON on standard output.

use std::io::{BufRead as _, Write as _};

use anyhow::Result;
use serde_json::Value;

/// Something that can be told what to do.
pub(crate) trait Serve {
    /// Does one command, given as its words.
    fn command(&mut self, words: &[&str]) -> Result<Value>;
}

/// Until the end of input, or the first command that fails.
pub(crate) fn serve(program: &mut dyn Serve) -> Result<()> {
    let mut answers = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = program.command(&words)?;
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}
