//! `pnsbox-agent`: arguments, configuration, runtime, exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use pnsbox_agent::cli::exit;
use pnsbox_agent::config::Config;
use pnsbox_program::{dumps, generate};
use tokio::signal::unix::{SignalKind, signal};
use tracing::error;
use tracing_subscriber::EnvFilter;

/// The agent of one agency's router: tunnels, links, services and health.
#[derive(Debug, Parser)]
#[command(name = "pnsbox-agent", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until stopped.
    Run {
        /// Configuration; its drop-ins are in agent.d beside it.
        #[arg(long, default_value = "/etc/pnsbox/agent.toml")]
        config: PathBuf,
    },
    /// Judge a configuration without running; prints every mistake.
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

fn main() -> ExitCode {
    if let Err(error) = dumps::forbid() {
        return exit::failure(
            exit::OS_ERROR,
            &format!("core files cannot be forbidden: {error}"),
        );
    }
    pnsbox_agent::failpoint::arm();
    pnsbox_agent::failpoint::step("start");
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return exit::usage(&error),
    };
    let (path, run) = match args.command {
        Command::Run { config } => (config, true),
        Command::Check { config } => (config, false),
        Command::Completion { shell } => {
            generate::completion(Args::command(), shell);
            return ExitCode::SUCCESS;
        }
        Command::Man { directory } => {
            return generate::pages(Args::command(), "8", &directory);
        }
    };
    let config = match Config::load(&path) {
        Ok(config) => config,
        Err(errors) => return exit::failure(exit::CONFIG, &errors),
    };
    if !run {
        return ExitCode::SUCCESS;
    }
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(config.log_level.clone()));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return exit::failure(exit::OS_ERROR, &format!("no runtime: {error}")),
    };
    match runtime.block_on(run_until_signal(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            exit::code(exit::of_error(&error))
        }
    }
}

async fn run_until_signal(config: Config) -> anyhow::Result<()> {
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
    pnsbox_agent::run::run(config, stopped).await
}
