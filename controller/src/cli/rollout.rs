//! A policy that goes to everybody in waves: begun and followed, shown, taken back.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args as ClapArgs, Subcommand};
use pnsbox_controller_core::operator::{Answer, Request, Source};
use pnsbox_controller_core::rollout::{Canary, RolloutStatus, State};
use pnsbox_proto::id::NodeName;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{answered, duration, exit, policy, render};
use crate::config::Config;
use crate::operator;

/// How often the controller is asked how far it is.
const EVERY: Duration = Duration::from_millis(500);

/// What a shell says of a command that Ctrl-C ended: 128 and the number of SIGINT.
const INTERRUPTED: u8 = 130;

/// Whether a policy goes to everybody at once.
#[derive(Debug, ClapArgs)]
pub(super) struct Waves {
    /// Bring it to everybody in waves, the first with this share of the nodes that it touches.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    canary: Option<u8>,
    /// For how long each wave is watched before the next [default: 60s].
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "canary")]
    watch: Option<Duration>,
}

/// A change of the policy, as it was typed.
pub(super) struct Change {
    policy: anyhow::Result<Source>,
    file: Option<PathBuf>,
    waves: Waves,
    dry_run: bool,
}

/// A rollout under way.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(super) enum RolloutCommand {
    /// Show the rollout under way, or how the last one ended.
    Status,
    /// Take back what the rollout under way has done.
    Halt,
}

impl Waves {
    /// How it is wanted, if in waves.
    pub(super) fn canary(&self) -> Option<Canary> {
        let watch = self.watch.unwrap_or(Duration::from_secs(60));
        self.canary.map(|share| Canary {
            share,
            watch_s: watch.as_secs(),
        })
    }
}

/// What to ask for a command.
pub(super) fn request(command: RolloutCommand) -> Request {
    match command {
        RolloutCommand::Status => Request::Rollout,
        RolloutCommand::Halt => Request::HaltRollout,
    }
}

impl Change {
    /// To what a file says.
    pub(super) fn of_file(file: PathBuf, waves: Waves, dry_run: bool) -> Self {
        Self {
            policy: policy(&file).map(Source::File),
            file: Some(file),
            waves,
            dry_run,
        }
    }

    /// To a version that was in force.
    pub(super) fn to_version(to: u64, waves: Waves, dry_run: bool) -> Self {
        Self {
            policy: Ok(Source::Version(to)),
            file: None,
            waves,
            dry_run,
        }
    }

    /// Asks for it; a rollout is followed to its end.
    pub(super) fn make(self, config: &Config, json: bool) -> ExitCode {
        let (dry_run, canary) = (self.dry_run, self.waves.canary());
        let asked = self.policy.and_then(|policy| {
            let request = match (canary, policy) {
                (Some(canary), policy) => Request::RollOut {
                    policy,
                    canary,
                    dry_run,
                },
                (None, Source::Version(to)) => Request::Rollback { to, dry_run },
                (None, Source::File(policy)) if dry_run => Request::Plan { policy },
                (None, Source::File(policy)) => Request::Apply { policy },
            };
            operator::ask(config, &request)
        });
        match asked {
            Ok(Ok(Answer::Rollout {
                rollout: Some(begun),
            })) => follow(config, *begun, json),
            asked => answered(asked, self.file.as_deref(), json),
        }
    }
}

fn follow(config: &Config, begun: RolloutStatus, json: bool) -> ExitCode {
    let followed = Following::new(json).and_then(|mut following| following.follow(config, begun));
    followed.unwrap_or_else(|error| {
        exit::explain("how far the rollout is cannot be followed; 'pnsbox-controller rollout status' shows it");
        exit::error(&error)
    })
}

/// Somebody who looks on, until Ctrl-C.
struct Following {
    json: bool,
    runtime: Runtime,
    interrupt: Signal,
}

