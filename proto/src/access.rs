//! What may pass: protocols and ports, as the operator writes them (`icmp`, `tcp/445`, `udp/5060-5080`).

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::id::SHOWN_CHARS;
use crate::text::one_line;

/// One protocol with the destination ports it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Allow {
    /// ICMP and ICMPv6 echo requests.
    Icmp,
    /// TCP to ports `first..=last`.
    Tcp {
        /// Lowest port.
        first: u16,
        /// Highest port.
        last: u16,
    },
    /// UDP to ports `first..=last`.
    Udp {
        /// Lowest port.
        first: u16,
        /// Highest port.
        last: u16,
    },
}

impl Allow {
    /// Whether a TCP connection to `port` is covered.
    pub fn covers_tcp(&self, port: u16) -> bool {
        matches!(self, Self::Tcp { first, last } if (*first..=*last).contains(&port))
    }

    /// What both cover, if anything.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let ports = |a: (u16, u16), b: (u16, u16)| {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            (first <= last).then_some((first, last))
        };
        match (*self, *other) {
            (Self::Icmp, Self::Icmp) => Some(Self::Icmp),
            (Self::Tcp { first, last }, Self::Tcp { first: f, last: l }) => {
                ports((first, last), (f, l)).map(|(first, last)| Self::Tcp { first, last })
            }
            (Self::Udp { first, last }, Self::Udp { first: f, last: l }) => {
                ports((first, last), (f, l)).map(|(first, last)| Self::Udp { first, last })
            }
            (Self::Icmp | Self::Tcp { .. } | Self::Udp { .. }, _) => None,
        }
    }
}

/// Why a text is not an [`Allow`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not icmp, tcp/PORT, tcp/FIRST-LAST, udp/PORT or udp/FIRST-LAST with ports from 1 to 65535"
)]
pub struct AllowError(String);

impl FromStr for Allow {
    type Err = AllowError;

    fn from_str(text: &str) -> Result<Self, AllowError> {
        let error = || AllowError(one_line(text, SHOWN_CHARS));
        if text == "icmp" {
            return Ok(Self::Icmp);
        }
        let (protocol, ports) = text.split_once('/').ok_or_else(error)?;
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (first, last): (u16, u16) = (
            first.parse().map_err(|_| error())?,
            last.parse().map_err(|_| error())?,
        );
        match protocol {
            _ if first == 0 || first > last => Err(error()),
            "tcp" => Ok(Self::Tcp { first, last }),
            "udp" => Ok(Self::Udp { first, last }),
            _ => Err(error()),
        }
    }
}

impl TryFrom<String> for Allow {
    type Error = AllowError;

    fn try_from(text: String) -> Result<Self, AllowError> {
        text.parse()
    }
}

impl From<Allow> for String {
    fn from(allow: Allow) -> Self {
        allow.to_string()
    }
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, first, last) = match self {
            Self::Icmp => return f.write_str("icmp"),
            Self::Tcp { first, last } => ("tcp", first, last),
            Self::Udp { first, last } => ("udp", first, last),
        };
        if first == last {
            write!(f, "{protocol}/{first}")
        } else {
            write!(f, "{protocol}/{first}-{last}")
        }
    }
}

/// One prefix behind a node and what may reach it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Opening {
    /// The destination.
    pub prefix: IpNet,
    /// Any of these.
    pub allow: Vec<Allow>,
}

impl Opening {
    /// Whether a TCP connection to `endpoint` is covered.
    pub fn covers_tcp(&self, endpoint: SocketAddr) -> bool {
        self.prefix.contains(&endpoint.ip())
            && self.allow.iter().any(|a| a.covers_tcp(endpoint.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_words_survive() {
        for text in ["icmp", "tcp/445", "tcp/8080-8099", "udp/5060"] {
            assert_eq!(text.parse::<Allow>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "tcp",
            "tcp/",
            "tcp/0",
            "tcp/9-8",
            "sctp/1",
            "tcp/65536",
            "tcp/1-2-3",
            "icmp/8",
        ] {
            assert!(bad.parse::<Allow>().is_err(), "{bad}");
        }
    }

    #[test]
    fn two_allows_share_the_ports_of_both() {
        let both = |a: &str, b: &str| {
            let (a, b): (Allow, Allow) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(a.intersection(&b), b.intersection(&a));
            a.intersection(&b).map(|both| both.to_string())
        };
        assert_eq!(both("icmp", "icmp").as_deref(), Some("icmp"));
        assert_eq!(both("tcp/1-9", "tcp/9-20").as_deref(), Some("tcp/9"));
        assert_eq!(both("udp/1-9", "udp/3-4").as_deref(), Some("udp/3-4"));
        for (a, b) in [("tcp/1-8", "tcp/9"), ("tcp/9", "udp/9"), ("icmp", "tcp/9")] {
            assert_eq!(both(a, b), None, "{a} {b}");
        }
    }

    #[test]
    fn an_opening_covers_its_prefix_and_ports_only() {
        let opening = Opening {
            prefix: "10.33.1.0/24".parse().unwrap(),
            allow: vec!["tcp/8080-8099".parse().unwrap()],
        };
        assert!(opening.covers_tcp("10.33.1.9:8099".parse().unwrap()));
        assert!(!opening.covers_tcp("10.33.1.9:8100".parse().unwrap()));
        assert!(!opening.covers_tcp("10.33.2.9:8080".parse().unwrap()));
    }
}
