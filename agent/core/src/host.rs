//! What the host must look like: data, never an action.
//!
//! `agent/src/host` applies it idempotently: twice equals once, and what is not listed is removed, within what is ours:
//! our interface, our routing table and rule, our nftables table, and the data plane.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use pnsbox_proto::access::Allow;
use pnsbox_proto::key::WireguardKey;

/// Everything, complete. [`HostConfig::default`] is an unjoined node: no interface, no route, no table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// Our interface; absent while the node has not joined.
    pub interface: Option<Interface>,
    /// Destinations that leave through our interface, in our own routing table, sorted.
    pub routes: Vec<IpNet>,
    /// Destinations that our table hands back to the main table (`throw`), sorted:
    /// this host's own networks that lie inside one of `routes`.
    pub throws: Vec<IpNet>,
    /// What may cross or reach our interface; absent while the node has not joined.
    pub filter: Option<Filter>,
    /// Tunnels and relay channels.
    pub tunnels: Vec<Tunnel>,
    /// Pairs to relay for.
    pub relays: Vec<Relay>,
}

/// Our interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Overlay address from the pool, with /32.
    pub overlay_v4: Ipv4Addr,
    /// Overlay address derived from the key, with /128.
    pub overlay_v6: Ipv6Addr,
    /// In bytes.
    pub mtu: u16,
}

/// Rules of our nftables table. They judge only packets that enter or leave our interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Forwarded from a peer to the LAN: accepted if one matches, else dropped and counted.
    pub inbound: Vec<ForwardRule>,
    /// Forwarded from a device to a peer: accepted if one matches, else dropped and counted.
    /// Nothing else may leave our interface that came through it.
    pub across: Vec<ForwardRule>,
    /// Forwarded from the LAN to peers: sources that may leave. The far side judges the rest.
    pub own_prefixes: Vec<IpNet>,
    /// Overlay addresses of peers of linked agencies, which may reach links, echo and metrics on this box.
    pub peer_addresses: Vec<IpNet>,
    /// Overlay addresses of peers that only relay, or are only relayed for: they may reach links and echo.
    pub relay_addresses: Vec<IpNet>,
    /// Devices' overlay addresses, which may reach echo on this box.
    pub device_addresses: Vec<IpNet>,
    /// UDP port of links.
    pub link_port: u16,
    /// TCP port of metrics.
    pub http_port: u16,
}

/// Who may open what behind this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardRule {
    /// Inner sources: overlay addresses and LAN prefixes of the agency's nodes, or a device's overlay addresses.
    pub sources: Vec<IpNet>,
    /// Destination behind this node, or behind a peer of it.
    pub destination: IpNet,
    /// Any of these.
    pub allow: Vec<Allow>,
}

/// One peer of the data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// The peer.
    pub key: WireguardKey,
    /// Inner sources accepted from it and destinations sent to it.
    pub allowed_prefixes: Vec<IpNet>,
    /// How it is reached.
    pub path: TunnelPath,
    /// Whether this side sends persistent keepalives.
    pub keepalive: bool,
}

/// How a peer of the data plane is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelPath {
    /// It dials us.
    Passive,
    /// It listens here.
    Direct(SocketAddr),
    /// Through another peer of ours.
    Relay {
        /// The relay's key.
        via: WireguardKey,
        /// The relay's number for the pair.
        channel: u32,
    },
}

/// A pair of members to relay for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Unique here.
    pub channel: u32,
    /// Both are tunnels of ours.
    pub members: [WireguardKey; 2],
}
