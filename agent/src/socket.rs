//! A listener of ours in the file system: made, protected, and removed at the end. It knows no protocol.

use std::future::Future;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
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
        if is_answered(path) {
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

/// Whether somebody listens there. It is not waited for: who listens and accepts nobody would hold us up for ever.
fn is_answered(path: &Path) -> bool {
    let tried = UnixAddr::new(path).and_then(|address| {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(socket.as_raw_fd(), &address)
    });
    // EAGAIN: its queue of visitors is full (unix(7)).
    matches!(tried, Ok(()) | Err(Errno::EAGAIN))
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

#[cfg(test)]
mod tests {
    use nix::sys::socket::{Backlog, bind, listen};

    use super::*;

    fn at(path: &Path) -> anyhow::Result<Socket> {
        Socket::listen(path, Duration::from_secs(5), |_| async { Ok(()) })
    }

    #[tokio::test]
    async fn who_listens_and_accepts_nobody_is_named_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pns0.sock");
        let open = |flags| socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        let address = UnixAddr::new(&path).unwrap();
        let other = open(SockFlag::SOCK_CLOEXEC);
        bind(other.as_raw_fd(), &address).unwrap();
        listen(&other, Backlog::new(0).unwrap()).unwrap();
        let mut waiting = Vec::new();
        loop {
            let visitor = open(SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC);
            match connect(visitor.as_raw_fd(), &address) {
                Ok(()) => waiting.push(visitor),
                Err(error) => break assert_eq!(error, Errno::EAGAIN),
            }
        }
        let (sender, refused) = std::sync::mpsc::channel();
        let path_there = path.clone();
        let runtime = tokio::runtime::Handle::current();
        std::thread::spawn(move || {
            let _here = runtime.enter();
            sender.send(at(&path_there).map(drop).map_err(|e| e.to_string()))
        });
        let refused = refused
            .recv_timeout(Duration::from_secs(5))
            .expect("it does not wait");
        let refused = refused.unwrap_err();
        assert!(refused.contains("another program answers"), "{refused}");
        assert!(path.exists(), "what another program has is not removed");
    }

    #[tokio::test]
    async fn a_leftover_is_replaced_and_dropping_removes_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pns0.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = at(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert!(at(&path).unwrap_err().to_string().contains("stop it first"));
        drop(socket);
        assert!(!path.exists());
    }
}
