//! The drawing in `docs/architecture.md` is true: arrows between crates and modules, banned crates, sources, sizes.
//!
//! Each ban stands with its reason, which the failing test prints.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod arrows;
mod files;
mod lockfile;

use std::path::{Path, PathBuf};

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
        .to_owned()
}

/// Every Rust file of the workspace with its text, path relative to the root.
fn rust_files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for top in ["proto", "agent", "controller", "tests"] {
        collect(&root().join(top), &mut found);
    }
    assert!(
        found.len() > 20,
        "the walk finds the sources: {}",
        found.len()
    );
    found
}

fn collect(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let relative = path
                .strip_prefix(root())
                .unwrap()
                .to_string_lossy()
                .into_owned();
            found.push((relative, std::fs::read_to_string(&path).unwrap()));
        }
    }
}
