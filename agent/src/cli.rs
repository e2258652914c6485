//! The `pnsbox` command: asks the running agent and prints. It changes nothing itself.

mod agency;
pub mod exit;
mod render;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use ipnet::IpNet;
use pnsbox_agent_core::event::Joined;
use pnsbox_agent_core::snapshot::{ServiceStatus, StatusSnapshot};
use pnsbox_proto::id::NodeName;
use serde::Serialize;
use serde_json::{Value, json};

use pnsbox_program::generate;

use crate::admin::{AskError, Pong, Request, SecretText, ask_agent};
use crate::config::Config;

/// The box's place in the network: join it, see it, measure it.
#[derive(Debug, Parser)]
#[command(name = "pnsbox", version)]
struct Args {
    /// The agent's socket.
    #[arg(long, global = true, default_value = "/run/pnsbox/agent.sock")]
    socket: PathBuf,
    /// Print one JSON object, with a `schema`, instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join a network with the anchor that its operator gave you.
    Join {
        /// The one line that begins with 'pns1.'; '-' reads it from standard input, so that it stands in no list
        /// of processes and no history.
        anchor: SecretText,
        /// A LAN prefix of this box that the network shall route; may be repeated. Without it, the private
        /// networks found on interfaces that are no uplink.
        #[arg(long = "lan", value_name = "PREFIX", conflicts_with = "no_lan")]
        lan: Vec<IpNet>,
        /// Route no LAN prefix: only the box itself joins.
        #[arg(long)]
        no_lan: bool,
        /// The public address and UDP port under which others reach this box's WireGuard; twice, if it has one of
        /// IPv4 and one of IPv6. Boxes that have both use the first.
        #[arg(long, value_name = "ADDR:PORT")]
        public: Vec<SocketAddr>,
    },
    /// Everything about this box on one screen.
    Status,
    /// Every peer: tunnel, link, path quality.
    Peers,
    /// Every service that this box may know of.
    Services,
    /// Measure the way to a peer, through tunnel and link.
    Ping {
        /// For example prov-jateng/gw1.
        node: NodeName,
        /// How many echoes.
        #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: u32,
    },
    /// Links with other agencies: list, grant and revoke this agency's consent.
    #[command(subcommand)]
    Consent(agency::ConsentCommand),
    /// Boxes and devices of this agency: list, approve and revoke.
    #[command(subcommand)]
    Node(agency::NodeCommand),
    /// The key with which this agency signs: show, back up, move, rotate.
    #[command(subcommand)]
    Agency(agency::AgencySubcommand),
    /// Judge the agent's configuration; prints every mistake.
    Check {
        /// Configuration; its drop-ins are in agent.d beside it.
        #[arg(long, default_value = "/etc/pnsbox/agent.toml")]
        config: PathBuf,
    },
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

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return exit::usage(&error),
    };
    let result = match args.command {
        Command::Join {
            anchor,
            lan,
            no_lan,
            public,
        } => {
            let lan = if no_lan {
                Some(Vec::new())
            } else {
                Some(lan).filter(|lan| !lan.is_empty())
            };
            join(&args.socket, args.json, anchor, lan, public)
        }
        Command::Status => show(
            &args.socket,
            args.json,
            &Request::Status,
            "pnsbox.status/1",
            "status",
            render::status,
        ),
        Command::Peers => peers(&args.socket, args.json),
        Command::Services => {
            let render = |s: &Vec<ServiceStatus>| render::services(s);
            show(
                &args.socket,
                args.json,
                &Request::Services,
                "pnsbox.services/1",
                "services",
                render,
            )
        }
        Command::Consent(command) => agency::consent(&args.socket, args.json, command),
        Command::Node(command) => agency::node(&args.socket, args.json, command),
        Command::Agency(command) => agency::agency(&args.socket, args.json, command),
        Command::Ping { node, count } => return ping(&args.socket, args.json, &node, count),
        Command::Check { config } => return check(&config, args.json),
        Command::Completion { shell } => {
            generate::completion(Args::command(), shell);
            return ExitCode::SUCCESS;
        }
        Command::Man { directory } => {
            return generate::pages(Args::command(), "1", &directory);
        }
    };
    match result {
        Ok(text) => exit::success(&text),
        Err(error) => exit::failure(exit_code(&error), &error),
    }
}

