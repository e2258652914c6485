//! A mutex that never allocates, not even when two threads want it at once.

use std::sync::{MutexGuard, PoisonError};

/// The standard library's mutex without poisoning: what it guards is right after each step, so a panic elsewhere
/// does not make it unusable.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
