//! Every knob of the agent, checked: a [`Config`] in hand is right, as far as it can be seen without the host.
//!
//! `configs/agent.toml` explains each knob to an admin; its defaults are [`Config::default`].

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pnsbox_agent_core::event::ServiceConfig;
use pnsbox_dataplane::{DscpPolicy, ProtocolCore};
use pnsbox_proto::id::{AgencyName, ServiceName};
use pnsbox_proto::service::{Audience, ServiceKind};
use pnsbox_proto::{AGENT_HTTP_PORT, LINK_PORT, WIREGUARD_PORT};

use crate::checks::{Check, CheckProbe};

mod error;
mod raw;
mod reader;
#[cfg(test)]
mod tests;

pub use error::{ConfigErrors, Mistake};
use reader::{Reader, duration, integer, text};

/// The agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Keys and state.
    pub state_dir: PathBuf,
    /// Where `pnsbox` asks the agent.
    pub socket: PathBuf,
    /// Name of our interface.
    pub interface: String,
    /// UDP port of WireGuard and relay frames.
    pub wireguard_port: u16,
    /// MTU of our interface, in bytes.
    pub mtu: u16,
    /// Who speaks WireGuard.
    pub core: ProtocolCore,
    /// What the ISP is told of a packet's class.
    pub dscp: DscpPolicy,
    /// UDP port of links.
    pub link_port: u16,
    /// TCP port of `/metrics`.
    pub http_port: u16,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
    /// What the LAN offers.
    pub services: Vec<Service>,
}

/// A service on the LAN and how it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What the core must know.
    pub core: ServiceConfig,
    /// How it is checked.
    pub check: Check,
}

impl Config {
    /// Reads `path` and its drop-ins. A missing file is all defaults; every mistake is reported at once.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let (raw, mut mistakes) = raw::read(path);
        let mut reader = Reader::new(&raw, String::new(), &mut mistakes);
        let config = Self::read(&mut reader);
        reader.finish();
        match ConfigErrors::from_mistakes(mistakes) {
            None => Ok(config),
            Some(errors) => Err(errors),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Self {
        let default = Self::default();
        let state_dir = reader.value("state_dir", ABSOLUTE_PATH, default.state_dir, absolute_path);
        let socket = reader.value("socket", SOCKET_PATH, default.socket, |value| {
            absolute_path(value).filter(|path| path.as_os_str().len() <= SOCKET_PATH_MAX)
        });
        let (interface, wireguard_port, mtu, core, dscp) =
            reader.table("wireguard", "wireguard", |wireguard| {
                let interface =
                    wireguard.value("interface", INTERFACE, default.interface, interface_name);
                let port =
                    wireguard.value("port", PORT, default.wireguard_port, integer(1..=65535));
                (
                    interface,
                    port,
                    wireguard.value("mtu", MTU, default.mtu, integer(MTU_MIN..=MTU_MAX)),
                    wireguard.value("core", CORE, default.core, text),
                    wireguard.value("dscp", DSCP, default.dscp, text),
                )
            });
        let link_port = reader.table("link", "link", |link| {
            let port = link.value("port", PORT, default.link_port, integer(1..=65535));
            if port == wireguard_port {
                link.refuse("port", "must not be the port of [wireguard]");
            }
            port
        });
        let http_port = reader.table("http", "http", |http| {
            http.value("port", PORT, default.http_port, integer(1..=65535))
        });
        let log_level = reader.table("log", "log", |log| {
            log.value("level", LEVEL, default.log_level, log_level)
        });
        let mut services = Vec::new();
        let mut names = BTreeSet::new();
        reader.each("service", |service| {
            services.extend(read_service(service, &mut names))
        });
        Self {
            state_dir,
            socket,
            interface,
            wireguard_port,
            mtu,
            core,
            dscp,
            link_port,
            http_port,
            log_level,
            services,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/pnsbox"),
            socket: PathBuf::from("/run/pnsbox/agent.sock"),
            interface: "pns0".to_owned(),
            wireguard_port: WIREGUARD_PORT,
            mtu: 1380,
            core: ProtocolCore::default(),
            dscp: DscpPolicy::default(),
            link_port: LINK_PORT,
            http_port: AGENT_HTTP_PORT,
            log_level: "info".to_owned(),
            services: Vec::new(),
        }
    }
}

fn read_service(reader: &mut Reader<'_>, names: &mut BTreeSet<String>) -> Option<Service> {
    let name = reader.required("name", NAME, service_label);
    if let Some(name) = &name
        && !names.insert(name.clone())
    {
        reader.refuse("name", "must not be the name of another service here");
    }
    let kind = reader.required("kind", KIND, text::<ServiceKind>);
    let endpoint = reader.required("endpoint", ENDPOINT, endpoint);
    let audience = reader.value("audience", AUDIENCE, Audience::All, audience);
    let priority = reader.value("priority", PRIORITY, 100, integer(0..=65535));
    let (failures, check) = reader.check();
    let core = ServiceConfig {
        name: name?,
        kind: kind?,
        endpoint: endpoint?,
        audience,
        priority,
        failures,
    };
    Some(Service { core, check })
}

impl Reader<'_> {
    fn check(&mut self) -> (u32, Check) {
        self.table("check", &format!("{}.check", self.name()), |check| {
            let http = check.value("kind", CHECK_KIND, false, |value| match value.as_str()? {
                "tcp" => Some(false),
                "http" => Some(true),
                _ => None,
            });
            let probe = if http {
                let path = check.required("path", CHECK_PATH, check_path);
                CheckProbe::Http {
                    path: path.unwrap_or_default(),
                }
            } else {
                if check.optional("path", CHECK_PATH, check_path).is_some() {
                    check.refuse("path", "must be left out unless kind = \"http\"");
                }
                CheckProbe::Tcp
            };
            let interval = check.value(
                "interval",
                INTERVAL,
                SECOND,
                duration(INTERVAL_MIN..=INTERVAL_MAX),
            );
            let timeout = check.value(
                "timeout",
                TIMEOUT,
                SECOND,
                duration(TIMEOUT_MIN..=TIMEOUT_MAX),
            );
            let failures = check.value("failures", FAILURES, 2, integer(1..=100));
            (
                failures,
                Check {
                    probe,
                    interval,
                    timeout,
                },
            )
        })
    }
}

