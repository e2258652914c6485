//! The sessions of one tunnel: which one is sent on, and which ones are still listened to (whitepaper section 6).

use std::time::Instant;

use super::session::{Opened, Session};
use crate::message::Frame;

/// At most three sessions at a time.
pub(super) struct Sessions {
    /// What is sent goes through this.
    current: Option<Box<Session>>,
    /// The one before: messages of it may still be under way.
    previous: Option<Box<Session>>,
    /// One that the peer began and did not use yet: we may not be the first to.
    next: Option<Box<Session>>,
    /// Of two sessions that both sides began at the same time, this side gives up its own.
    yields: bool,
}

impl Sessions {
    /// `yields` is true at exactly one of both sides.
    pub(super) fn new(yields: bool) -> Self {
        Self {
            current: None,
            previous: None,
            next: None,
            yields,
        }
    }

    /// The session to send on, if so many messages may be sent on it.
    pub(super) fn sending(&mut self, messages: usize, now: Instant) -> Option<&mut Session> {
        let current = self.current.as_deref_mut()?;
        current.can_send(messages, now).then_some(current)
    }

    pub(super) fn current(&self) -> Option<&Session> {
        self.current.as_deref()
    }

    /// Takes a session that we began: the peer has it already, so it is sent on at once.
    pub(super) fn add_initiated(&mut self, session: Box<Session>) {
        let unconfirmed = self.next.take();
        let current = self.current.replace(session);
        // The peer sends on the one that it has last. What came through `current` since shows that this is not `next`.
        let is_current_in_use = match (&current, &unconfirmed) {
            (Some(current), Some(next)) => current.heard.is_some_and(|heard| heard > next.born),
            (_, None) => true,
            (None, Some(_)) => false,
        };
        self.previous = if is_current_in_use {
            current
        } else {
            unconfirmed
        };
    }

    /// Takes a session that the peer began: it waits for the peer's first message.
    pub(super) fn add_responded(&mut self, session: Box<Session>) {
        self.next = Some(session);
    }

    /// Opens messages for the session with the index `receiver`. The second value tells whether it became the current
    /// one by that.
    pub(super) fn open(
        &mut self,
        receiver: u32,
        slab: &mut [u8],
        frames: &[Frame],
        opened: &mut [bool],
        now: Instant,
    ) -> (Opened, bool) {
        let is_it = |session: &&mut Box<Session>| session.local == receiver;
        if let Some(session) = self.current.as_mut().filter(is_it) {
            return (session.open(slab, frames, opened, now), false);
        }
        if let Some(session) = self.next.as_mut().filter(is_it) {
            let result = session.open(slab, frames, opened, now);
            if result.any {
                self.previous = self.current.take();
                self.current = self.next.take();
            }
            return (result, result.any);
        }
        if let Some(session) = self.previous.as_mut().filter(is_it) {
            let is_first = session.heard.is_none();
            let result = session.open(slab, frames, opened, now);
            let adopts = result.any && is_first && self.yields && !session.is_initiator;
            if adopts {
                std::mem::swap(&mut self.previous, &mut self.current);
            }
            return (result, adopts);
        }
        (Opened::default(), false)
    }

    /// Whether a session has this index.
    pub(super) fn has(&self, local: u32) -> bool {
        self.all().any(|session| session.local == local)
    }

    /// Wipes what is too old to be used.
    pub(super) fn expire(&mut self, now: Instant) {
        for slot in [&mut self.current, &mut self.previous, &mut self.next] {
            slot.take_if(|session| session.is_over(now));
        }
    }

    fn all(&self) -> impl Iterator<Item = &Session> {
        [&self.current, &self.previous, &self.next]
            .into_iter()
            .filter_map(Option::as_deref)
    }
}
