//! Plain WireGuard devices: who is admitted, what whose views say of them, and that nothing stays of a removed one.

use pnsbox_proto::access::Opening;
use pnsbox_proto::address;
use pnsbox_proto::agency::DeviceClaim;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::view::{DeviceBehind, ExternalRecord};

use super::*;
use crate::operator::ExternalLine;
use crate::reader::Mistake;

const LAPTOP: &str = "prov-jateng/laptop-budi";

/// A public gateway, and two agencies behind NAT of which the first is linked with the gateway's.
fn world() -> (World, [Box_; 3]) {
    let mut world = World::new();
    for (agency, prefix) in [
        ("prov-jateng", "10.33.0.0/16"),
        ("kab-demak", "10.44.0.0/16"),
        ("kota-malang", "10.55.0.0/16"),
    ] {
        world.add(agency, &[prefix]);
    }
    let public = Some("203.0.113.30:51820");
    let members = [
        world.join(1, "prov-jateng/gw1", &["10.33.1.0/24"], public),
        world.join(2, "kab-demak/gw1", &["10.44.1.0/24"], None),
        world.join(3, "kota-malang/gw1", &["10.55.1.0/24"], None),
    ];
    (world, members)
}

fn policy(external: &[Value]) -> Value {
    json!({
        "link": [link("prov-jateng", &["icmp"], "kab-demak", &["icmp", "tcp/100-200"])],
        "external": external,
    })
}

fn opened(openings: &[(&str, &str, &str)]) -> Value {
    let open = openings
        .iter()
        .map(|(at, prefix, allow)| json!({ "at": at, "prefix": prefix, "allow": [allow] }));
    json!({ "device": LAPTOP, "open": open.collect::<Vec<_>>() })
}

fn key(seed: u8) -> WireguardKey {
    WireguardKey([seed; 32])
}

impl World {
    fn external(&mut self, device: &str, wireguard: WireguardKey) -> Result<ExternalLine, String> {
        let device = node(device);
        match self.ask(Request::ExternalAdd { device, wireguard }) {
            Ok(Answer::ExternalAdded { external }) => {
                self.claim_device(&external);
                Ok(external)
            }
            Err(refusal) => Err(refusal.to_string()),
            other => panic!("{other:?}"),
        }
    }

    /// Takes views until no newer one comes.
    fn catch_up<'a>(&mut self, members: impl IntoIterator<Item = &'a mut Box_>) {
        for member in members {
            while self.take_view(member).is_some() {}
        }
    }

    fn externals(&mut self) -> Vec<ExternalLine> {
        match self.ask(Request::ExternalList) {
            Ok(Answer::Externals { externals }) => externals,
            other => panic!("{other:?}"),
        }
    }
}

fn device_claim(claim: &Envelope) -> DeviceClaim {
    let agency = node(LAPTOP).agency();
    let key = signing::agency_key(&agency).verifying_key();
    claim.open(&IdentityKey(key.to_bytes())).unwrap()
}

impl Box_ {
    fn external(&self) -> Option<ExternalRecord> {
        let mut texts = self.records.values();
        texts.find_map(|text| match serde_json::from_str(text).unwrap() {
            Record::External(external) => Some(external),
            _ => None,
        })
    }

    fn devices(&self) -> Vec<DeviceBehind> {
        let texts = self.records.values();
        let peers = texts.filter_map(|text| match serde_json::from_str(text).unwrap() {
            Record::Peer(peer) => Some(peer),
            _ => None,
        });
        peers.flat_map(|peer| peer.devices).collect()
    }
}

fn openings(list: &[(&str, &[&str])]) -> Vec<Opening> {
    let opening = |(prefix, allow): &(&str, &[&str])| Opening {
        prefix: prefix.parse().unwrap(),
        allow: allow.iter().map(|a| a.parse().unwrap()).collect(),
    };
    list.iter().map(opening).collect()
}

