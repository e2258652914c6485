//! What `Host` makes, changes and removes.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use ipnet::IpNet;
use pnsbox_agent::host::{Host, HostError, HostObject, HostSettings};
use pnsbox_agent::keys::WireguardSecret;
use pnsbox_agent_core::host::{Filter, ForwardRule, HostConfig, Interface, Tunnel, TunnelPath};
use pnsbox_dataplane::{DscpPolicy, HandshakeClock, ProtocolCore};
use pnsbox_proto::key::WireguardKey;
use tokio::time::timeout;

use crate::namespace::{Namespace, json, sh};

#[test]
fn applying_makes_everything_and_applying_twice_equals_once() {
    Namespace::new().run_async(|| async {
        let mut host = start().await;
        assert_eq!(traces(), "");
        host.apply(&config()).await.unwrap();
        let once = state();
        host.apply(&config()).await.unwrap();
        assert_eq!(state(), once);

        let link = &json("ip -j addr show dev pns0")[0];
        assert_eq!(
            (
                link["mtu"].as_u64(),
                link["flags"].to_string().contains("\"UP\"")
            ),
            (Some(1380), true),
            "{link}"
        );
        let addresses: Vec<String> = link["addr_info"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]))
            .collect();
        assert_eq!(addresses, ["100.127.0.2/32", "fd00:1::2/128"]);
        assert_eq!(
            routes(),
            [
                "10.44.0.0/16 dev pns0 proto 182 scope link",
                "100.127.0.3 dev pns0 proto 182 scope link",
                "throw 10.44.9.0/24 proto 182",
                "2001:db8:44::/48 dev pns0 proto 182 metric 1024 pref medium",
                "fd00:1::3 dev pns0 proto 182 metric 1024 pref medium",
            ]
        );
        for family in ["-4", "-6"] {
            let rules = sh(&format!("ip {family} rule show priority 5182"));
            assert_eq!(
                rules.trim(),
                "5182:\tnot from all fwmark 0x5182 lookup 5182 proto 182"
            );
        }
        assert!(sh("nft list table inet pnsbox").contains("tcp dport 445 accept"));
        assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
        assert_eq!(sh("cat /proc/sys/net/ipv6/conf/all/forwarding").trim(), "1");
        let of_pns0 = |switch: &str| sh(&format!("cat /proc/sys/net/{switch}")).trim().to_owned();
        assert_eq!(of_pns0("ipv4/conf/pns0/rp_filter"), "2");
        assert_eq!(of_pns0("ipv6/conf/pns0/addr_gen_mode"), "1");
        assert!(host.progress().is_some() && host.counters().is_some());
        host.shutdown().await;
    });
}

#[test]
fn a_changed_config_changes_the_difference_and_keeps_the_data_plane() {
    Namespace::new().run_async(|| async {
        let mut host = start().await;
        host.apply(&config()).await.unwrap();
        let index = json("ip -j link show dev pns0")[0]["ifindex"].clone();
        let mut changed = config();
        let interface = changed.interface.as_mut().unwrap();
        (interface.overlay_v4, interface.overlay_v6) =
            ("100.127.0.9".parse().unwrap(), "fd00:1::9".parse().unwrap());
        changed.routes = nets(&["10.55.0.0/16", "100.127.0.3/32"]);
        changed.throws = nets(&["10.44.0.0/16"]);
        changed.filter.as_mut().unwrap().inbound.clear();
        host.apply(&changed).await.unwrap();
        assert_eq!(
            json("ip -j link show dev pns0")[0]["ifindex"],
            index,
            "the interface was not made anew"
        );
        let addresses = sh("ip -o addr show dev pns0");
        assert!(
            addresses.contains("100.127.0.9/32") && addresses.contains("fd00:1::9/128"),
            "{addresses}"
        );
        assert!(
            !addresses.contains("100.127.0.2") && !addresses.contains("fd00:1::2/"),
            "{addresses}"
        );
        assert_eq!(
            routes(),
            [
                "10.55.0.0/16 dev pns0 proto 182 scope link",
                "100.127.0.3 dev pns0 proto 182 scope link",
                "throw 10.44.0.0/16 proto 182",
            ]
        );
        assert!(!sh("nft list table inet pnsbox").contains("tcp dport 445"));
        host.shutdown().await;
    });
}

#[test]
fn shutdown_and_leaving_the_network_leave_nothing() {
    Namespace::new().run_async(|| async {
        let mut host = start().await;
        host.apply(&config()).await.unwrap();
        host.apply(&HostConfig::default()).await.unwrap();
        assert_eq!(traces(), "");
        assert!(host.progress().is_none());
        host.apply(&config()).await.unwrap();
        host.shutdown().await;
        assert_eq!(traces(), "");
    });
}

