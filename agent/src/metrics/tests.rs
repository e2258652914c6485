//! Names, values, and that nothing outlives its cause.

use std::time::Duration;

use pnsbox_agent_core::snapshot::ControllerStatus;
use pnsbox_dataplane::DropReason;
use pnsbox_proto::health::{Condition, ConditionCode, ServiceHealth};
use pnsbox_proto::service::ServiceKind;

use super::*;

#[test]
fn a_joined_agent_shows_what_it_knows() {
    let text = rendered(&joined(), &[service()], Some(&counters()));
    for line in [
        "pnsbox_agent_state{state=\"joined\"} 1",
        "pnsbox_agent_state{state=\"not_joined\"} 0",
        "pnsbox_node_info{network=\"pns\",node=\"prov-jateng/gw1\"} 1",
        "pnsbox_control_connected 1",
        "pnsbox_control_sessions_total 3",
        "pnsbox_view_version 7",
        "pnsbox_worker_busy_seconds_total{worker=\"packets\"} 1.5",
        "pnsbox_tun_write_packets_total 188",
        "pnsbox_udp_sends_total 6",
        "pnsbox_view_applies_total 4",
        "pnsbox_view_refusals_total 5",
        "pnsbox_conditions{code=\"peer_down\"} 1",
        "pnsbox_state_write_failures_total 6",
        "pnsbox_data_plane_progress_timestamp_seconds 1795392001",
        "pnsbox_host_repairs_total{object=\"filter\"} 7",
        "pnsbox_host_repair_failures_total 8",
        "pnsbox_peers{path=\"relay\",state=\"up\"} 1",
        "pnsbox_peers{path=\"direct\",state=\"down\"} 0",
        "pnsbox_links_up 1",
        "pnsbox_peer_up{peer=\"kab-demak/gw1\"} 1",
        "pnsbox_peer_last_handshake_timestamp_seconds{peer=\"kab-demak/gw1\"} 1795392000",
        "pnsbox_peer_handshakes_total{peer=\"kab-demak/gw1\"} 3",
        "pnsbox_peer_handshake_failures_total{peer=\"kab-demak/gw1\"} 1",
        "pnsbox_peer_receive_bytes_total{peer=\"kab-demak/gw1\"} 1000",
        "pnsbox_peer_transmit_packets_total{peer=\"kab-demak/gw1\"} 20",
        "pnsbox_peer_rtt_seconds{peer=\"kab-demak/gw1\"} 0.0125",
        "pnsbox_peer_mtu_bytes{peer=\"kab-demak/gw1\"} 1360",
        "pnsbox_own_service_healthy{kind=\"files\",service=\"prov-jateng/arsip\"} 0",
        "pnsbox_services{state=\"blocked_by_policy\"} 1",
        "pnsbox_drop_packets_total{reason=\"wrong_source\"} 9",
        "pnsbox_drop_packets_total{reason=\"filter_inbound\"} 10",
        "pnsbox_relay_bytes_total 4000",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(
        !text.contains("pnsbox_peer_loss_ratio{"),
        "what is not known does not appear\n{text}"
    );
}

#[test]
fn without_a_link_the_last_measurement_of_its_path_is_not_shown() {
    let mut status = joined();
    status.peers[0].link = false;
    let text = rendered(&status, &[], None);
    assert!(!text.contains("pnsbox_peer_rtt_seconds{"), "{text}");
    assert!(text.contains("pnsbox_links_up 0"), "{text}");
}

#[test]
fn an_agent_that_has_not_joined_says_so() {
    let text = rendered(&unjoined(), &[], None);
    assert!(!text.contains("kab-demak"), "{text}");
    assert!(
        text.contains("pnsbox_agent_state{state=\"not_joined\"} 1"),
        "{text}"
    );
}

/// The bound of 85 series and 12 for each peer, with everything that can be shown at once.
#[test]
fn series_are_bounded() {
    let mut status = joined();
    status.peers[0].loss = Some(0.5);
    status.conditions = [
        ConditionCode::ViewRefused,
        ConditionCode::RecordQuarantined,
        ConditionCode::PrefixHeld,
        ConditionCode::PrefixPending,
        ConditionCode::PoolCollision,
        ConditionCode::PeerDown,
        ConditionCode::PeerUnreachable,
        ConditionCode::ServiceUnhealthy,
        ConditionCode::StateNotSaved,
        ConditionCode::ControllerAway,
        ConditionCode::Quarantined,
        ConditionCode::ControllerDistrusted,
        ConditionCode::ControllerBehind,
        ConditionCode::RecordRefused,
        ConditionCode::StatementStale,
        ConditionCode::ConsentEnded,
        ConditionCode::ConsentMissing,
        ConditionCode::NotApproved,
    ]
    .map(condition)
    .into();
    let text = rendered(&status, &[service()], Some(&counters()));
    let series: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    let of = |label: &str| series.iter().filter(|line| line.contains(label)).count();
    let (of_peers, of_own_services) = (of("{peer="), of("pnsbox_own_service"));
    assert_eq!(of_peers, 12, "{text}");
    assert_eq!(of_own_services, 1, "{text}");
    let fixed = series.len() - of_peers - of_own_services;
    assert!(fixed <= 85, "{fixed}:\n{text}");
}

fn rendered(
    status: &StatusSnapshot,
    services: &[ServiceStatus],
    counters: Option<&Counters>,
) -> String {
    let shell = ShellTally {
        repairs: ["interface", "address", "routing", "filter"]
            .map(|object| (object, 7))
            .into(),
        repair_failures: 8,
        state_write_failures: 6,
        filter_drops: ["filter_inbound", "filter_outbound", "filter_local"]
            .map(|reason| (reason, 10))
            .into(),
    };
    let peer = "kab-demak/gw1".parse().unwrap();
    render(&Reading {
        status,
        services,
        tally: Tally {
            sessions: 3,
            views_applied: 4,
            views_refused: 5,
        },
        names: BTreeMap::from([([7; 32], &peer)]),
        counters,
        progress: Some(UnixTime(1_795_392_001)),
        mtu: Some(1380),
        shell: &shell,
    })
}

fn condition(code: ConditionCode) -> Condition {
    Condition {
        code,
        message: "x".into(),
    }
}

fn joined() -> StatusSnapshot {
    StatusSnapshot {
        state: MembershipState::Joined,
        network: Some("pns".parse().unwrap()),
        node: Some("prov-jateng/gw1".parse().unwrap()),
        controller: ControllerStatus {
            connected: true,
            since: Some(UnixTime(1)),
            ..unjoined().controller
        },
        view_applied: 7,
        view_since: Some(UnixTime(2)),
        on_trial: false,
        audit: None,
        peers: vec![PeerHealth {
            node: "kab-demak/gw1".parse().unwrap(),
            up: true,
            endpoint: None,
            relay: Some("pusat/gw1".parse().unwrap()),
            path_mtu: Some(1360),
            last_handshake: Some(UnixTime(1_795_392_000)),
            rx_bytes: 1000,
            tx_bytes: 2000,
            link: true,
            rtt_ms: Some(12.5),
            jitter_ms: Some(1.0),
            loss: None,
        }],
        own_services: vec![ServiceHealth {
            name: "prov-jateng/arsip".parse().unwrap(),
            kind: ServiceKind::Files,
            endpoint: "10.33.1.10:445".parse().unwrap(),
            healthy: false,
        }],
        conditions: vec![condition(ConditionCode::PeerDown)],
        ..unjoined()
    }
}

fn unjoined() -> StatusSnapshot {
    StatusSnapshot {
        state: MembershipState::NotJoined,
        network: None,
        node: None,
        overlay: Vec::new(),
        prefixes: Vec::new(),
        held: Vec::new(),
        controller: ControllerStatus {
            connected: false,
            since: None,
            addresses: Vec::new(),
            observed: None,
            last_error: None,
        },
        view_applied: 0,
        view_since: None,
        on_trial: false,
        audit: None,
        quarantined: Vec::new(),
        peers: Vec::new(),
        externals: Vec::new(),
        own_services: Vec::new(),
        conditions: Vec::new(),
    }
}

fn service() -> ServiceStatus {
    ServiceStatus {
        name: "kab-demak/portal".parse().unwrap(),
        kind: ServiceKind::Http,
        node: "kab-demak/gw1".parse().unwrap(),
        endpoints: Vec::new(),
        priority: 100,
        state: ServiceState::BlockedByPolicy,
        virtual_address: None,
    }
}

fn worker(name: &'static str) -> WorkerCounters {
    WorkerCounters {
        name,
        busy: Duration::from_millis(1500),
        tun_reads: 1,
        tun_read_packets: 45,
        tun_writes: 2,
        tun_written_packets: 94,
        udp_sends: 3,
        udp_sent_datagrams: 100,
        udp_receives: 4,
        udp_received_datagrams: 101,
    }
}

fn counters() -> Counters {
    Counters {
        peers: vec![PeerCounters {
            public_key: [7; 32],
            endpoint: None,
            relayed: false,
            path_mtu: Some(1360),
            last_handshake: None,
            rx_bytes: 1000,
            tx_bytes: 2000,
            rx_wire_bytes: 1500,
            tx_wire_bytes: 2500,
            rx_packets: 10,
            tx_packets: 20,
            handshakes: 3,
            handshake_failures: 1,
        }],
        drops: DropReason::ALL.map(|reason| (reason, 9)).into(),
        relayed_packets: 40,
        relayed_bytes: 4000,
        workers: ["packets", "timers"].map(worker).into(),
    }
}
