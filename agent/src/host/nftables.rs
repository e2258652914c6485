//! Our nftables table: rendered as text by a pure function, loaded by `nft` as one transaction.
//!
//! It judges only packets that enter or leave our interface. Another table's verdict cannot be undone here:
//! a masquerade rule of the host that does not name its uplink also rewrites what leaves through our interface,
//! and its drop rules stand.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

mod generation;
mod render;
mod table;

pub use render::render;
pub(super) use table::Table;

/// Name of the table, in the family `inet`.
pub const TABLE: &str = "pnsbox";

/// Packets that the table dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilterDrops {
    /// From peers to the LAN, not opened by policy.
    pub inbound: u64,
    /// From the LAN to peers, with a source that this node may not send from.
    pub outbound: u64,
    /// From peers to the box itself, other than links, echo and metrics.
    pub local: u64,
}

/// Why `nft` did not do it. The table is then as it was.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no `nft`.
    #[error("nft was not started: install the package nftables")]
    NotStarted(#[source] io::Error),
    /// It ran, and the pipe to it broke.
    #[error("nft could not be talked to")]
    Pipe(#[source] io::Error),
    /// It did not end.
    #[error("nft did not end within {} s", NFT_TIMEOUT.as_secs())]
    TimedOut,
    /// It refused.
    #[error("nft refused '{command}': {reason}")]
    Refused {
        /// What it was asked.
        command: &'static str,
        /// Its first lines of complaint.
        reason: String,
    },
    /// The kernel did not say which ruleset it has.
    #[error("the kernel does not say whether its packet filter was changed")]
    Generation(#[source] io::Error),
    /// Its answer is not what this version of the agent reads.
    #[error("nft answered something unexpected")]
    Answer(#[source] serde_json::Error),
}

/// Whether `nft` can be used at all.
pub(super) async fn check() -> Result<(), NftError> {
    nft("list tables", &["list", "tables"], "").await.map(drop)
}

/// Loads a ruleset as one transaction: all of it or nothing.
pub(super) async fn load(command: &'static str, ruleset: &str) -> Result<(), NftError> {
    nft(command, &["-f", "-"], ruleset).await.map(drop)
}

async fn json<T: for<'de> Deserialize<'de>>(
    command: &'static str,
    arguments: &[&str],
) -> Result<T, NftError> {
    let output = nft(command, arguments, "").await?;
    serde_json::from_slice(&output.stdout).map_err(NftError::Answer)
}

async fn nft(command: &'static str, arguments: &[&str], input: &str) -> Result<Output, NftError> {
    let mut child = Command::new("nft")
        .args(arguments)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NftError::NotStarted)?;
    let mut stdin = child
        .stdin
        .take()
        .expect("stdin was asked to be a pipe two lines above");
    let talk = async {
        // nft may refuse before it has read everything; what it says then matters more than the broken pipe.
        match stdin.write_all(input.as_bytes()).await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            Ok(()) | Err(_) => {}
        }
        drop(stdin);
        child.wait_with_output().await
    };
    let output = timeout(NFT_TIMEOUT, talk)
        .await
        .map_err(|_| NftError::TimedOut)?
        .map_err(NftError::Pipe)?;
    if output.status.success() {
        return Ok(output);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = complaint
        .lines()
        .filter(|l| l.contains(char::is_alphanumeric))
        .take(3)
        .collect();
    let reason = if lines.is_empty() {
        output.status.to_string()
    } else {
        lines.join("; ")
    };
    Err(NftError::Refused { command, reason })
}

/// A ruleset for 2,000 peers loads in well under a second; this long means that something holds the kernel's lock.
const NFT_TIMEOUT: Duration = Duration::from_secs(10);
