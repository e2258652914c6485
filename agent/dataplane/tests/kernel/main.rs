//! The data plane against the kernel's WireGuard, over a veth between two network namespaces of each check's own.
//!
//! Needs a kernel with the module, so it is ignored in the ordinary run: `scripts/test.sh --interop` boots Debian's and
//! runs it there. The first word of a name tells what a check does to the machine: `waiting::` ones mostly wait, and may
//! run side by side; `working::` ones want the machine for themselves.

#![expect(
    clippy::unwrap_used,
    reason = "a check ends at the first thing that keeps it from looking"
)]

mod allowed;
mod ecn;
mod flood;
mod handshake;
mod header;
#[path = "../net/mod.rs"]
mod net;
mod pair;
mod path;
mod rekey;
mod report;
mod restart;
mod timers;
mod traffic;
mod transfer;
mod wire;

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};
use pnsbox_dataplane::ProtocolCore;

use crate::pair::Side;
use crate::report::Report;

type Check = (&'static str, fn(&mut Report, ProtocolCore));

/// The longest first: what runs side by side takes as long as they.
const CHECKS: &[Check] = &[
    ("waiting::we_renew_the_session", |report, core| {
        rekey::session_is_renewed(report, core, Side::Ours);
    }),
    ("waiting::the_kernel_renews_the_session", |report, core| {
        rekey::session_is_renewed(report, core, Side::Kernel);
    }),
    ("waiting::restart_of_the_kernel", restart::of_the_kernel),
    ("waiting::restart_of_ours", restart::of_ours),
    ("waiting::keepalives", timers::keepalives),
    ("waiting::wrong_keys", handshake::wrong_keys),
    ("waiting::preshared_key", handshake::preshared_key),
    ("waiting::change_of_keys", handshake::change_of_keys),
    ("waiting::either_side_begins", handshake::either_side_begins),
    ("waiting::both_sides_begin", handshake::both_begin),
    ("waiting::foreign_sources", allowed::foreign_sources),
    ("waiting::roaming", path::roaming),
    ("waiting::largest_packets_and_padding", header::sizes),
    ("waiting::congestion_marks", ecn::marks),
    ("waiting::counters", transfer::counters),
    ("working::transfers", transfer::every_kind),
    ("working::many_streams", transfer::many_streams),
    ("working::cookies_of_the_kernel", flood::of_the_kernel),
    ("working::cookies_of_ours", flood::of_ours),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for (core_name, core) in [
        ("native", ProtocolCore::Native),
        ("boringtun", ProtocolCore::Boringtun),
    ] {
        for &(name, check) in CHECKS {
            let trial = Trial::test(format!("{name}::{core_name}"), move || {
                require_module()?;
                let mut report = Report::new(name, core_name);
                check(&mut report, core);
                report.end()
            });
            trials.push(trial.with_ignored_flag(true));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Whoever asks for these checks on a kernel that cannot run them is told so.
fn require_module() -> Result<(), Failed> {
    let loaded = Command::new("modprobe").arg("wireguard").output();
    if loaded.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    Err("this kernel has no module wireguard: use scripts/test.sh --interop".into())
}
