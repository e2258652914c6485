//! Names of networks, agencies, nodes and services. A value of these types has been parsed and is well formed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text::one_line;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {what}: {rule}")]
pub struct NameError {
    text: String,
    what: &'static str,
    rule: &'static str,
}

/// Enough of what somebody wrote to find the mistake, for a message that ends on a terminal.
pub(crate) const SHOWN_CHARS: usize = 80;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The canonical text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), (&'static str, &'static str)> = $parse;
                match check(text) {
                    Ok(()) => Ok(Self(text.to_owned())),
                    Err((what, rule)) => Err(NameError { text: one_line(text, SHOWN_CHARS), what, rule }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name_type!(
    /// A network, for example `pns`; one DNS label.
    NetworkName,
    |text| label(text, 1, 30).then_some(()).ok_or(("a network name", "1 to 30 of a-z, 0-9 and '-'"))
);

name_type!(
    /// An agency, for example `kab-demak`.
    AgencyName,
    |text| agency(text).then_some(()).ok_or(AGENCY_RULE)
);

name_type!(
    /// A node of an agency, for example `kab-demak/gw1`.
    NodeName,
    |text| match text.split_once('/') {
        Some((owner, node)) if agency(owner) && label(node, 1, 30) => Ok(()),
        _ => Err(("a node name", "AGENCY/NODE, for example kab-demak/gw1; NODE is 1 to 30 of a-z, 0-9 and '-'")),
    }
);

name_type!(
    /// A service of an agency, for example `prov-jateng/penduduk-v1`.
    ServiceName,
    |text| match text.split_once('/') {
        Some((owner, service)) if agency(owner) && label(service, 1, 40) => Ok(()),
        _ => Err(("a service name", "AGENCY/SERVICE; SERVICE is 1 to 40 of a-z, 0-9 and '-'")),
    }
);

impl NodeName {
    /// Joins an agency and the node's own label.
    pub fn new(agency: &AgencyName, node: &str) -> Result<Self, NameError> {
        format!("{agency}/{node}").parse()
    }

    /// The agency that the node belongs to.
    pub fn agency(&self) -> AgencyName {
        AgencyName(owner(&self.0).to_owned())
    }
}

impl ServiceName {
    /// Joins an agency and the service's own label.
    pub fn new(agency: &AgencyName, service: &str) -> Result<Self, NameError> {
        format!("{agency}/{service}").parse()
    }

    /// The agency that provides the service.
    pub fn agency(&self) -> AgencyName {
        AgencyName(owner(&self.0).to_owned())
    }
}

const AGENCY_RULE: (&str, &str) = (
    "an agency name",
    "a letter a-z, then 1 to 30 of a-z, 0-9 and '-', for example kab-demak",
);

fn agency(text: &str) -> bool {
    label(text, 2, 31) && text.starts_with(|c: char| c.is_ascii_lowercase())
}

fn label(text: &str, min: usize, max: usize) -> bool {
    (min..=max).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn owner(text: &str) -> &str {
    text.split_once('/').map_or(text, |(owner, _)| owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_refuse() {
        for good in ["kab-demak", "k2", "prov-jateng"] {
            assert_eq!(good.parse::<AgencyName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "k",
            "2k",
            "Kab",
            "kab_demak",
            "kab demak",
            "a/b",
            &"a".repeat(32),
        ] {
            assert!(bad.parse::<AgencyName>().is_err(), "{bad}");
        }
        for bad in [
            "kab-demak",
            "kab-demak/",
            "/gw1",
            "kab-demak/gw1/x",
            "kab-demak/GW",
        ] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
        let node: NodeName = "kab-demak/gw1".parse().unwrap();
        assert_eq!(node.agency().as_str(), "kab-demak");
    }

    #[test]
    fn json_is_checked_as_it_is_parsed() {
        assert!(serde_json::from_str::<AgencyName>("\"Kab\"").is_err());
        assert_eq!(
            serde_json::to_string(&"kab-demak".parse::<AgencyName>().unwrap()).unwrap(),
            "\"kab-demak\""
        );
    }
}
