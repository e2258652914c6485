//! The admin of the agency asks: consents, claims, the key.

use ed25519_dalek::SigningKey;
use pnsbox_proto::access::Opening;
use pnsbox_proto::agency::Subject;
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::MemberKind;

use super::Agent;
use crate::agency::{AgencyAnswer, AgencyCommand, ConsentLine, ConsentState, KeyLine, MemberLine};
use crate::event::Now;
use crate::trust::{Signed, Trust, Unsigned};
use crate::view::{Accepted, View};

impl Agent {
    /// Answers the admin. What is signed is on its way to the disk, the controller and peers when this returns.
    pub fn agency(&mut self, command: AgencyCommand, now: Now) -> Result<AgencyAnswer, String> {
        let (Some(trust), Some(view)) = (&self.trust, self.force.newest()) else {
            return Err("this box has no view yet: join, and wait for the controller".to_owned());
        };
        match command {
            AgencyCommand::Consents => Ok(AgencyAnswer::Consents {
                consents: consents(trust, view, now.wall),
            }),
            AgencyCommand::Members => Ok(AgencyAnswer::Members {
                members: members(trust, &view.accepted),
            }),
            AgencyCommand::Key => Ok(AgencyAnswer::Key { key: key(trust) }),
            AgencyCommand::Grant { with, any, until } => self.grant(with, any, until, now),
            AgencyCommand::Revoke { with } => self.revoke(Subject::Consent(with), now),
            AgencyCommand::Approve { node } => self.approve(&node, now),
            AgencyCommand::Disown { node } => self.revoke(Subject::Node(node), now),
        }
    }

    /// The agency's key, if this box has it.
    pub fn agency_key(&self) -> Result<SigningKey, String> {
        let trust = self.trust.as_ref().ok_or("this box has not joined")?;
        trust.key().map_err(|error| error.to_string())
    }

    /// A key of the agency came to this box.
    pub fn add_agency_key(&mut self, key: SigningKey, now: Now) {
        self.agency_keys.push(key.clone());
        if let Some(trust) = &mut self.trust {
            trust.add_key(key);
        }
        self.tell_unheard(now);
        self.tick_trust(now);
    }

    /// Puts `next` in the place of the agency's key; it must be on disk before.
    pub fn rotate_agency_key(
        &mut self,
        next: SigningKey,
        now: Now,
    ) -> Result<AgencyAnswer, String> {
        let Some(trust) = &mut self.trust else {
            return Err("this box has not joined".to_owned());
        };
        self.agency_keys.push(next.clone());
        let signed = trust.rotate(next, now.wall);
        self.signed(signed, now, |trust| {
            let key = trust
                .key()
                .ok()
                .map(|key| public(&key).fingerprint().to_string());
            vec![format!(
                "the agency's key is now {}",
                key.unwrap_or_default()
            )]
        })
    }

    /// The newest key that this box can sign with.
    pub(super) fn newest_agency_key(&self) -> Option<IdentityKey> {
        self.agency_keys.last().map(public)
    }

    fn grant(
        &mut self,
        with: Option<AgencyName>,
        any: bool,
        until: Option<UnixTime>,
        now: Now,
    ) -> Result<AgencyAnswer, String> {
        if let Some(until) = until.filter(|until| *until <= now.wall) {
            return Err(format!("--until {until}: is past"));
        }
        let (Some(trust), Some(view)) = (&mut self.trust, self.force.newest()) else {
            return Err("this box has no view yet".to_owned());
        };
        let waiting: Vec<ConsentLine> = match with {
            Some(with) => vec![line(trust, view, &with, now.wall).ok_or_else(|| {
                format!("the operator's policy proposes no link with {with}; 'pnsbox consent list' shows which it does")
            })?],
            None => {
                let all = consents(trust, view, now.wall).into_iter();
                all.filter(|line| line.ours != ConsentState::Granted || any && line.most.is_some())
                    .collect()
            }
        };
        let mut signed = Signed::new();
        for line in &waiting {
            let opens = (!any).then(|| line.opens.clone());
            let consent = trust.consent(&line.with, opens, until, now.wall);
            signed.extend(consent.map_err(|error| error.to_string())?);
        }
        let lines = waiting.iter().map(|line| {
            let what = match (any, line.opens.is_empty()) {
                (true, _) => "whatever the operator's policy opens".to_owned(),
                (false, true) => "nothing of ours is opened".to_owned(),
                (false, false) => in_words(&line.opens),
            };
            format!("consented to a link with {}: {what}", line.with)
        });
        let lines = lines.collect();
        self.signed(Ok(signed), now, |_| lines)
    }

