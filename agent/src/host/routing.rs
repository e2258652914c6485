//! Brings addresses, rules and routes to what is wanted: reads what is there, changes the difference.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use pnsbox_agent_core::host::{HostConfig, Interface};
use rtnetlink::IpVersion;

use super::error::{HostError, HostObject};
use super::netlink::{Address, Netlink, NetlinkError, Route, TABLE, Via, is_exact};
use super::path_mtu::PathMtus;

/// Our interface's addresses.
pub(super) fn wanted_addresses(interface: &Interface, ipv6: bool) -> BTreeSet<IpNet> {
    let mut wanted = BTreeSet::from([IpNet::from(IpAddr::V4(interface.overlay_v4))]);
    if ipv6 {
        wanted.insert(IpNet::from(IpAddr::V6(interface.overlay_v6)));
    }
    wanted
}

/// Our table's routes. `index` is our interface's; without it only throws can be.
pub(super) fn wanted_routes(
    config: &HostConfig,
    index: u32,
    mtus: &PathMtus,
    ipv6: bool,
) -> BTreeMap<IpNet, Via> {
    let mtus = mtus.by_destination(config);
    let routes = config.routes.iter().map(|route| {
        let destination = route.trunc();
        let mtu = mtus.get(&destination).copied();
        (destination, Via::Interface { index, mtu })
    });
    // A throw for the same destination wins: the host's own network is never routed away.
    let throws = config
        .throws
        .iter()
        .map(|throw| (throw.trunc(), Via::Throw));
    routes
        .chain(throws)
        .filter(|(net, _)| ipv6 || net.addr().is_ipv4())
        .collect()
}

/// Sets the addresses. New ones come first: the kernel drops all routes of an interface with its last address.
pub(super) async fn set_addresses(
    netlink: &Netlink,
    index: u32,
    wanted: &BTreeSet<IpNet>,
) -> Result<(), NetlinkError> {
    let present = addresses_of(netlink, index).await?;
    for address in wanted {
        if !present.iter().any(|p| p.address == *address) {
            netlink.add_address(index, *address).await?;
        }
    }
    for address in present {
        if !wanted.contains(&address.address) {
            netlink.delete_address(address).await?;
        }
    }
    Ok(())
}

/// Addresses of one interface, without the kernel's link-local ones.
pub(super) async fn addresses_of(
    netlink: &Netlink,
    index: u32,
) -> Result<Vec<Address>, NetlinkError> {
    let mut addresses = netlink.addresses().await?;
    addresses.retain(|a| a.index == index && !a.link_local);
    Ok(addresses)
}

/// Sets our table's routes: throws before what they are exceptions to, and removed after it.
pub(super) async fn set_routes(
    netlink: &Netlink,
    wanted: &BTreeMap<IpNet, Via>,
) -> Result<(), NetlinkError> {
    let present = our_routes(netlink).await?;
    let shown = present
        .iter()
        .map(|route| (route.destination, route.via))
        .collect();
    let Difference { set, remove } = difference(wanted, &shown);
    for (destination, via) in set {
        netlink.set_route(destination, via).await?;
    }
    for (destination, via) in remove {
        for route in present
            .iter()
            .filter(|r| (r.destination, r.via) == (destination, via))
        {
            netlink.delete_route(route.clone()).await?;
        }
    }
    Ok(())
}

/// Every route of our table.
pub(super) async fn our_routes(netlink: &Netlink) -> Result<Vec<Route>, NetlinkError> {
    let mut routes = netlink.routes().await?;
    routes.retain(|route| route.table == TABLE);
    Ok(routes)
}

/// Exactly one rule of ours in each family, or none.
pub(super) async fn set_rules(
    netlink: &Netlink,
    wanted: bool,
    ipv6: bool,
) -> Result<(), NetlinkError> {
    for ip in families(ipv6) {
        let mut kept = false;
        for rule in netlink.our_rules(ip.clone()).await? {
            if wanted && !kept && is_exact(&rule) {
                kept = true;
            } else {
                netlink.delete_rule(rule).await?;
            }
        }
        if wanted && !kept {
            netlink.add_rule(ip).await?;
        }
    }
    Ok(())
}

/// What the kernel shows that was not asked for, or does not show.
pub(super) async fn verify(
    netlink: &Netlink,
    wanted: &BTreeMap<IpNet, Via>,
    rule: bool,
    ipv6: bool,
) -> Result<(), HostError> {
    let present: BTreeMap<IpNet, Via> = our_routes(netlink)
        .await?
        .iter()
        .map(|route| (route.destination, route.via))
        .collect();
    if let Some((net, via)) = wanted
        .iter()
        .find(|(net, via)| present.get(*net) != Some(*via))
    {
        let found = format!("no route {net} ({via:?}) in table {TABLE}");
        return Err(HostError::read_back(HostObject::Routing, found));
    }
    if let Some(net) = present.keys().find(|net| !wanted.contains_key(*net)) {
        let found = format!("a route {net} in table {TABLE} that must not be");
        return Err(HostError::read_back(HostObject::Routing, found));
    }
    for ip in families(ipv6) {
        let rules = netlink.our_rules(ip.clone()).await?;
        if rules.len() != usize::from(rule) || !rules.iter().all(is_exact) {
            let found = format!("{} routing rules of ours for {ip:?}", rules.len());
            return Err(HostError::read_back(HostObject::Routing, found));
        }
    }
    Ok(())
}

