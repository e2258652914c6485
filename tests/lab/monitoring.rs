//! A real Prometheus finds every agent, every dashboard's queries have answers, and what is broken is seen.

mod faults;
mod prometheus;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::dashboards::{Dashboard, Panel, load};
use pnsbox_tests::lab::Lab;

use crate::links::GATEWAYS;
use faults::{FAULTS, Fault, Sign};
use prometheus::{Prometheus, Series, resolve};

/// A scrape each second and a rule each second, then what a query over some seconds needs.
const SEEN_WITHIN: Duration = Duration::from_secs(15);

/// Two scrapes do not happen at once: for a moment one side of a cause may be known without the other.
const SILENT_WITHIN: Duration = Duration::from_secs(4);

/// For a rate to forget, and an agent that lost the controller to find it again.
const CALM_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn monitoring_finds_and_scrapes_every_agent(lab: &Lab) -> Result<()> {
    let prometheus = Prometheus { lab };
    lab.wait("every agent is up", SEEN_WITHIN, |_| {
        Ok(prometheus.agents()? == everybody("up"))
    })?;
    // The list is for the ministry's inside.
    let outside = lab.output(
        "isp",
        &[
            "curl",
            "-sS",
            "--max-time",
            "1",
            "http://203.0.113.10:9587/sd",
        ],
    )?;
    ensure!(!outside.status.success(), "the ISP reads /sd");
    // One host was let through, to one port.
    let status = lab.status("kab-demak.gw")?;
    let overlay = status["overlay"][0].as_str().context("overlay")?;
    let url = format!("http://{overlay}:9586/metrics");
    let curl = ["curl", "-sSf", "-o", "/dev/null", "--max-time", "1", &url];
    lab.run("pusat.lan", &curl)?;
    let elsewhere = lab.output("prov-jateng.lan", &curl)?;
    ensure!(!elsewhere.status.success(), "any LAN host reads metrics");
    Ok(())
}

pub(crate) fn monitoring_answers_every_query_of_every_dashboard(lab: &Lab) -> Result<()> {
    let prometheus = Prometheus { lab };
    for dashboard in &load()? {
        let chosen = chosen(&prometheus, dashboard)?;
        let mut wrong = Vec::new();
        let answered = lab.wait("every query", SEEN_WITHIN, |_| {
            wrong = unanswered(&prometheus, dashboard, &chosen)?;
            Ok(wrong.is_empty())
        });
        answered.with_context(|| format!("{}:\n{}", dashboard.name, wrong.join("\n")))?;
    }
    Ok(())
}

/// What its variables offer, as Grafana would ask for it.
fn chosen(prometheus: &Prometheus<'_>, dashboard: &Dashboard) -> Result<BTreeMap<String, String>> {
    let mut chosen = BTreeMap::new();
    for (name, query) in dashboard.variables() {
        let (metric, label) = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(|inside| inside.rsplit_once(", "))
            .with_context(|| format!("{}: {query}", dashboard.name))?;
        let values = prometheus.label_values(&resolve(metric, &chosen), label)?;
        ensure!(
            !values.is_empty(),
            "{}: {query} offers nothing",
            dashboard.name
        );
        chosen.insert(name.to_owned(), format!("({})", values.join("|")));
    }
    Ok(chosen)
}

