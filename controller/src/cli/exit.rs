//! Exit codes (BSD `sysexits.h`) and the one place where a command prints.

use std::fmt::Display;
use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use pnsbox_controller_core::controller::StartError;
use pnsbox_controller_core::image::LoadError;

use crate::config::FileMistakes;
use crate::store::StoreError;

/// `EX_USAGE`: the command line.
pub const USAGE: u8 = 64;
/// `EX_DATAERR`: what was given is refused.
pub const DATA: u8 = 65;
/// `EX_NOINPUT`: a file that was named does not exist.
pub const NO_INPUT: u8 = 66;
/// `EX_SOFTWARE`: anything else.
pub const SOFTWARE: u8 = 70;
/// `EX_OSERR`: the system refused something.
pub const OS_ERROR: u8 = 71;
/// `EX_IOERR`: state could not be written.
pub const IO_ERROR: u8 = 74;
/// `EX_TEMPFAIL`: try again.
pub const TRY_AGAIN: u8 = 75;
/// `EX_NOPERM`: not allowed.
pub const NO_PERMISSION: u8 = 77;
/// `EX_CONFIG`: the configuration, or no network yet.
pub const CONFIG: u8 = 78;

/// Prints the answer. A reader that went away (`pnsbox-controller status | head -1`) is no failure.
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

/// Says what failed, with its causes and what to do, and ends with the code of its kind.
pub fn error(error: &anyhow::Error) -> ExitCode {
    let code = code_of(error);
    explain(&format!("{error:#}"));
    match code {
        NO_PERMISSION => explain(
            "run it as root or as the user of the service; ports below 1024 need CAP_NET_BIND_SERVICE, \
             or another 'listen' in controller.toml",
        ),
        OS_ERROR if of_kind(error, ErrorKind::AddrInUse) => explain(
            "another program has the port ('ss -lnup' and 'ss -lntp' show which): stop it, or choose another port in controller.toml",
        ),
        OS_ERROR if of_kind(error, ErrorKind::AddrNotAvailable) => {
            explain("this machine does not have that address; correct it in controller.toml");
        }
        _ => {}
    }
    ExitCode::from(code)
}

fn code_of(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return match io.kind() {
                ErrorKind::PermissionDenied => NO_PERMISSION,
                ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable => OS_ERROR,
                ErrorKind::NotFound => NO_INPUT,
                ErrorKind::WouldBlock | ErrorKind::TimedOut => TRY_AGAIN,
                _ => IO_ERROR,
            };
        }
        if let Some(store) = cause.downcast_ref::<StoreError>() {
            match store {
                StoreError::Locked(_) | StoreError::Conflict { .. } => return TRY_AGAIN,
                StoreError::TooNew { .. } => return CONFIG,
                StoreError::Open { .. } | StoreError::Write { .. } | StoreError::Sqlite(_) => {
                    return IO_ERROR;
                }
                StoreError::Lock { .. } => {}
            }
        }
        if cause.is::<LoadError>() || cause.is::<StartError>() {
            return CONFIG;
        }
        if cause.is::<FileMistakes>() {
            return DATA;
        }
    }
    SOFTWARE
}

fn of_kind(error: &anyhow::Error, kind: ErrorKind) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == kind)
    })
}
