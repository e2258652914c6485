//! The session with the controller, joining included: when to dial, whether to believe, what is still owed.

use std::net::SocketAddr;
use std::time::Duration;

use pnsbox_proto::certificate::ControllerCertificate;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::NetworkName;
use pnsbox_proto::key::{Digest, IdentityKey};

use crate::event::{JoinCommand, Now};
use crate::jitter::{Backoff, Jitter};

/// First and longest pause between dials; each is spread, so that a fleet does not come back at once.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A join that has no answer by then has failed: the admin waits for it.
const JOIN_WITHIN: Duration = Duration::from_secs(30);
/// A controller that does not introduce itself is given up.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);

/// Where the session stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Session {
    /// There is none; the next dial is due, unless the box has not joined.
    Offline {
        /// When to dial.
        dial_at: Option<Duration>,
    },
    /// Under way.
    Dialling,
    /// The key is proved by TLS; its certificate is awaited.
    Greeting {
        /// The controller's TLS key.
        key: IdentityKey,
        /// When patience ends.
        until: Duration,
    },
    /// The controller is certified.
    Online {
        /// Its key, which signs views.
        key: IdentityKey,
        /// Its certificate, kept with the views that it signed.
        certificate: Envelope,
    },
}

/// The session, the join that may be under way, and what an admin wants to know of both.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) session: Session,
    pub(crate) join: Option<Join>,
    /// On the monotonic scale.
    pub(crate) since: Option<Duration>,
    pub(crate) observed: Option<SocketAddr>,
    pub(crate) last_error: Option<String>,
    /// The root key that certified the controller of this session.
    pub(crate) root: Option<IdentityKey>,
    backoff: Backoff,
}

/// A join under way.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    pub(crate) command: JoinCommand,
    pub(crate) until: Duration,
}

/// Whose controller a certificate must make the other side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) network: &'a NetworkName,
    /// Fingerprint of the root.
    pub(crate) root: Digest,
}

impl Control {
    pub(crate) fn new(dial_at: Option<Duration>) -> Self {
        Self {
            session: Session::Offline { dial_at },
            join: None,
            since: None,
            observed: None,
            last_error: None,
            root: None,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        }
    }

    pub(crate) fn begin_join(&mut self, command: JoinCommand, now: Now) {
        self.join = Some(Join {
            command,
            until: now.monotonic + JOIN_WITHIN,
        });
        self.session = Session::Dialling;
        self.last_error = None;
        self.backoff.reset();
    }

    pub(crate) fn connected(&mut self, key: IdentityKey, now: Now) {
        self.session = Session::Greeting {
            key,
            until: now.monotonic + WELCOME_WITHIN,
        };
    }

    pub(crate) fn online(
        &mut self,
        key: IdentityKey,
        certificate: Envelope,
        observed: SocketAddr,
        now: Now,
    ) {
        self.session = Session::Online { key, certificate };
        self.since = Some(now.monotonic);
        self.observed = Some(observed);
        self.last_error = None;
        self.backoff.reset();
    }

    /// The session ended or was not made; the next dial comes after a pause.
    pub(crate) fn lost(&mut self, reason: String, may_dial: bool, now: Now, jitter: &mut Jitter) {
        if self.is_online() || self.since.is_none() {
            self.since = Some(now.monotonic);
        }
        self.last_error = Some(reason);
        let dial_at = may_dial.then(|| now.monotonic + self.backoff.pause(jitter));
        self.session = Session::Offline { dial_at };
    }

    pub(crate) fn is_online(&self) -> bool {
        matches!(self.session, Session::Online { .. })
    }

    pub(crate) fn dial_is_due(&self, now: Duration) -> bool {
        matches!(self.session, Session::Offline { dial_at: Some(at) } if at <= now)
    }

    pub(crate) fn welcome_is_overdue(&self, now: Duration) -> bool {
        matches!(self.session, Session::Greeting { until, .. } if until < now)
    }
}

/// Whether `root` is the one expected, and certified the key that TLS proved. The sentence is for the admin.
pub(crate) fn judge_certificate(
    expected: Expected<'_>,
    root: &IdentityKey,
    certificate: &Envelope,
    tls_key: &IdentityKey,
) -> Result<(), String> {
    if root.fingerprint() != expected.root {
        return Err(format!(
            "the controller that answered belongs to a network with another root key ({} instead of {}): \
             the anchor is forged or out of date, or its address leads to another network",
            root.fingerprint(),
            expected.root
        ));
    }
    let certified: ControllerCertificate = certificate.open(root).map_err(|e| {
        format!("the controller that answered has no certificate of the root key: {e}")
    })?;
    if certified.network != *expected.network {
        return Err(format!(
            "the controller is of network {}, not {}",
            certified.network, expected.network
        ));
    }
    if certified.controller != *tls_key {
        return Err(
            "the controller that answered shows a certificate of the root key that is not its own"
                .into(),
        );
    }
    Ok(())
}