fn exit_code(error: &AskError) -> u8 {
    match error {
        AskError::NotRunning { reason, .. }
            if reason.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            exit::NO_PERMISSION
        }
        AskError::NotRunning { .. } | AskError::Silent(_) => exit::UNAVAILABLE,
        AskError::Unreadable(_) => exit::PROTOCOL,
        AskError::Refused(_) | AskError::NoInput(_) => exit::DATA,
    }
}

fn join(
    socket: &Path,
    as_json: bool,
    anchor: SecretText,
    lan: Option<Vec<IpNet>>,
    public: Vec<SocketAddr>,
) -> Result<String, AskError> {
    let anchor = match anchor.expose() {
        "-" => std::io::read_to_string(std::io::stdin())
            .map_err(AskError::NoInput)?
            .into(),
        _ => anchor,
    };
    let joined: Joined = ask_agent(
        socket,
        &Request::Join {
            anchor,
            lan,
            public,
        },
    )?;
    Ok(if as_json {
        object(
            "pnsbox.join/1",
            json!({ "network": joined.network, "node": joined.node }),
        )
    } else {
        format!(
            "this box is now {} of network {}; 'pnsbox status' shows it",
            joined.node, joined.network
        )
    })
}

fn show<T: Serialize + serde::de::DeserializeOwned>(
    socket: &Path,
    as_json: bool,
    request: &Request,
    schema: &str,
    member: &str,
    render: impl Fn(&T) -> String,
) -> Result<String, AskError> {
    let answer: T = ask_agent(socket, request)?;
    Ok(if as_json {
        object(schema, json!({ member: answer }))
    } else {
        render(&answer)
    })
}

fn peers(socket: &Path, as_json: bool) -> Result<String, AskError> {
    let status: StatusSnapshot = ask_agent(socket, &Request::Status)?;
    Ok(if as_json {
        object(
            "pnsbox.peers/1",
            json!({ "peers": status.peers, "externals": status.externals }),
        )
    } else {
        render::peers(&status)
    })
}

/// One echo after the other; fails if none came back.
fn ping(socket: &Path, as_json: bool, node: &NodeName, count: u32) -> ExitCode {
    let mut echoes = Vec::new();
    let mut last_error = None;
    for sequence in 1..=count {
        match ask_agent::<Pong>(socket, &Request::Ping { node: node.clone() }) {
            Ok(pong) => {
                if !as_json
                    && let failed @ ExitCode::FAILURE =
                        exit::success(&format!("{node}: echo {sequence}, {:.2} ms", pong.rtt_ms))
                {
                    return failed;
                }
                echoes.push(pong.rtt_ms);
            }
            Err(error) => {
                let code = exit_code(&error);
                if !matches!(error, AskError::Refused(_)) {
                    return exit::failure(code, &error);
                }
                last_error = Some((code, error));
            }
        }
    }
    if as_json {
        let lost = f64::from(count) - echoes.len() as f64;
        let body = json!({ "node": node, "sent": count, "rtt_ms": echoes, "loss": lost / f64::from(count) });
        exit::success(&object("pnsbox.ping/1", body));
    }
    match last_error {
        Some((code, error)) if echoes.is_empty() => exit::failure(code, &error),
        Some(_) | None => ExitCode::SUCCESS,
    }
}

fn check(config: &Path, as_json: bool) -> ExitCode {
    let mistakes = match Config::load(config) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.lines(),
    };
    if as_json {
        let body = json!({ "file": config, "mistakes": mistakes });
        exit::success(&object("pnsbox.check/1", body));
    }
    match (mistakes.is_empty(), as_json) {
        (true, false) => exit::success(&format!("{}: no mistakes", config.display())),
        (true, true) => ExitCode::SUCCESS,
        (false, true) => exit::code(exit::CONFIG),
        (false, false) => exit::failure(exit::CONFIG, &mistakes.join("\n")),
    }
}

fn object(schema: &str, mut body: Value) -> String {
    body["schema"] = schema.into();
    body.to_string()
}
