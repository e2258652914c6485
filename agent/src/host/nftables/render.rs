//! A [`Filter`] as nftables text. Pure, and the same text for the same rules in any order of sources.
//!
//! Connections that this side's LAN opened are let back in by conntrack's reply direction.
//! Packets in the direction in which a peer opened a connection are judged one by one,
//! so a rule that goes closes the connections that it had let in.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ipnet::IpNet;
use pnsbox_agent_core::host::{Filter, ForwardRule};
use pnsbox_proto::access::Allow;

use super::TABLE;

pub(super) const INBOUND_DROPS: &str = "inbound_drops";
pub(super) const OUTBOUND_DROPS: &str = "outbound_drops";
pub(super) const LOCAL_DROPS: &str = "local_drops";

/// The table as one transaction that replaces the one before. `interface` is a checked interface name.
pub fn render(filter: &Filter, interface: &str) -> String {
    let mut text = String::new();
    write_table(&mut text, filter, interface).expect("writing to a String cannot fail");
    text
}

/// The kernel would send redirects for what leaves through the interface that it came through,
/// but no device has another way to a peer.
///
/// Adding before deleting makes the deletion right whether or not the table was there.
fn write_table(out: &mut String, filter: &Filter, interface: &str) -> std::fmt::Result {
    writeln!(
        out,
        "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{"
    )?;
    for counter in [INBOUND_DROPS, OUTBOUND_DROPS, LOCAL_DROPS] {
        writeln!(out, "\tcounter {counter} {{ }}")?;
    }
    write_judging(out, "inbound", "source", &groups(&filter.inbound))?;
    write_judging(out, "across", "external", &groups(&filter.across))?;
    write_outbound(out, &filter.own_prefixes)?;
    write_local(out, filter)?;
    write!(
        out,
        r#"	chain forward {{
		type filter hook forward priority filter; policy accept;
		iifname "{interface}" oifname "{interface}" goto across
		iifname "{interface}" goto inbound
		oifname "{interface}" goto outbound
	}}
	chain input {{
		type filter hook input priority filter; policy accept;
		iifname "{interface}" goto local
	}}
	chain output {{
		type filter hook output priority filter; policy accept;
		oifname "{interface}" icmp type redirect drop
		oifname "{interface}" icmpv6 type nd-redirect drop
	}}
	chain segment_size {{
		type filter hook forward priority mangle; policy accept;
		iifname "{interface}" tcp flags syn tcp option maxseg size set rt mtu
		oifname "{interface}" tcp flags syn tcp option maxseg size set rt mtu
	}}
}}
"#
    )
}

/// Rules by their sources, so that one look-up passes over everything that concerns other agencies.
fn groups(rules: &[ForwardRule]) -> BTreeMap<Vec<IpNet>, Vec<&ForwardRule>> {
    let mut groups: BTreeMap<Vec<IpNet>, Vec<&ForwardRule>> = BTreeMap::new();
    for rule in rules {
        groups
            .entry(disjoint(&rule.sources))
            .or_default()
            .push(rule);
    }
    groups
}

fn write_source_chain(out: &mut String, chain: &str, rules: &[&ForwardRule]) -> std::fmt::Result {
    writeln!(out, "\tchain {chain} {{")?;
    for ForwardRule {
        destination, allow, ..
    } in rules
    {
        let (family, echo) = match destination {
            IpNet::V4(_) => ("ip", "icmp type echo-request"),
            IpNet::V6(_) => ("ip6", "icmpv6 type echo-request"),
        };
        let to = format!("\t\t{family} daddr {}", destination.trunc());
        if allow.contains(&Allow::Icmp) {
            writeln!(out, "{to} {echo} accept")?;
        }
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for allow in allow {
            match *allow {
                Allow::Icmp => {}
                Allow::Tcp { first, last } => tcp.push((first, last)),
                Allow::Udp { first, last } => udp.push((first, last)),
            }
        }
        for (protocol, ranges) in [("tcp", tcp), ("udp", udp)] {
            if !ranges.is_empty() {
                writeln!(out, "{to} {protocol} dport {{ {} }} accept", ports(ranges))?;
            }
        }
    }
    writeln!(out, "\t}}")
}

/// A chain `name` that accepts answers and what the rules of its sources accept, each in a chain `source`_N.
fn write_judging(
    out: &mut String,
    name: &str,
    source: &str,
    groups: &BTreeMap<Vec<IpNet>, Vec<&ForwardRule>>,
) -> std::fmt::Result {
    for (number, rules) in groups.values().enumerate() {
        write_source_chain(out, &format!("{source}_{number}"), rules)?;
    }
    writeln!(out, "\tchain {name} {{\n{ANSWERS}")?;
    for (number, sources) in groups.keys().enumerate() {
        for set in sets("saddr", sources) {
            writeln!(out, "\t\t{set} jump {source}_{number}")?;
        }
    }
    writeln!(out, "\t\tcounter name {INBOUND_DROPS} drop\n\t}}")
}

fn write_outbound(out: &mut String, own_prefixes: &[IpNet]) -> std::fmt::Result {
    writeln!(out, "\tchain outbound {{")?;
    for set in sets("saddr", &disjoint(own_prefixes)) {
        writeln!(out, "\t\t{set} accept")?;
    }
    writeln!(out, "\t\tcounter name {OUTBOUND_DROPS} drop\n\t}}")
}

