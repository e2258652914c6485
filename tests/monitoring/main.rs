//! `configs/monitoring` keeps its promises: `promtool` is content, every alert is explained and tested,
//! and the dashboards have the structure that Grafana's own linter asks for. Their queries run in the lab.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod alerts;
mod structure;

use std::path::PathBuf;
use std::process::Command;

use pnsbox_tests::lab::root;

fn folder() -> PathBuf {
    root().join("configs/monitoring")
}

#[test]
fn promtool_accepts_the_configuration_and_the_rules() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "rules/alerts.yml", "rules/recording.yml"]);
}

#[test]
fn every_alert_behaves_as_its_cases_say() {
    let mut words = vec!["test".to_owned(), "rules".to_owned()];
    for entry in std::fs::read_dir(folder().join("tests")).unwrap() {
        words.push(entry.unwrap().path().display().to_string());
    }
    assert!(words.len() > 5, "{words:?}");
    promtool(&words.iter().map(String::as_str).collect::<Vec<_>>());
}

fn promtool(words: &[&str]) {
    let output = Command::new("promtool")
        .args(words)
        .current_dir(folder())
        .output()
        .expect("promtool is of the Debian package prometheus");
    assert!(
        output.status.success(),
        "promtool {words:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
