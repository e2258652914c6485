//! The kernel's interfaces, addresses, routes and rules, through rtnetlink. No policy: callers say what they want.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::{Stream, TryStreamExt as _};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, LinkAttribute, LinkFlags,
    LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{Handle, IpVersion, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use tokio::task::JoinHandle;

/// Routing table of our routes.
pub(super) const TABLE: u32 = 5182;
/// Priority of our rule: before the main table's, 32766.
pub(super) const RULE_PRIORITY: u32 = 5182;
/// Mark of the data plane's own datagrams, which our rule passes over: a tunnel never runs inside itself.
pub(super) const FWMARK: u32 = 0x5182;
/// Marks routes and rules as ours, so that what a crash left is recognised (rtnetlink(7), `rtm_protocol`).
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(182);

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refused to {what}")]
pub struct NetlinkError {
    what: String,
    #[source]
    source: io::Error,
}

/// A conversation with the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Netlink {
    handle: Handle,
    connection: JoinHandle<()>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) up: bool,
    /// A program holds the TUN interface open.
    pub(super) carrier: bool,
    pub(super) mtu: u32,
    pub(super) alias: Option<String>,
}

/// An address of an interface.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) index: u32,
    pub(super) address: IpNet,
    pub(super) link_local: bool,
    message: AddressMessage,
}

/// A route of any table.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) table: u32,
    pub(super) destination: IpNet,
    pub(super) via: Via,
    /// Outgoing interfaces with their gateways.
    pub(super) hops: Vec<(u32, Option<IpAddr>)>,
    message: RouteMessage,
}

/// What a route does, as far as ours differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Via {
    /// Looks no further in this table.
    Throw,
    /// Leaves through one interface.
    Interface {
        /// Which.
        index: u32,
        /// For packets that take this route, in bytes, if it is not the interface's.
        mtu: Option<u16>,
    },
    /// Anything else; never ours.
    Other,
}