#[test]
fn what_a_killed_agent_left_is_removed_and_there_is_one_of_each_again() {
    Namespace::new().run_async(|| async {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "apply::agent_that_gets_killed",
                "--nocapture",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(
            lines.any(|line| line.unwrap().contains("APPLIED")),
            "the child did not apply"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            sh("ip rule").contains("5182") && sh("nft list tables").contains("pnsbox"),
            "{}",
            traces()
        );
        sh("ip route add 10.99.0.0/16 dev lo table 5182 proto 182");

        let mut host = start().await;
        assert_eq!(traces(), "");
        host.apply(&config()).await.unwrap();
        let killed_once = state();
        host.shutdown().await;
        let mut host = start().await;
        host.apply(&config()).await.unwrap();
        assert_eq!(state(), killed_once);
        host.shutdown().await;
    });
}

#[test]
#[ignore = "run, and killed, by the test above; never ends by itself"]
fn agent_that_gets_killed() {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let mut host = start().await;
            host.apply(&config()).await.unwrap();
            println!("APPLIED");
            std::future::pending::<()>().await;
        });
}

#[test]
fn a_refused_config_restores_the_one_before() {
    Namespace::new().run_async(|| async {
        let mut host = start().await;
        host.apply(&config()).await.unwrap();
        let before = state();

        let mut twice = config();
        twice.tunnels.push(twice.tunnels[0].clone());
        twice.filter = Some(Filter::default());
        let error = host.apply(&twice).await.unwrap_err();
        assert!(matches!(error, HostError::Snapshot(_)), "{error}");
        assert_eq!(state(), before);

        let mut small = config();
        small.interface.as_mut().unwrap().mtu = 10;
        let error = host.apply(&small).await.unwrap_err();
        assert!(matches!(error, HostError::Netlink(_)), "{error}");
        assert!(error.to_string().contains("MTU 10"), "{error}");
        assert_eq!(state(), before);
        host.shutdown().await;
    });
}

#[test]
fn a_config_refused_at_first_leaves_nothing() {
    Namespace::new().run_async(|| async {
        let mut host = start().await;
        let mut twice = config();
        twice.tunnels.push(twice.tunnels[0].clone());
        host.apply(&twice).await.unwrap_err();
        assert_eq!(traces(), "");
        host.shutdown().await;
    });
}

#[test]
fn what_another_program_removed_is_put_back() {
    Namespace::new().run_async(|| async {
        let mut host = start().await;
        host.apply(&config()).await.unwrap();
        let before = state();
        assert_eq!(host.repair().await.unwrap(), None);
        for (damage, object) in [
            ("nft flush ruleset", HostObject::Filter),
            ("nft flush table inet pnsbox", HostObject::Filter),
            (
                "nft insert rule inet pnsbox forward accept",
                HostObject::Filter,
            ),
            ("ip rule del priority 5182", HostObject::Routing),
            ("ip route flush table 5182", HostObject::Routing),
            (
                "ip route add 10.99.0.0/16 dev pns0 table 5182",
                HostObject::Routing,
            ),
            ("ip addr flush dev pns0 scope global", HostObject::Address),
            ("ip link set pns0 down", HostObject::Interface),
            ("ip link set pns0 mtu 1400", HostObject::Interface),
        ] {
            sh(damage);
            assert_eq!(host.repair().await.unwrap(), Some(object), "{damage}");
            assert_eq!(state(), before, "{damage}");
            assert_eq!(host.repair().await.unwrap(), None, "{damage}");
        }
        sh("nft add table inet somebody_else");
        assert_eq!(
            host.repair().await.unwrap(),
            None,
            "another's table is another's business"
        );
        sh("nft delete table inet somebody_else");
        host.shutdown().await;
    });
}

#[test]
fn a_second_agent_on_the_host_is_refused_and_changes_nothing() {
    Namespace::new().run_async(|| async {
        let mut host = start().await;
        host.apply(&config()).await.unwrap();
        let before = state();
        let error = Host::new(settings()).await.unwrap_err();
        assert!(error.to_string().contains("another agent"), "{error}");
        assert_eq!(state(), before);
        host.shutdown().await;
        start().await.shutdown().await;
    });
}

#[test]
fn an_interface_that_is_not_ours_is_left_alone() {
    Namespace::new().run_async(|| async {
        sh("ip link add pns0 type bridge");
        let error = Host::new(settings()).await.unwrap_err();
        assert!(matches!(error, HostError::InterfaceTaken { .. }), "{error}");
        assert!(error.to_string().contains("pns0"), "{error}");
        sh("ip link show pns0");
    });
}

#[test]
fn a_host_without_ipv6_gets_ipv4_only() {
    Namespace::new().run_async(|| async {
        sh("echo 1 | tee /proc/sys/net/ipv6/conf/all/disable_ipv6 /proc/sys/net/ipv6/conf/default/disable_ipv6");
        let mut host = start().await;
        host.apply(&config()).await.unwrap();
        assert!(routes().iter().all(|route| !route.contains(':')), "{:?}", routes());
        assert_eq!(sh("ip -6 rule show priority 5182"), "");
        host.shutdown().await;
        assert_eq!(traces(), "");
    });
}

#[test]
fn a_port_in_use_is_said_and_nothing_stays() {
    Namespace::new().run_async(|| async {
        let _taken = std::net::UdpSocket::bind("[::]:51820").unwrap();
        let mut host = start().await;
        let error = anyhow::Error::from(host.apply(&config()).await.unwrap_err());
        assert!(format!("{error:#}").contains("51820"), "{error:#}");
        assert_eq!(traces(), "");
        host.shutdown().await;
    });
}

