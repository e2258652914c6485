//! The Grafana dashboards of `configs/monitoring`, as far as tests look into them.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::lab::root;

/// One dashboard.
#[derive(Debug)]
pub struct Dashboard {
    /// File name without its ending.
    pub name: String,
    /// The whole document.
    pub json: Value,
}

/// One panel of a dashboard that asks something.
#[derive(Debug, Clone, Copy)]
pub struct Panel<'a> {
    /// Of the dashboard.
    pub dashboard: &'a str,
    /// The whole panel.
    pub json: &'a Value,
}

/// Every dashboard, sorted by name.
pub fn load() -> Result<Vec<Dashboard>> {
    let folder = root().join("configs/monitoring/dashboards");
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let json = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let name = path.file_stem().context("a file has a name")?;
        found.push(Dashboard {
            name: name.to_string_lossy().into_owned(),
            json,
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

impl Dashboard {
    /// Its panels, without the headings.
    pub fn panels(&self) -> impl Iterator<Item = Panel<'_>> {
        let panels = list(&self.json["panels"]).iter();
        panels
            .filter(|json| json["type"] != "row")
            .map(|json| Panel {
                dashboard: &self.name,
                json,
            })
    }

    /// Its variables that ask Prometheus: name and query.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let variables = list(&self.json["templating"]["list"]).iter();
        variables
            .filter(|variable| variable["type"] == "query")
            .map(|variable| (word(&variable["name"]), word(&variable["query"]["query"])))
    }
}

impl<'a> Panel<'a> {
    /// What stands above it.
    pub fn title(&self) -> &'a str {
        word(&self.json["title"])
    }

    /// Dashboard and title, for messages.
    pub fn place(&self) -> String {
        format!("{}: {}", self.dashboard, self.title())
    }

    /// Its queries.
    pub fn queries(&self) -> Vec<&'a str> {
        let targets = list(&self.json["targets"]).iter();
        targets.map(|target| word(&target["expr"])).collect()
    }

    /// Whether it promises to show nothing when nothing is wrong.
    pub fn is_empty_when_healthy(&self) -> bool {
        word(&self.json["description"]).contains("Empty when healthy")
    }
}

/// The elements of a JSON list; none for anything else.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A JSON string; empty for anything else.
pub fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