fn write_local(out: &mut String, filter: &Filter) -> std::fmt::Result {
    let Filter {
        link_port,
        http_port,
        ..
    } = filter;
    writeln!(out, "\tchain peer {{\n{ECHO}")?;
    writeln!(
        out,
        "\t\tudp dport {link_port} accept\n\t\ttcp dport {http_port} accept\n\t}}"
    )?;
    writeln!(
        out,
        "\tchain relay {{\n{ECHO}\n\t\tudp dport {link_port} accept\n\t}}"
    )?;
    writeln!(out, "\tchain external {{\n{ECHO}\n\t}}")?;
    writeln!(out, "\tchain local {{\n{ANSWERS}")?;
    for (chain, addresses) in [
        ("peer", &filter.peer_addresses),
        ("relay", &filter.relay_addresses),
        ("external", &filter.device_addresses),
    ] {
        for set in sets("saddr", &disjoint(addresses)) {
            writeln!(out, "\t\t{set} jump {chain}")?;
        }
    }
    writeln!(out, "\t\tcounter name {LOCAL_DROPS} drop\n\t}}")
}

const ECHO: &str = "\t\ticmp type echo-request accept\n\t\ticmpv6 type echo-request accept";

/// Answers to what this side opened, and errors about any connection: without them the path MTU is never found.
const ANSWERS: &str = "\t\tct state established ct direction reply accept\n\
                       \t\tct state related meta l4proto { 1, 58 } accept";

/// Sorted, without overlaps: nftables refuses overlapping elements of a set.
fn disjoint(prefixes: &[IpNet]) -> Vec<IpNet> {
    let mut prefixes = IpNet::aggregate(&prefixes.to_vec());
    prefixes.sort();
    prefixes
}

/// One match for each family that has prefixes.
fn sets(field: &str, prefixes: &[IpNet]) -> Vec<String> {
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) =
        prefixes.iter().partition(|p| matches!(p, IpNet::V4(_)));
    let families = [("ip", v4), ("ip6", v6)]
        .into_iter()
        .filter(|(_, prefixes)| !prefixes.is_empty());
    families
        .map(|(family, prefixes)| {
            let elements: Vec<String> = prefixes.iter().map(element).collect();
            format!("{family} {field} {{ {} }}", elements.join(", "))
        })
        .collect()
}

fn element(prefix: &IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() {
        prefix.addr().to_string()
    } else {
        prefix.to_string()
    }
}

/// Sorted, overlapping and touching ranges joined.
fn ports(mut ranges: Vec<(u16, u16)>) -> String {
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
            Some(_) | None => joined.push((first, last)),
        }
    }
    let text = joined.iter().map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    text.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_written_down() {
        let filter = Filter {
            inbound: vec![
                rule(
                    &["10.44.1.0/24", "100.127.0.3/32", "fd00::3/128"],
                    "10.33.1.0/24",
                    &["icmp", "tcp/445"],
                ),
                rule(
                    &["10.55.1.0/24", "100.127.0.4/32"],
                    "10.33.1.0/24",
                    &["tcp/8080-8099", "tcp/8090-8100", "udp/53"],
                ),
                rule(
                    &["fd00::3/128", "100.127.0.3/32", "10.44.1.0/24"],
                    "2001:db8:33::/64",
                    &["icmp", "tcp/443"],
                ),
            ],
            across: vec![
                rule(
                    &["100.127.0.9/32", "fd00::9/128"],
                    "10.44.1.10/32",
                    &["icmp", "tcp/22"],
                ),
                rule(
                    &["100.127.0.10/32", "fd00::a/128"],
                    "2001:db8:44::/64",
                    &["udp/53"],
                ),
            ],
            device_addresses: nets(&["100.127.0.9/32", "fd00::9/128"]),
            own_prefixes: nets(&["10.33.1.0/24", "2001:db8:33::/64"]),
            peer_addresses: nets(&["100.127.0.3/32", "100.127.0.4/32", "fd00::3/128"]),
            relay_addresses: nets(&["100.127.0.6/32"]),
            link_port: 51821,
            http_port: 9586,
        };
        let golden = include_str!("golden.nft");
        let rendered = render(&filter, "pns0");
        assert_eq!(rendered, golden, "\n{rendered}");
    }

    #[test]
    fn an_empty_filter_drops_everything_of_our_interface() {
        let rendered = render(&Filter::default(), "pns0");
        assert!(!rendered.contains("jump"), "{rendered}");
        assert!(
            rendered.contains("chain outbound {\n\t\tcounter name outbound_drops drop"),
            "{rendered}"
        );
    }

    #[test]
    fn overlapping_sources_and_ports_become_disjoint() {
        let overlapping = nets(&[
            "10.44.1.0/24",
            "10.44.0.0/16",
            "10.45.0.0/16",
            "10.44.1.0/24",
        ]);
        assert_eq!(disjoint(&overlapping), nets(&["10.44.0.0/15"]));
        assert_eq!(
            ports(vec![(80, 90), (85, 86), (91, 91), (65535, 65535), (1, 1)]),
            "1, 80-91, 65535"
        );
    }

    fn rule(sources: &[&str], destination: &str, allow: &[&str]) -> ForwardRule {
        ForwardRule {
            sources: nets(sources),
            destination: destination.parse().unwrap(),
            allow: allow.iter().map(|a| a.parse().unwrap()).collect(),
        }
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }
}
