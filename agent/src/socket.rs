//! A listener of ours in the file system: made, protected, and removed at the end. It knows no protocol.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::warn;

/// Conversations at a time; each is one person or one script.
const MOST_CONVERSATIONS: usize = 32;

/// Dropping it closes the listener and removes the file.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    accepting: JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.accepting.abort();
        if let Err(error) = std::fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "the socket was not removed");
        }
    }
}

impl Socket {
    /// Listens on `path`, for its owner and group, and has each visitor served for at most `within`.
    /// A socket that nobody answers is a leftover and is replaced.
    pub fn listen<F>(
        path: &Path,
        within: Duration,
        converse: impl Fn(UnixStream) -> F + Send + 'static,
    ) -> anyhow::Result<Self>
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let shown = path.display();
        if BlockingStream::connect(path).is_ok() {
            anyhow::bail!(
                "another program answers on {shown}: stop it first, or choose another path or interface"
            );
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                anyhow::bail!("the old socket {shown} cannot be removed: {error}")
            }
            Ok(()) | Err(_) => {}
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| {
                anyhow::anyhow!("the directory of socket {shown} cannot be made: {e}")
            })?;
        }
        let listener = UnixListener::bind(path)
            .map_err(|e| anyhow::anyhow!("the socket {shown} cannot be made: {e}"))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
            .map_err(|e| anyhow::anyhow!("the socket {shown} cannot be protected: {e}"))?;
        Ok(Self {
            path: path.to_owned(),
            accepting: tokio::spawn(accept(listener, within, converse)),
        })
    }
}

async fn accept<F>(
    listener: UnixListener,
    within: Duration,
    converse: impl Fn(UnixStream) -> F + Send,
) where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let conversations = Arc::new(Semaphore::new(MOST_CONVERSATIONS));
    loop {
        let Ok(permit) = Arc::clone(&conversations).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let conversation = converse(stream);
                tokio::spawn(async move {
                    let _held_until_the_end = permit;
                    // A visitor who leaves early, or never asks, loses only the own answer.
                    drop(timeout(within, conversation).await);
                });
            }
            Err(error) => {
                warn!(%error, "the socket does not accept");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
