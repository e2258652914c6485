//! From a view to what the host must look like. Pure: the same view and facts give the same configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv6Net};
use pnsbox_proto::access::Opening;
use pnsbox_proto::id::AgencyName;
use pnsbox_proto::key::WireguardKey;
use pnsbox_proto::view::PeerPath;

use crate::event::HostFacts;
use crate::host::{Filter, ForwardRule, HostConfig, Interface, Relay, Tunnel, TunnelPath};
use crate::view::{Behind, Device, Peer, View};

/// What does not come from the view, and stays for the life of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// UDP port of links.
    pub link: u16,
    /// TCP port of metrics.
    pub http: u16,
    /// Interface MTU, in bytes.
    pub mtu: u16,
    /// Where peers that dial this node were seen before it restarted.
    pub endpoints: BTreeMap<WireguardKey, SocketAddr>,
}

/// The configuration that puts `view` into force on a host that looks like `facts`,
/// or why it would cut the host off.
pub fn host_config(
    view: &View,
    facts: &HostFacts,
    settings: &Settings,
) -> Result<HostConfig, String> {
    if let Some(collision) = pool_collision(view, facts) {
        return Err(collision);
    }
    let tunnels: Vec<Tunnel> = view
        .peers
        .values()
        .map(|peer| tunnel(view, facts, peer, settings))
        .chain(view.externals.values().map(device_tunnel))
        .collect();
    let mut routes: BTreeSet<IpNet> = tunnels
        .iter()
        .flat_map(|tunnel| tunnel.allowed_prefixes.clone())
        .collect();
    let throws = throws(view, facts, &routes);
    // One of them alone can stand in the table, and what is connected here stays here.
    routes.retain(|route| !throws.contains(route));
    let relays = view.relays.iter().filter_map(|relay| {
        let [a, b] = relay
            .members
            .each_ref()
            .map(|member| view.peers.get(member).map(|peer| peer.wireguard));
        Some(Relay {
            channel: relay.channel,
            members: [a?, b?],
        })
    });
    Ok(HostConfig {
        interface: Some(Interface {
            overlay_v4: view.node.overlay_v4,
            overlay_v6: view.overlay_v6,
            mtu: settings.mtu,
        }),
        throws,
        routes: routes.into_iter().collect(),
        filter: Some(filter(view, settings)),
        relays: relays.collect(),
        tunnels,
    })
}

fn tunnel(view: &View, facts: &HostFacts, peer: &Peer, settings: &Settings) -> Tunnel {
    let path = match &peer.path {
        // The guess is as good as the peer's NAT; the peer's own datagrams correct it.
        PeerPath::Passive => {
            let seen = settings.endpoints.get(&peer.wireguard);
            seen.map_or(TunnelPath::Passive, |endpoint| {
                TunnelPath::Direct(*endpoint)
            })
        }
        PeerPath::Direct { endpoint, second } => {
            let usable = second
                .filter(|second| !facts.has_version_of(endpoint) && facts.has_version_of(second));
            TunnelPath::Direct(usable.unwrap_or(*endpoint))
        }
        PeerPath::Relay { relay, channel } => match view.peers.get(relay) {
            Some(relay) => TunnelPath::Relay {
                via: relay.wireguard,
                channel: *channel,
            },
            // Its record was not readable: the peer stays known and cannot be reached.
            None => TunnelPath::Passive,
        },
    };
    Tunnel {
        key: peer.wireguard,
        allowed_prefixes: addresses_of(peer)
            .into_iter()
            .chain(peer.devices.iter().flat_map(device_overlay))
            .collect(),
        path,
        keepalive: peer.keepalive,
    }
}

/// A device dials this node and holds its own NAT open. Where it was last seen says nothing of where it is now.
fn device_tunnel(device: &Device) -> Tunnel {
    Tunnel {
        key: device.wireguard,
        allowed_prefixes: hosts(device.overlay_v4, device.overlay_v6).into(),
        path: TunnelPath::Passive,
        keepalive: false,
    }
}

/// This host's own networks that lie inside a route or equal it: they stay with the host.
fn throws(view: &View, facts: &HostFacts, routes: &BTreeSet<IpNet>) -> Vec<IpNet> {
    let connected = facts.addresses.iter().map(|a| a.address.trunc());
    let own: BTreeSet<IpNet> = connected
        .chain(view.node.prefixes.iter().copied())
        .collect();
    own.into_iter()
        .filter(|prefix| routes.iter().any(|route| route.contains(prefix)))
        .collect()
}

