//! `pnsbox`: what an admin types on a box. All of it is in `pnsbox_agent::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pnsbox_agent::cli::main()
}
