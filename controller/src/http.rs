//! `/metrics` for Prometheus and `/sd`, its list of agents to scrape (`http_sd_config`).
//!
//! An accept loop of its own: `axum::serve` sets no timer, so a client that sends its header slowly would stay for ever.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use pnsbox_controller_core::controller::Target;
use pnsbox_proto::AGENT_HTTP_PORT;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};

use crate::metrics::Metrics;

/// Connections at once: a few Prometheus servers and a person.
const MAX_CONNECTIONS: usize = 64;

/// From the connection to the end of the header.
const HEADER_WITHIN: Duration = Duration::from_secs(10);

/// From the connection to the last byte of the answer; one request per connection.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);

/// How long to wait after accepting failed, for example for want of file descriptors.
const AFTER_FAILURE: Duration = Duration::from_millis(200);

/// What the pages show.
#[derive(Debug, Clone)]
pub struct Pages {
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Agents to scrape.
    pub targets: watch::Receiver<Vec<Target>>,
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, pages: Pages) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/sd", get(discovery))
        .with_state(pages);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "HTTP connections cannot be accepted");
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            debug!(%peer, "too many HTTP connections");
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            answer(stream, peer, router).await;
            drop(slot);
        });
    }
}

async fn answer(stream: TcpStream, peer: SocketAddr, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WITHIN)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(REQUEST_WITHIN, connection).await {
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
    let groups = pages
        .targets
        .borrow()
        .iter()
        .map(|target| {
            json!({
                "targets": [SocketAddr::from((target.address, AGENT_HTTP_PORT)).to_string()],
                "labels": { "agency": target.node.agency(), "node": target.node },
            })
        })
        .collect::<Vec<_>>();
    Json(groups).into_response()
}