#[test]
fn facts_show_the_host_without_our_interface_and_changes_ring() {
    Namespace::new().run_async(|| async {
        sh("ip link add wan0 type veth peer name wan1 && ip link set wan0 up && ip link set wan1 up");
        sh("ip addr add 203.0.113.40/24 dev wan0 && ip route add default via 203.0.113.1");
        sh("ip -6 addr add 2001:db8::40/64 dev wan0 nodad && ip -6 route add default via 2001:db8::1");
        let mut host = start().await;
        let mut rings = host.watch_facts();
        host.apply(&config()).await.unwrap();
        let facts = host.facts().await.unwrap();
        let addresses: Vec<String> = facts.addresses.iter().map(|a| format!("{} {}", a.interface, a.address)).collect();
        assert_eq!(addresses, ["wan0 203.0.113.40/24", "wan0 2001:db8::40/64"]);
        let uplinks: Vec<String> = facts.uplinks.iter().map(|u| format!("{} {}", u.interface, u.gateway.unwrap())).collect();
        assert_eq!(uplinks, ["wan0 203.0.113.1", "wan0 2001:db8::1"]);

        // What starting and applying caused may ring; then it is quiet.
        while timeout(Duration::from_secs(1), rings.recv()).await.is_ok() {}
        let mut changed = config();
        changed.routes = nets(&["10.66.0.0/16"]);
        host.apply(&changed).await.unwrap();
        assert!(timeout(Duration::from_secs(1), rings.recv()).await.is_err(), "our own changes do not ring");
        sh("ip addr add 10.33.1.1/24 dev wan1");
        assert_eq!(timeout(Duration::from_secs(3), rings.recv()).await, Ok(Some(())));
        sh("ip route del default");
        assert_eq!(timeout(Duration::from_secs(3), rings.recv()).await, Ok(Some(())));
        host.shutdown().await;
    });
}

async fn start() -> Host {
    Host::new(settings())
        .await
        .unwrap_or_else(|error| panic!("{:#}", anyhow::Error::from(error)))
}

fn settings() -> HostSettings {
    HostSettings {
        interface: "pns0".into(),
        wireguard_port: 51820,
        private_key: WireguardSecret::from_bytes([7; 32]),
        core: ProtocolCore::default(),
        clock: HandshakeClock::new(None),
        dscp: DscpPolicy::default(),
    }
}

fn config() -> HostConfig {
    HostConfig {
        interface: Some(Interface {
            overlay_v4: "100.127.0.2".parse().unwrap(),
            overlay_v6: "fd00:1::2".parse().unwrap(),
            mtu: 1380,
        }),
        routes: nets(&[
            "10.44.0.0/16",
            "100.127.0.3/32",
            "2001:db8:44::/48",
            "fd00:1::3/128",
        ]),
        throws: nets(&["10.44.9.0/24"]),
        filter: Some(Filter {
            inbound: vec![ForwardRule {
                sources: nets(&["10.44.0.0/16", "100.127.0.3/32"]),
                destination: "10.33.1.0/24".parse().unwrap(),
                allow: vec!["tcp/445".parse().unwrap(), "icmp".parse().unwrap()],
            }],
            own_prefixes: nets(&["10.33.1.0/24", "2001:db8:33::/64"]),
            across: Vec::new(),
            peer_addresses: nets(&["100.127.0.3/32", "fd00:1::3/128"]),
            relay_addresses: Vec::new(),
            device_addresses: Vec::new(),
            link_port: 51821,
            http_port: 9586,
        }),
        tunnels: vec![Tunnel {
            key: WireguardKey(WireguardSecret::from_bytes([8; 32]).public_key()),
            allowed_prefixes: nets(&[
                "10.44.0.0/16",
                "100.127.0.3/32",
                "2001:db8:44::/48",
                "fd00:1::3/128",
            ]),
            path: TunnelPath::Passive,
            keepalive: false,
        }],
        relays: Vec::new(),
    }
}

/// Everything of ours in the kernel, as text.
fn state() -> String {
    let table = sh("nft list table inet pnsbox");
    format!("{}{table}{}", traces(), sh("ip -br addr show dev pns0"))
}

/// Names of everything of ours in the kernel; empty if there is nothing.
fn traces() -> String {
    let mut traces = sh("ip -o link show | grep pns0 | cut -d' ' -f2- || true");
    for family in ["-4", "-6"] {
        traces += &sh(&format!(
            "ip {family} rule show | grep -e 5182 -e 'proto 182' || true"
        ));
        traces += &sh(&format!(
            "ip {family} route show table 5182 2>/dev/null || true"
        ));
    }
    traces + &sh("nft list tables | grep pnsbox || true")
}

fn routes() -> Vec<String> {
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let shown = sh(&format!(
            "ip {family} route show table 5182 2>/dev/null || true"
        ));
        let mut shown: Vec<String> = shown.lines().map(|l| l.trim().to_owned()).collect();
        shown.sort();
        routes.extend(shown);
    }
    routes
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}
