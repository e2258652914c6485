//! DOES what [`HostConfig`] says: interface, addresses, routing rule and table, packet filter, kernel switches, data plane.
//! Decides nothing: what the host must look like comes complete, and what is not listed is removed, within what is ours.
//!
//! | what | ours is |
//! |---|---|
//! | interface | the one that this process opened; it goes with the process |
//! | routes | table 5182 |
//! | rules | protocol 182, or those that look up table 5182 |
//! | filter | nftables table `inet pnsbox` |
//!
//! On the way up the filter comes first and the routes come last; on the way down the reverse,
//! so nothing is open even for an instant.

use std::io;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pnsbox_agent_core::event::HostFacts;
use pnsbox_agent_core::host::{Filter, HostConfig, Interface};
use pnsbox_dataplane::tun::{self, Tun, TunError};
use pnsbox_dataplane::{
    Counters, Dataplane, DscpPolicy, HandshakeClock, PeerCounters, ProtocolCore, Settings,
};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::dying;
use crate::failpoint::step;
use crate::keys::WireguardSecret;
use crate::uapi::text::Device;

mod error;
mod facts;
mod netlink;
pub mod nftables;
mod path_mtu;
mod plane;
mod preflight;
mod routing;
mod sysctl;

pub use error::{HostError, HostObject};
use netlink::Netlink;
pub use nftables::FilterDrops;
use path_mtu::PathMtus;

/// The kernel and the data plane, as far as they are ours.
///
/// Dropping it without [`Host::shutdown`] stops the data plane, and so the interface and its routes go;
/// the rule and the filter stay, and the next [`Host::new`] removes them.
#[derive(Debug)]
pub struct Host {
    /// Held for as long as we own what is ours in this network namespace.
    _alone: UnixListener,
    settings: HostSettings,
    netlink: Netlink,
    ipv6: bool,
    plane: Option<Plane>,
    /// Index of our interface, for the listener to changes of the host; 0 without one.
    index: Arc<AtomicU32>,
    table: nftables::Table,
    applied: HostConfig,
    /// As the routes have them.
    path_mtus: PathMtus,
}

/// What does not come from the view.
#[derive(Debug, Clone)]
pub struct HostSettings {
    /// Name of our interface.
    pub interface: String,
    /// UDP port of WireGuard and relay frames.
    pub wireguard_port: u16,
    /// Private key of the tunnels.
    pub private_key: WireguardSecret,
    /// Who speaks WireGuard.
    pub core: ProtocolCore,
    /// Of handshakes; it outlives every data plane.
    pub clock: HandshakeClock,
    /// What outer headers tell of a packet's class.
    pub dscp: DscpPolicy,
}

/// The data plane with the interface that it holds.
#[derive(Debug)]
struct Plane {
    dataplane: Dataplane,
    index: u32,
    mtu: u16,
}

impl Host {
    /// Checks capability and TUN device, before anything is made or changed.
    pub fn check_rights() -> Result<(), HostError> {
        preflight::check()
    }

    /// Checks that the network can be changed at all, and removes what a crashed run left.
    pub async fn new(settings: HostSettings) -> Result<Self, HostError> {
        let alone = alone().await?;
        nftables::check().await?;
        let netlink = Netlink::open()?;
        let ipv6 = sysctl::ipv6_usable();
        if !ipv6 {
            info!("this host has no IPv6; the overlay is IPv4 only here");
        }
        let index = Arc::new(AtomicU32::new(0));
        let mut host = Self {
            _alone: alone,
            settings,
            netlink,
            ipv6,
            plane: None,
            index,
            table: nftables::Table::default(),
            applied: HostConfig::default(),
            path_mtus: PathMtus::default(),
        };
        host.remove_stale_interface().await?;
        host.change_to(&HostConfig::default()).await?;
        Ok(host)
    }

