//! Which prefixes a box claims when its admin names none.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::event::HostFacts;

/// The private networks (RFC 1918, RFC 4193) on interfaces that carry no default route, sorted.
///
/// An uplink's own network is never claimed, though it is often private too: it is the ISP's.
pub fn lan_prefixes(facts: &HostFacts) -> Result<Vec<IpNet>, String> {
    let is_uplink = |interface: &str| {
        facts
            .uplinks
            .iter()
            .any(|uplink| uplink.interface == interface)
    };
    let mut prefixes: Vec<IpNet> = facts
        .addresses
        .iter()
        .filter(|a| !is_uplink(&a.interface) && is_private(a.address.addr()))
        .filter(|a| a.address.prefix_len() < a.address.max_prefix_len())
        .map(|a| a.address.trunc())
        .collect();
    prefixes.sort();
    prefixes.dedup();
    if prefixes.is_empty() {
        return Err("no LAN was found on this box (a private network on an interface without a default route): \
                    name one with --lan PREFIX, or join without one with --no-lan"
            .into());
    }
    Ok(prefixes)
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{InterfaceAddress, Uplink};

    fn facts(addresses: &[(&str, &str)]) -> HostFacts {
        HostFacts {
            addresses: addresses
                .iter()
                .map(|(interface, address)| InterfaceAddress {
                    interface: (*interface).into(),
                    address: address.parse().unwrap(),
                })
                .collect(),
            uplinks: vec![Uplink {
                interface: "wan0".into(),
                gateway: None,
            }],
            resolvers: Vec::new(),
        }
    }

    #[test]
    fn the_lan_is_claimed_and_the_uplink_is_not() {
        let facts = facts(&[
            ("lo", "127.0.0.1/8"),
            ("wan0", "192.168.1.2/24"),
            ("lan0", "10.44.1.1/24"),
            ("lan0", "fd12::1/64"),
            ("lan0", "fe80::1/64"),
            ("wan1", "203.0.113.7/24"),
            ("ppp0", "10.0.0.1/32"),
        ]);
        let expected: Vec<IpNet> = vec![
            "10.44.1.0/24".parse().unwrap(),
            "fd12::/64".parse().unwrap(),
        ];
        assert_eq!(lan_prefixes(&facts).unwrap(), expected);
    }

    #[test]
    fn without_a_lan_the_admin_is_told_what_to_type() {
        let error = lan_prefixes(&facts(&[("wan0", "192.168.1.2/24")])).unwrap_err();
        assert!(
            error.contains("--lan") && error.contains("--no-lan"),
            "{error}"
        );
    }
}
