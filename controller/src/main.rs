//! `pnsbox-controller`: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser as _;
use pnsbox_controller::cli::{self, Args, exit};

fn main() -> ExitCode {
    if let Err(error) = pnsbox_program::dumps::forbid() {
        return exit::failure(
            exit::OS_ERROR,
            &format!("core files cannot be forbidden: {error}"),
        );
    }
    pnsbox_controller::failpoint::arm();
    pnsbox_controller::failpoint::step("start");
    match Args::try_parse() {
        Ok(args) => cli::run(args),
        Err(error) => exit::usage(&error),
    }
}
