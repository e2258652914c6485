//! What an operator types. Answers go to standard output, explanations to standard error, `--json` for scripts.

pub mod exit;

mod audit;
mod external;
mod fleet;
mod init;
mod render;
mod rollout;
mod root;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args as ClapArgs, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use ipnet::{IpNet, Ipv4Net};
use pnsbox_controller_core::operator::{Answer, Refusal, Request};
use pnsbox_controller_core::registry::quarantine::Subject;
use pnsbox_program::generate;
use pnsbox_proto::id::{AgencyName, NetworkName};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use self::rollout::{Change, RolloutCommand, Waves};

use crate::config::{Config, FileMistakes, table, with_file};
use crate::{operator, serve};

/// The controller of a network: enrols agencies, plans who must do what, and pushes it signed.
#[derive(Debug, Parser)]
#[command(name = "pnsbox-controller", version)]
pub struct Args {
    /// Configuration; a missing file means the defaults.
    #[arg(long, global = true, default_value = "/etc/pnsbox/controller.toml")]
    config: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a network: its root key, this controller's key, and the certificate of one by the other.
    Init(InitArgs),
    /// Run until stopped.
    Serve,
    /// Register and list agencies.
    #[command(subcommand)]
    Agency(AgencyCommand),
    /// Renew the right to admit new agencies, under the root.
    #[command(subcommand)]
    Admission(root::AdmissionCommand),
    /// Print an anchor: the one line with which a new box joins.
    Invite(InviteArgs),
    /// Admit, list and remove plain WireGuard devices: a laptop, an old router.
    #[command(subcommand)]
    External(external::ExternalCommand),
    /// Show what applying a policy would change, and whom it touches.
    Plan {
        /// The policy.
        #[arg(default_value = DEFAULT_POLICY)]
        file: PathBuf,
        #[command(flatten)]
        waves: Waves,
    },
    /// Apply a policy, at once or in waves.
    Apply {
        /// The policy.
        #[arg(default_value = DEFAULT_POLICY)]
        file: PathBuf,
        #[command(flatten)]
        waves: Waves,
    },
    /// Show or take back a policy that goes to everybody in waves.
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// List every policy that was in force, or print one.
    History {
        /// Print this version as it was applied.
        #[arg(long, value_name = "N")]
        version: Option<u64>,
    },
    /// Show what one version of the policy says and another does not.
    Diff {
        /// Number of the one, from 'history'; 0 is the empty policy.
        from: u64,
        /// Number of the other; the one in force if not given.
        to: Option<u64>,
    },
    /// Apply a version of the policy that was in force.
    Rollback {
        /// Its number, from 'history'.
        to: u64,
        /// Only show what would change, and whom it touches.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        waves: Waves,
    },
    /// Shut a node or a whole agency out, at once: everybody drops it.
    Quarantine {
        /// For example kab-demak/gw1, or kab-demak.
        subject: Subject,
        /// Why, for its admin too.
        #[arg(long)]
        reason: String,
    },
    /// Let a node or an agency out of quarantine.
    Release {
        /// As it was shut out.
        subject: Subject,
    },
    /// Show every node, what needs attention first.
    Status,
    /// Show, export and verify who did what, when and from where.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Print the completion script for a shell.
    Completion {
        /// Which shell.
        shell: Shell,
    },
    /// Write the manual pages into a directory.
    #[command(hide = true)]
    Man {
        /// Where to.
        directory: PathBuf,
    },
}

