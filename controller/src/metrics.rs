//! Every metric of the controller, and nowhere else. Labels are words from enums.

use pnsbox_controller_core::controller::{Controller, Counters, REFUSALS};
use pnsbox_controller_core::fleet::NodeState;
use prometheus::core::Collector;
use prometheus::{
    Encoder as _, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// The controller's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    agencies: IntGauge,
    nodes: IntGaugeVec,
    prefixes: IntGaugeVec,
    sessions: IntGaugeVec,
    joins: IntCounterVec,
    views: IntCounterVec,
    view_bytes: IntCounter,
    commits: IntCounter,
    requests: IntCounter,
}

impl Metrics {
    /// Registers them; `started` is the process's start, in seconds since 1970.
    pub fn new(started: u64) -> prometheus::Result<Self> {
        let metrics = Self {
            registry: Registry::new(),
            agencies: gauge("pnsbox_controller_agencies", "Registered agencies.")?,
            nodes: gauges("pnsbox_controller_nodes", "Nodes by state.", "state")?,
            prefixes: gauges(
                "pnsbox_controller_prefixes",
                "LAN prefixes that nodes claimed, by state.",
                "state",
            )?,
            sessions: gauges(
                "pnsbox_controller_sessions",
                "Open sessions with agents, by kind.",
                "kind",
            )?,
            joins: counters(
                "pnsbox_controller_joins_total",
                "Requests to join, by outcome.",
                "outcome",
            )?,
            views: counters(
                "pnsbox_controller_views_total",
                "Views sent, and what agents answered.",
                "event",
            )?,
            view_bytes: counter(
                "pnsbox_controller_view_sent_bytes_total",
                "Bytes of views sent to agents.",
            )?,
            commits: counter(
                "pnsbox_controller_store_commits_total",
                "Transactions written to the store.",
            )?,
            requests: counter(
                "pnsbox_controller_operator_requests_total",
                "Requests of operators.",
            )?,
        };
        let start = gauge(
            "pnsbox_controller_start_time_seconds",
            "When the process started, since 1970.",
        )?;
        start.set(i64::try_from(started).unwrap_or(i64::MAX));
        let build = gauges(
            "pnsbox_controller_build_info",
            "Always 1; the version stands in the label.",
            "version",
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        for collector in [Box::new(start) as Box<dyn Collector>, Box::new(build)]
            .into_iter()
            .chain(metrics.collectors())
        {
            metrics.registry.register(collector)?;
        }
        metrics.count(&Counters::default());
        Ok(metrics)
    }

    /// Takes over what the core knows.
    pub fn observe(&self, controller: &Controller) {
        self.agencies.set(number(controller.agency_count()));
        for (state, count) in controller.node_states() {
            self.nodes
                .with_label_values(&[label(state)])
                .set(number(count));
        }
        let (active, held) = controller.prefix_counts();
        self.prefixes
            .with_label_values(&["active"])
            .set(number(active));
        self.prefixes.with_label_values(&["held"]).set(number(held));
        let (joined, unjoined) = controller.session_counts();
        self.sessions
            .with_label_values(&["joined"])
            .set(number(joined));
        self.sessions
            .with_label_values(&["unjoined"])
            .set(number(unjoined));
        self.count(controller.counters());
    }

    /// A transaction was written.
    pub fn committed(&self) {
        self.commits.inc();
    }

    /// An operator asked something.
    pub fn requested(&self) {
        self.requests.inc();
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn count(&self, counters: &Counters) {
        raise(&self.joins.with_label_values(&["joined"]), counters.joined);
        for word in REFUSALS {
            let count = counters.joins_refused.get(word).copied().unwrap_or(0);
            raise(&self.joins.with_label_values(&[word]), count);
        }
        for (event, count) in [
            ("pushed", counters.views_pushed),
            ("applied", counters.views_applied),
            ("refused", counters.views_refused),
            ("incomplete", counters.views_incomplete),
        ] {
            raise(&self.views.with_label_values(&[event]), count);
        }
        raise(&self.view_bytes, counters.view_bytes);
    }

    fn collectors(&self) -> [Box<dyn Collector>; 9] {
        [
            Box::new(self.agencies.clone()),
            Box::new(self.nodes.clone()),
            Box::new(self.prefixes.clone()),
            Box::new(self.sessions.clone()),
            Box::new(self.joins.clone()),
            Box::new(self.views.clone()),
            Box::new(self.view_bytes.clone()),
            Box::new(self.commits.clone()),
            Box::new(self.requests.clone()),
        ]
    }
}

fn label(state: NodeState) -> &'static str {
    match state {
        NodeState::Online => "online",
        NodeState::Offline => "offline",
        NodeState::NeverSeen => "never_seen",
        NodeState::Invited => "invited",
    }
}

/// The core counts; a counter here only follows.
fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn gauge(name: &str, help: &str) -> prometheus::Result<IntGauge> {
    IntGauge::new(name, help)
}

fn counter(name: &str, help: &str) -> prometheus::Result<IntCounter> {
    IntCounter::new(name, help)
}

fn gauges(name: &str, help: &str, label: &str) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), &[label])
}

fn counters(name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), &[label])
}
