//! Our nftables table: rendered as text by a pure function, loaded by `nft` as one transaction.
//!
//! It judges only packets that enter or leave our interface. Another table's verdict cannot be undone here:
//! a masquerade rule of the host that does not name its uplink also rewrites what leaves through our interface,
//! and its drop rules stand.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use pnsbox_agent_core::host::Filter;
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

mod render;

pub use render::render;

/// Name of the table, in the family `inet`.
pub const TABLE: &str = "pnsbox";

/// Packets that the table dropped since it was last replaced.
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
    /// Its answer is not what this version of the agent reads.
    #[error("nft answered something unexpected")]
    Answer(#[source] serde_json::Error),
}

/// Whether `nft` can be used at all.
pub(super) async fn check() -> Result<(), NftError> {
    nft("list tables", &["list", "tables"], "").await.map(drop)
}

/// Puts the table in place of what was there, at once.
pub(super) async fn replace(filter: &Filter, interface: &str) -> Result<(), NftError> {
    load("replace table", &render(filter, interface)).await
}

/// Removes the table; nothing happens if it is not there.
pub(super) async fn remove() -> Result<(), NftError> {
    load(
        "remove table",
        &format!("table inet {TABLE}\ndelete table inet {TABLE}\n"),
    )
    .await
}

/// Whether the table is there.
pub(super) async fn exists() -> Result<bool, NftError> {
    let listed: Listing = json("list tables", &["-j", "list", "tables"]).await?;
    let ours = |table: &Named| table.family == "inet" && table.name == TABLE;
    Ok(listed
        .nftables
        .iter()
        .filter_map(|object| object.table.as_ref())
        .any(ours))
}

/// What the table dropped.
pub(super) async fn drops() -> Result<FilterDrops, NftError> {
    let listed: Listing = json(
        "list counters",
        &["-j", "list", "counters", "table", "inet", TABLE],
    )
    .await?;
    let counter = |name: &str| {
        let mut counters = listed
            .nftables
            .iter()
            .filter_map(|object| object.counter.as_ref());
        counters.find(|c| c.name == name).map_or(0, |c| c.packets)
    };
    Ok(FilterDrops {
        inbound: counter(render::INBOUND_DROPS),
        outbound: counter(render::OUTBOUND_DROPS),
        local: counter(render::LOCAL_DROPS),
    })
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

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    table: Option<Named>,
    counter: Option<Counter>,
}

#[derive(Deserialize)]
struct Named {
    family: String,
    name: String,
}

#[derive(Deserialize)]
struct Counter {
    name: String,
    packets: u64,
}
