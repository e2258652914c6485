//! Policies: applied, listed, compared and brought back.

use serde_json::Value;

use super::{Controller, Now};
use crate::audit::Origin;
use crate::difference::{Difference, difference, policy_changes};
use crate::history::Version;
use crate::image::{Deed, Draft};
use crate::operator::{Answer, Refusal, VersionLine};
use crate::policy::{self, Parsed};

impl Controller {
    /// What applying this policy would change.
    pub(super) fn plan(&self, file: &Value) -> Result<Answer, Refusal> {
        let (difference, _) = self.difference(file)?;
        Ok(Answer::Difference {
            difference: Box::new(difference),
            applied: false,
        })
    }

    /// Applies a policy, which is version `restores` if that is given.
    pub(super) fn apply(
        &mut self,
        file: Value,
        restores: Option<u64>,
        by: &Origin,
        now: Now,
    ) -> Result<Answer, Refusal> {
        self.refuse_during_rollout()?;
        let (difference, draft) = self.difference(&file)?;
        let number = self.image.history.current() + 1;
        let changes = difference.changes.join("; ");
        let what = match restores {
            None => format!("apply policy, version {number}: {changes}"),
            Some(old) => format!("roll back to policy version {old}, version {number}: {changes}"),
        };
        if draft.policy != self.image.policy {
            self.image.remember(Version {
                number,
                when: now.wall,
                who: by.who.clone(),
                from: by.from.clone(),
                restores,
                changes: difference.changes.clone(),
                file,
            });
        }
        let deed = Deed {
            by,
            what: &what,
            when: now.wall,
        };
        let touched = self.image.commit(draft, None, deed, &self.key);
        self.push(&touched.into_iter().collect(), now);
        Ok(Answer::Difference {
            difference: Box::new(difference),
            applied: true,
        })
    }

    pub(super) fn history(&self) -> Answer {
        let history = &self.image.history;
        let line = |version: &Version| VersionLine {
            number: version.number,
            when: version.when,
            who: version.who.clone(),
            from: version.from.clone(),
            restores: version.restores,
            changes: version.changes.clone(),
            in_force: version.number == history.current(),
        };
        Answer::History {
            versions: history.versions().iter().map(line).collect(),
        }
    }

    pub(super) fn version(&self, number: u64) -> Result<Answer, Refusal> {
        let policy = self.file(number)?;
        Ok(Answer::Version { number, policy })
    }

    pub(super) fn changes(&self, from: u64, to: Option<u64>) -> Result<Answer, Refusal> {
        let to = to.unwrap_or_else(|| self.image.history.current());
        let [before, after] = [from, to].map(|number| self.parse(&self.file(number)?));
        let changes = policy_changes(&before?.policy, &after?.policy);
        Ok(Answer::Changes { from, to, changes })
    }

    pub(super) fn bring_back(
        &mut self,
        to: u64,
        dry_run: bool,
        by: &Origin,
        now: Now,
    ) -> Result<Answer, Refusal> {
        let file = self.file(to)?;
        match dry_run {
            true => self.plan(&file),
            false => self.apply(file, Some(to), by, now),
        }
    }

    pub(super) fn file(&self, number: u64) -> Result<Value, Refusal> {
        let history = &self.image.history;
        history.file(number).ok_or_else(|| {
            Refusal::because(format!(
                "there is no policy version {number}; 'pnsbox-controller history' lists all, the last is {}",
                history.current()
            ))
        })
    }

    fn parse(&self, file: &Value) -> Result<Parsed, Refusal> {
        policy::parse(file, &self.image.registry).map_err(|mistakes| Refusal::Mistakes { mistakes })
    }

    pub(super) fn difference(&self, file: &Value) -> Result<(Difference, Draft), Refusal> {
        let parsed = self.parse(file)?;
        let mut draft = self.image.draft();
        draft.policy = parsed.policy;
        if self.rollout_runs() {
            // Beside it nothing can be applied: what is shown is what would follow if it were halted.
            draft.rollout = None;
        }
        draft.allocate();
        let mut difference = difference(&self.image, &draft, parsed.warnings);
        let touched = difference.nodes.iter().map(|touched| &touched.node);
        difference.radius.online = touched.filter(|node| self.is_online(node)).count();
        Ok((difference, draft))
    }
}
