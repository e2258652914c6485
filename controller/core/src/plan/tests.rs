//! Who gets which tunnel and relay, stable across plans.

use std::collections::BTreeSet;

use ipnet::IpNet;
use pnsbox_proto::access::Opening;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::key::{Digest, IdentityKey, Signature, WireguardKey};
use pnsbox_proto::time::UnixTime;

use super::*;
use crate::policy::{Link, PolicyOpening, PrefixChoice};
use crate::registry::signed::{AgencyKey, Consent, Direction};
use crate::registry::{Agency, Network};

/// The planner hands signed documents on and does not read them.
fn unsigned() -> Envelope {
    Envelope {
        payload: String::new(),
        key_id: Digest([0; 32]),
        signature: Signature([0; 64]),
    }
}

fn registry() -> Registry {
    Registry::new(Network {
        admission: unsigned(),
        name: "pns".parse().unwrap(),
        root: IdentityKey([250; 32]),
        controller: IdentityKey([251; 32]),
        certificate: unsigned(),
        addresses: vec!["203.0.113.10:443".parse().unwrap()],
        pool: "100.127.0.0/16".parse().unwrap(),
        created: UnixTime(0),
    })
}

/// Joins `name` as the `seed`-th, with `10.SEED.1.0/24` behind it.
fn join(registry: &mut Registry, name: &str, seed: u8, public: bool) {
    let name: NodeName = name.parse().unwrap();
    let registered: IpNet = format!("10.{seed}.0.0/16").parse().unwrap();
    let agency = Agency {
        prefixes: vec![],
        class: None,
        region: None,
        added: UnixTime(0),
        key: Some(AgencyKey {
            key: IdentityKey([seed; 32]),
            certificate: unsigned(),
            admission: unsigned(),
            successions: Vec::new(),
        }),
        keepers: BTreeSet::new(),
    };
    let others: Vec<_> = registry.agencies.keys().cloned().collect();
    for other in others {
        for (agency, with) in [(name.agency(), other.clone()), (other, name.agency())] {
            let consent = Consent {
                envelope: unsigned(),
                opens: None,
                until: None,
                sequence: 1,
            };
            registry
                .consents
                .insert(Direction { agency, with }, consent);
        }
    }
    registry
        .agencies
        .entry(name.agency())
        .or_insert(agency)
        .prefixes
        .push(registered);
    let taken = registry
        .nodes
        .values()
        .map(|node| node.overlay_v4)
        .collect();
    let node = Node {
        identity: IdentityKey([seed; 32]),
        wireguard: WireguardKey([seed; 32]),
        overlay_v4: address::next_v4(registry.network.pool, &taken).unwrap(),
        public_endpoint: public.then(|| format!("203.0.113.{seed}:51820").parse().unwrap()),
        second_endpoint: None,
        claimed: vec![format!("10.{seed}.1.0/24").parse().unwrap()],
        active: vec![],
        joined: UnixTime(0),
        order: registry.next_order(),
        claim: Some(unsigned()),
    };
    registry.nodes.insert(name, node);
}

fn linked(pairs: &[(&str, &str)], relays: &[&str]) -> Policy {
    let link = |(a, b): &(&str, &str)| Link {
        between: [a.parse().unwrap(), b.parse().unwrap()],
        openings: vec![],
    };
    Policy {
        relays: relays.iter().map(|relay| relay.parse().unwrap()).collect(),
        links: pairs.iter().map(link).collect(),
        accepted: vec![],
        externals: vec![],
    }
}

fn peer<'a>(
    plan: &'a BTreeMap<NodeName, Vec<Record>>,
    of: &str,
    with: &str,
) -> Option<&'a PeerRecord> {
    plan[&of.parse::<NodeName>().unwrap()]
        .iter()
        .find_map(|record| match record {
            Record::Peer(peer) if peer.node.as_str() == with => Some(peer),
            _ => None,
        })
}

fn relayed(plan: &BTreeMap<NodeName, Vec<Record>>, by: &str) -> Vec<(u32, String)> {
    let records = plan[&by.parse::<NodeName>().unwrap()].iter();
    records
        .filter_map(|record| match record {
            Record::Relay(relay) => Some((
                relay.channel,
                format!("{} {}", relay.members[0], relay.members[1]),
            )),
            _ => None,
        })
        .collect()
}

/// Two hidden agencies, a hub, and a second public node.
fn world() -> (Registry, Policy) {
    let mut registry = registry();
    join(&mut registry, "kab-demak/gw1", 44, false);
    join(&mut registry, "kota-malang/gw1", 55, false);
    join(&mut registry, "prov-jateng/gw1", 33, true);
    join(&mut registry, "pusat/gw1", 10, true);
    let links = [
        ("kab-demak", "kota-malang"),
        ("kab-demak", "pusat"),
        ("prov-jateng", "pusat"),
    ];
    let policy = linked(&links, &["prov-jateng/gw1"]);
    allocate(&mut registry, &policy);
    (registry, policy)
}

