//! What is due when (whitepaper section 6). It sends nothing; `Tunnel::tick` does.

use std::time::{Duration, Instant};

/// When an unanswered initiation is sent again, at the earliest.
pub(super) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long initiations are sent without an answer.
pub(super) const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// The age at which the initiator renews a session that it sends on.
pub(super) const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// How long data that came may stay unanswered.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The count of messages after which a session is renewed.
pub(super) const REKEY_AFTER_MESSAGES: u64 = 1 << 60;

/// The timers of one tunnel, as points in time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Since when initiations are sent without an answer.
    attempts_since: Option<Instant>,
    /// When the initiation is sent again.
    retry_at: Option<Instant>,
    /// When data counts as unanswered by the peer.
    silence_at: Option<Instant>,
    /// When data from the peer must be answered by something.
    keepalive_at: Option<Instant>,
    wants_rekey: bool,
}

impl Timers {
    /// An initiation was sent.
    pub(super) fn initiated(&mut self, now: Instant, jitter: Duration) {
        self.attempts_since.get_or_insert(now);
        self.retry_at = Some(now + REKEY_TIMEOUT + jitter);
        self.wants_rekey = false;
        self.silence_at = None;
        self.sent();
    }

    /// Attempts count from the next one.
    pub(super) fn begin_anew(&mut self) {
        self.attempts_since = None;
    }

    /// A session is in use that both sides have.
    pub(super) fn completed(&mut self) {
        self.attempts_since = None;
        self.retry_at = None;
        self.wants_rekey = false;
    }

    /// No initiation was answered for long enough; then all timers rest.
    pub(super) fn gives_up(&mut self, now: Instant) -> bool {
        let since = self.attempts_since;
        let over = since.is_some_and(|since| now.duration_since(since) >= REKEY_ATTEMPT_TIME);
        if over {
            *self = Self::default();
        }
        over
    }

    pub(super) fn retries(&self, now: Instant) -> bool {
        is_due(self.retry_at, now)
    }

    pub(super) fn wants_handshake(&self, now: Instant) -> bool {
        self.wants_rekey || is_due(self.silence_at, now)
    }

    /// Whether an empty message is due; it is so once.
    pub(super) fn takes_keepalive(&mut self, now: Instant) -> bool {
        self.keepalive_at.take_if(|at| *at <= now).is_some()
    }

    /// Anything authenticated was sent.
    pub(super) fn sent(&mut self) {
        self.keepalive_at = None;
    }

    /// Data was sent.
    pub(super) fn sent_data(&mut self, now: Instant, jitter: Duration) {
        let silence = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + jitter;
        self.silence_at.get_or_insert(now + silence);
    }

    /// Anything authenticated was received.
    pub(super) fn received(&mut self) {
        self.silence_at = None;
    }

    /// Data was received.
    pub(super) fn received_data(&mut self, now: Instant) {
        self.keepalive_at.get_or_insert(now + KEEPALIVE_TIMEOUT);
    }

    /// The session is to be renewed at the next tick.
    pub(super) fn rekey(&mut self) {
        self.wants_rekey = true;
    }
}

fn is_due(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}
