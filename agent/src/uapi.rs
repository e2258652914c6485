//! What `wg show` asks: WireGuard's cross-platform interface on a socket named as ours. It shows and changes nothing.
//!
//! <https://www.wireguard.com/xplatform/>

pub mod text;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tracing::warn;

use self::text::{Errno, Request};
use crate::admin::{Question, ask};
use crate::eventloop::Event;
use crate::socket::Socket;

/// Where `wg` looks.
const DIRECTORY: &str = "/run/wireguard";
/// Longest request: a `set` of many peers, which is refused.
const MOST_BYTES: usize = 64 << 10;
/// `wg` asks at once; who does not is no `wg`.
const WITHIN: Duration = Duration::from_secs(5);

/// Listens for `wg` under the name of `interface`. Without that the agent works as well: it warns, and says what to do.
pub fn listen(interface: &str, events: &mpsc::Sender<Event>) -> Option<Socket> {
    let path = path(interface);
    let events = events.clone();
    let listening = Socket::listen(&path, WITHIN, move |stream| {
        converse(stream, events.clone())
    });
    listening
        .inspect_err(|error| {
            let error = format!("{error:#}");
            warn!(
                %error,
                "'wg show' will not see the tunnels: the agent's user must be able to write to {DIRECTORY} \
                 and to remove an old {}; 'systemd-tmpfiles --create pnsbox-agent.conf', remove that file, \
                 and restart the agent", path.display()
            );
        })
        .ok()
}

fn path(interface: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{interface}.sock"))
}

/// One request after the other, each ended by an empty line, until the visitor leaves; `wg` first looks whether
/// anybody is there, and asks nothing.
async fn converse(mut stream: UnixStream, events: mpsc::Sender<Event>) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        while let Some(end) = text::end_of_request(&bytes) {
            let request = Request::parse(&bytes[..end]);
            bytes.drain(..end);
            stream
                .write_all(answer(request, &events).await.as_bytes())
                .await?;
        }
        if bytes.len() >= MOST_BYTES {
            return stream
                .write_all(text::refusal(Errno::Invalid).as_bytes())
                .await;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

async fn answer(request: Request, events: &mpsc::Sender<Event>) -> String {
    match request {
        Request::Get => match ask(events, Question::Tunnels).await.flatten() {
            Some(device) => text::shown(&device),
            None => text::refusal(Errno::NoDevice),
        },
        Request::Set => {
            warn!(
                "'wg set' was refused: what this box does comes from its controller and from agent.toml; \
                 change the policy there, or [wireguard] here"
            );
            text::refusal(Errno::NotPermitted)
        }
        Request::Unknown => text::refusal(Errno::Invalid),
    }
}
