//! In place of `avx512` on processors that are not x86-64: says that it is not there.

pub(super) use super::portable::{open, seal};

/// Never.
pub(super) fn is_supported() -> bool {
    false
}