#[test]
fn a_device_gets_addresses_and_reaches_its_gateway_and_nothing_else() {
    let (mut world, [mut gateway, mut demak, _]) = world();
    world.apply(policy(&[]));
    world.catch_up([&mut gateway, &mut demak]);
    let line = world.external(LAPTOP, key(90)).unwrap();
    assert_eq!(line.gateway, node("prov-jateng/gw1"));
    assert_eq!(line.endpoint, "203.0.113.30:51820".parse().unwrap());
    assert_eq!(line.gateway_wireguard, key(1));
    assert_eq!(line.overlay_v4.to_string(), "100.127.0.4");
    let own = gateway.own();
    let overlay = [
        IpNet::from(std::net::IpAddr::from(own.overlay_v4)),
        IpNet::from(std::net::IpAddr::from(address::node_v6(
            &identity(201),
            &identity(1),
        ))),
    ];
    assert_eq!(line.allowed_prefixes, overlay);

    let came = world.take_view(&mut gateway);
    assert_eq!(came, Some(vec![format!("member {LAPTOP}")]));
    assert_eq!(
        gateway.external(),
        None,
        "its agency has not claimed it yet"
    );
    let came = world.take_view(&mut gateway).unwrap();
    assert!(came.contains(&format!("external {LAPTOP}")), "{came:?}");
    let record = gateway.external().unwrap();
    let claim = device_claim(&record.claim);
    assert_eq!(
        (claim.wireguard, claim.overlay_v4),
        (key(90), line.overlay_v4)
    );
    assert_eq!(
        line.overlay_v6,
        address::device_v6(&identity(201), &key(90))
    );
    assert_eq!((record.opens, record.beyond), (vec![], vec![]));
    assert_eq!(
        world.take_view(&mut demak),
        None,
        "it opens nothing to the device"
    );

    let deeds = world.audit();
    let deed = &deeds[deeds.len() - 2];
    assert!(
        deed.what
            .contains(&format!("external add {LAPTOP} with key {}", key(90))),
        "{deed:?}"
    );
    // Its address is taken for nodes as well.
    let next = world.join(5, "kab-demak/gw2", &[], None);
    assert_eq!(next.own().overlay_v4.to_string(), "100.127.0.5");
    world.restart();
    assert_eq!(world.externals(), [line]);
}

#[test]
fn another_agency_opens_no_more_than_its_link_and_only_what_the_device_may_use() {
    let (mut world, [mut gateway, mut demak, mut malang]) = world();
    world.external(LAPTOP, key(90)).unwrap();
    let difference = world.apply(policy(&[opened(&[
        ("prov-jateng", "10.33.1.7/32", "tcp/22"),
        ("kab-demak", "10.44.1.10/32", "tcp/150-300"),
        ("kab-demak", "lan", "udp/53"),
    ])]));
    let line = format!("+ external {LAPTOP} may reach prov-jateng 10.33.1.7/32: tcp/22");
    assert!(
        difference.changes.contains(&line),
        "{:?}",
        difference.changes
    );
    world.catch_up([&mut gateway, &mut demak, &mut malang]);
    let both = openings(&[("10.44.1.10/32", &["tcp/150-200"])]);
    let record = gateway.external().unwrap();
    assert_eq!(record.opens, openings(&[("10.33.1.7/32", &["tcp/22"])]));
    assert_eq!(record.beyond, both);
    let devices = demak.devices();
    assert_eq!(devices.len(), 1);
    assert_eq!(
        (&devices[0].claim, &devices[0].opens),
        (&record.claim, &both)
    );
    assert_eq!(malang.devices(), []);
    let allowed = &world.externals()[0].allowed_prefixes;
    let texts: Vec<String> = allowed[2..].iter().map(IpNet::to_string).collect();
    assert_eq!(texts, ["10.33.1.7/32", "10.44.1.10/32"]);

    // Without the link there is nothing to share, and the policy says so before it is applied.
    let alone = json!({ "external": [opened(&[("kab-demak", "lan", "icmp")])] });
    let Err(Refusal::Mistakes { mistakes }) = world.ask(Request::Apply { policy: alone }) else {
        panic!("refused")
    };
    let text = mistakes[0].to_string();
    assert!(
        text.contains(
            "[external.1.open.1] at = \"kab-demak\": must be prov-jateng, or an agency that"
        ),
        "{text}"
    );
}