    /// Makes the host look like `config` and reads it back. Applying twice equals once.
    ///
    /// If it fails, what was there before is restored; [`HostError::NotRestored`] says when that failed too.
    /// Not to be cancelled: a change dropped half-way stays half-way until the next call.
    pub async fn apply(&mut self, config: &HostConfig) -> Result<(), HostError> {
        let Err(error) = self.change_to(config).await else {
            self.applied = config.clone();
            return Ok(());
        };
        let before = self.applied.clone();
        match self.change_to(&before).await {
            Ok(()) => Err(error),
            Err(back) => Err(HostError::NotRestored {
                change: error.chain(),
                back: back.chain(),
            }),
        }
    }

    /// Puts back what somebody else removed or changed, for example a firewall script that flushed all tables.
    /// Returns what it found first, if anything.
    pub async fn repair(&mut self) -> Result<Option<HostObject>, HostError> {
        let config = self.applied.clone();
        let (object, found) = match self.verify(&config).await {
            Ok(()) => return Ok(None),
            Err(HostError::ReadBack { object, found }) => (object, found),
            Err(error) => return Err(error),
        };
        warn!(object = object.as_str(), %found, "another program has changed the host; putting it back");
        self.change_to(&config).await?;
        Ok(Some(object))
    }

    /// Gives routes the MTU that the paths behind them carry, if that has changed: so the kernel tells hosts on the LAN
    /// what is too big.
    pub async fn follow_path_mtus(&mut self, peers: &[PeerCounters]) -> Result<(), HostError> {
        let Some((index, mtu)) = self.plane.as_ref().map(|plane| (plane.index, plane.mtu)) else {
            return Ok(());
        };
        let found = PathMtus::of(peers, mtu);
        if found == self.path_mtus {
            return Ok(());
        }
        let routes = routing::wanted_routes(&self.applied, index, &found, self.ipv6);
        routing::set_routes(&self.netlink, &routes).await?;
        info!(narrow = found.count(), "routes have the MTU of their paths");
        self.path_mtus = found;
        Ok(())
    }

    /// The host's own network, without our interface.
    pub async fn facts(&self) -> Result<HostFacts, HostError> {
        Ok(facts::read(&self.netlink, &self.settings.interface).await?)
    }

    /// Rings when addresses, routes or interfaces other than ours have changed, debounced, and once a minute in any case.
    pub fn watch_facts(&self) -> mpsc::Receiver<()> {
        facts::watch(Arc::clone(&self.index))
    }

    /// What the data plane counted; `None` while there is none.
    pub fn counters(&self) -> Option<Counters> {
        self.plane.as_ref().map(|plane| plane.dataplane.counters())
    }

    /// Whether this host has IPv6 at all; without it the overlay is IPv4 only here.
    pub fn has_ipv6(&self) -> bool {
        self.ipv6
    }

    /// The tunnels as WireGuard shows them; `None` while there is no interface.
    pub fn device(&self) -> Option<Device> {
        let plane = &self.plane.as_ref()?.dataplane;
        Some(plane::device(
            &self.applied,
            plane.port(),
            &plane.counters().peers,
        ))
    }

    /// MTU of our interface, in bytes; `None` while there is none.
    pub fn mtu(&self) -> Option<u16> {
        self.plane.as_ref().map(|plane| plane.mtu)
    }

    /// Moves while the data plane works; `None` while there is none.
    pub fn progress(&self) -> Option<u64> {
        self.plane.as_ref().map(|plane| plane.dataplane.progress())
    }

    /// The interface has gone from under the data plane; [`Host::repair`] and [`Host::apply`] make it anew.
    pub fn tun_lost(&self) -> bool {
        self.plane
            .as_ref()
            .is_some_and(|plane| plane.dataplane.tun_lost())
    }

    /// What the filter has dropped since the start.
    pub async fn filter_drops(&mut self) -> Result<FilterDrops, HostError> {
        Ok(self.table.drops().await?)
    }

