//! What `pnsbox` asks of a running agent over its socket: one JSON object per line, one answer per line.
//!
//! The socket belongs to root and the agent's group; who may open it may ask everything.

use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use pnsbox_agent_core::agency::{AgencyAnswer, AgencyCommand};
use pnsbox_agent_core::event::Joined;
use pnsbox_agent_core::snapshot::{ServiceStatus, StatusSnapshot};
use pnsbox_proto::id::NodeName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};

use crate::eventloop::Event;
use crate::socket::Socket;
use crate::uapi::text::Device;

/// Longest request: an anchor and a few dozen prefixes.
const MAX_REQUEST_BYTES: u64 = 64 << 10;
/// A conversation that takes longer has hung: the longest is a join of 30 s.
const CONVERSATION_TIMEOUT: Duration = Duration::from_secs(60);

/// A question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Everything about the node; answered by [`StatusSnapshot`].
    Status,
    /// Every service this node may know of; answered by a list of [`ServiceStatus`].
    Services,
    /// Join a network; answered by [`Joined`].
    Join {
        /// The anchor as given.
        anchor: SecretText,
        /// Prefixes to claim; absent means those found on the box.
        lan: Option<Vec<IpNet>>,
        /// Where others reach the WireGuard port: at most one address of each version of IP.
        public: Vec<SocketAddr>,
    },
    /// Measure the way to a peer, through tunnel and link; answered by [`Pong`].
    Ping {
        /// The peer.
        node: NodeName,
    },
    /// Something about what the agency signs; answered by [`AgencyAnswer`].
    Agency(AgencyCommand),
    /// Something about the agency's key; answered by [`AgencyAnswer`], or by its backup as [`SecretText`].
    AgencyKey(KeyCommand),
}

/// What to do with the agency's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "key", rename_all = "snake_case")]
pub enum KeyCommand {
    /// Say it, as one line.
    Backup,
    /// Take over this line.
    Restore {
        /// As it was said.
        line: SecretText,
    },
    /// Put a new one in its place.
    Rotate,
    /// Make another, that the operator can put in its place under the root.
    New,
}

/// An anchor or a key as somebody typed it: a secret, so it is not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// As asked.
    Ok(T),
    /// Why not, for people.
    Error(String),
}

/// An answer about the agency's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyAnswer {
    /// What was done.
    Done(AgencyAnswer),
    /// The key itself.
    Backup(SecretText),
}

/// One echo.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    /// Round-trip time, in milliseconds.
    pub rtt_ms: f64,
}

/// A question on its way to the event loop, with where the answer goes.
#[derive(Debug)]
pub enum Question {
    /// [`Request::Status`].
    Status(oneshot::Sender<StatusSnapshot>),
    /// [`Request::Services`].
    Services(oneshot::Sender<Vec<ServiceStatus>>),
    /// [`Request::Join`].
    Join {
        /// The anchor as given.
        anchor: SecretText,
        /// Prefixes to claim; absent means those found on the box.
        lan: Option<Vec<IpNet>>,
        /// Where others reach the WireGuard port: at most one address of each version of IP.
        public: Vec<SocketAddr>,
        /// Answer.
        answer: oneshot::Sender<Result<Joined, String>>,
    },
    /// [`Request::Ping`].
    Ping {
        /// The peer.
        node: NodeName,
        /// Answer.
        answer: oneshot::Sender<Result<Pong, String>>,
    },
    /// [`Request::Agency`].
    Agency {
        /// What.
        command: AgencyCommand,
        /// Answer.
        answer: oneshot::Sender<Result<AgencyAnswer, String>>,
    },
    /// [`Request::AgencyKey`], but for its backup.
    AgencyKey {
        /// What.
        command: KeyCommand,
        /// Answer.
        answer: oneshot::Sender<Result<KeyAnswer, String>>,
    },
    /// The text of `/metrics`.
    Metrics(oneshot::Sender<String>),
    /// The tunnels as WireGuard shows them; `None` without an interface.
    Tunnels(oneshot::Sender<Option<Device>>),
}

