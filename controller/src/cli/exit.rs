//! Which exit code a command of the controller ends with, for which failure, and what it advises.

use std::io::ErrorKind;
use std::process::ExitCode;

use pnsbox_controller_core::audit::Broken;
use pnsbox_controller_core::audit::export::ExportError;
use pnsbox_controller_core::controller::StartError;
use pnsbox_controller_core::image::LoadError;
pub use pnsbox_program::exit::{
    CONFIG, DATA, IO_ERROR, NO_INPUT, NO_PERMISSION, OS_ERROR, SOFTWARE, TRY_AGAIN, USAGE, code,
    explain, failure, success, usage,
};

use crate::config::FileMistakes;
use crate::store::StoreError;

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
        if cause.is::<Broken>() || cause.is::<ExportError>() {
            return DATA;
        }
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