    /// Removes interface, routes, rule and filter. What fails is logged: the next start removes it.
    pub async fn shutdown(mut self) {
        if let Err(error) = self.change_to(&HostConfig::default()).await {
            warn!(error = %error.chain(), "the host was not left as it was found");
        }
    }

    async fn change_to(&mut self, config: &HostConfig) -> Result<(), HostError> {
        match &config.interface {
            Some(interface) => self.bring_up(interface, config).await?,
            None => self.take_down().await?,
        }
        self.verify(config).await
    }

    async fn bring_up(
        &mut self,
        interface: &Interface,
        config: &HostConfig,
    ) -> Result<(), HostError> {
        // An interface without a filter would be open; an empty filter lets nothing through.
        let closed = Filter::default();
        let filter = config.filter.as_ref().unwrap_or(&closed);
        step("host_before_filter");
        self.table.replace(filter, &self.settings.interface).await?;
        step("host_filter_replaced");
        forward(filter)?;
        let index = self.ensure_plane(interface.mtu).await?;
        let addresses = routing::wanted_addresses(interface, self.ipv6);
        // IPv6 addresses need the MTU first: below 1280 the kernel takes IPv6 off the interface.
        let ipv6 = self.ipv6;
        self.netlink
            .set_up(index, interface.mtu, ALIAS, ipv6)
            .await?;
        routing::set_addresses(&self.netlink, index, &addresses).await?;
        step("host_addresses_set");
        if let Some(plane) = &self.plane {
            plane
                .dataplane
                .apply(plane::snapshot(config))
                .map_err(HostError::Snapshot)?;
        }
        step("host_peers_set");
        routing::set_rules(&self.netlink, true, self.ipv6).await?;
        let routes = routing::wanted_routes(config, index, &self.path_mtus, self.ipv6);
        routing::set_routes(&self.netlink, &routes).await?;
        step("host_routes_set");
        Ok(())
    }

    async fn take_down(&mut self) -> Result<(), HostError> {
        routing::set_routes(&self.netlink, &Default::default()).await?;
        routing::set_rules(&self.netlink, false, self.ipv6).await?;
        self.stop_plane();
        Ok(self.table.remove().await?)
    }

    /// The running data plane's interface, if it is as wanted; otherwise a new one.
    async fn ensure_plane(&mut self, mtu: u16) -> Result<u32, HostError> {
        match &self.plane {
            Some(plane) if plane.mtu == mtu && !plane.dataplane.tun_lost() => {
                return Ok(plane.index);
            }
            Some(_) => self.stop_plane(),
            None => {}
        }
        let name = &self.settings.interface;
        let tun = self.open_tun().await?;
        let link = self.netlink.link(name).await?;
        let link = link.ok_or_else(|| {
            HostError::read_back(HostObject::Interface, format!("no interface {name}"))
        })?;
        let dataplane = Dataplane::start(Settings {
            tun,
            private_key: (*self.settings.private_key.expose()).into(),
            listen: self.settings.wireguard_port,
            fwmark: netlink::FWMARK,
            mtu,
            core: self.settings.core,
            clock: self.settings.clock.clone(),
            dscp: self.settings.dscp,
        })
        .map_err(HostError::Start)?;
        info!(interface = %name, port = dataplane.port(), mtu, "data plane started");
        self.index.store(link.index, Ordering::Relaxed);
        self.plane = Some(Plane {
            dataplane,
            index: link.index,
            mtu,
        });
        Ok(link.index)
    }

    async fn open_tun(&self) -> Result<Tun, HostError> {
        let name = &self.settings.interface;
        let is_held = |error: &TunError| matches!(error, TunError::Busy { .. });
        dying::outlast(|| tun::open(name), is_held)
            .await
            .map_err(|source| HostError::Tun {
                name: name.clone(),
                source,
            })
    }

