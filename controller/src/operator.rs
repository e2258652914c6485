//! The operator's socket: a line of JSON in, a line of JSON out. `serve` answers; commands ask.
//!
//! Where nobody serves, a command opens the store itself, under the same lock.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use pnsbox_controller_core::audit::Origin;
use pnsbox_controller_core::controller::{Controller, Now};
use pnsbox_controller_core::operator::{Answer, Asked, Refusal, Request};
use pnsbox_controller_core::store::Entry;
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
    let complaints = Arc::new(Mutex::new(Complaints::default()));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (events, complaints) = (events.clone(), Arc::clone(&complaints));
                tokio::spawn(async move {
                    let error = match tokio::time::timeout(WITHIN, converse(stream, events)).await {
                        Ok(Ok(())) => return,
                        Ok(Err(error)) => format!("{error:#}"),
                        Err(_) => format!("it took more than {} s", WITHIN.as_secs()),
                    };
                    let untold = complaints
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .another(Instant::now());
                    match untold {
                        Some(untold) => warn!(error, untold, "a command was not answered"),
                        None => debug!(error, "a command was not answered"),
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

/// One warning a minute, however often something fails.
#[derive(Debug, Default)]
struct Complaints {
    told: Option<Instant>,
    untold: u64,
}

impl Complaints {
    /// Whether this one is told; then how many before were not.
    fn another(&mut self, now: Instant) -> Option<u64> {
        let recently = |told: Instant| now.saturating_duration_since(told) < BETWEEN_COMPLAINTS;
        if self.told.is_some_and(recently) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// A log that fills hides everything else.
const BETWEEN_COMPLAINTS: Duration = Duration::from_secs(60);

async fn converse(mut stream: UnixStream, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let caller = stream.peer_cred()?;
    let (receive, mut send) = stream.split();
    let mut line = Vec::new();
    tokio::io::BufReader::new(receive.take(MAX_REQUEST_BYTES))
        .read_until(b'\n', &mut line)
        .await?;
    if line.is_empty() {
        // Only looking whether somebody is there.
        return Ok(());
    }
    let Asked { request, from } = match serde_json::from_slice(&line) {
        Ok(asked) => asked,
        Err(error) => {
            let message = format!(
                "the request cannot be read: {error}; is the command of another version than the controller?"
            );
            let refusal: Result<Answer, Refusal> = Err(Refusal::Refused { message });
            return Ok(send.write_all(&line_of(&refusal)?).await?);
        }
    };
    let (reply, answer) = oneshot::channel();
    let pid = caller.pid().and_then(|pid| u32::try_from(pid).ok());
    events
        .send(Event::Request {
            request: Box::new(request),
            by: origin(caller.uid(), pid, from),
            reply,
        })
        .await
        .context("the controller stops")?;
    let answer = answer.await.context("the controller stops")?;
    send.write_all(&line_of(&answer)?).await?;
    Ok(())
}

fn line_of(answer: &Result<Answer, Refusal>) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(answer)?;
    text.push(b'\n');
    Ok(text)
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
    let asked = Asked {
        request: request.clone(),
        from: over_ssh(),
    };
    let mut text = serde_json::to_vec(&asked)?;
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
    let by = own_origin();
    let now = Now {
        monotonic: Duration::ZERO,
        wall: UnixTime::from(SystemTime::now()),
    };
    let answer = controller.handle_request(request.clone(), &by, now, keys::random()?);
    let transaction = controller.take_transaction();
    if !transaction.is_empty() {
        store.transact(&transaction)?;
    }
    failpoint::step("command_before_answer");
    Ok(answer)
}

/// Who runs this command, and from where.
pub fn own_origin() -> Origin {
    let uid = nix::unistd::getuid().as_raw();
    origin(uid, Some(std::process::id()), over_ssh())
}

/// What the audit trail says of a caller. Who became another user is named by the uid of the login as well,
/// which the kernel keeps (audit(7)); it can be hidden from this process.
fn origin(uid: u32, pid: Option<u32>, from: Option<String>) -> Origin {
    let login = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok());
    let login = login
        .and_then(|text| text.trim().parse::<u32>().ok())
        .filter(|login| *login != u32::MAX && *login != uid);
    let who = match login {
        Some(login) => format!("uid {uid}, logged in as uid {login}"),
        None => format!("uid {uid}"),
    };
    match from {
        Some(from) => Origin {
            who,
            from: from.chars().take(MAX_FROM_CHARS).collect(),
        },
        None => Origin::here(&who),
    }
}

/// Longest word for a place: an IPv6 address with its zone, and how.
const MAX_FROM_CHARS: usize = 80;

/// The machine that the operator sits at, as sshd(8) names it.
fn over_ssh() -> Option<String> {
    let connection = std::env::var("SSH_CONNECTION").ok()?;
    let address = connection.split(' ').next()?;
    Some(format!("{address} over SSH"))
}

/// What is stored, without asking whoever serves, and without its lock.
pub fn read(config: &Config) -> anyhow::Result<Vec<Entry>> {
    need_store(config)?;
    let entries = Store::read(&config.state_dir, "")?;
    if entries.is_empty() {
        return Err(no_network(config));
    }
    Ok(entries)
}

fn need_store(config: &Config) -> anyhow::Result<()> {
    let path = config.state_dir.join(crate::store::FILE);
    let there = path.try_exists();
    if !there.with_context(|| format!("the store {} cannot be looked at", path.display()))? {
        return Err(no_network(config));
    }
    Ok(())
}

/// The core and its store, from disk.
pub fn open(config: &Config, patience: Duration) -> anyhow::Result<(Controller, Store)> {
    need_store(config)?;
    let store = Store::open(&config.state_dir, patience)?;
    let entries = store.list("")?;
    if entries.is_empty() {
        return Err(no_network(config));
    }
    let controller = Controller::load(&entries, keys::load_all(&config.state_dir)?)?;
    Ok((controller, store))
}

fn no_network(config: &Config) -> anyhow::Error {
    anyhow::Error::new(pnsbox_controller_core::image::LoadError::NoNetwork)
        .context(format!("{} holds no network", config.state_dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_complaint_a_minute_counts_the_others() {
        let mut complaints = Complaints::default();
        let begun = Instant::now();
        assert_eq!(complaints.another(begun), Some(0));
        for second in 1..60 {
            assert_eq!(
                complaints.another(begun + Duration::from_secs(second)),
                None
            );
        }
        assert_eq!(complaints.another(begun + BETWEEN_COMPLAINTS), Some(59));
    }
}
