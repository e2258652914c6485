//! Who has access to a box, as its kernel and its tunnels have it, and what it says of that.
//!
//! Read with `wg`, `nft`, `ip` and `pnsbox status`, so that no message of the agent has to be believed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::lab::Lab;

const LOOK: &str = "wg show pns0 allowed-ips && echo == && nft -nns list table inet pnsbox && echo == \
    && ip -4 route show table all dev pns0 && ip -6 route show table all dev pns0 && echo == && pnsbox status --json";

/// What a box lets through, one line for each grant; and what it shows to its admin.
#[derive(Debug, Clone)]
pub struct Access {
    /// `key K`, `K may send from P`, `nft: …`, `route P`.
    pub grants: BTreeSet<String>,
    /// By code, the messages.
    pub conditions: Vec<(String, String)>,
}

impl Access {
    /// As it is now.
    pub fn of(lab: &Lab, host: &str) -> Result<Self> {
        let text = lab.run(host, &["sh", "-c", LOOK])?;
        let mut parts = text.split("==\n");
        let mut part = || parts.next().context("four parts");
        let mut grants = BTreeSet::new();
        tunnels(part()?, &mut grants);
        filter(part()?, &mut grants);
        routes(part()?, &mut grants);
        let status: Value = serde_json::from_str(part()?)?;
        let conditions = status["status"]["conditions"].as_array();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let conditions = conditions.context("conditions")?.iter();
        Ok(Self {
            grants,
            conditions: conditions
                .map(|c| (text(&c["code"]), text(&c["message"])))
                .collect(),
        })
    }

    /// What it grants and `before` did not.
    pub fn gained<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a str> {
        self.grants.difference(&before.grants).map(String::as_str)
    }

    /// The message of this code that holds `fragment`.
    pub fn says(&self, code: &str, fragment: &str) -> Option<&str> {
        let mut of_code = self.conditions.iter().filter(|(found, _)| found == code);
        let found = of_code.find(|(_, message)| message.contains(fragment));
        found.map(|(_, message)| message.as_str())
    }

    /// How often the controller was found to lie.
    pub fn distrusted(&self) -> u64 {
        let message = self.says("controller_distrusted", " times").unwrap_or("");
        let before = message.split(" times").next().unwrap_or("");
        let count = before.rsplit(' ').next().and_then(|n| n.parse().ok());
        count.unwrap_or(0)
    }
}

fn tunnels(text: &str, grants: &mut BTreeSet<String>) {
    for line in text.lines() {
        let (key, prefixes) = line.split_once('\t').unwrap_or((line, ""));
        grants.insert(format!("key {key}"));
        let prefixes = prefixes.split_whitespace();
        grants.extend(prefixes.map(|prefix| format!("{key} may send from {prefix}")));
    }
}

fn routes(text: &str, grants: &mut BTreeSet<String>) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let destination = match words.next() {
            Some("local" | "multicast" | "broadcast" | "throw" | "unreachable") | None => continue,
            Some(destination) => destination,
        };
        grants.insert(format!("route {destination}"));
    }
}

/// Each source with each rule that is reached by it.
fn filter(text: &str, grants: &mut BTreeSet<String>) {
    let mut chains: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut chain = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ") {
            chain = name.split(' ').next();
        } else if line == "}" {
            chain = None;
        } else if let Some(name) = chain.filter(|_| !line.is_empty()) {
            chains.entry(name).or_default().push(line);
        }
    }
    let none = Vec::new();
    for name in ["inbound", "across", "outbound", "local"] {
        for rule in chains.get(name).unwrap_or(&none) {
            let Some((sources, target)) = rule.split_once(" jump ") else {
                grants.insert(format!("nft: {name}: {rule}"));
                continue;
            };
            let sources = sources.replace(['{', '}', ','], " ");
            let sources = sources.split_whitespace();
            for source in sources.filter(|word| !matches!(*word, "ip" | "ip6" | "saddr")) {
                let reached = chains.get(target).unwrap_or(&none).iter();
                grants.extend(reached.map(|rule| format!("nft: {name}: {source}: {rule}")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_has_the_rules_that_it_reaches() {
        let table = "table inet pnsbox {\n chain source_0 {\n ip daddr 10.44.1.0/24 icmp type 8 accept\n }\n \
            chain inbound {\n ip saddr { 10.33.1.0/24, 100.127.0.2 } jump source_0\n counter drop\n }\n}";
        let mut grants = BTreeSet::new();
        filter(table, &mut grants);
        let expected = [
            "nft: inbound: 10.33.1.0/24: ip daddr 10.44.1.0/24 icmp type 8 accept",
            "nft: inbound: 100.127.0.2: ip daddr 10.44.1.0/24 icmp type 8 accept",
            "nft: inbound: counter drop",
        ];
        assert_eq!(grants, expected.map(str::to_owned).into());
    }
}
