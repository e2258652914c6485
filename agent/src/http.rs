//! `/metrics` over HTTP, on loopback and, once there are any, on the overlay addresses. Nowhere else.
//!
//! An accept loop of its own rather than `axum::serve`, which sets no timer,
//! so that a client that dribbles its header would hold a connection for ever.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

/// Yields the text of `/metrics`; `None` when the agent is stopping.
pub type MetricsSource = Arc<dyn Fn() -> TextFuture + Send + Sync>;

/// A text to come.
pub type TextFuture = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// The listeners. Dropping it closes them and their connections.
#[derive(Debug)]
pub struct HttpServer {
    router: Router,
    port: u16,
    loopback: Listener,
    overlay: Vec<Listener>,
}

/// A listener that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "TCP {address} for /metrics cannot be had: stop what holds it, or set another port in [http]"
)]
pub struct HttpError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

#[derive(Debug)]
struct Listener {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl HttpServer {
    /// Serves on loopback. Port 0 asks the kernel; see [`HttpServer::loopback`].
    pub async fn listen(port: u16, source: MetricsSource) -> Result<Self, HttpError> {
        let router = Router::new()
            .route("/", get(landing))
            .route("/metrics", get(metrics))
            .with_state(source);
        let loopback =
            Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), &router).await?;
        Ok(Self {
            router,
            port,
            loopback,
            overlay: Vec::new(),
        })
    }

    /// Where loopback is served.
    pub fn loopback(&self) -> SocketAddr {
        self.loopback.address
    }

    /// Serves on these too, instead of those before; without any on loopback only.
    pub async fn listen_overlay(&mut self, addresses: &[IpAddr]) -> Result<(), HttpError> {
        for before in self.overlay.drain(..) {
            before.close().await;
        }
        for address in addresses {
            let address = SocketAddr::from((*address, self.port));
            self.overlay
                .push(Listener::bind(address, &self.router).await?);
        }
        Ok(())
    }
}

impl Listener {
    async fn bind(address: SocketAddr, router: &Router) -> Result<Self, HttpError> {
        let failed = |source| HttpError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        info!(%address, "serving /metrics");
        Ok(Self {
            address,
            accepting: tokio::spawn(accept(listener, router.clone())),
        })
    }
}

impl Listener {
    /// Closes; once it returns, the address is free again.
    async fn close(mut self) {
        self.accepting.abort();
        // It ends because it was told to; there is nothing to learn from how.
        (&mut self.accepting).await.ok();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts for ever. Each listener has its own bound, so that peers cannot keep loopback busy.
async fn accept(listener: TcpListener, router: Router) {
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let permit = Arc::clone(&free)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let router = router.clone();
                connections.spawn(async move {
                    if let Err(error) = serve(stream, router).await {
                        debug!(%peer, %error, "HTTP connection ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: others must close some first.
                warn!(%error, "HTTP connection not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    router: Router,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    timeout(CONNECTION_LIFETIME, connection).await??;
    Ok(())
}

async fn metrics(State(source): State<MetricsSource>) -> Response {
    match timeout(REQUEST_TIMEOUT, source()).await {
        Ok(Some(text)) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Ok(None) => (StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n").into_response(),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "the agent is busy\n").into_response(),
    }
}

async fn landing() -> Html<&'static str> {
    Html(
        "<html><head><title>pnsbox-agent</title></head><body><a href=\"/metrics\">/metrics</a></body></html>\n",
    )
}

/// Prometheus scrapes with one connection; a handful of people may look at the same time.
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Prometheus gives up after 10 s by default.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Ends a client that does not read; an honest one just connects again.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);
const MAX_HEADER_BYTES: usize = 16 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn metrics_are_served_on_loopback() {
        let server = HttpServer::listen(0, text("pnsbox_x 1\n")).await.unwrap();
        assert!(server.loopback().ip().is_loopback());
        let answer = ask(server.loopback(), "GET /metrics HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
        assert!(
            answer.contains("content-type: text/plain; version=0.0.4"),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\npnsbox_x 1\n"), "{answer}");
        let missing = ask(server.loopback(), "GET /nothing HTTP/1.0\r\n\r\n").await;
        assert!(missing.starts_with("HTTP/1.0 404"), "{missing}");
        let written = ask(server.loopback(), "POST /metrics HTTP/1.0\r\n\r\n").await;
        assert!(written.starts_with("HTTP/1.0 405"), "{written}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_dribbles_its_header_is_cut_off() {
        let server = HttpServer::listen(0, text("")).await.unwrap();
        let mut slow = TcpStream::connect(server.loopback()).await.unwrap();
        slow.write_all(b"GET /metrics HTTP/1.1\r\nHost:")
            .await
            .unwrap();
        // Time is paused, so the read below ends because of the server's timer, or never.
        let mut answer = Vec::new();
        timeout(HEADER_TIMEOUT * 2, slow.read_to_end(&mut answer))
            .await
            .expect("cut off in time")
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_does_not_answer_is_a_gateway_timeout() {
        let server = HttpServer::listen(0, Arc::new(|| Box::pin(std::future::pending())))
            .await
            .unwrap();
        let answer = ask(server.loopback(), "GET /metrics HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 504"), "{answer}");
    }

    #[tokio::test]
    async fn connections_are_bounded_and_a_slot_that_is_freed_serves_the_next() {
        let server = HttpServer::listen(0, text("x\n")).await.unwrap();
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            held.push(TcpStream::connect(server.loopback()).await.unwrap());
        }
        let next = tokio::spawn(ask(server.loopback(), "GET /metrics HTTP/1.0\r\n\r\n"));
        assert!(
            timeout(Duration::from_millis(200), async {
                while !next.is_finished() {
                    sleep(Duration::from_millis(10)).await
                }
            })
            .await
            .is_err()
        );
        held.pop();
        assert!(next.await.unwrap().ends_with("x\n"));
    }

    #[tokio::test]
    async fn the_overlay_listener_comes_moves_and_goes() {
        let mut server = HttpServer::listen(0, text("x\n")).await.unwrap();
        server.port = server.loopback().port();
        for last in [2, 3, 3] {
            let address = IpAddr::from([127, 0, 0, last]);
            server.listen_overlay(&[address]).await.unwrap();
            let answer = ask(
                SocketAddr::from((address, server.port)),
                "GET /metrics HTTP/1.0\r\n\r\n",
            )
            .await;
            assert!(answer.ends_with("x\n"), "{answer}");
        }
        assert!(
            TcpStream::connect(("127.0.0.2", server.port))
                .await
                .is_err()
        );
        server.listen_overlay(&[]).await.unwrap();
        tokio::task::yield_now().await;
        assert!(
            TcpStream::connect(("127.0.0.3", server.port))
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = HttpServer::listen(0, text("")).await.unwrap();
        let error = HttpServer::listen(taken.loopback().port(), text(""))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains(&taken.loopback().to_string()),
            "{error}"
        );
    }

    fn text(text: &'static str) -> MetricsSource {
        Arc::new(move || Box::pin(async move { Some(text.to_owned()) }))
    }

    async fn ask(address: SocketAddr, request: &'static str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}
