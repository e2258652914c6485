//! One agent's session: what it holds, what is under way to it, and what it is to be sent next.
//!
//! One view at a time: what changes meanwhile is sent together when the agent has answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::key::{Digest, IdentityKey};
use pnsbox_proto::view::SignedView;

use crate::view::{Held, NodeView};

/// Number that the shell gives to one session. Never used again in the life of the process.
pub type SessionId = u64;

/// How long an agent may take to answer a view before it is sent the next all the same.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// One agent's session.
#[derive(Debug, Clone)]
pub struct Session {
    /// The key that TLS proved.
    pub key: IdentityKey,
    /// Where it comes from.
    pub observed: SocketAddr,
    /// When it began, since the process started.
    pub since: Duration,
    /// Whether it has said `Hello`.
    pub greeted: bool,
    /// Its node, if the key has joined.
    pub node: Option<NodeName>,
    /// Refused requests to join.
    pub refusals: u32,
    held: Option<Held>,
    under_way: Option<UnderWay>,
    /// What it has in force and did not keep yet.
    on_trial: Option<Held>,
    refused: Option<Held>,
    /// Payload digests of the statements that it was told.
    statements: BTreeMap<AgencyName, Digest>,
    /// The same of the list of who is shut out.
    quarantine: Option<Digest>,
}

#[derive(Debug, Clone)]
struct UnderWay {
    view: Held,
    since: Duration,
}

impl Session {
    /// A session of which nothing is known but its key.
    pub fn new(key: IdentityKey, observed: SocketAddr, since: Duration) -> Self {
        Self {
            key,
            observed,
            since,
            greeted: false,
            node: None,
            refusals: 0,
            held: None,
            under_way: None,
            on_trial: None,
            refused: None,
            statements: BTreeMap::new(),
            quarantine: None,
        }
    }

    /// Whether it was not told this statement of `agency`. Asked again, it was.
    pub fn is_news(&mut self, agency: &AgencyName, statement: &Envelope) -> bool {
        let digest = statement.payload_digest();
        self.statements.insert(agency.clone(), digest) != Some(digest)
    }

    /// The same for the list of who is shut out.
    pub fn is_news_of_quarantine(&mut self, list: &Envelope) -> bool {
        let digest = list.payload_digest();
        self.quarantine.replace(digest) != Some(digest)
    }

    /// Whether it was sent a view with this record, or had one.
    pub fn was_shown(&self, record: &Digest) -> bool {
        let under_way = self.under_way.as_ref().map(|under_way| &under_way.view);
        let others = [&self.on_trial, &self.held, &self.refused];
        let views = others.into_iter().flatten().chain(under_way);
        views.into_iter().any(|view| view.records.contains(record))
    }

    /// The agent said which view it accepted last: `digest`. Known are the last that it acknowledged, and the wanted one.
    /// It may still be on its way into force there, so this tells what a delta builds on, not what is applied.
    pub fn greet(
        &mut self,
        digest: Option<Digest>,
        acknowledged: Option<&Held>,
        wanted: Option<&NodeView>,
    ) {
        self.greeted = true;
        let known = [acknowledged.cloned(), wanted.map(NodeView::as_held)];
        self.held = known
            .into_iter()
            .flatten()
            .find(|held| Some(held.digest) == digest);
    }

    /// What to send now so that the agent comes to have `wanted`.
    pub fn next_view(&mut self, wanted: &NodeView, now: Duration) -> Option<SignedView> {
        if !self.greeted
            || self
                .refused
                .as_ref()
                .is_some_and(|refused| refused.digest == wanted.digest)
        {
            return None;
        }
        if let Some(under_way) = &self.under_way {
            let late = now.saturating_sub(under_way.since) >= ANSWER_WITHIN;
            if under_way.view.digest == wanted.digest || !late {
                return None;
            }
        } else if self
            .newest()
            .is_some_and(|held| held.digest == wanted.digest)
        {
            return None;
        }
        self.under_way = Some(UnderWay {
            view: wanted.as_held(),
            since: now,
        });
        Some(wanted.delta(self.newest()))
    }

    /// What a delta builds on.
    fn newest(&self) -> Option<&Held> {
        self.on_trial.as_ref().or(self.held.as_ref())
    }

    /// The agent has the view with `digest` in force, on trial.
    pub fn tries(&mut self, digest: Digest) {
        let arrived = self
            .under_way
            .take_if(|under_way| under_way.view.digest == digest);
        if let Some(arrived) = arrived {
            self.on_trial = Some(arrived.view);
        }
    }

    /// The agent has applied the view with `digest`: the one under way, one that it refused before and tried again,
    /// or the one that it has. Returns what it now holds, `None` if it was never sent that.
    pub fn applied(&mut self, digest: Digest) -> Option<Held> {
        let is_it = |held: &Held| held.digest == digest;
        let arrived = self
            .under_way
            .take_if(|under_way| is_it(&under_way.view))
            .map(|under_way| under_way.view)
            .or_else(|| self.on_trial.take_if(|on_trial| is_it(on_trial)));
        if let Some(held) = arrived.or_else(|| self.refused.take_if(|refused| is_it(refused))) {
            self.held = Some(held);
            self.refused = None;
        }
        self.held.clone().filter(is_it)
    }

    /// The agent has refused the view with `digest`: it is not sent again in this session.
    /// Returns whether it was sent.
    pub fn refused(&mut self, digest: Digest) -> bool {
        let is_it = |held: &mut Held| held.digest == digest;
        let under_way = self
            .under_way
            .take_if(|under_way| under_way.view.digest == digest)
            .map(|under_way| under_way.view);
        // One on trial may have been so since the session before, which greeted with it.
        let refused = under_way
            .or_else(|| self.on_trial.take_if(is_it))
            .or_else(|| self.held.take_if(is_it));
        let mine = refused.is_some();
        if mine {
            self.refused = refused;
        }
        mine
    }

    /// The agent lacks records of the view with `digest`: it is sent all of them.
    /// An agent that lacks records of a complete view has refused it. Returns whether the view was sent.
    pub fn incomplete(&mut self, digest: Digest) -> bool {
        let under_way = self
            .under_way
            .take_if(|under_way| under_way.view.digest == digest);
        let mine = under_way.is_some();
        if let Some(under_way) = under_way
            && self.held.take().is_none()
        {
            self.refused = Some(under_way.view);
        }
        mine
    }

    /// Whether the agent is known to hold the view with `digest`.
    pub fn holds(&self, digest: Digest) -> bool {
        self.held.as_ref().is_some_and(|held| held.digest == digest)
    }
}
