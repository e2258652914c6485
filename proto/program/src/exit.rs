//! Exit codes (BSD `sysexits.h`) and the one place where a command prints.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

/// `EX_USAGE`: the command line.
pub const USAGE: u8 = 64;
/// `EX_DATAERR`: what was given is refused.
pub const DATA: u8 = 65;
/// `EX_NOINPUT`: a file that was named does not exist.
pub const NO_INPUT: u8 = 66;
/// `EX_UNAVAILABLE`: the program that was asked does not answer.
pub const UNAVAILABLE: u8 = 69;
/// `EX_SOFTWARE`: anything else.
pub const SOFTWARE: u8 = 70;
/// `EX_OSERR`: the system refused something.
pub const OS_ERROR: u8 = 71;
/// `EX_IOERR`: state could not be written.
pub const IO_ERROR: u8 = 74;
/// `EX_TEMPFAIL`: try again.
pub const TRY_AGAIN: u8 = 75;
/// `EX_PROTOCOL`: program and command do not understand each other.
pub const PROTOCOL: u8 = 76;
/// `EX_NOPERM`: not allowed.
pub const NO_PERMISSION: u8 = 77;
/// `EX_CONFIG`: the configuration.
pub const CONFIG: u8 = 78;

/// Prints the answer. A reader that went away (`pnsbox status | head -1`) is no failure.
pub fn success(text: &str) -> ExitCode {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

/// Says something to the person, beside the answer.
pub fn explain(text: &str) {
    // With standard error closed nothing can be said.
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// Says what failed.
pub fn failure(code: u8, error: &dyn Display) -> ExitCode {
    explain(&error.to_string());
    ExitCode::from(code)
}

/// Only the code; what failed is in the log.
pub fn code(code: u8) -> ExitCode {
    ExitCode::from(code)
}

/// Help and version go to standard output and are no failure; anything else is a mistake of the command line.
pub fn usage(error: &clap::Error) -> ExitCode {
    // With the output closed nothing can be said; the code remains.
    drop(error.print());
    if error.use_stderr() {
        ExitCode::from(USAGE)
    } else {
        ExitCode::SUCCESS
    }
}
