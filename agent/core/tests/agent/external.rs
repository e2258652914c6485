//! Plain WireGuard devices: tunnels and rules like anybody's, and nothing of what members are.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::support::*;
use ipnet::IpNet;
use pnsbox_agent_core::event::{Input, Output, TunnelState};
use pnsbox_agent_core::host::{ForwardRule, HostConfig, Tunnel, TunnelPath};
use pnsbox_proto::access::Opening;
use pnsbox_proto::address::device_v6;
use pnsbox_proto::agency::DeviceClaim;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::key::WireguardKey;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{DeviceBehind, ExternalRecord, PeerPath, Record};

const LAPTOP: &str = "kab-demak/laptop-budi";

/// What the agency of the gateway says of the device.
fn claim(gateway: &str) -> Envelope {
    let gateway = node(gateway);
    let claim = DeviceClaim {
        network: "pns".parse().unwrap(),
        device: node(&format!("{}/laptop-budi", gateway.agency())),
        wireguard: WireguardKey([90; 32]),
        overlay_v4: Ipv4Addr::new(100, 127, 0, 90),
        gateway: gateway.clone(),
        sequence: 3,
        issued: UnixTime(60),
    };
    let number = number_of(gateway.agency().as_str());
    Envelope::sign(&claim, &agency_secret(number))
}

fn opening(prefix: &str, allow: &str) -> Opening {
    Opening {
        prefix: prefix.parse().unwrap(),
        allow: vec![allow.parse().unwrap()],
    }
}

fn device() -> Record {
    Record::External(ExternalRecord {
        device: node(LAPTOP),
        claim: claim(ME),
        opens: vec![opening("10.44.1.0/24", "tcp/22")],
        beyond: vec![opening("10.33.1.0/24", "tcp/445")],
    })
}

fn overlay() -> Vec<IpNet> {
    vec![
        "100.127.0.90/32".parse().unwrap(),
        IpAddr::from(device_v6(&public(&secret(1)), &WireguardKey([90; 32]))).into(),
    ]
}

fn with(agent: &mut Driven, version: u64, records: &[Record]) -> HostConfig {
    agent.view(view_of(ME, version, &texts(records), &secret(2), |_| true));
    let outputs = agent.outputs.iter().rev();
    let host = outputs.into_iter().find_map(|output| match output {
        Output::Apply { host, .. } => Some((**host).clone()),
        _ => None,
    });
    agent.host_agrees();
    host.unwrap()
}

fn rule(prefix: &str, allow: &str) -> ForwardRule {
    ForwardRule {
        sources: overlay(),
        destination: prefix.parse().unwrap(),
        allow: vec![allow.parse().unwrap()],
    }
}

#[test]
fn a_gateway_has_a_tunnel_that_waits_and_rules_for_both_ways() {
    let mut agent = Driven::online(Vec::new());
    let without = with(&mut agent, 1, &records());
    let host = with(&mut agent, 2, &[records(), vec![device()]].concat());
    let tunnel = Tunnel {
        key: WireguardKey([90; 32]),
        allowed_prefixes: overlay(),
        path: TunnelPath::Passive,
        keepalive: false,
    };
    assert!(host.tunnels.contains(&tunnel));
    assert!(overlay().iter().all(|p| host.routes.contains(p)));
    let (filter, before) = (host.filter.unwrap(), without.filter.unwrap());
    assert!(filter.inbound.contains(&rule("10.44.1.0/24", "tcp/22")));
    assert_eq!(filter.inbound.len(), before.inbound.len() + 1);
    assert_eq!(filter.across, [rule("10.33.1.0/24", "tcp/445")]);
    assert_eq!(filter.device_addresses, overlay());
    assert_eq!(filter.peer_addresses, before.peer_addresses);

    let gone = with(&mut agent, 3, &records());
    assert_eq!(gone.tunnels, without.tunnels);
    assert_eq!(gone.filter, Some(before));
}

#[test]
fn behind_another_gateway_a_device_may_use_its_openings_and_not_those_of_the_agency() {
    let mut agent = Driven::online(Vec::new());
    let mut records = records();
    for record in &mut records {
        if let Record::Peer(peer) = record
            && peer.node == node(HUB)
        {
            peer.devices = vec![DeviceBehind {
                claim: claim(HUB),
                opens: vec![opening("10.44.1.10/32", "tcp/5432")],
            }];
        }
    }
    let host = with(&mut agent, 1, &records);
    let mut tunnels = host.tunnels.iter();
    let hub = tunnels.find(|t| t.key == WireguardKey([33; 32])).unwrap();
    assert!(overlay().iter().all(|p| hub.allowed_prefixes.contains(p)));
    assert!(overlay().iter().all(|p| host.routes.contains(p)));
    let filter = host.filter.unwrap();
    let mut of_device = filter.inbound.iter();
    let device = overlay()[0];
    assert!(
        of_device.all(|r| !r.sources.contains(&device) || *r == rule("10.44.1.10/32", "tcp/5432"))
    );
    assert!(filter.inbound.contains(&rule("10.44.1.10/32", "tcp/5432")));
    assert!(!filter.peer_addresses.contains(&device));
    assert_eq!((filter.across, filter.device_addresses), (vec![], vec![]));
}

#[test]
fn one_that_is_switched_off_is_nobodys_concern_and_its_handshake_is_shown() {
    let mut agent = Driven::online(Vec::new());
    let passive = peer_record(HUB, 33, PeerPath::Passive);
    let link = link_record("prov-jateng", "", "");
    let view = [node_record(ME, 44), passive, link, device()];
    with(&mut agent, 1, &view);
    let links: Vec<_> = agent
        .take()
        .into_iter()
        .filter_map(|output| match output {
            Output::AcceptLinks { keys } => Some(keys.len()),
            _ => None,
        })
        .collect();
    assert_eq!(links, [1], "a device has no link");
    let tunnel = |number, last_handshake| TunnelState {
        key: WireguardKey([number; 32]),
        endpoint: Some("198.51.100.9:5000".parse().unwrap()),
        path_mtu: None,
        last_handshake,
        rx_bytes: 3,
        tx_bytes: 4,
    };
    let at = agent.now.monotonic;
    agent.input(Input::Tunnels(vec![tunnel(33, Some(at)), tunnel(90, None)]));
    agent.pass(Duration::from_secs(20));
    assert_eq!(agent.condition_codes(), [""; 0]);
    let status = agent.agent.status(agent.now);
    assert_eq!((status.peers.len(), status.externals.len()), (1, 1));
    assert!(!status.externals[0].up);
    let named: Vec<_> = agent.agent.peer_keys().map(|(_, name)| name).collect();
    assert_eq!(named, [&node(HUB)], "metrics are of members");
    assert!(
        agent
            .outputs
            .iter()
            .all(|o| !matches!(o, Output::Persist(s) if s.endpoints.len() > 1)),
        "where a device was is not kept"
    );

    agent.input(Input::Tunnels(vec![
        tunnel(33, Some(at)),
        tunnel(90, Some(agent.now.monotonic)),
    ]));
    let device = agent.agent.status(agent.now).externals.remove(0);
    assert!(device.up && device.rx_bytes == 3);
    assert_eq!(device.last_handshake, Some(agent.now.wall));
}
