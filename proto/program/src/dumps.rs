//! Keys are in memory: no core file of this process, and no other process of its user reads it.

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// From here on, for the life of the process.
pub fn forbid() -> std::io::Result<()> {
    // Our units set the limit, and forbid changing any.
    if getrlimit(Resource::RLIMIT_CORE)? != (0, 0) {
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    }
    Ok(set_dumpable(false)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_forbids_them_leaves_no_dump_and_cannot_be_traced() {
        assert!(nix::sys::prctl::get_dumpable().unwrap());
        forbid().unwrap();
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        forbid().unwrap();
    }
}
