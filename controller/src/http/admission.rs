//! Who may hold a connection when many want one: nobody can keep others out by holding many.
//!
//! The newest always comes in. What makes room is a connection of the address that holds most, one without a
//! request before one that is being answered, the oldest first: a request needs moments, idleness needs nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Connections at once: a few Prometheus servers and people, and far below any limit of file descriptors.
pub(super) const MAX_CONNECTIONS: usize = 256;

/// Connections at once from one network: a Prometheus server with a connection for each of many jobs.
pub(super) const MAX_PER_NETWORK: usize = 32;

/// An open connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// Where it comes from, as [`network`] says it.
    pub(super) from: IpAddr,
    /// Whether its request is there.
    pub(super) answering: bool,
}

/// What counts as one address: a person's IPv6 network has 2^64 of them (RFC 4291 section 2.5.1).
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let prefix = u128::from(v6) & !u128::from(u64::MAX);
            Ipv6Addr::from(prefix).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Which of the `open` connections, oldest first, must end so that one more from `from` may begin.
pub(super) fn victim(open: &[Held], from: IpAddr) -> Option<usize> {
    let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for held in open {
        *counts.entry(held.from).or_default() += 1;
    }
    let among: Box<dyn Fn(&Held) -> bool> = if counts
        .get(&from)
        .is_some_and(|count| *count >= MAX_PER_NETWORK)
    {
        Box::new(move |held| held.from == from)
    } else if open.len() >= MAX_CONNECTIONS {
        let most = counts.values().copied().max();
        Box::new(move |held| counts.get(&held.from).copied() == most)
    } else {
        return None;
    };
    let first = |answering: bool| {
        open.iter()
            .position(|held| held.answering == answering && among(held))
    };
    first(false).or_else(|| first(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(from: u32, answering: bool) -> Held {
        Held {
            from: IpAddr::V4(from.into()),
            answering,
        }
    }

    #[test]
    fn an_address_makes_room_for_itself_and_the_one_that_holds_most_for_others() {
        let mut open = vec![held(1, false); MAX_PER_NETWORK - 1];
        assert_eq!(victim(&open, held(1, false).from), None);
        open.insert(0, held(1, true));
        assert_eq!(victim(&open, held(2, false).from), None);
        assert_eq!(
            victim(&open, held(1, false).from),
            Some(1),
            "one without a request goes first"
        );
        let answering = vec![held(1, true); MAX_PER_NETWORK];
        assert_eq!(victim(&answering, held(1, false).from), Some(0));

        // Many addresses with one connection each, and one with two.
        let mut open: Vec<Held> = (10..)
            .map(|n| held(n, false))
            .take(MAX_CONNECTIONS)
            .collect();
        assert_eq!(victim(&open, held(1, false).from), Some(0));
        open[7] = held(20, true);
        assert_eq!(
            victim(&open, held(1, false).from),
            Some(10),
            "the address with most, and there the one without a request"
        );
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let text = |text: &str| network(text.parse().unwrap());
        assert_eq!(text("2001:db8::1"), text("2001:db8::ffff:0:0:1"));
        assert_ne!(text("2001:db8::1"), text("2001:db8:0:1::1"));
        assert_eq!(text("::ffff:192.0.2.1"), text("192.0.2.1"));
    }
}