    fn approve(&mut self, node: &NodeName, now: Now) -> Result<AgencyAnswer, String> {
        let (Some(trust), Some(view)) = (&mut self.trust, self.force.newest()) else {
            return Err("this box has no view yet".to_owned());
        };
        let Some(member) = view.accepted.members.get(node) else {
            return Err(format!(
                "{node} has not joined, or is not of this agency; 'pnsbox node list' shows which are"
            ));
        };
        if trust.is_claimed(member) {
            return Err(format!("{node} is approved already; nothing was changed"));
        }
        let signed = trust.claim(member, now.wall);
        self.signed(signed, now, |_| vec![format!("approved {node}")])
    }

    fn revoke(&mut self, subject: Subject, now: Now) -> Result<AgencyAnswer, String> {
        let Some(trust) = &mut self.trust else {
            return Err("this box has not joined".to_owned());
        };
        let line = format!("took {subject} back");
        let signed = trust.revoke(subject, now.wall);
        self.signed(signed, now, |_| vec![line])
    }

    fn signed(
        &mut self,
        signed: Result<Signed, Unsigned>,
        now: Now,
        lines: impl FnOnce(&Trust) -> Vec<String>,
    ) -> Result<AgencyAnswer, String> {
        let signed = signed.map_err(|error| error.to_string())?;
        self.issued(signed);
        // Peers and the host need not wait for the next tick.
        self.tick_trust(now);
        let lines = self.trust.as_ref().map_or_else(Vec::new, lines);
        Ok(AgencyAnswer::Signed { lines })
    }
}

/// Links that policy wants, with what both agencies say to them.
pub(crate) fn consents(trust: &Trust, view: &View, now: UnixTime) -> Vec<ConsentLine> {
    let links = view.accepted.links.keys();
    let mut all: Vec<&AgencyName> = links.chain(view.accepted.proposals.keys()).collect();
    all.sort();
    all.dedup();
    all.into_iter()
        .filter_map(|with| line(trust, view, with, now))
        .collect()
}

fn line(trust: &Trust, view: &View, with: &AgencyName, now: UnixTime) -> Option<ConsentLine> {
    let proposal = view.accepted.proposals.get(with);
    let link = view.accepted.links.get(with);
    let (opens, opened) = match (proposal, link) {
        (Some(proposal), _) => (proposal.opens.clone(), proposal.opened.clone()),
        (None, Some(link)) => (link.opens.clone(), link.opened.clone()),
        (None, None) => return None,
    };
    let own = trust.own_agency();
    let ours = trust.pinned(&own).and_then(|pinned| pinned.consent(with));
    let ours = ours.filter(|(consent, void)| !void && !consent.has_ended(now));
    let state = match &ours {
        None => ConsentState::Missing,
        Some((consent, _)) if opens.iter().all(|opening| consent.allows(opening)) => {
            ConsentState::Granted
        }
        Some(_) => ConsentState::Partly,
    };
    let pinned = trust.pinned(with);
    let theirs = pinned.and_then(|pinned| pinned.consent(&own));
    Some(ConsentLine {
        with: with.clone(),
        ours: state,
        theirs: theirs.is_some_and(|(_, void)| !void) || proposal.is_some_and(|p| p.theirs),
        opens,
        opened,
        most: ours.as_ref().and_then(|(consent, _)| consent.opens.clone()),
        until: ours.as_ref().and_then(|(consent, _)| consent.until),
        heard: pinned
            .and_then(|pinned| pinned.statement())
            .map(|statement| statement.issued),
    })
}

fn members(trust: &Trust, view: &Accepted) -> Vec<MemberLine> {
    let line = |member: &pnsbox_proto::view::MemberRecord| {
        let (identity, prefixes) = match &member.what {
            MemberKind::Box { identity, prefixes } => {
                (Some(identity.fingerprint()), prefixes.clone())
            }
            MemberKind::Device { .. } => (None, Vec::new()),
        };
        MemberLine {
            name: member.name.clone(),
            approved: trust.is_claimed(member),
            identity,
            wireguard: member.wireguard,
            prefixes,
        }
    };
    view.members.values().map(line).collect()
}

fn key(trust: &Trust) -> KeyLine {
    let agency = trust.own_agency();
    let key = trust.pinned(&agency).map(|pinned| pinned.key);
    let other = trust.public_keys().filter(|other| Some(*other) != key);
    KeyLine {
        here: trust.key().is_ok(),
        other: other.collect(),
        agency,
        key,
    }
}

fn in_words(opens: &[Opening]) -> String {
    let words = opens.iter().map(|opening| {
        let allow: Vec<String> = opening.allow.iter().map(ToString::to_string).collect();
        format!("{} {}", opening.prefix, allow.join(" "))
    });
    words.collect::<Vec<_>>().join(", ")
}

fn public(key: &SigningKey) -> IdentityKey {
    IdentityKey(key.verifying_key().to_bytes())
}
