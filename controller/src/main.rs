//! `pnsbox-controller`: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser as _;
use pnsbox_controller::cli::{self, Args, exit};

fn main() -> ExitCode {
    if let Err(error) = pnsbox_controller::keys::forbid_dumps() {
        exit::explain(&format!(
            "warning: a crash may write keys to a core file: {error}"
        ));
    }
    pnsbox_controller::failpoint::arm();
    pnsbox_controller::failpoint::step("start");
    match Args::try_parse() {
        Ok(args) => cli::run(args),
        Err(error) => exit::usage(&error),
    }
}
