//! The operator's socket: a line of JSON in, a line of JSON out. `serve` answers; commands ask.
//!
//! Where nobody serves, a command opens the store itself, under the same lock.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use pnsbox_controller_core::controller::{Controller, Now};
use pnsbox_controller_core::operator::{Answer, Refusal, Request};
use pnsbox_proto::time::UnixTime;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

use crate::config::Config;
use crate::eventloop::Event;
use crate::failpoint;
use crate::keys;
use crate::store::{Store, StoreError};

/// Longest request, in bytes: a policy of tens of thousands of links.
const MAX_REQUEST_BYTES: u64 = 16 << 20;

/// Longest answer, in bytes: the status of tens of thousands of nodes.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// How long either side waits for the other.
const WITHIN: Duration = Duration::from_secs(30);

/// How long a command tries while a controller starts or stops.
const PATIENCE: Duration = Duration::from_secs(5);

/// Listens where commands ask. A socket that nobody answers is left over from a crash, and replaced.
pub fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let place = || format!("cannot listen on {} for commands", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(place)?;
    }
    if StdUnixStream::connect(path).is_ok() {
        bail!(
            "{} is answered by another controller; give each its own 'socket' in its configuration, or stop the other",
            path.display()
        );
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(place),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).with_context(place)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(place)?;
    Ok(listener)
}

/// Answers commands until dropped.
pub async fn serve(listener: UnixListener, events: mpsc::Sender<Event>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let events = events.clone();
                tokio::spawn(async move {
                    match tokio::time::timeout(WITHIN, converse(stream, events)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!("a command was not answered: {error:#}"),
                        Err(_) => debug!("a command was not answered in time"),
                    }
                });
            }
            Err(error) => {
                warn!(%error, "commands cannot be accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let who = format!("uid {}", stream.peer_cred()?.uid());
    let (receive, mut send) = stream.split();
    let mut line = String::new();
    tokio::io::BufReader::new(receive.take(MAX_REQUEST_BYTES))
        .read_line(&mut line)
        .await?;
    if line.is_empty() {
        // Only looking whether somebody is there.
        return Ok(());
    }
    let request =
        Box::new(serde_json::from_str::<Request>(&line).context("the request cannot be read")?);
    let (reply, answer) = oneshot::channel();
    events
        .send(Event::Request {
            request,
            who,
            reply,
        })
        .await
        .context("the controller stops")?;
    let mut text = serde_json::to_vec(&answer.await.context("the controller stops")?)?;
    text.push(b'\n');
    send.write_all(&text).await?;
    Ok(())
}

/// Asks the controller that serves, or looks at the store itself if none does.
pub fn ask(config: &Config, request: &Request) -> anyhow::Result<Result<Answer, Refusal>> {
    let begun = Instant::now();
    loop {
        match StdUnixStream::connect(&config.socket) {
            Ok(stream) => return ask_serving(stream, request),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot ask {}", config.socket.display()));
            }
        }
        match ask_store(config, request) {
            Err(error) if is_locked(&error) && begun.elapsed() < PATIENCE => {}
            result => return result,
        }
    }
}

fn is_locked(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StoreError::Locked(_)))
}

fn ask_serving(
    mut stream: StdUnixStream,
    request: &Request,
) -> anyhow::Result<Result<Answer, Refusal>> {
    stream.set_read_timeout(Some(WITHIN))?;
    stream.set_write_timeout(Some(WITHIN))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream
        .write_all(&text)
        .context("the controller takes no request")?;
    let mut line = String::new();
    let mut answer = BufReader::new(stream.take(MAX_ANSWER_BYTES));
    answer
        .read_line(&mut line)
        .context("the controller gives no answer")?;
    if line.is_empty() {
        bail!("the controller gave no answer; its log says why");
    }
    serde_json::from_str(&line).context(
        "the controller's answer cannot be read; is it of another version than this command?",
    )
}

fn ask_store(config: &Config, request: &Request) -> anyhow::Result<Result<Answer, Refusal>> {
    let (mut controller, mut store) = open(config, Duration::from_millis(200))?;
    let who = format!("uid {}", nix::unistd::getuid());
    let now = Now {
        monotonic: Duration::ZERO,
        wall: UnixTime::from(SystemTime::now()),
    };
    let answer = controller.handle_request(request.clone(), &who, now, keys::random()?);
    let transaction = controller.take_transaction();
    if !transaction.is_empty() {
        store.transact(&transaction)?;
    }
    failpoint::step("command_before_answer");
    Ok(answer)
}

/// The core and its store, from disk.
pub fn open(config: &Config, patience: Duration) -> anyhow::Result<(Controller, Store)> {
    let path = config.state_dir.join(crate::store::FILE);
    let there = path.try_exists();
    if !there.with_context(|| format!("the store {} cannot be looked at", path.display()))? {
        return Err(no_network(config));
    }
    let store = Store::open(&config.state_dir, patience)?;
    let entries = store.list("")?;
    if entries.is_empty() {
        return Err(no_network(config));
    }
    let key = keys::load(&config.state_dir.join(keys::CONTROLLER_KEY))?;
    let controller = Controller::load(&entries, key)?;
    Ok((controller, store))
}

fn no_network(config: &Config) -> anyhow::Error {
    anyhow::Error::new(pnsbox_controller_core::image::LoadError::NoNetwork)
        .context(format!("{} holds no network", config.state_dir.display()))
}
