//! The lab's Prometheus, asked through its HTTP API.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::dashboards::{list, word};
use pnsbox_tests::lab::Lab;
use serde_json::{Deserializer, Value};

/// On `pusat.lan`, where it listens on loopback.
const API: &str = "http://127.0.0.1:9090/api/v1";

/// One series of an answer.
#[derive(Debug)]
pub(super) struct Series {
    /// Its labels.
    #[expect(dead_code, reason = "printed where a value is not as it should be")]
    pub(super) labels: Value,
    /// Its value now.
    pub(super) value: f64,
}

pub(super) struct Prometheus<'a> {
    pub(super) lab: &'a Lab,
}

impl Prometheus<'_> {
    /// Asks all queries at once; the answers come in their order.
    pub(super) fn ask(&self, queries: &[String]) -> Result<Vec<Vec<Series>>> {
        let paths: Vec<String> = queries
            .iter()
            .map(|query| format!("query?query={}", encoded(query)))
            .collect();
        let answers = self.fetch(&paths)?;
        ensure!(answers.len() == queries.len(), "{queries:?}: {answers:?}");
        let both = queries.iter().zip(&answers);
        both.map(|(query, answer)| series(answer).with_context(|| format!("{query}: {answer}")))
            .collect()
    }

    /// Values of a label among the series that a selector finds.
    pub(super) fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>> {
        let path = format!("series?match[]={}", encoded(selector));
        let answers = self.fetch(&[path])?;
        let found = list(&answers[0]["data"]).iter();
        let values: BTreeSet<String> = found
            .map(|series| word(&series[label]).to_owned())
            .filter(|value| !value.is_empty())
            .collect();
        Ok(values.into_iter().collect())
    }

    /// The agents that it has discovered, by node, and how the last scrape went.
    pub(super) fn agents(&self) -> Result<BTreeMap<String, String>> {
        let answers = self.fetch(&["targets?state=active".to_owned()])?;
        let targets = list(&answers[0]["data"]["activeTargets"]).iter();
        let agents = targets.filter(|target| target["labels"]["job"] == "pnsbox-agent");
        let named = agents.map(|target| {
            let node = word(&target["labels"]["node"]).to_owned();
            (node, word(&target["health"]).to_owned())
        });
        Ok(named.collect())
    }

    /// One call of `curl` for all: starting it takes longer than an answer.
    fn fetch(&self, paths: &[String]) -> Result<Vec<Value>> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let urls: Vec<String> = paths.iter().map(|path| format!("{API}/{path}")).collect();
        let mut words = vec!["curl", "-sS", "--globoff", "--max-time", "10"];
        words.extend(urls.iter().map(String::as_str));
        let printed = self.lab.run("pusat.lan", &words)?;
        let answers = Deserializer::from_str(&printed).into_iter::<Value>();
        answers
            .map(|answer| answer.with_context(|| format!("Prometheus said {printed}")))
            .collect()
    }
}

/// A query with its variables in it, as Grafana sends it.
pub(super) fn resolve(query: &str, chosen: &BTreeMap<String, String>) -> String {
    // Four scrapes and a little: Grafana's rule for $__rate_interval.
    let mut query = query
        .replace("$__rate_interval", "5s")
        .replace("$__range", "5m");
    for (name, value) in chosen {
        query = query.replace(&format!("${name}"), value);
    }
    query
}

fn series(answer: &Value) -> Result<Vec<Series>> {
    ensure!(answer["status"] == "success", "refused");
    ensure!(answer["data"]["resultType"] == "vector", "not a vector");
    list(&answer["data"]["result"])
        .iter()
        .map(|one| {
            Ok(Series {
                labels: one["metric"].clone(),
                value: word(&one["value"][1]).parse()?,
            })
        })
        .collect()
}

/// Percent-encoding of everything that is not plainly allowed (RFC 3986, section 2.3).
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    out
}
