//! What the service manager is told. Without `NOTIFY_SOCKET` nothing is said, so the agent runs anywhere.

use sd_notify::NotifyState;
use tracing::debug;

/// The agent serves: joined and with its view in force, or waiting to be told to join.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The line of `systemctl status`.
pub fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// Still working. To be earned by progress of the data plane, not by a timer:
/// a process can be alive and useless.
pub fn watchdog() {
    notify(&[NotifyState::Watchdog]);
}

/// Shutting down on purpose.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "the service manager could not be told");
    }
}
