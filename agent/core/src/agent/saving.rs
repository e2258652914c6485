//! What must be on disk: written after every change, and again until the disk takes it.

use std::time::Duration;

use super::Agent;
use crate::event::{Now, Output};

/// A full disk is not emptied within seconds, and each attempt costs a write.
const RETRY: Duration = Duration::from_secs(10);

/// The disk does not have what it should.
#[derive(Debug)]
pub(crate) struct Unsaved {
    /// What it refused.
    pub(crate) reason: String,
    retry_at: Duration,
}

impl Agent {
    /// Has the state written as it is now.
    pub(crate) fn save(&mut self) {
        if let Some(saved) = &mut self.saved {
            if let Some(trust) = &mut self.trust {
                trust.take_must_save();
                saved.trust = trust.state().clone();
            }
            self.outputs
                .push_back(Output::Persist(Box::new(saved.clone())));
        }
    }

    pub(super) fn saved(&mut self, result: Result<(), String>, now: Now) {
        let was = self.unsaved.is_some();
        self.unsaved = result.err().map(|reason| Unsaved {
            reason,
            retry_at: now.monotonic + RETRY,
        });
        if was != self.unsaved.is_some() {
            self.reporter.report_soon();
        }
    }

    pub(super) fn save_again_when_due(&mut self, now: Now) {
        let Some(unsaved) = &mut self.unsaved else {
            return;
        };
        if unsaved.retry_at <= now.monotonic {
            unsaved.retry_at = now.monotonic + RETRY;
            self.save();
        }
    }
}
