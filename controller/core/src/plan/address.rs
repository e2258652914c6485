//! Overlay IPv4 addresses from the operator's pool. Those of IPv6 follow from keys: [`pnsbox_proto::address`].

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The first free address of the lowest three quarters of the pool; the top quarter is kept for services.
///
/// Addresses that end in .0 are skipped: old software takes them for networks.
pub fn next_v4(pool: Ipv4Net, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let base = u32::from(pool.network());
    let size = 1u64 << (32 - u32::from(pool.prefix_len()));
    let end = u32::try_from(size / 4 * 3).ok()?;
    (1..end)
        .map(|offset| Ipv4Addr::from(base + offset))
        .find(|address| address.octets()[3] != 0 && !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_fill_three_quarters_without_the_zeros() {
        let pool: Ipv4Net = "100.127.0.0/22".parse().unwrap();
        let mut taken = BTreeSet::new();
        while let Some(address) = next_v4(pool, &taken) {
            assert!(taken.insert(address));
        }
        // 768 addresses are three quarters; .0.0, .1.0 and .2.0 are skipped.
        assert_eq!(taken.len(), 765);
        assert_eq!(taken.first(), Some(&"100.127.0.1".parse().unwrap()));
        assert_eq!(taken.last(), Some(&"100.127.2.255".parse().unwrap()));
        taken.remove(&"100.127.1.7".parse().unwrap());
        assert_eq!(next_v4(pool, &taken), Some("100.127.1.7".parse().unwrap()));
    }
}
