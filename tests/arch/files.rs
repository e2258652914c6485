//! Sizes, openings and words of files.

use super::{root, rust_files};

/// A file of more lines of code than this is refused; 300 is normal.
const MAX_LINES: usize = 800;

#[test]
fn files_stay_small() {
    for (path, text) in rust_files() {
        let lines = text
            .lines()
            .filter(|l| !l.trim().is_empty() && !l.trim_start().starts_with("//"))
            .count();
        assert!(
            lines <= MAX_LINES,
            "{path} has {lines} lines of code, more than {MAX_LINES}: split it by what it is about"
        );
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in rust_files() {
        assert!(
            text.starts_with("//!"),
            "{path} must open with //!: what it is, and what it is not"
        );
    }
}

#[test]
fn names_say_something() {
    for (path, _) in rust_files() {
        let name = path.rsplit('/').next().unwrap();
        let empty = [
            "util.rs",
            "utils.rs",
            "helper.rs",
            "helpers.rs",
            "misc.rs",
            "common.rs",
            "manager.rs",
        ];
        assert!(!empty.contains(&name), "{path}: a name that says nothing");
    }
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    for (path, text) in rust_files()
        .into_iter()
        .filter(|(path, _)| !path.starts_with("tests/arch/"))
    {
        for (number, line) in text.lines().enumerate() {
            assert!(
                !line.contains("#[allow(") && !line.contains("#![allow("),
                "{path}:{}: use #[expect(lint, reason = \"...\")]",
                number + 1
            );
        }
    }
}

#[test]
fn unsafe_code_is_only_where_the_kernel_is() {
    for (path, text) in rust_files()
        .into_iter()
        .filter(|(path, _)| !path.starts_with("tests/arch/"))
    {
        // A test counts allocations, and an allocator is unsafe by nature.
        let allowed = path.starts_with("agent/dataplane/src/")
            || path.starts_with("agent/src/host")
            || path == "agent/dataplane/tests/allocations.rs";
        let used = text.lines().any(|line| {
            let line = line.trim_start();
            !line.starts_with("//") && (line.contains("unsafe {") || line.contains("unsafe fn"))
        });
        assert!(
            allowed || !used,
            "{path}: unsafe only in agent/dataplane and agent/src/host"
        );
    }
}

#[test]
fn the_papers_that_a_reader_expects_are_there() {
    for name in [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "LICENSE",
        "deny.toml",
        "rustfmt.toml",
        "clippy.toml",
        "rust-toolchain.toml",
        "docs/architecture.md",
        "configs/agent.toml",
        "configs/controller.toml",
        "configs/policy.toml",
        ".ci/run",
    ] {
        assert!(root().join(name).is_file(), "{name} is missing");
    }
}

#[test]
fn links_in_the_papers_lead_somewhere() {
    let mut papers = vec![
        root().join("README.md"),
        root().join("CONTRIBUTING.md"),
        root().join("SECURITY.md"),
    ];
    for folder in ["docs", "docs/decisions"] {
        let entries = std::fs::read_dir(root().join(folder)).unwrap();
        papers.extend(
            entries
                .map(|e| e.unwrap().path())
                .filter(|p| p.extension().is_some_and(|e| e == "md")),
        );
    }
    let mut checked = 0;
    for paper in papers {
        let text = std::fs::read_to_string(&paper).unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            checked += 1;
            assert!(
                paper.parent().unwrap().join(file).exists(),
                "{}: {target} leads nowhere",
                paper.display()
            );
        }
    }
    assert!(checked > 3, "the papers link to each other: {checked}");
}
