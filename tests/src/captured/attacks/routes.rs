//! Attacks on what is behind whom: prefixes, addresses, pools, relays.

use pnsbox_proto::agency::NodeClaim;
use pnsbox_proto::view::{PeerPath, Record};

use super::Reported::{Distrusted, Not, Refused};
use super::{Attack, COMPLICIT, EVIL_ADDRESS, EVIL_BOX, EVIL_WIREGUARD};
use crate::captured::{read, records};
use pnsbox_proto::address::node_v6;
use pnsbox_proto::key::IdentityKey;

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "the LAN of prov-jateng moved to kota-malang",
        never: "it is routed there",
        reported: Distrusted("kota-malang does not claim 10.33.1.0/24"),
        act: |a| {
            let mut all = a.honest.clone();
            let moved = std::mem::take(&mut records::peer(&mut all, "prov-jateng/gw1")?.prefixes);
            records::peer(&mut all, COMPLICIT)?.prefixes.extend(moved);
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "the LAN of prov-jateng moved to kota-malang, which claims it",
        never: "it is routed there",
        reported: Distrusted("10.33.1.0/24 is routed to prov-jateng/gw1, which has not let it go"),
        act: |a| {
            let mut all = a.complicit_prefix("10.33.1.0/24")?;
            records::peer(&mut all, "prov-jateng/gw1")?.prefixes.clear();
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "half of the LAN of prov-jateng, claimed by kota-malang",
        never: "it is routed there",
        reported: Distrusted("10.33.1.0/25 is routed to prov-jateng/gw1"),
        act: |a| {
            let all = a.complicit_prefix("10.33.1.0/25")?;
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "a default route to prov-jateng, which nobody claims",
        never: "it is routed",
        reported: Distrusted("prov-jateng does not claim 0.0.0.0/0"),
        act: |a| {
            let mut all = a.honest.clone();
            let peer = records::peer(&mut all, "prov-jateng/gw1")?;
            peer.prefixes.push("0.0.0.0/0".parse()?);
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "a default route, claimed by kota-malang",
        never: "it is routed",
        reported: Distrusted("a default route is no LAN"),
        act: |a| {
            let all = a.complicit_prefix("0.0.0.0/0")?;
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "an eighth of the world, claimed by kota-malang",
        never: "it is routed",
        reported: Distrusted("32.0.0.0/3 is wider than /8"),
        act: |a| {
            let all = a.complicit_prefix("32.0.0.0/3")?;
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "a part of the victim's own LAN, claimed by kota-malang",
        never: "it is routed away",
        reported: Distrusted("10.44.1.128/25 is behind this box"),
        act: |a| {
            let all = a.complicit_prefix("10.44.1.128/25")?;
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "a part of the overlay pool, claimed by kota-malang",
        never: "it is routed",
        reported: Distrusted("100.127.0.128/25 overlaps overlay addresses"),
        act: |a| {
            let all = a.complicit_prefix("100.127.0.128/25")?;
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "the overlay address of prov-jateng in a claim of kota-malang",
        never: "it is kota-malang's",
        reported: Distrusted("peer kota-malang/gw1: prov-jateng/gw1 has its address"),
        act: |a| {
            let mut all = a.honest.clone();
            let theirs = records::peer(&mut all, "prov-jateng/gw1")?;
            let theirs: NodeClaim = read(&theirs.claim)?;
            let claim = a.complicit_claim(|claim| claim.overlay_v4 = theirs.overlay_v4)?;
            records::peer(&mut all, COMPLICIT)?.claim = claim;
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "the same, with prov-jateng left out of the view",
        never: "it is kota-malang's",
        reported: Distrusted("peer kota-malang/gw1: prov-jateng/gw1 has its address"),
        act: |a| {
            let mut all = a.honest.clone();
            let theirs = records::peer(&mut all, "prov-jateng/gw1")?;
            let theirs: NodeClaim = read(&theirs.claim)?;
            let claim = a.complicit_claim(|claim| claim.overlay_v4 = theirs.overlay_v4)?;
            let peer = records::peer(&mut all, COMPLICIT)?;
            peer.claim = claim;
            // Its way led over whoever is left out.
            peer.path = PeerPath::Passive;
            all.retain(|record| record.id() != "peer prov-jateng/gw1");
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "the victim's overlay address in a claim of kota-malang",
        never: "it is kota-malang's",
        reported: Distrusted("peer kota-malang/gw1: kab-demak/gw1 has its address"),
        act: |a| {
            let own = a.captured.nodes[&a.victim].overlay_v4;
            let claim = a.complicit_claim(|claim| claim.overlay_v4 = own)?;
            let mut all = a.honest.clone();
            records::peer(&mut all, COMPLICIT)?.claim = claim;
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "other prefixes and another address for the victim itself",
        never: "it opens or takes them",
        reported: Distrusted("100.127.0.99 is not the address that this box has"),
        act: |a| {
            let mut all = a.honest.clone();
            let own = records::own(&mut all)?;
            own.prefixes.push("10.0.0.0/8".parse()?);
            own.overlay_v4 = "100.127.0.99".parse()?;
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "a public pool, with a claim of kota-malang in it",
        never: "public space is routed",
        reported: Distrusted("it cannot have the address"),
        act: |a| {
            let claim = a.complicit_claim(|claim| claim.overlay_v4 = [8, 8, 8, 8].into())?;
            let mut all = a.honest.clone();
            records::own(&mut all)?.pool = "8.8.8.0/24".parse()?;
            records::peer(&mut all, COMPLICIT)?.claim = claim;
            Ok(a.of(&all))
        },
    },
    Attack {
        name: "a box of the invented agency as a relay",
        never: "it is more than that: no prefix, no opening, no metrics",
        reported: Not("it may be: a relay reads nothing, and is listed without prefixes"),
        act: |a| {
            let mut peer = a.evil_peer()?;
            peer.prefixes.clear();
            let mut all = a.honest.clone();
            all.push(a.evil_agency()?);
            all.push(Record::Peer(peer));
            relayed_by_evil(&mut all)?;
            let mut blow = a.of(&all);
            // The key, its two overlay addresses, and what a relay may ask of the box itself.
            let v6 = node_v6(&a.captured.network().root, &IdentityKey([66; 32]));
            blow.may.push(format!("key {EVIL_WIREGUARD}"));
            for address in [EVIL_ADDRESS.to_string(), v6.to_string()] {
                blow.may
                    .push(format!("{EVIL_WIREGUARD} may send from {address}/"));
                blow.may.push(format!("route {address}"));
                for rule in ["icmp type 8", "icmpv6 type 128", "udp dport 51821"] {
                    blow.may
                        .push(format!("nft: local: {address}: {rule} accept"));
                }
            }
            Ok(blow)
        },
    },
    Attack {
        name: "the same, with a prefix behind it",
        never: "the prefix is routed",
        reported: Distrusted("there is no link with kab-evil: it relays, and no more"),
        act: |a| {
            let mut all = a.honest.clone();
            all.push(a.evil_agency()?);
            all.push(Record::Peer(a.evil_peer()?));
            relayed_by_evil(&mut all)?;
            let mut blow = a.of(&all);
            let v6 = node_v6(&a.captured.network().root, &IdentityKey([66; 32]));
            blow.may.push(format!("key {EVIL_WIREGUARD}"));
            for address in [EVIL_ADDRESS.to_string(), v6.to_string()] {
                blow.may
                    .push(format!("{EVIL_WIREGUARD} may send from {address}/"));
                blow.may.push(format!("route {address}"));
                for rule in ["icmp type 8", "icmpv6 type 128", "udp dport 51821"] {
                    blow.may
                        .push(format!("nft: local: {address}: {rule} accept"));
                }
            }
            Ok(blow)
        },
    },
    Attack {
        name: "an old claim after its revocation",
        never: "its box is a peer",
        reported: Refused("kab-evil has taken its claim back"),
        act: |a| {
            let mut all = a.honest.clone();
            all.push(a.evil_agency()?);
            all.push(Record::Peer(a.evil_peer()?));
            relayed_by_evil(&mut all)?;
            let mut blow = a.of(&all);
            blow.told.0.push(a.evil_takes_back()?);
            Ok(blow)
        },
    },
];

/// The pair of the victim and kota-malang meets at the invented agency's box.
fn relayed_by_evil(all: &mut [Record]) -> anyhow::Result<()> {
    records::peer(all, COMPLICIT)?.path = PeerPath::Relay {
        relay: EVIL_BOX.parse()?,
        channel: 66,
    };
    Ok(())
}
