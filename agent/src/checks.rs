//! Health checks of the services on the LAN. Whether a service is healthy, the core decides from the results.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use pnsbox_agent_core::event::Input;
use pnsbox_proto::id::ServiceName;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::eventloop::Event;

/// How one service is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What must work.
    pub probe: CheckProbe,
    /// Time between the beginnings of two checks.
    pub interval: Duration,
    /// Time that one may take.
    pub timeout: Duration,
}

/// What must work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckProbe {
    /// A TCP connection opens.
    Tcp,
    /// `GET path` answers with a status of 200 to 399.
    Http {
        /// Begins with `/`.
        path: String,
    },
}

/// The checks that run. Dropping it stops them.
#[derive(Debug, Default)]
pub struct Checks {
    tasks: JoinSet<()>,
}

impl Checks {
    /// Checks `endpoint` for ever, from now on.
    pub fn start(
        &mut self,
        service: ServiceName,
        endpoint: SocketAddr,
        check: Check,
        events: mpsc::Sender<Event>,
    ) {
        self.tasks.spawn(async move {
            let mut ticks = interval(check.interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let result = run(&check, endpoint).await;
                let input = Input::Check {
                    service: service.clone(),
                    result,
                };
                if events.send(Event::Core(Box::new(input))).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }
}

async fn run(check: &Check, endpoint: SocketAddr) -> Result<(), String> {
    let probe = async {
        let stream = TcpStream::connect(endpoint)
            .await
            .map_err(|e| format!("TCP {endpoint} does not open: {e}"))?;
        match &check.probe {
            CheckProbe::Tcp => Ok(()),
            CheckProbe::Http { path } => get(stream, endpoint, path).await,
        }
    };
    timeout(check.timeout, probe)
        .await
        .unwrap_or_else(|_| Err(format!("{endpoint} did not answer in {:?}", check.timeout)))
}

async fn get(stream: TcpStream, endpoint: SocketAddr, path: &str) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("GET http://{endpoint}{path}: {e}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed(&e))?;
    let request = hyper::Request::get(path)
        .header("host", endpoint.to_string())
        .header(
            "user-agent",
            concat!("pnsbox-agent/", env!("CARGO_PKG_VERSION")),
        )
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed(&e))?;
    let mut response =
        std::pin::pin!(async move { sender.send_request(request).await.map(|r| r.status()) });
    let status = tokio::select! {
        status = &mut response => status,
        // The connection may end in the moment in which it hands over the answer.
        _ = connection => response.await,
    };
    let status = status.map_err(|e| failed(&e))?;
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(failed(&format_args!("status {}", status.as_u16())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    async fn outcome(probe: CheckProbe, answer: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            if stream.read(&mut request).await.unwrap_or(0) > 0 {
                stream.write_all(answer).await.unwrap();
            }
        });
        let check = Check {
            probe,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
        };
        let result = run(&check, endpoint).await;
        server.abort();
        result
    }

    #[tokio::test]
    async fn an_answer_is_judged_by_its_status() {
        let http = || CheckProbe::Http {
            path: "/healthz".into(),
        };
        assert_eq!(outcome(CheckProbe::Tcp, b"").await, Ok(()));
        assert_eq!(
            outcome(http(), b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await,
            Ok(())
        );
        assert_eq!(
            outcome(http(), b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n").await,
            Ok(())
        );
        let sick = outcome(http(), b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await;
        assert!(sick.unwrap_err().ends_with("/healthz: status 503"));
        assert!(outcome(http(), b"SSH-2.0-OpenSSH\r\n").await.is_err());
    }

    #[tokio::test]
    async fn nobody_at_home_is_said_with_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap();
        drop(listener);
        let check = Check {
            probe: CheckProbe::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
        };
        let error = run(&check, endpoint).await.unwrap_err();
        assert!(error.contains(&endpoint.to_string()), "{error}");
    }
}
