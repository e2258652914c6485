//! Boxes whose uplink has one version of IP only, towards others that have both.

use crate::support::*;
use pnsbox_agent_core::event::{HostFacts, Input, InterfaceAddress, Output, Uplink};
use pnsbox_agent_core::host::TunnelPath;
use pnsbox_proto::view::PeerPath;

const V4: &str = "203.0.113.30:51820";
const V6: &str = "[2001:db8::30]:51820";

/// One uplink: its address, and its gateway if it has one.
fn facts(uplinks: &[(&str, Option<&str>)]) -> HostFacts {
    let name = |number: usize| format!("wan{number}");
    let all = || uplinks.iter().enumerate();
    HostFacts {
        addresses: all()
            .map(|(number, (address, _))| InterfaceAddress {
                interface: name(number),
                address: address.parse().unwrap(),
            })
            .collect(),
        uplinks: all()
            .map(|(number, (_, gateway))| Uplink {
                interface: name(number),
                gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            })
            .collect(),
        resolvers: Vec::new(),
    }
}

const ONLY_V4: (&str, Option<&str>) = ("192.168.1.2/24", Some("192.168.1.1"));
const ONLY_V6: (&str, Option<&str>) = ("2001:db8:40::2/64", Some("fe80::1"));
/// A point-to-point link has no gateway.
const DIALLED: (&str, Option<&str>) = ("2001:db8:40::2/64", None);

#[test]
fn a_peer_with_both_versions_is_dialled_in_the_one_that_the_box_has() {
    for (uplinks, first, second, expected) in [
        (&[ONLY_V4][..], V4, V6, V4),
        (&[ONLY_V6], V4, V6, V6),
        (&[DIALLED], V4, V6, V6),
        (&[ONLY_V4], V6, V4, V4),
        (&[ONLY_V4, ONLY_V6], V6, V4, V6),
        (&[ONLY_V4, ONLY_V6], V4, V6, V4),
        // Nothing is known of the host: the first.
        (&[], V6, V4, V6),
    ] {
        let mut agent = Driven::online(Vec::new());
        agent.input(Input::HostFacts(facts(uplinks)));
        agent.take();
        let path = PeerPath::Direct {
            endpoint: first.parse().unwrap(),
            second: Some(second.parse().unwrap()),
        };
        let records = texts(&[
            node_record(ME, 44),
            peer_record(HUB, 33, path),
            link_record("prov-jateng", "", ""),
        ]);
        agent.view(view_of(ME, 1, &records, &secret(2), |_| true));
        let dialled = agent.take().into_iter().find_map(|output| match output {
            Output::Apply { host, .. } => Some(host.tunnels[0].path.clone()),
            _ => None,
        });
        let expected = TunnelPath::Direct(expected.parse().unwrap());
        assert_eq!(dialled, Some(expected), "{uplinks:?}, {first} first");
    }
}

#[test]
fn controllers_in_the_version_that_the_box_has_are_tried_first() {
    let addresses = |list: [&str; 3]| list.map(|a| a.parse().unwrap()).to_vec();
    for (uplink, expected) in [
        (
            ONLY_V4,
            ["203.0.113.10:443", "203.0.113.11:443", "[2001:db8::10]:443"],
        ),
        (
            ONLY_V6,
            ["[2001:db8::10]:443", "203.0.113.10:443", "203.0.113.11:443"],
        ),
    ] {
        let mut agent = Driven::new(start(44, None, Vec::new()));
        agent.input(Input::HostFacts(facts(&[uplink])));
        agent.take();
        let mut command = join_command();
        command.anchor.controllers =
            addresses(["203.0.113.10:443", "[2001:db8::10]:443", "203.0.113.11:443"]);
        agent.input(Input::Join(command));
        let dialled = agent.take().into_iter().find_map(|output| match output {
            Output::DialControl { controllers } => Some(controllers),
            _ => None,
        });
        assert_eq!(dialled, Some(addresses(expected)), "{uplink:?}");
    }
}
