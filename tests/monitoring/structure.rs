//! The structure of the dashboards: what Grafana's dashboard linter asks for, and what makes them one set.

use std::collections::{BTreeMap, BTreeSet};

use pnsbox_tests::dashboards::{Dashboard, Panel, list, load, word};
use serde_json::Value;

/// Of Grafana 12.
const SCHEMA_VERSION: u64 = 41;

/// Units that panels may use: ids of Grafana's `getValueFormats`.
const UNITS: &[&str] = &[
    "short",
    "none",
    "percentunit",
    "s",
    "bytes",
    "bps",
    "pps",
    "ops",
];

#[test]
fn the_four_dashboards_are_one_set() {
    let dashboards = load().unwrap();
    let names: Vec<&str> = dashboards.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["agency", "fleet", "link", "services"]);
    for Dashboard { name, json } in &dashboards {
        let uid = word(&json["uid"]);
        assert_eq!(uid, format!("pnsbox-{name}"));
        assert!(uid.len() <= 40, "{name}");
        assert!(!word(&json["title"]).is_empty(), "{name}: title");
        assert_eq!(json["schemaVersion"], SCHEMA_VERSION, "{name}");
        assert_eq!(json["tags"], Value::from(vec!["pnsbox"]), "{name}: tags");
        assert!(
            json.get("__inputs").is_none() && json.get("id").is_none(),
            "{name}: as exported for one Grafana"
        );
        let links: BTreeSet<&str> = list(&json["links"])
            .iter()
            .map(|l| word(&l["url"]))
            .collect();
        let others = names.iter().filter(|other| *other != name);
        let wanted: Vec<String> = others.map(|other| format!("/d/pnsbox-{other}")).collect();
        assert_eq!(
            links,
            wanted.iter().map(String::as_str).collect(),
            "{name}: links to the other three"
        );
        for link in list(&json["links"]) {
            assert!(
                link["includeVars"] == true && link["keepTime"] == true,
                "{name}: {link}"
            );
        }
    }
}

#[test]
fn the_data_source_is_chosen_and_the_variables_ask_for_labels() {
    for dashboard in load().unwrap() {
        let name = &dashboard.name;
        let first = &dashboard.json["templating"]["list"][0];
        assert_eq!(first["name"], "datasource", "{name}");
        assert_eq!(first["type"], "datasource", "{name}");
        assert_eq!(first["query"], "prometheus", "{name}");
        let mut known = vec!["datasource"];
        for (variable, query) in dashboard.variables() {
            assert!(
                ["agency", "node", "peer", "service"].contains(&variable),
                "{name}: {variable}"
            );
            assert!(
                query.starts_with("label_values(") && query.ends_with(&format!(", {variable})")),
                "{name}: {query}"
            );
            known.push(variable);
        }
        let text = dashboard.json.to_string();
        for used in used_variables(&text) {
            assert!(
                known.contains(&used.as_str()),
                "{name}: ${used} is not declared"
            );
        }
        for variable in &known {
            assert!(
                used_variables(&text).contains(*variable),
                "{name}: {variable} is not used"
            );
        }
    }
}

#[test]
fn every_panel_can_be_read() {
    for dashboard in load().unwrap() {
        let mut titles = BTreeSet::new();
        for panel in dashboard.panels() {
            let place = panel.place();
            assert!(!panel.title().is_empty(), "{place}");
            assert!(titles.insert(panel.title().to_owned()), "{place}: twice");
            let json = panel.json;
            assert!(
                !word(&json["description"]).is_empty(),
                "{place}: description"
            );
            let unit = word(&json["fieldConfig"]["defaults"]["unit"]);
            assert!(UNITS.contains(&unit), "{place}: unit {unit}");
            assert_eq!(json["datasource"]["uid"], "${datasource}", "{place}");
            assert!(!list(&json["targets"]).is_empty(), "{place}: no query");
            if json["type"] == "timeseries" {
                assert_eq!(json["options"]["legend"]["showLegend"], true, "{place}");
            }
            check_targets(&panel);
        }
    }
}

fn check_targets(panel: &Panel<'_>) {
    let place = panel.place();
    let mut references = BTreeSet::new();
    for target in list(&panel.json["targets"]) {
        let expr = word(&target["expr"]);
        assert!(
            references.insert(word(&target["refId"])),
            "{place}: refId twice"
        );
        assert_eq!(target["datasource"]["uid"], "${datasource}", "{place}");
        assert!(!word(&target["legendFormat"]).is_empty(), "{place}: legend");
        assert!(!expr.contains("instance"), "{place}: {expr}");
        assert!(
            !expr.contains("$agency\"") || expr.contains("=~\"$agency\""),
            "{place}: several may be chosen: {expr}"
        );
        // increase() is over a time that the description names; rate() over what the screen can show.
        for call in ["irate(", "rate("] {
            for rest in expr.split(call).skip(1) {
                assert!(rest.contains("[$__rate_interval]"), "{place}: {expr}");
            }
        }
    }
}

#[test]
fn panels_lie_on_the_grid_and_have_ids_of_their_own() {
    for dashboard in load().unwrap() {
        let mut ids = BTreeSet::new();
        let mut taken: BTreeMap<(u64, u64), &str> = BTreeMap::new();
        for panel in list(&dashboard.json["panels"]) {
            let place = format!("{}: {}", dashboard.name, panel["title"]);
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{place}: id");
            let side = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            let (x, y, w, h) = (side("x"), side("y"), side("w"), side("h"));
            assert!(w > 0 && h > 0 && x + w <= 24, "{place}: {x}+{w}");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                let other = taken.insert(cell, word(&panel["title"]));
                assert!(other.is_none(), "{place} lies on {other:?}");
            }
        }
    }
}

/// Names after `$` and `${`, without Grafana's own.
fn used_variables(text: &str) -> BTreeSet<String> {
    let names = text.split('$').skip(1).map(|rest| {
        let rest = rest.trim_start_matches('{');
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        rest[..end.unwrap_or(rest.len())].to_owned()
    });
    names.filter(|name| !name.starts_with("__")).collect()
}