fn absolute_path(value: &toml::Value) -> Option<PathBuf> {
    Some(PathBuf::from(value.as_str()?)).filter(|path| path.is_absolute())
}

/// What `dev_valid_name` of the kernel accepts, without the characters that would need quoting in nftables or a shell.
fn interface_name(value: &toml::Value) -> Option<String> {
    let name = value.as_str()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = (1..=15).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(plain)
        && !matches!(name, "lo" | "all" | "default");
    good.then(|| name.to_owned())
}

fn log_level(value: &toml::Value) -> Option<String> {
    let level = value.as_str()?;
    matches!(level, "error" | "warn" | "info" | "debug" | "trace").then(|| level.to_owned())
}

fn service_label(value: &toml::Value) -> Option<String> {
    let label = value.as_str()?;
    // The agency is not known before the node joins, so the label is tried behind one that fits.
    let name: Result<ServiceName, _> = format!("agency/{label}").parse();
    name.is_ok().then(|| label.to_owned())
}

fn endpoint(value: &toml::Value) -> Option<SocketAddr> {
    text::<SocketAddr>(value).filter(|endpoint| {
        let ip = endpoint.ip();
        endpoint.port() != 0 && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()
    })
}

fn audience(value: &toml::Value) -> Option<Audience> {
    match value {
        toml::Value::String(all) if all == "all" => Some(Audience::All),
        toml::Value::Array(agencies) if !agencies.is_empty() => agencies
            .iter()
            .map(text::<AgencyName>)
            .collect::<Option<_>>()
            .map(Audience::Only),
        _ => None,
    }
}

fn check_path(value: &toml::Value) -> Option<String> {
    let path = value.as_str()?;
    (path.starts_with('/') && path.chars().all(|c| c.is_ascii_graphic())).then(|| path.to_owned())
}

/// Smallest MTU of IPv6 (RFC 8200 section 5).
const MTU_MIN: u16 = 1280;
/// Ethernet's; with WireGuard's 60 bytes around it the outer path must carry 1560.
const MTU_MAX: u16 = 1500;
/// `sun_path` holds 108 bytes with the closing zero, unix(7).
const SOCKET_PATH_MAX: usize = 107;
const SECOND: Duration = Duration::from_secs(1);
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_hours(1);
const TIMEOUT_MIN: Duration = Duration::from_millis(10);
const TIMEOUT_MAX: Duration = Duration::from_mins(1);

const ABSOLUTE_PATH: &str = "must be an absolute path";
const SOCKET_PATH: &str = "must be an absolute path of at most 107 bytes";
const INTERFACE: &str = "must be 1 to 15 of a-z, A-Z, 0-9, '-', '_' and '.', beginning with a letter, for example \"pns0\"";
const PORT: &str = "must be a port between 1 and 65535";
const MTU: &str = "must be between 1280 and 1500";
const CORE: &str = "must be native or boringtun";
const DSCP: &str = "must be none, map or copy";
const LEVEL: &str = "must be one of error, warn, info, debug, trace";
const NAME: &str =
    "must be 1 to 40 of a-z, 0-9 and '-'; the agency's name is put in front by itself";
const KIND: &str = "must be one of files, cdn, drc, http, tcp";
const ENDPOINT: &str = "must be ADDR:PORT of a host on the LAN, for example \"10.33.1.10:445\"";
const AUDIENCE: &str = "must be \"all\" or a list of agencies, for example [\"kab-demak\"]";
const PRIORITY: &str = "must be between 0 and 65535; lower is preferred";
const CHECK_KIND: &str = "must be tcp or http";
const CHECK_PATH: &str = "must be a path that begins with '/', for example \"/healthz\"";
const INTERVAL: &str = "must be a duration between 100ms and 1h, for example \"1s\"";
const TIMEOUT: &str = "must be a duration between 10ms and 1m, for example \"1s\"";
const FAILURES: &str = "must be between 1 and 100";
