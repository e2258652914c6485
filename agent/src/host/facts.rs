//! The host's own network, without our interface: addresses, uplinks, resolvers; and a bell for when it changes.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressScope;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use pnsbox_agent_core::event::{HostFacts, InterfaceAddress, Uplink};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::debug;

use super::netlink::{self, Netlink, NetlinkError};

/// Reads the facts, leaving out the interface called `ours`.
pub(super) async fn read(netlink: &Netlink, ours: &str) -> Result<HostFacts, NetlinkError> {
    let names: BTreeMap<u32, String> = netlink
        .links()
        .await?
        .into_iter()
        .filter(|l| l.name != ours)
        .map(|l| (l.index, l.name))
        .collect();
    let mut addresses: Vec<InterfaceAddress> = netlink
        .addresses()
        .await?
        .into_iter()
        .filter(|a| !a.address.addr().is_loopback() && !a.link_local)
        .filter_map(|a| {
            let interface = names.get(&a.index)?.clone();
            Some(InterfaceAddress {
                interface,
                address: a.address,
            })
        })
        .collect();
    addresses.sort_by(|a, b| (&a.interface, a.address).cmp(&(&b.interface, b.address)));
    let mut uplinks: Vec<Uplink> = Vec::new();
    for route in netlink.routes().await? {
        if route.table == MAIN_TABLE && route.destination.prefix_len() == 0 {
            let hops = route.hops.into_iter();
            uplinks.extend(hops.filter_map(|(index, gateway)| {
                Some(Uplink {
                    interface: names.get(&index)?.clone(),
                    gateway,
                })
            }));
        }
    }
    uplinks.sort_by(|a, b| (&a.interface, a.gateway).cmp(&(&b.interface, b.gateway)));
    uplinks.dedup();
    Ok(HostFacts {
        addresses,
        uplinks,
        resolvers: resolvers(Path::new("/etc/resolv.conf")),
    })
}

/// Rings once when the host's network has changed and been quiet for a moment, and once a minute in any case:
/// resolvers change without notice. `ours` holds the index of our interface, whose changes do not ring; 0 for none.
/// Ends when the receiver is dropped.
pub(super) fn watch(ours: Arc<AtomicU32>) -> mpsc::Receiver<()> {
    // One ring waits at most: it already says "look again".
    let (ring, rings) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut pace = Pace::new(Instant::now());
        loop {
            tokio::select! {
                () = ring.closed() => return,
                ended = listen(&ours, &ring, &mut pace) => {
                    debug!(reason = %ended, "listening for changes of addresses and routes anew");
                    pace.changed(Instant::now());
                    sleep(REOPEN).await;
                }
            }
        }
    });
    rings
}

/// Rings as long as the kernel talks; returns why it does not.
async fn listen(ours: &AtomicU32, ring: &mpsc::Sender<()>, pace: &mut Pace) -> io::Error {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    // The connection ends when its last handle goes, so the handle is kept.
    let (connection, _handle, mut notices) = match rtnetlink::new_multicast_connection(&groups) {
        Ok(opened) => opened,
        Err(error) => return error,
    };
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            () = &mut connection => return io::Error::other("the conversation ended"),
            notice = notices.next() => match notice {
                Some((message, _)) if concerns(&message.payload, ours.load(Ordering::Relaxed)) => {
                    pace.changed(Instant::now());
                }
                Some(_) => {}
                None => return io::Error::other("the notices ended"),
            },
            () = sleep_until(pace.deadline()) => {
                *pace = Pace::new(Instant::now());
                // A ring that still waits says it already.
                ring.try_send(()).ok();
            }
        }
    }
}

/// When to ring next.
#[derive(Debug, Clone, Copy)]
struct Pace {
    latest: Instant,
    deadline: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            latest: now + EVERY,
            deadline: now + EVERY,
        }
    }

    /// Waits until it is quiet, but not for ever.
    fn changed(&mut self, now: Instant) {
        self.latest = self.latest.min(now + PATIENCE);
        self.deadline = self.latest.min(now + QUIET);
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }
}

fn concerns(payload: &NetlinkPayload<RouteNetlinkMessage>, ours: u32) -> bool {
    let message = match payload {
        NetlinkPayload::InnerMessage(message) => message,
        // The kernel was in a hurry and dropped notices (ENOBUFS).
        NetlinkPayload::Overrun(_) => return true,
        _ => return false,
    };
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            link.header.index != ours
        }
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            address.header.index != ours && address.header.scope != AddressScope::Link
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            is_foreign(route, ours)
        }
        _ => false,
    }
}

fn is_foreign(route: &RouteMessage, ours: u32) -> bool {
    let own = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Table(table) => *table == netlink::TABLE,
        RouteAttribute::Oif(index) => *index == ours,
        _ => false,
    };
    route.header.kind == RouteType::Unicast && !route.attributes.iter().any(own)
}

/// Name servers of a resolv.conf(5); none if it cannot be read.
fn resolvers(path: &Path) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let server = words
            .next()
            .filter(|word| *word == "nameserver")
            .and_then(|_| words.next())?;
        // A link-local server may carry its interface: fe80::1%eth0.
        server.split('%').next()?.parse().ok()
    });
    servers.collect()
}

const MAIN_TABLE: u32 = 254;
/// A DHCP renewal or a link that comes up is a burst of notices within this time.
const QUIET: Duration = Duration::from_millis(300);
/// A flapping link must not silence the bell.
const PATIENCE: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_mins(1);
const REOPEN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let text = "# x\nnameserver 10.0.0.53\noptions ndots:2\nnameserver fe80::1%eth0\nnameserver bad\nnameserver\n";
        std::fs::write(&path, text).unwrap();
        let expected: Vec<IpAddr> = vec!["10.0.0.53".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(resolvers(&path), expected);
        assert!(resolvers(&dir.path().join("missing")).is_empty());
    }

    #[test]
    fn the_bell_waits_for_quiet_but_not_for_ever() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.deadline(), start + EVERY);
        pace.changed(start);
        assert_eq!(pace.deadline(), start + QUIET);
        for tenth in 1..40 {
            pace.changed(start + Duration::from_millis(100) * tenth);
        }
        assert_eq!(pace.deadline(), start + PATIENCE);
    }
}