#[test]
fn a_removed_device_is_gone_at_once_and_its_address_and_key_are_free() {
    let (mut world, [mut gateway, mut demak, _]) = world();
    world.apply(policy(&[opened(&[("kab-demak", "lan", "icmp")])]));
    let line = world.external(LAPTOP, key(90)).unwrap();
    world.catch_up([&mut gateway, &mut demak]);
    assert!(gateway.external().is_some() && !demak.devices().is_empty());
    let device = node(LAPTOP);
    world
        .ask(Request::ExternalRemove {
            device: device.clone(),
        })
        .unwrap();
    world.catch_up([&mut gateway, &mut demak]);
    assert!(gateway.external().is_none() && demak.devices().is_empty());
    assert!(!world.entries.contains_key(&format!("external/{LAPTOP}")));
    let refused = world
        .ask(Request::ExternalRemove {
            device: device.clone(),
        })
        .unwrap_err();
    assert!(refused.to_string().contains("is no device"), "{refused}");
    assert!(world.ask(Request::ExternalShow { device }).is_err());
    assert!(
        world
            .audit()
            .pop()
            .unwrap()
            .what
            .starts_with("external remove")
    );
    assert_eq!(
        world.external(LAPTOP, key(90)).unwrap(),
        ExternalLine {
            added: world.now().wall,
            ..line
        }
    );
}

#[test]
fn keys_names_and_agencies_that_cannot_work_are_refused() {
    let (mut world, _) = world();
    world.external(LAPTOP, key(90)).unwrap();
    world.invite("prov-jateng", "gw2");
    // Order 8, RFC 7748 curve: the u-coordinate from the list in https://cr.yp.to/ecdh.html.
    let low: [u8; 32] = [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ];
    let one = {
        let mut one = [0; 32];
        one[0] = 1;
        one
    };
    for (device, wireguard, reason) in [
        ("prov-jateng/other", key(0), "low order"),
        ("prov-jateng/other", WireguardKey(one), "low order"),
        ("prov-jateng/other", WireguardKey(low), "low order"),
        (
            "prov-jateng/other",
            key(90),
            "already that of prov-jateng/laptop-budi",
        ),
        ("prov-jateng/other", key(2), "already that of kab-demak/gw1"),
        (LAPTOP, key(91), "already added"),
        ("prov-jateng/gw1", key(91), "is a node"),
        ("prov-jateng/gw2", key(91), "is invited as a node"),
        ("kab-pati/laptop", key(91), "kab-pati is not registered"),
        (
            "kab-demak/laptop",
            key(91),
            "kab-demak has no node with a public endpoint",
        ),
    ] {
        let refused = world.external(device, wireguard).unwrap_err();
        assert!(refused.contains(reason), "{reason}: {refused}");
    }
    assert_eq!(world.externals().len(), 1);
    let agency = "prov-jateng".parse().unwrap();
    let request = Request::Invite {
        agency,
        node: "laptop-budi".to_owned(),
        expires_in_s: 60,
    };
    let refused = world.ask(request).unwrap_err().to_string();
    assert!(refused.contains("is a plain WireGuard device"), "{refused}");
    // A box may not come with a device's key.
    let anchor = world.invite("prov-jateng", "gw3");
    let mut thief = Box_::new(90);
    world.connect(&mut thief);
    let refused = world.refusal(&thief, anchor.token, &[]).to_string();
    assert!(
        refused.contains("already that of prov-jateng/laptop-budi"),
        "{refused}"
    );
}

#[test]
fn mistakes_about_devices_are_named_and_one_to_come_is_a_warning() {
    let (mut world, _) = world();
    let wrong = json!({ "external": [
        { "device": "prov-jateng/gw1" },
        { "device": "kab-pati/x", "opn": 1 },
        { "device": 7, "open": [{ "at": "kab-demak", "prefix": "lan", "allow": ["tcp/0"] }] },
        opened(&[("prov-jateng", "10.44.0.0/24", "icmp")]),
        opened(&[]),
    ] });
    let Err(Refusal::Mistakes { mistakes }) = world.ask(Request::Apply { policy: wrong }) else {
        panic!("refused")
    };
    let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
    for (place, expected) in [
        "[external.1] device = \"prov-jateng/gw1\": is a node",
        "[external.2] device = \"kab-pati/x\": kab-pati is not registered",
        "[external.2] opn = 1: is not a key here; keys are device, open",
        "[external.3] device = 7: must be a device",
        "[external.3.open.1] allow = \"tcp/0\": must be a list of",
        "[external.4.open.1] prefix = \"10.44.0.0/24\": must lie in the prefixes registered for prov-jateng",
        "[external.5] device = \"prov-jateng/laptop-budi\": already has an [[external]] above",
    ].iter().enumerate() {
        assert!(lines.get(place).is_some_and(|line| line.starts_with(expected)), "{expected}: {lines:#?}");
    }
    assert_eq!(lines.len(), 7, "{lines:#?}");
    let warnings = world.apply(policy(&[opened(&[])])).warnings;
    assert!(warnings[0].contains("is not added yet"), "{warnings:?}");
}
