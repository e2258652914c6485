//! Every metric of the controller, and nowhere else. Labels are words from enums.

use pnsbox_controller_core::controller::{Controller, Counters, REFUSALS};
use pnsbox_controller_core::fleet::NodeState;
use pnsbox_controller_core::rollout::State;
use pnsbox_program::process;
use prometheus::core::{Collector, Desc};
use prometheus::{
    Encoder as _, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// The controller's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    described: Vec<Desc>,
    agencies: IntGauge,
    nodes: IntGaugeVec,
    node_connected: IntGaugeVec,
    prefixes: IntGaugeVec,
    sessions: IntGaugeVec,
    joins: IntCounter,
    joins_refused: IntCounterVec,
    views_pushed: IntCounter,
    views_applied: IntCounter,
    views_refused: IntCounter,
    views_incomplete: IntCounter,
    view_bytes: IntCounter,
    rollout: IntGaugeVec,
    rollouts_halted: IntCounter,
    commits: IntCounter,
    requests: IntCounter,
    store_healthy: IntGauge,
}

impl Metrics {
    /// Registers them.
    pub fn new() -> prometheus::Result<Self> {
        let mut registering = Registering::default();
        let r = &mut registering;
        let build = r.gauges(
            "build_info",
            "Version of the controller; always 1.",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            agencies: r.gauge("agencies", "Registered agencies.")?,
            nodes: r.gauges(
                "nodes",
                "Nodes by state: online, offline, never_seen or invited.",
                &["state"],
            )?,
            node_connected: r.gauges(
                "node_connected",
                "1 while the session of a joined node stands.",
                &["agency", "node"],
            )?,
            prefixes: r.gauges(
                "prefixes",
                "LAN prefixes that nodes claimed, by state: active or held.",
                &["state"],
            )?,
            sessions: r.gauges(
                "sessions",
                "Open sessions with agents, by kind: joined or unjoined.",
                &["kind"],
            )?,
            joins: r.counter(
                "joins_total",
                "Boxes that joined, repeated answers included.",
            )?,
            joins_refused: r.counters(
                "joins_refused_total",
                "Requests to join that were refused, by reason.",
                &["reason"],
            )?,
            views_pushed: r.counter("views_pushed_total", "Views sent to agents.")?,
            views_applied: r.counter("views_applied_total", "Views that agents applied.")?,
            views_refused: r.counter("views_refused_total", "Views that agents refused.")?,
            views_incomplete: r.counter(
                "views_incomplete_total",
                "Views of which agents lacked records, and which were sent again whole.",
            )?,
            view_bytes: r.counter("view_sent_bytes_total", "Bytes of views sent to agents.")?,
            rollout: r.gauges(
                "rollout",
                "1 for the state of the last rollout in waves, running, done or halted, until another policy is applied.",
                &["state"],
            )?,
            rollouts_halted: r.counter(
                "rollouts_halted_total",
                "Rollouts that were halted and taken back.",
            )?,
            commits: r.counter("store_commits_total", "Transactions written to the store.")?,
            requests: r.counter("operator_requests_total", "Requests of operators.")?,
            store_healthy: r.gauge(
                "store_healthy",
                "1 while the store can be written; nothing can be changed while it cannot.",
            )?,
            registry: registering.registry,
            described: registering.described,
        };
        metrics.count(&Counters::default());
        // It was just opened.
        metrics.store_healthy.set(1);
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
        // A node that has gone must not stay.
        self.node_connected.reset();
        for (name, connected) in controller.nodes() {
            self.node_connected
                .with_label_values(&[name.agency().as_str(), name.as_str()])
                .set(i64::from(connected));
        }
        let (active, held) = controller.prefix_counts();
        let (joined, unjoined) = controller.session_counts();
        for (family, label, count) in [
            (&self.prefixes, "active", active),
            (&self.prefixes, "held", held),
            (&self.sessions, "joined", joined),
            (&self.sessions, "unjoined", unjoined),
        ] {
            family.with_label_values(&[label]).set(number(count));
        }
        let rollout = controller.rollout_state().map(State::as_str);
        for state in State::ALL {
            let is_it = i64::from(rollout == Some(state));
            self.rollout.with_label_values(&[state]).set(is_it);
        }
        let healthy = controller.store_failure().is_none();
        self.store_healthy.set(i64::from(healthy));
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
        let mut gathered = self.registry.gather();
        gathered.extend(process::families());
        let mut text = Vec::new();
        TextEncoder::new().encode(&gathered, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Every metric of this file: what `docs/metrics.md` must say.
    pub fn described(&self) -> &[Desc] {
        &self.described
    }

    fn count(&self, counters: &Counters) {
        for word in REFUSALS {
            let count = counters.joins_refused.get(word).copied().unwrap_or(0);
            raise(&self.joins_refused.with_label_values(&[word]), count);
        }
        for (counter, count) in [
            (&self.joins, counters.joined),
            (&self.views_pushed, counters.views_pushed),
            (&self.views_applied, counters.views_applied),
            (&self.views_refused, counters.views_refused),
            (&self.views_incomplete, counters.views_incomplete),
            (&self.view_bytes, counters.view_bytes),
            (&self.rollouts_halted, counters.rollouts_halted),
        ] {
            raise(counter, count);
        }
    }
}

/// Makes metrics, each registered and described.
#[derive(Default)]
struct Registering {
    registry: Registry,
    described: Vec<Desc>,
}

impl Registering {
    fn gauge(&mut self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::with_opts(opts(name, help)))
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(opts(name, help), labels))
    }

    fn counter(&mut self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::with_opts(opts(name, help)))
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(opts(name, help), labels))
    }

    fn add<C: Collector + Clone + 'static>(
        &mut self,
        metric: prometheus::Result<C>,
    ) -> prometheus::Result<C> {
        let metric = metric?;
        self.described.extend(metric.desc().into_iter().cloned());
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("pnsbox_controller")
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
