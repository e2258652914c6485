//! Each alert has what somebody who is woken by it needs.
//!
//! The files are written one key to a line, and read here so; that they are YAML, `promtool` says.

use std::collections::BTreeSet;
use std::fs;

use pnsbox_tests::lab::root;

use super::folder;

struct Alert {
    name: String,
    lines: Vec<(String, String)>,
}

impl Alert {
    fn value(&self, key: &str) -> &str {
        let found = self.lines.iter().find(|(k, _)| k == key);
        found.map_or("", |(_, value)| value)
    }
}

#[test]
fn every_alert_says_who_how_urgent_and_what_to_do() {
    let runbooks = fs::read_to_string(root().join("docs/runbooks.md")).unwrap();
    let sections: BTreeSet<&str> = runbooks
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    let alerts = alerts();
    for alert in &alerts {
        let name = &alert.name;
        let severity = alert.value("severity");
        assert!(
            ["page", "ticket", "info"].contains(&severity),
            "{name}: severity {severity}"
        );
        let names_agency = alert.value("summary").contains("{{ $labels.agency }}");
        match alert.value("component") {
            "agent" => assert!(names_agency, "{name}: the summary names the agency"),
            "controller" | "network" => assert!(!alert.value("summary").is_empty(), "{name}"),
            other => panic!("{name}: component {other}"),
        }
        assert!(
            !alert.value("description").is_empty(),
            "{name}: description"
        );
        assert!(!alert.value("for").is_empty(), "{name}: for");
        let section = format!("docs/runbooks.md#{}", name.to_lowercase());
        assert_eq!(alert.value("runbook_url"), section, "{name}");
        assert!(sections.contains(name.as_str()), "{name} has no runbook");
    }
    let names: BTreeSet<&str> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    assert_eq!(names.len(), alerts.len(), "a name is used once");
    assert_eq!(names, sections, "a runbook without an alert");
    for part in runbooks.split("\n## ").skip(1) {
        assert!(
            part.contains("**Confirm**: ") && part.contains("**Do**:\n- "),
            "{part}"
        );
    }
}

#[test]
fn every_alert_has_a_firing_and_a_silent_case() {
    let (mut firing, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(folder().join("tests")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let mut name = "";
        for line in text.lines().map(str::trim) {
            if let Some(found) = line.strip_prefix("- alertname: ") {
                name = found;
            } else if line == "exp_alerts: []" {
                silent.insert(name.to_owned());
            } else if line.starts_with("- exp_labels:") {
                firing.insert(name.to_owned());
            }
        }
    }
    let names: BTreeSet<String> = alerts().into_iter().map(|alert| alert.name).collect();
    assert_eq!(firing, names, "firing cases");
    assert_eq!(silent, names, "silent cases");
}

fn alerts() -> Vec<Alert> {
    let text = fs::read_to_string(folder().join("rules/alerts.yml")).unwrap();
    let mut alerts: Vec<Alert> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("- alert: ") {
            alerts.push(Alert {
                name: name.to_owned(),
                lines: Vec::new(),
            });
        } else if let (Some(alert), Some((key, value))) = (alerts.last_mut(), line.split_once(": "))
        {
            let value = value.trim_matches('\'').to_owned();
            alert.lines.push((key.to_owned(), value));
        }
    }
    assert!(alerts.len() > 20, "the file is read: {}", alerts.len());
    alerts
}