#[derive(Debug, ClapArgs)]
struct InitArgs {
    /// Name of the network, for example pns.
    #[arg(long)]
    network: NetworkName,
    /// Where agents reach this controller; several are tried in order.
    #[arg(long, value_name = "ADDR:PORT", required = true)]
    address: Vec<SocketAddr>,
    /// Overlay IPv4 addresses of the network: private or 100.64.0.0/10, and free at every agency.
    #[arg(long, default_value = "100.127.0.0/16")]
    pool: Ipv4Net,
    /// Where the root key is made, or is already; in the state directory if not given.
    #[arg(long, value_name = "PATH")]
    root_key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum AgencyCommand {
    /// Register an agency and the prefixes that its nodes may claim.
    Add {
        /// For example kab-demak.
        name: AgencyName,
        /// A prefix that its nodes may claim; several are possible.
        #[arg(long = "prefix", value_name = "PREFIX", required = true)]
        prefixes: Vec<IpNet>,
        /// Its class, for people, for example kabupaten.
        #[arg(long)]
        class: Option<String>,
        /// Its Kemendagri region code, for people.
        #[arg(long, value_name = "CODE")]
        region: Option<String>,
    },
    /// List agencies, their keys and with whom they consent to a link.
    List,
    /// Put another key in the place of one that an agency lost, under the root.
    ReplaceKey(root::ReplaceKeyArgs),
}

#[derive(Debug, ClapArgs)]
struct InviteArgs {
    /// The agency.
    agency: AgencyName,
    /// The new node's own label.
    #[arg(long, default_value = "gw1")]
    node: String,
    /// For how long the anchor is good: a number with s, m, h or d.
    #[arg(long, default_value = "7d", value_parser = duration)]
    expires: Duration,
}

const DEFAULT_POLICY: &str = "/etc/pnsbox/policy.toml";

/// Does what was typed.
pub fn run(args: Args) -> ExitCode {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(mistakes) => return exit::failure(exit::CONFIG, &mistakes),
    };
    let request = match args.command {
        Command::Init(init) => return finish(init::init(&config, init, args.json)),
        Command::Serve => return run_serve(&config),
        Command::Agency(AgencyCommand::Add {
            name,
            prefixes,
            class,
            region,
        }) => Ok(Request::AgencyAdd {
            name,
            prefixes,
            class,
            region,
        }),
        Command::Agency(AgencyCommand::List) => Ok(Request::AgencyList),
        Command::Agency(AgencyCommand::ReplaceKey(args)) => root::replacement(&config, &args),
        Command::Admission(command) => root::renewal(&config, &command),
        Command::Invite(InviteArgs {
            agency,
            node,
            expires,
        }) => Ok(Request::Invite {
            agency,
            node,
            expires_in_s: expires.as_secs(),
        }),
        Command::External(command) => return external::run(&config, command, args.json),
        Command::Plan { file, waves } => {
            return Change::of_file(file, waves, true).make(&config, args.json);
        }
        Command::Apply { file, waves } => {
            return Change::of_file(file, waves, false).make(&config, args.json);
        }
        Command::Rollout(command) => Ok(rollout::request(command)),
        Command::History { version: None } => Ok(Request::History),
        Command::History {
            version: Some(number),
        } => Ok(Request::Version { number }),
        Command::Diff { from, to } => Ok(Request::Diff { from, to }),
        Command::Rollback { to, dry_run, waves } => {
            return Change::to_version(to, waves, dry_run).make(&config, args.json);
        }
        Command::Quarantine { subject, reason } => Ok(Request::Quarantine { subject, reason }),
        Command::Release { subject } => Ok(Request::Release { subject }),
        Command::Status => Ok(Request::Status),
        Command::Audit(command) => return finish(audit::run(&config, command, args.json)),
        Command::Completion { shell } => {
            generate::completion(Args::command(), shell);
            return ExitCode::SUCCESS;
        }
        Command::Man { directory } => {
            return generate::pages(Args::command(), "8", &directory);
        }
    };
    answered(
        request.and_then(|request| operator::ask(&config, &request)),
        None,
        args.json,
    )
}

/// Shows what the controller answered; `file` is the policy that it was asked about.
fn answered(
    asked: anyhow::Result<Result<Answer, Refusal>>,
    file: Option<&Path>,
    json: bool,
) -> ExitCode {
    match asked {
        Ok(Ok(answer)) => show(&answer, json),
        Ok(Err(refusal)) => refused(&refusal, file),
        Err(error) => exit::error(&error),
    }
}

fn show(answer: &Answer, json: bool) -> ExitCode {
    if json {
        return exit::success(&render::json(answer));
    }
    let (text, explanation) = render::text(answer);
    if let Some(explanation) = explanation {
        exit::explain(&explanation);
    }
    exit::success(&text)
}

fn refused(refusal: &Refusal, file: Option<&Path>) -> ExitCode {
    match refusal {
        Refusal::Refused { message } => exit::failure(exit::DATA, message),
        Refusal::Mistakes { mistakes } => exit::failure(
            exit::DATA,
            &with_file(file.unwrap_or_else(|| Path::new(DEFAULT_POLICY)), mistakes),
        ),
    }
}

fn finish(result: anyhow::Result<String>) -> ExitCode {
    match result {
        Ok(text) => exit::success(&text),
        Err(error) => exit::error(&error),
    }
}

fn policy(file: &Path) -> anyhow::Result<serde_json::Value> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the policy {} cannot be read", file.display()))?;
    Ok(table(file, &text)?)
}

fn run_serve(config: &Config) -> ExitCode {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&config.log_level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let served = runtime.context("no runtime").and_then(|runtime| {
        runtime.block_on(async {
            let (mut terminate, mut interrupt) = (
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
            );
            let stopped = async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            serve::open(config)?.run(stopped).await
        })
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::error(&error),
    }
}

/// `90s`, `30m`, `12h`, `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    let rule = || format!("'{text}' is not a number with s, m, h or d, for example 7d");
    let unit = text.chars().last().ok_or_else(rule)?;
    let number: u64 = text[..text.len() - unit.len_utf8()]
        .parse()
        .map_err(|_| rule())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        _ => return Err(rule()),
    };
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(rule)
}

/// Mistakes that are not in a file are told the same way.
fn mistakes(lines: Vec<String>) -> anyhow::Error {
    FileMistakes(lines).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(duration("1s"), Ok(Duration::from_secs(1)));
        for bad in ["", "7", "d", "7w", "-1s", "é", "99999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn options_may_stand_before_and_after_the_command() {
        let args =
            Args::try_parse_from(["pnsbox-controller", "--config=/x", "status", "--json"]).unwrap();
        assert!(args.json && args.config == Path::new("/x"));
        assert!(Args::try_parse_from(["pnsbox-controller", "init", "--network", "pns"]).is_err());
    }
}