#[test]
fn paths_and_keepalives_follow_who_is_public() {
    let (registry, policy) = world();
    let plan = plan(&registry, &policy);
    let direct = peer(&plan, "kab-demak/gw1", "pusat/gw1").unwrap();
    assert_eq!(
        direct.path,
        PeerPath::Direct {
            endpoint: "203.0.113.10:51820".parse().unwrap(),
            second: None
        }
    );
    assert!(
        direct.keepalive,
        "the side behind NAT holds its mapping open"
    );
    let passive = peer(&plan, "pusat/gw1", "kab-demak/gw1").unwrap();
    assert_eq!(
        (&passive.path, passive.keepalive),
        (&PeerPath::Passive, false)
    );
    let public = peer(&plan, "pusat/gw1", "prov-jateng/gw1").unwrap();
    assert!(matches!(public.path, PeerPath::Direct { .. }) && !public.keepalive);
    assert_eq!(public.prefixes, ["10.33.1.0/24".parse::<IpNet>().unwrap()]);
}

#[test]
fn two_hidden_nodes_meet_at_the_relay_which_learns_no_prefix() {
    let (registry, policy) = world();
    let plan = plan(&registry, &policy);
    let via = PeerPath::Relay {
        relay: "prov-jateng/gw1".parse().unwrap(),
        channel: 1,
    };
    let a = peer(&plan, "kab-demak/gw1", "kota-malang/gw1").unwrap();
    let b = peer(&plan, "kota-malang/gw1", "kab-demak/gw1").unwrap();
    assert_eq!((&a.path, &b.path), (&via, &via));
    assert!(a.keepalive && !b.keepalive);
    assert_eq!(
        relayed(&plan, "prov-jateng/gw1"),
        [(1, "kab-demak/gw1 kota-malang/gw1".to_owned())]
    );
    // No policy links either with the relay's agency: a tunnel for the relay frames, and nothing else.
    let hub = peer(&plan, "kab-demak/gw1", "prov-jateng/gw1").unwrap();
    let member = peer(&plan, "prov-jateng/gw1", "kab-demak/gw1").unwrap();
    assert_eq!(
        (&hub.prefixes[..], &member.prefixes[..]),
        (&[][..], &[][..])
    );
    assert!(hub.keepalive && !member.keepalive);
}

#[test]
fn the_devices_behind_a_mere_relay_are_nobodys_concern() {
    let (mut registry, mut policy) = world();
    let (hub, far) = ("prov-jateng", "kab-demak");
    let opening = PolicyOpening {
        at: far.parse().unwrap(),
        prefix: PrefixChoice::Lan,
        allow: vec!["icmp".parse().unwrap()],
    };
    policy.links.push(Link {
        between: [far.parse().unwrap(), hub.parse().unwrap()],
        openings: vec![opening.clone()],
    });
    let device: NodeName = "prov-jateng/hp1".parse().unwrap();
    policy.externals.push(crate::policy::External {
        device: device.clone(),
        openings: vec![opening],
    });
    let external = crate::registry::External {
        wireguard: WireguardKey([99; 32]),
        overlay_v4: "100.127.9.9".parse().unwrap(),
        gateway: "prov-jateng/gw1".parse().unwrap(),
        claim: Some(unsigned()),
        added: UnixTime(0),
    };
    registry.externals.insert(device, external);
    let plan_of = |registry: &Registry| {
        let plan = plan(registry, &policy);
        peer(&plan, "kab-demak/gw1", "prov-jateng/gw1")
            .unwrap()
            .devices
            .len()
    };
    assert_eq!(plan_of(&registry), 1, "while both consent");
    registry.consents.remove(&Direction {
        agency: hub.parse().unwrap(),
        with: far.parse().unwrap(),
    });
    assert_eq!(plan_of(&registry), 0);
}

#[test]
fn without_a_relay_the_unreachable_are_named() {
    let (mut registry, mut policy) = world();
    policy.relays = vec!["prov-diy/gw1".parse().unwrap()];
    allocate(&mut registry, &policy);
    let plan = plan(&registry, &policy);
    assert_eq!(peer(&plan, "kab-demak/gw1", "kota-malang/gw1"), None);
    let Some(Record::Node(own)) = plan[&"kab-demak/gw1".parse().unwrap()]
        .iter()
        .find(|r| matches!(r, Record::Node(_)))
    else {
        panic!("a node record")
    };
    assert_eq!(own.unreachable, ["kota-malang/gw1".parse().unwrap()]);
    assert_eq!(peer(&plan, "prov-jateng/gw1", "kab-demak/gw1"), None);
}

