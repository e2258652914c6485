//! Which addresses others can dial.

use std::net::{IpAddr, SocketAddr};

/// Why nobody else can dial `endpoint`, if nobody can.
///
/// Loopback is for the caller to judge: in a network on one machine it is right.
pub fn never_dialled(endpoint: SocketAddr) -> Option<&'static str> {
    let ip = endpoint.ip();
    let scoped = matches!(endpoint, SocketAddr::V6(v6) if v6.scope_id() != 0);
    if endpoint.port() == 0 {
        Some("port 0 is no port")
    } else if ip.is_unspecified() || ip.is_multicast() {
        Some("unspecified and multicast addresses cannot be dialled")
    } else if scoped || is_link_local(ip) {
        Some("a link-local address means something on its own link only")
    } else if ip.to_canonical() != ip {
        Some("an IPv4 address inside IPv6 is written as IPv4")
    } else {
        None
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_its_own_link_knows_is_not_dialled() {
        for (endpoint, expected) in [
            ("203.0.113.1:51820", None),
            ("127.0.0.1:51820", None),
            ("10.0.0.1:1", None),
            ("[2001:db8::1]:51820", None),
            ("203.0.113.1:0", Some("port 0")),
            ("0.0.0.0:51820", Some("unspecified")),
            ("[ff02::1]:51820", Some("unspecified")),
            ("169.254.1.1:51820", Some("link-local")),
            ("255.255.255.255:51820", Some("link-local")),
            ("[fe80::1]:51820", Some("link-local")),
            ("[2001:db8::1%3]:51820", Some("link-local")),
            ("[::ffff:203.0.113.1]:51820", Some("inside IPv6")),
            ("[::ffff:169.254.0.1]:51820", Some("link-local")),
        ] {
            let rule = never_dialled(endpoint.parse().unwrap());
            match expected {
                None => assert_eq!(rule, None, "{endpoint}"),
                Some(words) => assert!(
                    rule.is_some_and(|rule| rule.contains(words)),
                    "{endpoint}: {rule:?}"
                ),
            }
        }
    }
}
