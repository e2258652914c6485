//! `/metrics` for Prometheus and `/sd`, its list of agents to scrape (`http_sd_config`).
//!
//! An accept loop of its own: `axum::serve` sets no timer, so a client that sends its header slowly would stay for ever.

mod admission;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use pnsbox_controller_core::controller::Target;
use pnsbox_proto::AGENT_HTTP_PORT;
use pnsbox_proto::id::NetworkName;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, warn};

use crate::metrics::Metrics;
use admission::Held;

pub(crate) use admission::network;

/// From the connection to the end of the header.
const HEADER_WITHIN: Duration = Duration::from_secs(10);

/// From the connection to the last byte of the answer; one request per connection.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);

/// Longest header, in bytes: what a browser sends with its cookies. Also hyper's buffer, so it bounds memory.
const MAX_HEADER_BYTES: usize = 16 << 10;

/// How long to wait after accepting failed, for example for want of file descriptors.
const AFTER_FAILURE: Duration = Duration::from_millis(200);

/// Silence of the loop that owns the core after which its list is in doubt; it speaks every second.
const SILENCE: Duration = Duration::from_secs(5);

/// What the pages show.
#[derive(Debug, Clone)]
pub struct Pages {
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Agents to scrape; `None` before the first word of the loop that owns the core.
    pub directory: watch::Receiver<Option<Directory>>,
}

/// Agents to scrape, as the loop that owns the core last said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// The network.
    pub network: NetworkName,
    /// All of them.
    pub targets: Arc<[Target]>,
    /// Why the list may be wrong, if so.
    pub doubt: Option<String>,
    /// When the loop said so.
    pub said: Instant,
}

/// Serves until dropped, and then ends every connection.
pub async fn serve(listener: TcpListener, pages: Pages) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/sd", get(discovery))
        .with_state(pages);
    let mut open: Vec<Connection> = Vec::new();
    let mut tasks = JoinSet::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "HTTP connections cannot be accepted");
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        while tasks.try_join_next().is_some() {}
        open.retain(|connection| !connection.task.is_finished());
        let from = network(peer.ip());
        let held: Vec<Held> = open.iter().map(Connection::held).collect();
        if let Some(victim) = admission::victim(&held, from) {
            let ended = open.remove(victim);
            debug!(from = %ended.from, "an HTTP connection makes room for a newer one");
            ended.task.abort();
        }
        let answering = Arc::new(AtomicBool::new(false));
        let task = tasks.spawn(answer(stream, peer, router.clone(), Arc::clone(&answering)));
        open.push(Connection {
            from,
            answering,
            task,
        });
    }
}

/// A connection that is held open.
struct Connection {
    from: std::net::IpAddr,
    answering: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Connection {
    fn held(&self) -> Held {
        Held {
            from: self.from,
            answering: self.answering.load(Ordering::Relaxed),
        }
    }
}

async fn answer(stream: TcpStream, peer: SocketAddr, router: Router, answering: Arc<AtomicBool>) {
    let pages = TowerToHyperService::new(router);
    let seen = Arc::clone(&answering);
    let service = service_fn(move |request| {
        seen.store(true, Ordering::Relaxed);
        pages.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WITHIN)
        .max_buf_size(MAX_HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // Not left to hyper's timer alone: it has not always run before the first byte.
    let result = match tokio::time::timeout(HEADER_WITHIN, connection.as_mut()).await {
        Err(_) if answering.load(Ordering::Relaxed) => {
            tokio::time::timeout(REQUEST_WITHIN - HEADER_WITHIN, connection).await
        }
        result => result,
    };
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%peer, %error, "an HTTP connection failed"),
        Err(_) => debug!(%peer, "an HTTP request took too long"),
    }
}

async fn metrics(State(pages): State<Pages>) -> Response {
    match pages.metrics.text() {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn discovery(State(pages): State<Pages>) -> Response {
    let directory = pages.directory.borrow().clone();
    match groups(directory.as_ref(), Instant::now()) {
        Ok(groups) => Json(groups).into_response(),
        Err(doubt) => {
            debug!(doubt, "/sd was refused, so that Prometheus keeps its list");
            (StatusCode::SERVICE_UNAVAILABLE, doubt + "\n").into_response()
        }
    }
}

/// Every agent, or why it is not known: Prometheus keeps the list that it has when it gets an error, and would
/// drop every agent that an answer lacks (its documentation, HTTP SD).
fn groups(directory: Option<&Directory>, now: Instant) -> Result<Vec<Value>, String> {
    let directory = directory.ok_or("the controller has not loaded its registry yet")?;
    let silence = now.saturating_duration_since(directory.said);
    if silence > SILENCE {
        return Err(format!(
            "the controller's core has not answered for {} s",
            silence.as_secs()
        ));
    }
    if let Some(doubt) = &directory.doubt {
        return Err(doubt.clone());
    }
    let group = |target: &Target| {
        json!({
            "targets": [SocketAddr::from((target.address, AGENT_HTTP_PORT)).to_string()],
            "labels": {
                "__meta_pnsbox_network": directory.network,
                "__meta_pnsbox_agency": target.node.agency(),
                "__meta_pnsbox_node": target.node,
            },
        })
    };
    Ok(directory.targets.iter().map(group).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_in_doubt_is_an_error_and_never_empty() {
        let begun = Instant::now();
        let directory = Directory {
            network: "pns".parse().unwrap(),
            targets: [Target {
                node: "kab-demak/gw1".parse().unwrap(),
                address: "100.127.0.1".parse().unwrap(),
            }]
            .into(),
            doubt: None,
            said: begun,
        };
        assert!(groups(None, begun).unwrap_err().contains("registry"));
        let list = groups(Some(&directory), begun + SILENCE).unwrap();
        assert_eq!(list[0]["labels"]["__meta_pnsbox_node"], "kab-demak/gw1");
        let late = begun + SILENCE + Duration::from_millis(1);
        assert!(
            groups(Some(&directory), late)
                .unwrap_err()
                .contains("not answered for 5 s")
        );
        let doubted = Directory {
            doubt: Some("the store failed".to_owned()),
            ..directory
        };
        assert_eq!(
            groups(Some(&doubted), begun),
            Err("the store failed".to_owned())
        );
    }
}
