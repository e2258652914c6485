//! Puts an agent together from its configuration and runs it: so `main` stays short and a test can start one in its process.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use pnsbox_agent_core::event::{Identity, Start};
use pnsbox_proto::key::{IdentityKey, WireguardKey};
use tokio::sync::mpsc;

use crate::admin::{self, Question};
use crate::config::Config;
use crate::control::Control;
use crate::dying;
use crate::eventloop::{EVENTS, Event, EventLoop, Parts};
use crate::handshakes::Handshakes;
use crate::host::{Host, HostSettings};
use crate::http::HttpServer;
use crate::keys::{self, NodeKeys};
use crate::links::Links;
use crate::store;
use crate::uapi;

/// Version of the software, as reported to the controller.
pub const SOFTWARE: &str = concat!("pnsbox-agent ", env!("CARGO_PKG_VERSION"));

/// Runs until `shutdown`. The host is left as it was found.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    Host::check_rights()?;
    store::make_dir(&config.state_dir)
        .with_context(|| format!("state_dir {} cannot be made", config.state_dir.display()))?;
    let _only_one_agent_per_state_dir = lock(&config.state_dir).await?;
    store::remove_unfinished(&config.state_dir);
    let keys = keys::load_or_create(&config.state_dir)?;
    let start = start(&config, &keys)?;
    let (events, incoming) = mpsc::channel(EVENTS);
    let handshakes = Handshakes::load(&config.state_dir);
    handshakes.tell(config.core);
    let host = Host::new(HostSettings {
        interface: config.interface.clone(),
        wireguard_port: config.wireguard_port,
        private_key: keys.wireguard.clone(),
        core: config.core,
        clock: handshakes.clock(),
        dscp: config.dscp,
    })
    .await?;
    let http = HttpServer::listen(config.http_port, metrics_text(events.clone())).await?;
    let _socket = admin::listen(&config.socket, events.clone())?;
    let _uapi = uapi::listen(&config.interface, &events);
    let parts = Parts {
        control: Control::new(&keys.identity, events.clone())?,
        links: Links::new(keys.identity.clone(), config.link_port, events.clone()),
        config,
        start,
        handshakes,
        host,
        http,
    };
    EventLoop::new(parts, events).run(incoming, shutdown).await
}

fn start(config: &Config, keys: &NodeKeys) -> anyhow::Result<Start> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).context("the system gives no random bytes")?;
    Ok(Start {
        identity: Identity {
            identity: IdentityKey(keys.identity.verifying_key().to_bytes()),
            wireguard: WireguardKey(keys.wireguard.public_key()),
        },
        agency_keys: keys.agency.clone(),
        saved: store::load(&config.state_dir)?,
        services: config
            .services
            .iter()
            .map(|service| service.core.clone())
            .collect(),
        software: SOFTWARE.to_owned(),
        link_port: config.link_port,
        http_port: config.http_port,
        mtu: config.mtu,
        seed: u64::from_be_bytes(seed),
    })
}

/// Held for the life of the process: two agents on one state directory would fight over keys and kernel.
/// The directory itself, so that a disk that takes no file any more still takes an agent.
async fn lock(state_dir: &Path) -> anyhow::Result<Flock<File>> {
    let shown = state_dir.display();
    let directory =
        File::open(state_dir).with_context(|| format!("state_dir {shown} cannot be opened"))?;
    let lock = || {
        Flock::lock(directory.try_clone()?, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, error)| io::Error::from(error))
    };
    let is_held = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    dying::outlast(lock, is_held).await.map_err(|error| {
        anyhow::anyhow!("state_dir {shown} is held by another agent ({error}): stop it first")
    })
}

fn metrics_text(events: mpsc::Sender<Event>) -> crate::http::MetricsSource {
    std::sync::Arc::new(move || {
        let events = events.clone();
        Box::pin(async move { admin::ask(&events, Question::Metrics).await })
    })
}
