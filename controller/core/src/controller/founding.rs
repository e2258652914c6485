//! The beginning of a network: what `init` may be told, and the first entries of the store.

use std::net::SocketAddr;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use ipnet::{IpNet, Ipv4Net};
use pnsbox_proto::address;
use pnsbox_proto::certificate::{AdmissionCertificate, ControllerCertificate};
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::NetworkName;
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::time::UnixTime;

use super::Keys;
use crate::audit::Origin;
use crate::image::{Deed, Image};
use crate::registry::{Network, endpoint};
use crate::store::Transaction;

/// What the operator chose.
#[derive(Debug, Clone)]
pub struct Founding {
    /// The network's name.
    pub name: NetworkName,
    /// Where controllers listen, as agents reach them.
    pub addresses: Vec<SocketAddr>,
    /// Overlay IPv4 addresses.
    pub pool: Ipv4Net,
}

/// How long an admission key may admit agencies before the root must say so again.
pub const ADMISSION_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// "This key admits agencies", from now on, signed by the root.
pub fn certify_admission(
    network: &NetworkName,
    root: &SigningKey,
    admission: IdentityKey,
    now: UnixTime,
) -> Envelope {
    let certificate = AdmissionCertificate {
        network: network.clone(),
        admission,
        issued: now,
        ends: now.plus(ADMISSION_LIFE),
    };
    Envelope::sign(&certificate, root)
}

impl Founding {
    /// Every mistake in it.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let pool = self.pool;
        if pool.trunc() != pool {
            mistakes.push(format!(
                "--pool {pool}: has host bits; did you mean {}?",
                pool.trunc()
            ));
        }
        if pool.prefix_len() > 24 {
            mistakes.push(format!(
                "--pool {pool}: must hold at least 256 addresses (/24 or wider)"
            ));
        }
        if !address::may_be_pool(&pool) {
            mistakes.push(format!(
                "--pool {pool}: must lie in 100.64.0.0/10, 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"
            ));
        }
        if self.addresses.is_empty() {
            mistakes.push(
                "--address: at least one is needed, as agents reach the controller".to_owned(),
            );
        }
        for address in &self.addresses {
            let ip = address.ip();
            if let Some(rule) = endpoint::never_dialled(*address) {
                mistakes.push(format!(
                    "--address {address}: must be an address and port that agents can dial; {rule}"
                ));
            }
            if IpNet::V4(pool).contains(&ip) {
                mistakes.push(format!(
                    "--address {address}: lies in the pool {pool}; choose another --pool"
                ));
            }
        }
        mistakes
    }

    /// The first entries of the store. The root certifies the controller's key, and is not needed again.
    pub fn transaction(
        &self,
        root: &SigningKey,
        keys: &Keys,
        by: &Origin,
        now: UnixTime,
    ) -> Transaction {
        let public = |key: &SigningKey| IdentityKey(key.verifying_key().to_bytes());
        let certificate = ControllerCertificate {
            network: self.name.clone(),
            controller: public(&keys.controller),
            issued: now,
        };
        let network = Network {
            name: self.name.clone(),
            root: public(root),
            controller: public(&keys.controller),
            certificate: Envelope::sign(&certificate, root),
            admission: certify_admission(&self.name, root, public(&keys.admission), now),
            addresses: self.addresses.clone(),
            pool: self.pool,
            created: now,
        };
        let what = format!("init network {} with pool {}", self.name, self.pool);
        Image::found(
            network,
            Deed {
                by,
                what: &what,
                when: now,
            },
        )
        .take_transaction()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn founding(pool: &str, address: &str) -> Founding {
        Founding {
            name: "pns".parse().unwrap(),
            addresses: vec![address.parse().unwrap()],
            pool: pool.parse().unwrap(),
        }
    }

    #[test]
    fn a_pool_is_private_and_large_enough_and_apart_from_the_controller() {
        assert_eq!(
            founding("100.127.0.0/16", "203.0.113.10:443").mistakes(),
            Vec::<String>::new()
        );
        for (pool, address, word) in [
            ("100.127.0.0/25", "203.0.113.10:443", "256"),
            ("203.0.112.0/24", "198.51.100.1:443", "must lie in"),
            ("0.0.0.0/0", "198.51.100.1:443", "must lie in"),
            ("100.127.3.0/16", "203.0.113.10:443", "100.127.0.0/16"),
            ("10.8.0.0/16", "10.8.0.1:443", "another --pool"),
            ("100.127.0.0/16", "0.0.0.0:443", "can dial"),
            ("100.127.0.0/16", "203.0.113.10:0", "can dial"),
            ("100.127.0.0/16", "[fe80::1]:443", "own link"),
            ("100.127.0.0/16", "[::ffff:203.0.113.10]:443", "as IPv4"),
        ] {
            let mistakes = founding(pool, address).mistakes().join("\n");
            assert!(mistakes.contains(word), "{pool} {address}: {mistakes}");
        }
    }
}
