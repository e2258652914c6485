//! Shutting nodes and agencies out at once, and letting them in again.

use pnsbox_proto::id::NodeName;

use super::{Controller, Now, said};
use crate::audit::Origin;
use crate::image::{Deed, Draft};
use crate::operator::{Answer, Refusal};
use crate::registry::quarantine::{Quarantine, Subject};

impl Controller {
    pub(super) fn quarantine(
        &mut self,
        subject: Subject,
        reason: String,
        by: &Origin,
        now: Now,
    ) -> Result<Answer, Refusal> {
        self.known(&subject)?;
        let reason = said::line(&reason);
        if reason.trim().is_empty() {
            return Err(Refusal::because(
                "--reason: must say why; its admin reads it".to_owned(),
            ));
        }
        let what = format!("quarantine {subject}: {reason}");
        let mut draft = self.image.draft();
        let since = now.wall;
        let quarantine = Quarantine { reason, since };
        draft
            .registry
            .quarantined
            .insert(subject.clone(), quarantine);
        Ok(self.change_quarantine(draft, subject, false, &what, (by, now)))
    }

    pub(super) fn release(
        &mut self,
        subject: Subject,
        by: &Origin,
        now: Now,
    ) -> Result<Answer, Refusal> {
        let mut draft = self.image.draft();
        if draft.registry.quarantined.remove(&subject).is_none() {
            let all: Vec<String> = self
                .image
                .registry
                .quarantined
                .keys()
                .map(Subject::to_string)
                .collect();
            let all = if all.is_empty() {
                "nobody".to_owned()
            } else {
                all.join(", ")
            };
            return Err(Refusal::because(format!(
                "{subject} is not in quarantine; in quarantine: {all}"
            )));
        }
        let what = format!("release {subject}");
        Ok(self.change_quarantine(draft, subject, true, &what, (by, now)))
    }

    fn known(&self, subject: &Subject) -> Result<(), Refusal> {
        let registry = &self.image.registry;
        let is_known = match subject {
            Subject::Agency(agency) => registry.agencies.contains_key(agency),
            Subject::Node(node) => registry.nodes.contains_key(node),
        };
        if is_known {
            return Ok(());
        }
        Err(Refusal::because(match subject {
            Subject::Agency(agency) => format!("agency {agency} is not registered"),
            Subject::Node(node) => format!("{node} has not joined"),
        }))
    }

    fn change_quarantine(
        &mut self,
        draft: Draft,
        subject: Subject,
        released: bool,
        what: &str,
        (by, now): (&Origin, Now),
    ) -> Answer {
        let deed = Deed {
            by,
            what,
            when: now.wall,
        };
        let touched: Vec<NodeName> = self.image.commit(draft, None, deed, &self.key);
        self.tell_all();
        self.push(&touched.iter().cloned().collect(), now);
        Answer::Quarantined {
            nodes: self.image.registry.nodes_meant(&subject),
            subject,
            released,
            touched,
        }
    }
}