impl Netlink {
    /// Opens the conversation.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|source| NetlinkError {
                what: "open a netlink socket".into(),
                source,
            })?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    /// Every interface.
    pub(super) async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let messages = collect(self.handle.link().get().execute(), "list interfaces").await?;
        Ok(messages.into_iter().map(link).collect())
    }

    /// The interface called `name`.
    pub(super) async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        Ok(self
            .links()
            .await?
            .into_iter()
            .find(|link| link.name == name))
    }

    /// Sets MTU, alias and switches, and brings the interface up.
    ///
    /// The switches are here and not in `/proc/sys`, which our unit mounts read-only. Router advertisements need
    /// none: nobody's allowed prefixes cover the link-local address that they would have to come from.
    pub(super) async fn set_up(
        &self,
        index: u32,
        mtu: u16,
        alias: &str,
        ipv6: bool,
    ) -> Result<(), NetlinkError> {
        let change = || LinkMessageBuilder::<LinkUnspec>::default().index(index);
        let quiet = change()
            .mtu(u32::from(mtu))
            .alias(alias)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(switches(ipv6)));
        // One message would come up first and have its link-local address before the switches are read.
        for message in [quiet.build(), change().up().build()] {
            let set = self.handle.link().set(message).execute().await;
            set.map_err(|e| refused(format!("bring up interface {index} with MTU {mtu}"), e))?;
        }
        Ok(())
    }

    /// Removes an interface.
    pub(super) async fn delete_link(&self, link: &Link) -> Result<(), NetlinkError> {
        let deleted = self.handle.link().del(link.index).execute().await;
        deleted.map_err(|e| refused(format!("remove interface {}", link.name), e))
    }

    /// Every address of every interface.
    pub(super) async fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        let messages = collect(self.handle.address().get().execute(), "list addresses").await?;
        Ok(messages.into_iter().filter_map(address).collect())
    }

    /// Adds an address that brings no route of its own and waits for no duplicate detection.
    pub(super) async fn add_address(&self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let mut add = self
            .handle
            .address()
            .add(index, address.addr(), address.prefix_len())
            .replace();
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        add.message_mut()
            .attributes
            .push(AddressAttribute::Flags(flags));
        add.execute()
            .await
            .map_err(|e| refused(format!("add address {address}"), e))
    }

    /// Removes an address.
    pub(super) async fn delete_address(&self, address: Address) -> Result<(), NetlinkError> {
        let what = format!("remove address {}", address.address);
        self.handle
            .address()
            .del(address.message)
            .execute()
            .await
            .map_err(|e| refused(what, e))
    }

    /// Every route of every table.
    pub(super) async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for query in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let messages = collect(self.handle.route().get(query).execute(), "list routes").await?;
            routes.extend(messages.into_iter().filter_map(route));
        }
        Ok(routes)
    }

    /// Puts a route into our table, in place of what was there for the destination.
    pub(super) async fn set_route(&self, destination: IpNet, via: Via) -> Result<(), NetlinkError> {
        let added = self
            .handle
            .route()
            .add(our_route(destination, via))
            .replace()
            .execute()
            .await;
        added.map_err(|e| refused(format!("add route {destination} to table {TABLE}"), e))
    }

    /// Removes a route; one that has gone by itself is no failure.
    pub(super) async fn delete_route(&self, route: Route) -> Result<(), NetlinkError> {
        let what = format!(
            "remove route {} from table {}",
            route.destination, route.table
        );
        match self.handle.route().del(route.message).execute().await {
            Err(rtnetlink::Error::NetlinkError(e))
                if e.to_io().raw_os_error() == Some(libc::ESRCH) =>
            {
                Ok(())
            }
            deleted => deleted.map_err(|e| refused(what, e)),
        }
    }

    /// Rules that are ours, exact or not.
    pub(super) async fn our_rules(&self, ip: IpVersion) -> Result<Vec<RuleMessage>, NetlinkError> {
        let mut rules = collect(self.handle.rule().get(ip).execute(), "list routing rules").await?;
        rules.retain(is_our_rule);
        Ok(rules)
    }

    /// Adds our rule.
    pub(super) async fn add_rule(&self, ip: IpVersion) -> Result<(), NetlinkError> {
        let mut add = self.handle.rule().add();
        *add.message_mut() = our_rule(ip);
        add.execute()
            .await
            .map_err(|e| refused("add our routing rule".into(), e))
    }

    /// Removes a rule.
    pub(super) async fn delete_rule(&self, rule: RuleMessage) -> Result<(), NetlinkError> {
        let deleted = self.handle.rule().del(rule).execute().await;
        deleted.map_err(|e| refused("remove our routing rule".into(), e))
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What `net.ipv4.conf.IF.rp_filter` and `net.ipv6.conf.IF.addr_gen_mode` are called in netlink.
fn switches(ipv6: bool) -> Vec<AfSpecUnspec> {
    // The data plane judges sources peer by peer. Strict filtering would add nothing,
    // and drop packets in the moments in which routes follow a change.
    let mut v4 = InetDevConf::default();
    v4.rp_filter = LOOSE;
    let mut switches = vec![AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(v4)])];
    if ipv6 {
        // No link-local address, no router solicitation: there is nobody to hear them.
        let silent = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        switches.push(AfSpecUnspec::Inet6(vec![silent]));
    }
    switches
}

/// ip-sysctl: `rp_filter` 2, RFC 3704 loose; the larger of this and `all` counts.
const LOOSE: i32 = 2;

/// `not fwmark 0x5182 lookup 5182`.
pub(super) fn our_rule(ip: IpVersion) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = match ip {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    };
    rule.header.action = RuleAction::ToTable;
    rule.header.flags = RuleFlags::Invert;
    rule.attributes = vec![
        RuleAttribute::Priority(RULE_PRIORITY),
        RuleAttribute::FwMark(FWMARK),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Table(TABLE),
        RuleAttribute::Protocol(PROTOCOL),
    ];
    rule
}