#[test]
fn a_second_relay_serves_when_the_first_is_not_public() {
    let (mut registry, mut policy) = world();
    policy.relays = vec![
        "prov-diy/gw1".parse().unwrap(),
        "pusat/gw1".parse().unwrap(),
    ];
    allocate(&mut registry, &policy);
    let before = relayed(&plan(&world().0, &world().1), "prov-jateng/gw1");
    let planned = plan(&registry, &policy);
    assert_eq!(relayed(&planned, "pusat/gw1").len(), 1);
    assert_eq!(
        relayed(&planned, "prov-jateng/gw1"),
        before,
        "the relay of before goes on, with the same number"
    );
    let hub: NodeName = "prov-jateng/gw1".parse().unwrap();
    let pair = ["kab-demak/gw1", "kota-malang/gw1"].map(|name| name.parse().unwrap());
    assert_eq!(mesh::moved(&registry, |name| *name == pair[0]), []);
    assert_eq!(
        mesh::moved(&registry, |_| true),
        [(hub.clone(), pair.clone())]
    );
    mesh::leave(&mut registry, &hub, &pair);
    allocate(&mut registry, &policy);
    assert_eq!(relayed(&plan(&registry, &policy), hub.as_str()), []);
}

#[test]
fn channels_and_addresses_stay_when_others_come_and_pairs_go() {
    let (mut registry, mut policy) = world();
    let before = plan(&registry, &policy);
    // Sorts before all others, and pairs with both hidden ones.
    join(&mut registry, "kab-blora/gw1", 73, false);
    let more = [("kab-blora", "kab-demak"), ("kab-blora", "kota-malang")];
    policy.links.extend(linked(&more, &[]).links);
    policy.links.sort();
    allocate(&mut registry, &policy);
    let after = plan(&registry, &policy);
    assert_eq!(
        peer(&before, "kab-demak/gw1", "kota-malang/gw1"),
        peer(&after, "kab-demak/gw1", "kota-malang/gw1")
    );
    let channels: BTreeSet<u32> = relayed(&after, "prov-jateng/gw1")
        .into_iter()
        .map(|(channel, _)| channel)
        .collect();
    assert_eq!(channels, [1, 2, 3].into());

    // A pair that goes and comes back gets a new number: its old one may still be in somebody's queue.
    policy.links.retain(|link| {
        link.between[0].as_str() != "kab-demak" || link.between[1].as_str() != "kota-malang"
    });
    allocate(&mut registry, &policy);
    assert_eq!(
        relayed(&plan(&registry, &policy), "prov-jateng/gw1").len(),
        2
    );
    policy
        .links
        .extend(linked(&[("kab-demak", "kota-malang")], &[]).links);
    allocate(&mut registry, &policy);
    let last = plan(&registry, &policy);
    assert!(
        relayed(&last, "prov-jateng/gw1")
            .iter()
            .any(|(channel, pair)| *channel == 4 && pair.contains("kab-demak"))
    );
}

#[test]
fn a_plan_for_those_whom_a_join_concerns_misses_nobody() {
    let (registry, policy) = world();
    for newcomer in [
        ("kab-demak/gw2", false),
        ("kab-demak/gw2", true),
        ("kota-malang/gw2", false),
        ("prov-jateng/gw2", true),
    ] {
        let mut joined = registry.clone();
        join(&mut joined, newcomer.0, 90, newcomer.1);
        let name: NodeName = newcomer.0.parse().unwrap();
        allocate(&mut joined, &policy);
        let (before, after) = (plan(&registry, &policy), plan(&joined, &policy));
        let scope = touched_by_join(&joined, &policy, &name);
        for (node, records) in &after {
            assert!(
                scope.contains(node) || before.get(node) == Some(records),
                "{newcomer:?} changes {node}"
            );
        }
    }
}

#[test]
fn openings_are_resolved_to_what_is_routed() {
    let (registry, mut policy) = world();
    let opening = |at: &str, prefix: &str, allow: &[&str]| PolicyOpening {
        at: at.parse().unwrap(),
        prefix: prefix.parse().unwrap(),
        allow: allow.iter().map(|a| a.parse().unwrap()).collect(),
    };
    policy.links[0].openings = vec![
        opening("kab-demak", "lan", &["icmp"]),
        opening("kab-demak", "10.44.1.10/32", &["tcp/5432"]),
        opening("kota-malang", "10.55.0.0/16", &["tcp/8081", "icmp"]),
        opening("kota-malang", "lan", &["icmp"]),
        opening("kota-malang", "10.55.9.0/24", &["tcp/1"]),
    ];
    let plan = plan(&registry, &policy);
    let link = |of: &str, with: &str| {
        let records = plan[&of.parse::<NodeName>().unwrap()].iter();
        let mut links = records.filter_map(|record| match record {
            Record::Link(link) if link.with.as_str() == with => Some(link.clone()),
            _ => None,
        });
        links.next().unwrap()
    };
    let demak = link("kab-demak/gw1", "kota-malang");
    let open = |prefix: &str, allow: &[&str]| Opening {
        prefix: prefix.parse().unwrap(),
        allow: allow.iter().map(|a| a.parse().unwrap()).collect(),
    };
    assert_eq!(
        demak.opens,
        [
            open("10.44.1.0/24", &["icmp"]),
            open("10.44.1.10/32", &["tcp/5432"])
        ]
    );
    assert_eq!(demak.opened, [open("10.55.1.0/24", &["icmp", "tcp/8081"])]);
    let malang = link("kota-malang/gw1", "kab-demak");
    assert_eq!((malang.opens, malang.opened), (demak.opened, demak.opens));
    assert_eq!(PrefixChoice::Lan.to_string(), "lan");
}