impl Following {
    fn new(json: bool) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let interrupt = {
            let _inside = runtime.enter();
            signal(SignalKind::interrupt())?
        };
        Ok(Self {
            json,
            runtime,
            interrupt,
        })
    }

    fn follow(&mut self, config: &Config, begun: RolloutStatus) -> anyhow::Result<ExitCode> {
        let (id, mut status) = (begun.id, begun);
        let mut told = None;
        loop {
            let step = (status.wave, status.watching, status.serving);
            if status.state != State::Running {
                return Ok(self.ended(&status));
            }
            if told.replace(step) != Some(step) {
                self.tell(&status);
            }
            if self.is_interrupted() {
                exit::explain(
                    "the rollout goes on; 'pnsbox-controller rollout status' shows how far it is, 'pnsbox-controller rollout halt' takes it back",
                );
                return Ok(exit::code(INTERRUPTED));
            }
            let answer = operator::ask(config, &Request::Rollout)?;
            let Ok(Answer::Rollout {
                rollout: Some(next),
            }) = answer
            else {
                bail!("the controller knows of no rollout any more");
            };
            if next.id != id {
                bail!("it ended, and another rollout began");
            }
            status = *next;
        }
    }

    fn tell(&self, status: &RolloutStatus) {
        let line = match self.json {
            true => render::rollout_json(Some(status)),
            false => progress(status),
        };
        // With the output closed it is still followed to its end, for the exit code.
        exit::success(&line);
    }

    fn ended(&self, status: &RolloutStatus) -> ExitCode {
        if self.json {
            exit::success(&render::rollout_json(Some(status)));
        }
        match &status.state {
            State::Halted { .. } => exit::failure(exit::DATA, &progress(status)),
            State::Done { .. } | State::Running if self.json => ExitCode::SUCCESS,
            State::Done { .. } | State::Running => exit::success(&progress(status)),
        }
    }

    /// Waits until it is time to ask again.
    fn is_interrupted(&mut self) -> bool {
        let waited = async { tokio::time::timeout(EVERY, self.interrupt.recv()).await };
        self.runtime.block_on(waited).is_ok()
    }
}

/// Where it stands, in one line; why it was halted, in one more for each reason.
pub(super) fn progress(status: &RolloutStatus) -> String {
    let wave = format!("wave {} of {}", status.wave, status.waves.len());
    let offline = match status.offline {
        0 => String::new(),
        offline => format!(
            "; {offline} of {} touched nodes are offline and get it when they come",
            status.touched
        ),
    };
    match &status.state {
        State::Running if !status.serving => {
            format!(
                "{wave}: the controller is not running, so the rollout stands still; start it: pnsbox-controller serve"
            )
        }
        State::Running if status.watching => {
            format!("{wave}: applied, watched for {} s{offline}", status.watch_s)
        }
        State::Running => {
            let nodes = status.waves.get(status.wave.saturating_sub(1));
            let nodes = nodes.map_or_else(String::new, names);
            format!("{wave}: to {nodes}{offline}")
        }
        State::Done { .. } => {
            format!(
                "done: policy version {} is in force, {} nodes have it{offline}",
                status.number, status.touched
            )
        }
        State::Halted {
            reasons, reverted, ..
        } => {
            let reasons: Vec<String> = reasons
                .iter()
                .map(|reason| format!("\n  {reason}"))
                .collect();
            format!(
                "halted in {wave}: policy version {} is taken back, {reverted} nodes have what they had before{}",
                status.number,
                reasons.concat()
            )
        }
    }
}

/// How many, and who, as long as that can be read.
pub(super) fn names<'a>(
    nodes: impl IntoIterator<Item = &'a NodeName, IntoIter: ExactSizeIterator>,
) -> String {
    const MOST: usize = 10;
    let mut nodes = nodes.into_iter();
    let count = nodes.len();
    let shown: Vec<&str> = nodes.by_ref().take(MOST).map(NodeName::as_str).collect();
    let more = match count.saturating_sub(MOST) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let unit = if count == 1 { "node" } else { "nodes" };
    format!("{count} {unit}: {}{more}", shown.join(", "))
}

/// `5%`, or `5`.
fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|share| (1..=100).contains(share))
        .with_context(|| format!("'{text}' is not from 1% to 100%"))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_number_of_per_cent() {
        assert_eq!((percent("5%"), percent("100")), (Ok(5), Ok(100)));
        for bad in ["", "%", "0%", "101%", "5.5%", "-1", "5%%"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn many_names_are_counted() {
        let nodes: Vec<NodeName> = (0..12)
            .map(|number| format!("a{number}/gw1").parse().unwrap())
            .collect();
        assert_eq!(names(&nodes[..1]), "1 node: a0/gw1");
        assert!(
            names(&nodes).ends_with("a9/gw1 and 2 more"),
            "{}",
            names(&nodes)
        );
    }
}