/// Whether the kernel shows our rule just as [`our_rule`] asks for it.
pub(super) fn is_exact(rule: &RuleMessage) -> bool {
    let has = |attribute: &RuleAttribute| rule.attributes.contains(attribute);
    rule.header.action == RuleAction::ToTable
        && rule.header.flags.contains(RuleFlags::Invert)
        && rule.header.src_len == 0
        && rule.header.dst_len == 0
        && our_rule(IpVersion::V4).attributes.iter().all(has)
}

fn is_our_rule(rule: &RuleMessage) -> bool {
    let ours = [
        RuleAttribute::Protocol(PROTOCOL),
        RuleAttribute::Table(TABLE),
    ];
    ours.iter()
        .any(|attribute| rule.attributes.contains(attribute))
}

fn our_route(destination: IpNet, via: Via) -> RouteMessage {
    let (address, length) = (destination.addr(), destination.prefix_len());
    let mut route = match address {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(v4, length)
            .build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(v6, length)
            .build(),
    };
    // Numbers above 255 travel in the attribute.
    route.header.table = RouteHeader::RT_TABLE_UNSPEC;
    route.attributes.push(RouteAttribute::Table(TABLE));
    route.header.protocol = PROTOCOL;
    match via {
        Via::Interface { index, mtu } => {
            route.attributes.push(RouteAttribute::Oif(index));
            let mtu = mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu.into())]));
            route.attributes.extend(mtu);
            if address.is_ipv4() {
                route.header.scope = RouteScope::Link;
            }
        }
        Via::Throw | Via::Other => route.header.kind = RouteType::Throw,
    }
    route
}

fn link(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        mtu: 0,
        alias: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            _ => {}
        }
    }
    link
}

/// On point-to-point interfaces `Local` is ours and `Address` is the other end's, to which the length belongs.
fn address(message: AddressMessage) -> Option<Address> {
    let (mut local, mut far) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => far = Some(*address),
            _ => {}
        }
    }
    let own = local.or(far)?;
    let address = match far {
        Some(far) if far != own => IpNet::from(own),
        Some(_) | None => IpNet::new(own, message.header.prefix_len).ok()?,
    };
    let link_local = message.header.scope == AddressScope::Link;
    Some(Address {
        index: message.header.index,
        address,
        link_local,
        message,
    })
}

fn route(message: RouteMessage) -> Option<Route> {
    let mut table = u32::from(message.header.table);
    let mut destination = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut interface, mut gateway, mut mtu, mut hops) = (None, None, None, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Metrics(metrics) => mtu = route_mtu(metrics),
            RouteAttribute::MultiPath(next) => {
                hops = next
                    .iter()
                    .map(|hop| (hop.interface_index, hop_gateway(&hop.attributes)))
                    .collect();
            }
            _ => {}
        }
    }
    hops.extend(interface.map(|index| (index, gateway)));
    let via = match (message.header.kind, interface) {
        (RouteType::Throw, _) => Via::Throw,
        (RouteType::Unicast, Some(index)) if gateway.is_none() => Via::Interface { index, mtu },
        _ => Via::Other,
    };
    let destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route {
        table,
        destination,
        via,
        hops,
        message,
    })
}

fn route_mtu(metrics: &[RouteMetric]) -> Option<u16> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => u16::try_from(*mtu).ok(),
        _ => None,
    })
}

fn hop_gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        _ => None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

async fn collect<T>(
    messages: impl Stream<Item = Result<T, rtnetlink::Error>>,
    what: &str,
) -> Result<Vec<T>, NetlinkError> {
    messages
        .try_collect()
        .await
        .map_err(|e| refused(what.to_owned(), e))
}

fn refused(what: String, error: rtnetlink::Error) -> NetlinkError {
    let source = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    };
    NetlinkError { what, source }
}
