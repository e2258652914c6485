//! From the operator's table to a [`Policy`], judged against the registry; every mistake at once.

mod external;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use pnsbox_proto::access::Allow;
use pnsbox_proto::id::{AgencyName, NodeName};
use serde_json::Value;

use super::{Accepted, Link, Policy, PolicyOpening, PrefixChoice};
use crate::reader::{Mistake, Reader};
use crate::registry::{Registry, prefix};

/// A policy without mistakes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The policy.
    pub policy: Policy,
    /// What an operator should know, for example a relay that has not joined yet.
    pub warnings: Vec<String>,
}

/// Parses the table of a policy file.
pub fn parse(file: &Value, registry: &Registry) -> Result<Parsed, Vec<Mistake>> {
    let mut parser = Parser {
        registry,
        mistakes: Vec::new(),
        warnings: Vec::new(),
    };
    let mut top = Reader::top(file);
    let relays = parser.relays(&mut top);
    let accepts = top.tables(&mut parser.mistakes, "accept");
    let mut accepted: Vec<Accepted> = accepts
        .into_iter()
        .filter_map(|table| parser.accept(table))
        .collect();
    accepted.sort();
    accepted.dedup();
    let mut links = BTreeMap::new();
    for table in top.tables(&mut parser.mistakes, "link") {
        parser.link(table, &accepted, &mut links);
    }
    let externals = parser.externals(&mut top, &links, &accepted);
    top.finish(&mut parser.mistakes);
    if parser.mistakes.is_empty() {
        let links = links.into_values().collect();
        Ok(Parsed {
            policy: Policy {
                relays,
                links,
                accepted,
                externals,
            },
            warnings: parser.warnings,
        })
    } else {
        Err(parser.mistakes)
    }
}

struct Parser<'a> {
    registry: &'a Registry,
    mistakes: Vec<Mistake>,
    warnings: Vec<String>,
}

