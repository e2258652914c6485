//! `serve`: opens everything that the controller listens on, tells the service manager, and runs until stopped.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context as _;
use pnsbox_controller_core::controller::Controller;
use quinn::Endpoint;
use sd_notify::NotifyState;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::config::Config;
use crate::eventloop::{EVENTS, EventLoop};
use crate::http::{self, Pages};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::{activation, agents, keys, operator};

/// How long to wait for a command that has the store open.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for the last packets to agents.
const FAREWELL: Duration = Duration::from_secs(1);

/// A controller that listens and does not answer yet.
#[derive(Debug)]
pub struct Opened {
    controller: Controller,
    store: Store,
    metrics: Arc<Metrics>,
    endpoints: Vec<Endpoint>,
    http: TcpListener,
    commands: UnixListener,
    socket: PathBuf,
}

/// A full queue of connections costs whoever comes next a second (RFC 6298 section 2), so it is as long as the kernel allows.
fn listen_http(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(HTTP_BACKLOG)
}

/// Connections that wait to be taken; the kernel bounds it by `net.core.somaxconn`.
const HTTP_BACKLOG: u32 = 1 << 14;

/// Opens store, keys and everything to listen on.
pub fn open(config: &Config) -> anyhow::Result<Opened> {
    let (controller, store) =
        tokio::task::block_in_place(|| operator::open(config, STORE_PATIENCE))?;
    let key = keys::load(&config.state_dir.join(keys::CONTROLLER_KEY))?;
    let metrics = Arc::new(Metrics::new()?);
    let endpoints = agents::listen(activation::sockets()?, &config.listen, &key)?;
    let http = listen_http(config.http_listen).with_context(|| {
        format!(
            "cannot listen on TCP {} for metrics ([http] listen)",
            config.http_listen
        )
    })?;
    let commands = operator::listen(&config.socket)?;
    Ok(Opened {
        controller,
        store,
        metrics,
        endpoints,
        http,
        commands,
        socket: config.socket.clone(),
    })
}

impl Opened {
    /// Where agents reach it.
    pub fn agents_at(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.endpoints.iter().map(Endpoint::local_addr).collect()
    }

    /// Where its pages are.
    pub fn http_at(&self) -> std::io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Serves until `stopped`.
    pub async fn run(self, stopped: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self {
            controller,
            store,
            metrics,
            endpoints,
            http,
            commands,
            socket,
        } = self;
        let (events_in, events) = mpsc::channel(EVENTS);
        let (directory_in, directory) = watch::channel(None);
        let ids = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for endpoint in &endpoints {
            tasks.spawn(agents::accept(
                endpoint.clone(),
                Arc::clone(&ids),
                events_in.clone(),
            ));
        }
        tasks.spawn(operator::serve(commands, events_in));
        tasks.spawn(http::serve(
            http,
            Pages {
                metrics: Arc::clone(&metrics),
                directory,
            },
        ));

        let network = controller.network().name.clone();
        let listen = endpoints
            .iter()
            .map(Endpoint::local_addr)
            .collect::<Result<Vec<_>, _>>()?;
        info!(%network, ?listen, "serving");
        notify(&[
            NotifyState::Ready,
            NotifyState::Status(&format!("serving network {network}")),
        ]);
        let result = EventLoop::new(controller, store, metrics, directory_in)
            .run(events, stopped)
            .await;
        notify(&[NotifyState::Stopping]);
        for endpoint in &endpoints {
            endpoint.close(0u32.into(), b"the controller stops");
        }
        let farewell = async {
            for endpoint in &endpoints {
                endpoint.wait_idle().await;
            }
        };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            debug!("some agents did not confirm the end of their session");
        }
        if let Err(error) = std::fs::remove_file(&socket) {
            debug!(%error, "the socket could not be removed");
        }
        tasks.shutdown().await;
        info!("stopped");
        result
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "the service manager could not be told");
    }
}