fn filter(view: &View, settings: &Settings) -> Filter {
    let mut inbound = Vec::new();
    for link in view.links.values() {
        let sources = sources_of(view, &link.with);
        if sources.is_empty() {
            continue;
        }
        inbound.extend(rules(&sources, &link.opens));
    }
    for device in view.peers.values().flat_map(|peer| &peer.devices) {
        inbound.extend(rules(&device_overlay(device), &device.opens));
    }
    let mut across = Vec::new();
    let mut device_addresses = Vec::new();
    for device in view.externals.values() {
        let sources = hosts(device.overlay_v4, device.overlay_v6);
        inbound.extend(rules(&sources, &device.opens));
        across.extend(rules(&sources, &device.beyond));
        device_addresses.extend(sources);
    }
    Filter {
        inbound,
        across,
        own_prefixes: view.node.prefixes.clone(),
        peer_addresses: overlay_of(view, |peer| peer.is_linked),
        relay_addresses: overlay_of(view, |peer| !peer.is_linked),
        device_addresses,
        link_port: settings.link,
        http_port: settings.http,
    }
}

/// Overlay addresses of peers.
fn overlay_of(view: &View, which: impl Fn(&&Peer) -> bool) -> Vec<IpNet> {
    view.peers
        .values()
        .filter(which)
        .flat_map(overlay)
        .collect()
}

/// Inner sources of an agency: overlay addresses and LAN prefixes of its nodes.
fn sources_of(view: &View, agency: &AgencyName) -> Vec<IpNet> {
    let peers = view
        .peers
        .values()
        .filter(|peer| peer.node.agency() == *agency);
    peers.flat_map(addresses_of).collect()
}

/// Overlay addresses and LAN prefixes of a member.
fn addresses_of(peer: &Peer) -> Vec<IpNet> {
    let overlay = overlay(peer).into_iter();
    overlay.chain(peer.prefixes.iter().copied()).collect()
}

fn rules(sources: &[IpNet], opens: &[Opening]) -> impl Iterator<Item = ForwardRule> {
    opens.iter().map(|opening| ForwardRule {
        sources: sources.to_vec(),
        destination: opening.prefix,
        allow: opening.allow.clone(),
    })
}

fn overlay(peer: &Peer) -> [IpNet; 2] {
    hosts(peer.overlay_v4, peer.overlay_v6)
}

fn device_overlay(device: &Behind) -> [IpNet; 2] {
    hosts(device.overlay_v4, device.overlay_v6)
}

fn hosts(v4: Ipv4Addr, v6: Ipv6Addr) -> [IpNet; 2] {
    [IpNet::from(IpAddr::from(v4)), IpNet::from(IpAddr::from(v6))]
}

/// An uplink's address, gateway or resolver, or a LAN prefix, inside the overlay pool would be cut off by our routes.
/// A wider connected network is no collision: our routes are more specific.
fn pool_collision(view: &View, facts: &HostFacts) -> Option<String> {
    [view.node.pool.into(), overlay_v6(view)]
        .into_iter()
        .find_map(|pool| collision(&pool, view, facts))
}

/// The range of all overlay IPv6 addresses: 48 bits are the network's (RFC 4193), the rest a member's.
fn overlay_v6(view: &View) -> IpNet {
    Ipv6Net::new_assert(view.overlay_v6, 48).trunc().into()
}

fn collision(pool: &IpNet, view: &View, facts: &HostFacts) -> Option<String> {
    let uplinks = || facts.uplinks.iter();
    let own = facts
        .addresses
        .iter()
        .filter(|a| uplinks().any(|uplink| uplink.interface == a.interface))
        .map(|a| {
            (
                a.address.addr(),
                format!("the address of uplink {}", a.interface),
            )
        });
    let gateways = uplinks()
        .filter_map(|u| Some((u.gateway?, format!("the gateway of uplink {}", u.interface))));
    let resolvers = facts
        .resolvers
        .iter()
        .map(|ip| (*ip, "a resolver of /etc/resolv.conf".to_owned()));
    let address = own
        .chain(gateways)
        .chain(resolvers)
        .find(|(ip, _)| pool.contains(ip));
    let what = match address {
        Some((ip, what)) => format!("{ip}, {what},"),
        None => {
            let overlaps = |prefix: &&IpNet| prefix.contains(pool) || pool.contains(*prefix);
            format!("LAN prefix {}", view.node.prefixes.iter().find(overlaps)?)
        }
    };
    let remedy = match pool {
        IpNet::V4(_) => {
            "the operator must choose another pool with 'pnsbox-controller init --pool'"
        }
        IpNet::V6(_) => "that range is the network's own, so choose another here",
    };
    Some(format!(
        "{what} lies in the overlay pool {pool}, where routes to peers may hide it: {remedy}"
    ))
}