    fn stop_plane(&mut self) {
        if let Some(plane) = self.plane.take() {
            // Joins threads that wake at least every 250 ms; the caller has nothing else to do meanwhile.
            plane.dataplane.stop();
            self.path_mtus = PathMtus::default();
            info!(interface = %self.settings.interface, "data plane stopped");
        }
        self.index.store(0, Ordering::Relaxed);
    }

    /// Reads back what [`Host::change_to`] made.
    async fn verify(&mut self, config: &HostConfig) -> Result<(), HostError> {
        let name = self.settings.interface.clone();
        let shown = |object, found: String| Err(HostError::read_back(object, found));
        let link = self.netlink.link(&name).await?;
        let index = link.as_ref().map_or(0, |link| link.index);
        match (&config.interface, link) {
            (None, None) => {}
            (None, Some(_)) => {
                return shown(
                    HostObject::Interface,
                    format!("an interface {name} that must not be"),
                );
            }
            (Some(_), None) => return shown(HostObject::Interface, format!("no interface {name}")),
            (Some(wanted), Some(link)) => {
                if !link.up || link.mtu != u32::from(wanted.mtu) || self.tun_lost() {
                    let found = format!("{name} with MTU {}, up: {}", link.mtu, link.up);
                    return shown(HostObject::Interface, found);
                }
                let present = routing::addresses_of(&self.netlink, index).await?;
                let present = present.into_iter().map(|a| a.address).collect();
                if routing::wanted_addresses(wanted, self.ipv6) != present {
                    let found = format!("{name} with the addresses {present:?}");
                    return shown(HostObject::Address, found);
                }
            }
        }
        let present = config.interface.is_some();
        let routes = match present {
            true => routing::wanted_routes(config, index, &self.path_mtus, self.ipv6),
            false => Default::default(),
        };
        routing::verify(&self.netlink, &routes, present, self.ipv6).await?;
        if !self.table.is_as_left().await? {
            let found = format!("another nftables table {} than ours", nftables::TABLE);
            return shown(HostObject::Filter, found);
        }
        Ok(())
    }

    /// A TUN interface goes with its process, so one with our name is somebody else's, or that process is just dying.
    async fn remove_stale_interface(&self) -> Result<(), HostError> {
        let name = &self.settings.interface;
        for _ in 0..dying::TRIES {
            let Some(link) = self.netlink.link(name).await? else {
                return Ok(());
            };
            if link.alias.as_deref() == Some(ALIAS) && !link.carrier {
                warn!(interface = %name, "removing the interface that an earlier run left");
                return Ok(self.netlink.delete_link(&link).await?);
            }
            sleep(dying::PAUSE).await;
        }
        Err(HostError::InterfaceTaken { name: name.clone() })
    }
}

/// Names of abstract sockets belong to the network namespace, as do our table, rule and interface; the kernel
/// frees them with the process, however it ends (unix(7)).
async fn alone() -> Result<UnixListener, HostError> {
    let bind = || UnixListener::bind_addr(&SocketAddr::from_abstract_name(ALONE)?);
    let is_held = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let bound = dying::outlast(bind, is_held).await;
    bound.map_err(|source| HostError::AnotherAgent {
        name: ALONE,
        source,
    })
}

/// A node that routes a LAN forwards; one without does not become a router by joining.
fn forward(filter: &Filter) -> Result<(), HostError> {
    let prefixes = filter.own_prefixes.iter().map(|p| p.addr());
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = prefixes
        .chain(filter.inbound.iter().map(|r| r.destination.addr()))
        .partition(IpAddr::is_ipv4);
    if !v4.is_empty() {
        sysctl::forward_v4()?;
    }
    if !v6.is_empty() {
        sysctl::forward_v6()?;
    }
    Ok(())
}

/// Name of the abstract socket that only one agent of a host can hold.
const ALONE: &str = "pnsbox-agent";
/// Tells our interface from others of the same name.
const ALIAS: &str = "pnsbox";
