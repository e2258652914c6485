//! `docs/metrics.md` says exactly what the programs declare, so a name cannot change unseen.

use std::collections::BTreeSet;

use prometheus::core::Desc;

#[test]
fn the_agents_metrics_are_as_documented() {
    check("## Agent", &pnsbox_agent::metrics::described());
}

#[test]
fn the_controllers_metrics_are_as_documented() {
    let metrics = pnsbox_controller::metrics::Metrics::new().unwrap();
    check("## Controller", metrics.described());
}

fn check(section: &str, described: &[Desc]) {
    let page = std::fs::read_to_string(pnsbox_tests::lab::root().join("docs/metrics.md"))
        .expect("docs/metrics.md is part of the repository");
    let (_, section) = page.split_once(section).expect("the section is there");
    let section = section.split("\n## ").next().unwrap_or_default();
    let documented: BTreeSet<&str> = section
        .lines()
        .filter(|l| l.starts_with("| `pnsbox_"))
        .collect();
    let lines: Vec<String> = described.iter().map(line).collect();
    let declared: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
    assert!(!declared.is_empty());
    assert_eq!(
        documented,
        declared,
        "names, types, labels and help are an interface: a change needs a line in CHANGELOG.md, and this table:\n{}",
        lines.join("\n")
    );
}

/// A row of the table.
fn line(metric: &Desc) -> String {
    let kind = match metric.fq_name.ends_with("_total") {
        true => "counter",
        false => "gauge",
    };
    let labels: Vec<String> = metric
        .variable_labels
        .iter()
        .map(|label| format!("`{label}`"))
        .collect();
    format!(
        "| `{}` | {kind} | {} | {} |",
        metric.fq_name,
        labels.join(", "),
        metric.help
    )
}