impl Parser<'_> {
    fn relays(&mut self, top: &mut Reader<'_>) -> Vec<NodeName> {
        let rule = "must be a list of nodes, for example [\"prov-jateng/gw1\"]";
        let parse = |text: &str| text.parse::<NodeName>().ok();
        let named = top
            .texts(&mut self.mistakes, "relays", rule, parse)
            .unwrap_or_default();
        let mut relays: Vec<NodeName> = Vec::new();
        for node in named {
            let value = Value::from(node.as_str());
            if relays.contains(&node) {
                self.mistakes
                    .push(top.mistake("relays", Some(&value), "is named twice"));
            } else if !self.registry.agencies.contains_key(&node.agency()) {
                self.mistakes.push(top.mistake(
                    "relays",
                    Some(&value),
                    &unknown_agency(&node.agency()),
                ));
            } else {
                match self.registry.nodes.get(&node) {
                    Some(joined) if joined.public_endpoint.is_none() => {
                        let rule = "has no public endpoint, so nobody behind NAT can reach it; \
                                    name a node that joined with --public";
                        self.mistakes
                            .push(top.mistake("relays", Some(&value), rule));
                    }
                    Some(_) => {}
                    None => self.warnings.push(format!(
                        "relay {node} has not joined yet; it relays once it has"
                    )),
                }
                relays.push(node);
            }
        }
        relays
    }

    fn accept(&mut self, mut table: Reader<'_>) -> Option<Accepted> {
        let rule = "must be a node, for example \"kab-demak/gw1\"";
        let node = table.required(&mut self.mistakes, "node", rule, |v| {
            v.as_str()?.parse::<NodeName>().ok()
        });
        let rule = "must be a prefix without host bits, for example \"10.9.0.0/24\"";
        let prefix = table.required(&mut self.mistakes, "prefix", rule, plain_prefix);
        if let Some(node) = node
            .as_ref()
            .filter(|node| !self.registry.agencies.contains_key(&node.agency()))
        {
            let mistake = table.mistake(
                "node",
                table.written("node"),
                &unknown_agency(&node.agency()),
            );
            self.mistakes.push(mistake);
        }
        let network = &self.registry.network;
        let wrong = prefix.and_then(|prefix| {
            let overlay = prefix::overlay_under(network, &prefix);
            let never = prefix::never_a_lan(&prefix).map(str::to_owned);
            never
                .or_else(|| overlay.map(|range| format!("overlaps the overlay pool {range}")))
                .or_else(|| self.contains_controller(&prefix))
                .or_else(|| self.registered_elsewhere(node.as_ref()?, &prefix))
        });
        if let Some(rule) = wrong {
            self.mistakes
                .push(table.mistake("prefix", table.written("prefix"), &rule));
        }
        table.finish(&mut self.mistakes);
        let (node, prefix) = (node?, prefix?);
        let claimed = self
            .registry
            .nodes
            .get(&node)
            .is_some_and(|n| n.claimed.iter().any(|c| prefix.contains(c)));
        if !claimed {
            self.warnings.push(format!(
                "{node} claims nothing in {prefix}, so accepting it changes nothing yet"
            ));
        }
        Some(Accepted { node, prefix })
    }

    fn contains_controller(&self, prefix: &IpNet) -> Option<String> {
        let addresses = &self.registry.network.addresses;
        let address = addresses
            .iter()
            .find(|address| prefix.contains(&address.ip()))?;
        Some(format!(
            "contains the controller's address {address}, which must stay reachable"
        ))
    }

    fn registered_elsewhere(&self, node: &NodeName, prefix: &IpNet) -> Option<String> {
        let others = self
            .registry
            .agencies
            .iter()
            .filter(|(name, _)| **name != node.agency());
        others.into_iter().find_map(|(other, agency)| {
            let held = agency
                .prefixes
                .iter()
                .find(|held| prefix::overlap(held, prefix))?;
            Some(format!("overlaps {held}, which is registered for {other}"))
        })
    }

    fn link(
        &mut self,
        mut table: Reader<'_>,
        accepted: &[Accepted],
        links: &mut BTreeMap<[AgencyName; 2], Link>,
    ) {
        let between = self.between(&mut table);
        if let Some(between) = between
            .as_ref()
            .filter(|between| links.contains_key(*between))
        {
            let rule = format!(
                "{} and {} already have a [[link]] above; put all openings there",
                between[0], between[1]
            );
            self.mistakes
                .push(table.mistake("between", table.written("between"), &rule));
        }
        let sides = |agency: &AgencyName| {
            between
                .as_ref()
                .is_none_or(|between| between.contains(agency))
        };
        let rule = "must be one of the two agencies of the link";
        let openings = self.openings(&mut table, rule, sides, accepted);
        table.finish(&mut self.mistakes);
        if let Some(between) = between {
            let link = Link {
                between: between.clone(),
                openings,
            };
            links.entry(between).or_insert(link);
        }
    }

    fn between(&mut self, table: &mut Reader<'_>) -> Option<[AgencyName; 2]> {
        let rule = "must name two agencies, for example [\"kab-demak\", \"prov-jateng\"]";
        let mut pair: [AgencyName; 2] =
            table.required(&mut self.mistakes, "between", rule, |value| {
                let names = value
                    .as_array()?
                    .iter()
                    .map(|name| name.as_str()?.parse().ok());
                names.collect::<Option<Vec<AgencyName>>>()?.try_into().ok()
            })?;
        for agency in pair
            .iter()
            .filter(|agency| !self.registry.agencies.contains_key(*agency))
        {
            let value = Value::from(agency.as_str());
            self.mistakes
                .push(table.mistake("between", Some(&value), &unknown_agency(agency)));
        }
        if pair[0] == pair[1] {
            self.mistakes.push(table.mistake(
                "between",
                table.written("between"),
                "must name two different agencies",
            ));
        }
        pair.sort();
        Some(pair)
    }

    /// The `open` tables of `table`, at agencies of which `may_open` holds, as `at_rule` says; sorted.
    fn openings(
        &mut self,
        table: &mut Reader<'_>,
        at_rule: &str,
        may_open: impl Fn(&AgencyName) -> bool,
        accepted: &[Accepted],
    ) -> Vec<PolicyOpening> {
        let mut openings: BTreeMap<(AgencyName, PrefixChoice), BTreeSet<Allow>> = BTreeMap::new();
        for open in table.tables(&mut self.mistakes, "open") {
            if let Some(opening) = self.open(open, at_rule, &may_open, accepted) {
                openings
                    .entry((opening.at, opening.prefix))
                    .or_default()
                    .extend(opening.allow);
            }
        }
        let openings = openings
            .into_iter()
            .map(|((at, prefix), allow)| PolicyOpening {
                at,
                prefix,
                allow: allow.into_iter().collect(),
            });
        openings.collect()
    }

    fn open(
        &mut self,
        mut table: Reader<'_>,
        at_rule: &str,
        may_open: impl Fn(&AgencyName) -> bool,
        accepted: &[Accepted],
    ) -> Option<PolicyOpening> {
        let at = table.required(&mut self.mistakes, "at", at_rule, |value| {
            let agency = value.as_str()?.parse::<AgencyName>().ok()?;
            may_open(&agency).then_some(agency)
        });
        let rule = "must be \"lan\" or a prefix without host bits";
        let prefix = table.required(&mut self.mistakes, "prefix", rule, |v| {
            v.as_str()?.parse::<PrefixChoice>().ok()
        });
        if let (Some(at), Some(PrefixChoice::Within(within))) = (&at, &prefix)
            && let Some(rule) = self.outside(at, within, accepted)
        {
            self.mistakes
                .push(table.mistake("prefix", table.written("prefix"), &rule));
        }
        let rule = "must be a list of icmp, tcp/PORT, tcp/FIRST-LAST, udp/PORT, udp/FIRST-LAST, ports 1 to 65535";
        if table
            .written("allow")
            .is_none_or(|value| value.as_array().is_some_and(Vec::is_empty))
        {
            let value = table.written("allow");
            self.mistakes.push(table.mistake(
                "allow",
                value,
                "must name something, for example [\"icmp\", \"tcp/445\"]",
            ));
        }
        let allow = table.texts(&mut self.mistakes, "allow", rule, |text| {
            text.parse::<Allow>().ok()
        });
        table.finish(&mut self.mistakes);
        Some(PolicyOpening {
            at: at?,
            prefix: prefix?,
            allow: allow?,
        })
    }

    /// Why `prefix` is none of the agency's, if so.
    fn outside(
        &self,
        agency: &AgencyName,
        within: &IpNet,
        accepted: &[Accepted],
    ) -> Option<String> {
        let registered = &self.registry.agencies.get(agency)?.prefixes;
        let mine = accepted
            .iter()
            .filter(|a| a.node.agency() == *agency)
            .map(|a| &a.prefix);
        if registered
            .iter()
            .chain(mine)
            .any(|own| own.contains(within))
        {
            return None;
        }
        let list: Vec<String> = registered.iter().map(IpNet::to_string).collect();
        Some(format!(
            "must lie in the prefixes registered for {agency}: {}",
            list.join(", ")
        ))
    }
}

fn plain_prefix(value: &Value) -> Option<IpNet> {
    value
        .as_str()?
        .parse::<IpNet>()
        .ok()
        .filter(|prefix| prefix.trunc() == *prefix)
}

fn unknown_agency(agency: &AgencyName) -> String {
    format!(
        "{agency} is not registered; add it first: pnsbox-controller agency add {agency} --prefix PREFIX"
    )
}