fn unanswered(
    prometheus: &Prometheus<'_>,
    dashboard: &Dashboard,
    chosen: &BTreeMap<String, String>,
) -> Result<Vec<String>> {
    let asked: Vec<(Panel<'_>, &str)> = dashboard
        .panels()
        .flat_map(|panel| {
            let queries = panel.queries().into_iter();
            queries.map(move |query| (panel, query))
        })
        .collect();
    let queries: Vec<String> = asked.iter().map(|(_, q)| resolve(q, chosen)).collect();
    let answers = prometheus.ask(&queries)?;
    let mut wrong = Vec::new();
    for ((panel, query), series) in asked.iter().zip(answers) {
        if series.is_empty() && !panel.is_empty_when_healthy() {
            wrong.push(format!("{}: no series: {query}", panel.place()));
        }
        if let Some(odd) = series.iter().find(|one| !one.value.is_finite()) {
            wrong.push(format!("{}: {odd:?}: {query}", panel.place()));
        }
    }
    Ok(wrong)
}

pub(crate) fn monitoring_shows_what_is_broken_where_it_promised_to(lab: &Lab) -> Result<()> {
    let prometheus = Prometheus { lab };
    let dashboards = load()?;
    let mut missed = Vec::new();
    for fault in FAULTS {
        let signs = Signs::of(fault, &dashboards)?;
        if let Err(error) = breaking(lab, &prometheus, fault, &signs) {
            missed.push(format!("{}: {error:#}", fault.what));
        }
    }
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    Ok(())
}

/// Calm first; then the fault, its signs, and calm brought back.
fn breaking(lab: &Lab, prometheus: &Prometheus<'_>, fault: &Fault, signs: &Signs) -> Result<()> {
    let calm = lab.wait("calm", CALM_WITHIN, |_| {
        ensure!(prometheus.agents()? == everybody("up"), "agents are not up");
        let links = prometheus.ask(&["sum(pnsbox_links_up)".to_owned()])?;
        ensure!(links[0].iter().any(|s| s.value == 12.0), "links: {links:?}");
        signs.none_shows(prometheus)
    })?;
    let broken = Instant::now();
    (fault.make)(lab)?;
    let seen = lab.wait("seen", SEEN_WITHIN, |_| signs.all_show(prometheus));
    let took = broken.elapsed();
    let quiet = signs.quiet(prometheus, fault);
    (fault.mend)(lab)?;
    seen?;
    quiet?;
    println!(
        "    {}: calm after {:.1} s, then {} panels and {} alerts in {:.1} s",
        fault.what,
        calm.as_secs_f64(),
        fault.shows.len(),
        fault.alerts.len(),
        took.as_secs_f64()
    );
    Ok(())
}

/// The signs of one fault with the queries of their panels.
struct Signs {
    of_panels: Vec<(&'static Sign, Vec<String>)>,
    alerts: Vec<(&'static str, String)>,
}

impl Signs {
    fn of(fault: &'static Fault, dashboards: &[Dashboard]) -> Result<Self> {
        let mut of_panels = Vec::new();
        for sign in fault.shows {
            let panel = dashboards
                .iter()
                .filter(|dashboard| dashboard.name == sign.dashboard)
                .flat_map(Dashboard::panels)
                .find(|panel| panel.title() == sign.panel)
                .with_context(|| format!("{}: {} does not exist", sign.dashboard, sign.panel))?;
            let mut chosen = BTreeMap::new();
            for variable in ["agency", "node", "peer", "service"] {
                let of_sign = sign.only.iter().find(|(name, _)| *name == variable);
                let value = of_sign.map_or(".*", |(_, value)| value);
                chosen.insert(variable.to_owned(), value.to_owned());
            }
            let queries = panel.queries();
            let queries = queries.iter().map(|q| resolve(q, &chosen)).collect();
            of_panels.push((sign, queries));
        }
        let query = |name: &&'static str| (*name, format!("ALERTS{{alertname=\"{name}\"}}"));
        let alerts = fault.alerts.iter().map(query).collect();
        Ok(Self { of_panels, alerts })
    }

    fn none_shows(&self, prometheus: &Prometheus<'_>) -> Result<bool> {
        let shown = self.shown(prometheus)?;
        let early: Vec<&String> = shown.iter().filter(|(_, s)| *s).map(|(w, _)| w).collect();
        ensure!(early.is_empty(), "shown before anything broke: {early:?}");
        Ok(true)
    }

    fn all_show(&self, prometheus: &Prometheus<'_>) -> Result<bool> {
        let shown = self.shown(prometheus)?;
        let missing: Vec<&String> = shown.iter().filter(|(_, s)| !s).map(|(w, _)| w).collect();
        ensure!(missing.is_empty(), "not shown: {missing:?}");
        Ok(true)
    }

    /// Each sign and alert in words, and whether it is there.
    fn shown(&self, prometheus: &Prometheus<'_>) -> Result<Vec<(String, bool)>> {
        let of_panels = self.of_panels.iter().flat_map(|(_, queries)| queries);
        let of_alerts = self.alerts.iter().map(|(_, query)| query);
        let queries: Vec<String> = of_panels.chain(of_alerts).cloned().collect();
        let mut answers = prometheus.ask(&queries)?.into_iter();
        let mut shown = Vec::new();
        for (sign, queries) in &self.of_panels {
            let series: Vec<Series> = answers.by_ref().take(queries.len()).flatten().collect();
            let total: f64 = series.iter().map(|one| one.value).sum();
            let words = format!(
                "{}: {} {:?} (is {total} of {} series)",
                sign.dashboard,
                sign.panel,
                sign.change,
                series.len()
            );
            shown.push((words, sign.change.is_shown(&series, total)));
        }
        for ((name, _), series) in self.alerts.iter().zip(answers) {
            shown.push(((*name).to_owned(), !series.is_empty()));
        }
        Ok(shown)
    }

    /// What the fault must not raise: one cause is one alert.
    fn quiet(&self, prometheus: &Prometheus<'_>, fault: &Fault) -> Result<()> {
        let query = |name: &&str| format!("ALERTS{{alertname=\"{name}\"}}");
        let queries: Vec<String> = fault.silent.iter().map(query).collect();
        prometheus.lab.wait("silent", SILENT_WITHIN, |_| {
            for (name, series) in fault.silent.iter().zip(prometheus.ask(&queries)?) {
                ensure!(series.is_empty(), "{name} blames another: {series:?}");
            }
            Ok(true)
        })?;
        let known = prometheus.agents()?.len();
        ensure!(known == GATEWAYS.len(), "Prometheus forgot agents: {known}");
        Ok(())
    }
}

fn everybody(health: &str) -> BTreeMap<String, String> {
    let all = GATEWAYS.iter();
    all.map(|(_, node)| ((*node).to_owned(), health.to_owned()))
        .collect()
}