/// Listens for `pnsbox` on `path`.
pub fn listen(path: &Path, events: mpsc::Sender<Event>) -> anyhow::Result<Socket> {
    Socket::listen(path, CONVERSATION_TIMEOUT, move |stream| {
        converse(stream, events.clone())
    })
}

async fn converse(
    mut stream: tokio::net::UnixStream,
    events: mpsc::Sender<Event>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = Vec::new();
    tokio::io::BufReader::new(read.take(MAX_REQUEST_BYTES))
        .read_until(b'\n', &mut line)
        .await?;
    let mut answer = match serde_json::from_slice(&line) {
        Ok(request) => answer(request, &events).await,
        Err(error) => to_json(&Answer::<()>::Error(format!(
            "the request cannot be read: {error}"
        ))),
    };
    answer.push(b'\n');
    write.write_all(&answer).await
}

async fn answer(request: Request, events: &mpsc::Sender<Event>) -> Vec<u8> {
    match request {
        Request::Status => to_json(
            &ask(events, Question::Status)
                .await
                .map_or_else(stopping, Answer::Ok),
        ),
        Request::Services => to_json(
            &ask(events, Question::Services)
                .await
                .map_or_else(stopping, Answer::Ok),
        ),
        Request::Join {
            anchor,
            lan,
            public,
        } => {
            let question = |answer| Question::Join {
                anchor,
                lan,
                public,
                answer,
            };
            to_json(&flatten(ask(events, question).await))
        }
        Request::Agency(command) => {
            let question = |answer| Question::Agency { command, answer };
            to_json(&flatten(ask(events, question).await))
        }
        Request::AgencyKey(command) => {
            let question = |answer| Question::AgencyKey { command, answer };
            to_json(&flatten(ask(events, question).await))
        }
        Request::Ping { node } => to_json(&flatten(
            ask(events, |answer| Question::Ping { node, answer }).await,
        )),
    }
}

/// Puts a question to the event loop; `None` when the agent stops before it answers.
pub async fn ask<T>(
    events: &mpsc::Sender<Event>,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    events
        .send(Event::Question(Box::new(question(sender))))
        .await
        .ok()?;
    receiver.await.ok()
}

fn stopping<T>() -> Answer<T> {
    Answer::Error("the agent is stopping".into())
}

fn flatten<T>(answer: Option<Result<T, String>>) -> Answer<T> {
    match answer {
        Some(Ok(value)) => Answer::Ok(value),
        Some(Err(reason)) => Answer::Error(reason),
        None => stopping(),
    }
}

fn to_json<T: Serialize>(answer: &Answer<T>) -> Vec<u8> {
    serde_json::to_vec(answer).expect("answers are plain structs with string keys")
}

/// Why an agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no agent answers on {path}: {reason}; is it running? (systemctl status pnsbox-agent)")]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// It listens and does not answer.
    #[error("the agent did not answer: {0}")]
    Silent(std::io::Error),
    /// It answered something else.
    #[error("the agent's answer cannot be read ({0}): are agent and pnsbox of the same version?")]
    Unreadable(serde_json::Error),
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// There was nothing to ask with.
    #[error("nothing could be read from standard input: {0}")]
    NoInput(std::io::Error),
}

/// Asks a running agent, from a program without a runtime.
pub fn ask_agent<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T, AskError> {
    let mut stream = UnixStream::connect(socket).map_err(|reason| AskError::NotRunning {
        path: socket.to_owned(),
        reason,
    })?;
    stream
        .set_read_timeout(Some(CONVERSATION_TIMEOUT))
        .map_err(AskError::Silent)?;
    let mut line = serde_json::to_vec(request).map_err(AskError::Unreadable)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(AskError::Silent)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .map_err(AskError::Silent)?;
    match serde_json::from_str(&answer).map_err(AskError::Unreadable)? {
        Answer::Ok(value) => Ok(value),
        Answer::Error(reason) => Err(AskError::Refused(reason)),
    }
}
