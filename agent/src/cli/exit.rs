//! Which exit code the agent ends with, for which failure.

pub use pnsbox_program::exit::{
    CONFIG, DATA, NO_PERMISSION, OS_ERROR, PROTOCOL, SOFTWARE, UNAVAILABLE, USAGE, code, failure,
    success, usage,
};

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