fn families(ipv6: bool) -> impl Iterator<Item = IpVersion> {
    std::iter::once(IpVersion::V4).chain(ipv6.then_some(IpVersion::V6))
}

/// Changes that lead from what is there to what is wanted, each list in order.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    set: Vec<(IpNet, Via)>,
    remove: Vec<(IpNet, Via)>,
}

fn difference(wanted: &BTreeMap<IpNet, Via>, present: &BTreeSet<(IpNet, Via)>) -> Difference {
    let mut set: Vec<(IpNet, Via)> = wanted
        .iter()
        .map(|(net, via)| (*net, *via))
        .filter(|entry| !present.contains(entry))
        .collect();
    set.sort_by_key(|(net, via)| (*via, *net));
    // Setting replaces what is there for the destination, so only other destinations are removed.
    let mut remove: Vec<(IpNet, Via)> = present
        .iter()
        .copied()
        .filter(|(net, _)| !wanted.contains_key(net))
        .collect();
    remove.sort_by_key(|(net, via)| (Reverse(*via), *net));
    Difference { set, remove }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNS0: Via = Via::Interface {
        index: 7,
        mtu: None,
    };
    const NARROW: Via = Via::Interface {
        index: 7,
        mtu: Some(1296),
    };

    #[test]
    fn equal_needs_nothing() {
        check(&[("10.0.0.0/8", PNS0)], &[("10.0.0.0/8", PNS0)], &[], &[]);
        check(&[], &[], &[], &[]);
    }

    #[test]
    fn throws_come_before_the_routes_they_except_and_go_after_them() {
        let (net, hole) = (("10.0.0.0/8", PNS0), ("10.33.1.0/24", Via::Throw));
        check(&[net, hole], &[], &[hole, net], &[]);
        check(&[], &[net, hole], &[], &[net, hole]);
    }

    #[test]
    fn a_route_that_turns_into_a_throw_is_replaced_in_place() {
        check(
            &[("10.1.0.0/16", Via::Throw)],
            &[("10.1.0.0/16", PNS0)],
            &[("10.1.0.0/16", Via::Throw)],
            &[],
        );
    }

    #[test]
    fn routes_through_an_interface_that_has_gone_are_set_anew() {
        check(
            &[("10.1.0.0/16", PNS0)],
            &[(
                "10.1.0.0/16",
                Via::Interface {
                    index: 6,
                    mtu: None,
                },
            )],
            &[("10.1.0.0/16", PNS0)],
            &[],
        );
    }

    #[test]
    fn a_route_whose_mtu_changes_is_replaced_in_place() {
        check(
            &[("10.1.0.0/16", NARROW)],
            &[("10.1.0.0/16", PNS0)],
            &[("10.1.0.0/16", NARROW)],
            &[],
        );
        check(
            &[("10.1.0.0/16", PNS0)],
            &[("10.1.0.0/16", NARROW)],
            &[("10.1.0.0/16", PNS0)],
            &[],
        );
    }

    #[test]
    fn a_throw_wins_over_a_route_for_the_same_destination() {
        let config = HostConfig {
            routes: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
            throws: vec!["10.1.0.0/16".parse().unwrap()],
            ..HostConfig::default()
        };
        assert_eq!(
            wanted_routes(&config, 7, &PathMtus::default(), true),
            map(&[("10.1.0.0/16", Via::Throw), ("fd00::/8", PNS0)])
        );
        assert_eq!(
            wanted_routes(&config, 7, &PathMtus::default(), false),
            map(&[("10.1.0.0/16", Via::Throw)])
        );
    }

    fn check(
        wanted: &[(&str, Via)],
        present: &[(&str, Via)],
        set: &[(&str, Via)],
        remove: &[(&str, Via)],
    ) {
        let expected = Difference {
            set: list(set),
            remove: list(remove),
        };
        assert_eq!(
            difference(&map(wanted), &list(present).into_iter().collect()),
            expected
        );
    }

    fn list(entries: &[(&str, Via)]) -> Vec<(IpNet, Via)> {
        entries
            .iter()
            .map(|(net, via)| (net.parse().unwrap(), *via))
            .collect()
    }

    fn map(entries: &[(&str, Via)]) -> BTreeMap<IpNet, Via> {
        list(entries).into_iter().collect()
    }
}
