//! Names, values, and that nothing outlives its cause.

use pnsbox_agent_core::snapshot::ControllerStatus;
use pnsbox_dataplane::PeerCounters;
use pnsbox_proto::health::{Condition, ConditionCode, ServiceHealth};
use pnsbox_proto::service::ServiceKind;
use pnsbox_proto::time::UnixTime;

use super::*;

#[test]
fn a_joined_agent_shows_what_it_knows() {
    let text = Metrics::new().render(&joined(), &[service()], Some(&counters()));
    for line in [
        "pnsbox_agent_state{state=\"joined\"} 1",
        "pnsbox_agent_state{state=\"not_joined\"} 0",
        "pnsbox_node_info{network=\"pns\",node=\"prov-jateng/gw1\"} 1",
        "pnsbox_control_connected 1",
        "pnsbox_view_version 7",
        "pnsbox_conditions{code=\"peer_down\"} 2",
        "pnsbox_peer_up{peer=\"kab-demak/gw1\"} 1",
        "pnsbox_peer_relayed{peer=\"kab-demak/gw1\"} 1",
        "pnsbox_peer_last_handshake_timestamp_seconds{peer=\"kab-demak/gw1\"} 1795392000",
        "pnsbox_peer_receive_bytes_total{peer=\"kab-demak/gw1\"} 1000",
        "pnsbox_peer_rtt_seconds{peer=\"kab-demak/gw1\"} 0.0125",
        "pnsbox_own_service_healthy{kind=\"files\",service=\"prov-jateng/arsip\"} 0",
        "pnsbox_services{kind=\"http\",state=\"blocked_by_policy\"} 1",
        "pnsbox_tunnel_handshakes_total{public_key=\"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\"} 3",
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
fn what_has_gone_does_not_appear_again() {
    let metrics = Metrics::new();
    metrics.render(&joined(), &[service()], Some(&counters()));
    let text = metrics.render(&unjoined(), &[], None);
    assert!(!text.contains("kab-demak"), "{text}");
    assert!(
        text.contains("pnsbox_agent_state{state=\"not_joined\"} 1"),
        "{text}"
    );
}

/// prometheus.io/docs/practices/naming, and the bound of 60 series and 12 for each peer.
#[test]
fn names_follow_the_guidelines_and_series_are_bounded() {
    let text = Metrics::new().render(&joined(), &[service()], Some(&counters()));
    let mut of_peers = 0;
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(name.starts_with("pnsbox_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name} {kind}");
            assert!(!name.contains("_ms"), "{name}: base units only");
            assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        } else if line.contains("peer=") || line.contains("public_key=") {
            of_peers += 1;
        }
    }
    assert!(of_peers <= 12, "{of_peers}");
    let series = text.lines().filter(|l| !l.starts_with('#')).count();
    assert!(series - of_peers <= 60, "{series}");
}

fn joined() -> StatusSnapshot {
    let condition = || Condition {
        code: ConditionCode::PeerDown,
        message: "x".into(),
    };
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
        peers: vec![PeerHealth {
            node: "kab-demak/gw1".parse().unwrap(),
            up: true,
            endpoint: None,
            relay: Some("pusat/gw1".parse().unwrap()),
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
        conditions: vec![condition(), condition()],
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
        quarantined: Vec::new(),
        peers: Vec::new(),
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

fn counters() -> Counters {
    Counters {
        peers: vec![PeerCounters {
            public_key: [7; 32],
            endpoint: None,
            relayed: false,
            last_handshake: None,
            rx_bytes: 1000,
            tx_bytes: 2000,
            rx_packets: 10,
            tx_packets: 20,
            handshakes: 3,
            handshake_failures: 1,
        }],
        drops: Vec::new(),
        relayed_packets: 40,
        relayed_bytes: 4000,
    }
}
