//! Exit codes (BSD `sysexits.h`) and the one place where a command prints.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

/// `EX_USAGE`: the command line.
pub const USAGE: u8 = 64;
/// `EX_DATAERR`: what was given is refused.
pub const DATA: u8 = 65;
/// `EX_UNAVAILABLE`: the agent does not answer.
pub const UNAVAILABLE: u8 = 69;
/// `EX_SOFTWARE`: anything else.
pub const SOFTWARE: u8 = 70;
/// `EX_OSERR`: the system refused something.
pub const OS_ERROR: u8 = 71;
/// `EX_PROTOCOL`: agent and command do not understand each other.
pub const PROTOCOL: u8 = 76;
/// `EX_NOPERM`: no root, no capability.
pub const NO_PERMISSION: u8 = 77;
/// `EX_CONFIG`: the configuration.
pub const CONFIG: u8 = 78;

/// Prints the answer. A reader that went away (`pnsbox status | head -1`) is no failure.
pub fn success(text: &str) -> ExitCode {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

/// Says what failed.
pub fn failure(code: u8, error: &dyn Display) -> ExitCode {
    // With standard error closed nothing can be said; the code remains.
    drop(writeln!(std::io::stderr().lock(), "{error}"));
    ExitCode::from(code)
}

/// Only the code; what failed is in the log.
pub fn code(code: u8) -> ExitCode {
    ExitCode::from(code)
}

/// Help and version go to standard output and are no failure; anything else is a mistake of the command line.
pub fn usage(error: &clap::Error) -> ExitCode {
    // As above.
    drop(error.print());
    if error.use_stderr() {
        ExitCode::from(USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

/// The code of a failure to run, by its first cause.
pub fn of_error(error: &anyhow::Error) -> u8 {
    let io = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<std::io::Error>());
    match io.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::PermissionDenied) => NO_PERMISSION,
        Some(std::io::ErrorKind::AddrInUse) => OS_ERROR,
        Some(_) | None => SOFTWARE,
    }
}
