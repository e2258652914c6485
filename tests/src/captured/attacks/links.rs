//! Attacks on what passes: consents, openings, devices.

use std::net::Ipv4Addr;

use anyhow::Result;
use ed25519_dalek::SigningKey;
use pnsbox_proto::access::Opening;
use pnsbox_proto::agency::{DeviceClaim, LinkConsent};
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::key::WireguardKey;
use pnsbox_proto::view::{DeviceBehind, ExternalRecord, LinkRecord, Record};

use super::Reported::{Distrusted, Refused};
use super::{Attack, Attacker, Blow, COMPLICIT, EVIL};
use crate::captured::{now, read, records};

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "a link with the invented agency, both consents by the controller's key",
        never: "it is open",
        reported: Distrusted("link kab-evil: signed by key"),
        act: |a| {
            let signer = a.captured.keys().controller.clone();
            let ours = a.consent_of("kab-demak", EVIL, &signer)?;
            let theirs = a.consent_of(EVIL, "kab-demak", &signer)?;
            evil_link(a, ours, theirs)
        },
    },
    Attack {
        name: "the same, both consents by the invented agency's key",
        never: "it is open",
        reported: Distrusted("link kab-evil: signed by key"),
        act: |a| {
            let ours = a.consent_of("kab-demak", EVIL, &a.invented)?;
            let theirs = a.consent_of(EVIL, "kab-demak", &a.invented)?;
            evil_link(a, ours, theirs)
        },
    },
    Attack {
        name: "the same, with the victim's consent to another agency",
        never: "it is open",
        reported: Distrusted("link kab-evil: kab-demak has not consented"),
        act: |a| {
            let mut all = a.honest.clone();
            let ours = records::link(&mut all, "pusat")?.ours.clone();
            let theirs = a.consent_of(EVIL, "kab-demak", &a.invented)?;
            evil_link(a, ours, theirs)
        },
    },
    Attack {
        name: "a link with prov-jateng, its consent by kota-malang's key",
        never: "it is taken for a consent",
        reported: Distrusted("link prov-jateng: signed by key"),
        act: |a| {
            let theirs = a.consent_of("prov-jateng", "kab-demak", &a.complicit)?;
            let mut all = a.honest.clone();
            records::link(&mut all, "prov-jateng")?.theirs = theirs;
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "a consent of kota-malang in another network",
        never: "it is taken for a consent",
        reported: Distrusted("it is of kota-malang in network lain"),
        act: |a| {
            let signed = a.consent_of("kota-malang", "kab-demak", &a.complicit)?;
            let mut consent: LinkConsent = read(&signed)?;
            consent.network = "lain".parse()?;
            let mut all = a.honest.clone();
            let link = records::link(&mut all, "kota-malang")?;
            link.theirs = Envelope::sign(&consent, &a.complicit);
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "all ports of the victim's LAN opened to prov-jateng, beyond its consent",
        never: "they are open",
        reported: Refused("10.44.1.0/24 is more than this agency consented to"),
        act: |a| opened(a, "10.44.1.0/24"),
    },
    Attack {
        name: "networks around the victim's LAN opened to prov-jateng",
        never: "they are open",
        reported: Refused("10.0.0.0/8 is more than this agency consented to"),
        act: |a| opened(a, "10.0.0.0/8"),
    },
    Attack {
        name: "a plain WireGuard device of the victim's agency, claimed by the controller's key",
        never: "it is a peer",
        reported: Distrusted("external kab-demak/hp: kab-demak does not claim it here"),
        act: |a| {
            let signer = a.captured.keys().controller.clone();
            let claim = device(a, "kab-demak/hp", "kab-demak/gw1", &signer)?;
            let mut all = a.honest.clone();
            all.push(Record::External(ExternalRecord {
                device: "kab-demak/hp".parse()?,
                claim,
                opens: wide("10.44.1.0/24")?,
                beyond: wide("10.33.1.0/24")?,
            }));
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "a device behind prov-jateng, claimed by kota-malang's key",
        never: "it may send",
        reported: Distrusted("peer prov-jateng/gw1: signed by key"),
        act: |a| {
            let claim = device(a, "prov-jateng/hp", "prov-jateng/gw1", &a.complicit)?;
            behind(a, "prov-jateng/gw1", claim)
        },
    },
    Attack {
        name: "a device of kota-malang, with all ports opened to it",
        never: "more is open to it than to kota-malang",
        reported: Refused("10.44.1.0/24 is more than this agency consented to"),
        act: |a| {
            let claim = device(a, "kota-malang/hp", COMPLICIT, &a.complicit)?;
            let mut blow = behind(a, COMPLICIT, claim)?;
            // Its overlay addresses are of the agency that has a link; nothing is open to them.
            let key = a.captured.nodes[&COMPLICIT.parse()?].wireguard;
            blow.may.push(format!("{key} may send from {DEVICE}/32"));
            blow.may.push(format!("route {DEVICE}"));
            let v6 = pnsbox_proto::address::device_v6(&a.captured.network().root, &DEVICE_KEY);
            blow.may.push(format!("{key} may send from {v6}/128"));
            blow.may.push(format!("route {v6}"));
            Ok(blow)
        },
    },
    Attack {
        name: "a device of kota-malang with the overlay address of prov-jateng",
        never: "it may send from there",
        reported: Distrusted("kota-malang/hq cannot have the address 100.127.0.2"),
        act: |a| {
            let claim = device(a, "kota-malang/hq", COMPLICIT, &a.complicit)?;
            let mut said: DeviceClaim = read(&claim)?;
            said.overlay_v4 = a.captured.nodes[&"prov-jateng/gw1".parse()?].overlay_v4;
            behind(a, COMPLICIT, Envelope::sign(&said, &a.complicit))
        },
    },
];

const DEVICE: Ipv4Addr = Ipv4Addr::new(100, 127, 0, 67);
const DEVICE_KEY: WireguardKey = WireguardKey([67; 32]);

fn evil_link(a: &Attacker, ours: Envelope, theirs: Envelope) -> Result<Blow> {
    let mut all = a.honest.clone();
    all.push(a.evil_agency()?);
    all.push(Record::Peer(a.evil_peer()?));
    all.push(Record::Link(LinkRecord {
        with: EVIL.parse()?,
        opens: wide("10.44.1.0/24")?,
        opened: Vec::new(),
        ours,
        theirs,
    }));
    Ok(a.of(&all))
}

fn opened(a: &Attacker, prefix: &str) -> Result<Blow> {
    let mut all = a.honest.clone();
    records::link(&mut all, "prov-jateng")?.opens = wide(prefix)?;
    Ok(a.of(&all))
}

fn wide(prefix: &str) -> Result<Vec<Opening>> {
    Ok(vec![Opening {
        prefix: prefix.parse()?,
        allow: vec!["icmp".parse()?, "tcp/1-65535".parse()?],
    }])
}

fn device(a: &Attacker, name: &str, gateway: &str, signer: &SigningKey) -> Result<Envelope> {
    let claim = DeviceClaim {
        network: a.captured.network().name.clone(),
        device: name.parse()?,
        wireguard: DEVICE_KEY,
        overlay_v4: DEVICE,
        gateway: gateway.parse()?,
        sequence: 1,
        issued: now(),
    };
    Ok(Envelope::sign(&claim, signer))
}

fn behind(a: &Attacker, gateway: &str, claim: Envelope) -> Result<Blow> {
    let mut all = a.honest.clone();
    let peer = records::peer(&mut all, gateway)?;
    peer.devices.push(DeviceBehind {
        claim,
        opens: wide("10.44.1.0/24")?,
    });
    Ok(a.of(&all))
}
