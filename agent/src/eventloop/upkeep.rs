//! What the loop does because time goes by, and what it says of itself: counters, host, watchdog, metrics.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pnsbox_agent_core::event::{Input, TunnelState};
use pnsbox_proto::key::WireguardKey;
use tracing::{error, warn};

use super::{EventLoop, PING_TIMEOUT, TICK};
use crate::metrics::{self, Reading};
use crate::systemd;

/// How often the host is read back, at most: every second tick. What somebody removed is missed no longer.
const REPAIR: Duration = Duration::from_millis(1900);

impl EventLoop {
    pub(super) async fn tick(&mut self) {
        self.repair().await;
        if let Some(counters) = self.host.counters() {
            self.keep_handshakes();
            if let Err(error) = self.host.follow_path_mtus(&counters.peers).await {
                let error = format!("{:#}", anyhow::Error::from(error));
                warn!(%error, "routes keep the MTU that they have");
            }
            let tunnels = counters.peers.iter();
            let tunnels = tunnels
                .map(|peer| tunnel_state(peer, self.started))
                .collect();
            self.handle(Input::Tunnels(tunnels));
        }
        self.give_up_pings();
        self.watchdog();
    }

    /// The disk has which timestamps handshakes may use. Without that all works on, so it is told as an unsaved state is.
    pub(super) fn keep_handshakes(&mut self) {
        if let Some(Err(reason)) = self.handshakes.keep() {
            self.tally.state_write_failures += 1;
            error!(%reason, "after a restart in the past, peers would refuse this box");
            self.handle(Input::Persisted(Err(reason)));
        }
    }

    fn give_up_pings(&mut self) {
        let expired: Vec<u64> = self
            .pings
            .iter()
            .filter(|(_, p)| p.sent.elapsed() > PING_TIMEOUT)
            .map(|(s, _)| *s)
            .collect();
        for sequence in expired {
            if let Some(ping) = self.pings.remove(&sequence) {
                let reason = format!("no echo in {} s", PING_TIMEOUT.as_secs());
                drop(ping.answer.send(Err(reason)));
            }
        }
    }

    /// Tells the service manager that the agent works, if every worker of the data plane has moved since last time.
    fn watchdog(&mut self) {
        let progress = self.host.progress();
        if progress.is_none() || progress != self.progress {
            systemd::watchdog();
            self.progressed = progress.map(|_| self.now().wall);
        }
        self.progress = progress;
    }

    /// Puts back what somebody else removed from the host: a flushed ruleset, a deleted route, a lost TUN.
    async fn repair(&mut self) {
        if self.repaired.elapsed() < REPAIR {
            return;
        }
        self.repaired = Instant::now();
        match self.host.repair().await {
            Ok(None) => {}
            Ok(Some(object)) => {
                *self.tally.repairs.entry(object.as_str()).or_default() += 1;
            }
            Err(error) => {
                self.tally.repair_failures += 1;
                error!(error = %format!("{:#}", anyhow::Error::from(error)), "the host cannot be repaired")
            }
        }
    }

    pub(super) async fn metrics_text(&mut self) -> String {
        self.read_filter_drops().await;
        let now = self.now();
        let names = self.agent.peer_keys();
        metrics::render(&Reading {
            status: &self.agent.status(now),
            services: &self.agent.services(now),
            tally: self.agent.tally(),
            names: names.map(|(key, name)| (key.0, name)).collect(),
            counters: self.host.counters().as_ref(),
            progress: self.progressed,
            mtu: self.host.mtu(),
            shell: &self.tally,
        })
    }

    /// Asks `nft`, at most once a second whoever asks for metrics how often.
    async fn read_filter_drops(&mut self) {
        if self.drops_read.is_some_and(|at| at.elapsed() < TICK) {
            return;
        }
        self.drops_read = Some(Instant::now());
        match self.host.filter_drops().await {
            Ok(drops) => {
                self.tally.filter_drops = BTreeMap::from([
                    ("filter_inbound", drops.inbound),
                    ("filter_outbound", drops.outbound),
                    ("filter_local", drops.local),
                ]);
            }
            Err(error) => warn!(%error, "the packet filter's drops cannot be read"),
        }
    }
}

fn tunnel_state(peer: &pnsbox_dataplane::PeerCounters, started: Instant) -> TunnelState {
    TunnelState {
        key: WireguardKey(peer.public_key),
        endpoint: peer.endpoint,
        path_mtu: peer.path_mtu,
        last_handshake: peer
            .last_handshake
            .map(|at| at.saturating_duration_since(started)),
        rx_bytes: peer.rx_bytes,
        tx_bytes: peer.tx_bytes,
    }
}
