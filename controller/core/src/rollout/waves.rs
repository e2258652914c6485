//! Who goes first: a few nodes of every kind and of many agencies, then four times as many, then all.
//!
//! The same for the same change, so `plan` shows what `apply` does; another for the next, so nobody is always first.

use std::collections::{BTreeMap, BTreeSet};

use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::key::Digest;

/// Each wave brings the policy to this many times as many nodes as had it.
const GROWTH: usize = 4;

/// A node that the change touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub node: NodeName,
    /// Who is not online proves nothing, and comes last.
    pub online: bool,
    /// Others can dial it: its part is another than that of a node behind NAT.
    pub public: bool,
    /// The touched nodes with which its tunnel changes: that part of a change acts only where both have it.
    pub partners: Vec<NodeName>,
}

/// The waves of a change that touches `candidates`, the first with `share` per cent of them and at least one.
/// The first takes more if `acts` says that it would change nothing. `number` is the version that is rolled out.
pub fn waves(
    candidates: &[Candidate],
    share: u8,
    number: u64,
    acts: impl Fn(&BTreeSet<NodeName>) -> bool,
) -> Vec<BTreeSet<NodeName>> {
    let all: BTreeSet<NodeName> = candidates.iter().map(|c| c.node.clone()).collect();
    let groups = groups(candidates, number);
    let mut waves = Vec::new();
    let mut has_it = BTreeSet::new();
    let mut target = (all.len() * usize::from(share)).div_ceil(100).max(1);
    let mut groups = groups.into_iter();
    // More than half is all: a wave that is the most of the fleet protects little.
    while target * 2 <= all.len() && has_it.len() < all.len() {
        let mut wave = BTreeSet::new();
        while has_it.len() < target || (waves.is_empty() && !acts(&has_it)) {
            let Some(group) = groups.next() else { break };
            let new = group.into_iter().filter(|node| has_it.insert(node.clone()));
            wave.extend(new);
        }
        waves.push(wave);
        target = has_it.len() * GROWTH;
    }
    let rest: BTreeSet<NodeName> = all.difference(&has_it).cloned().collect();
    if !rest.is_empty() || waves.is_empty() {
        waves.push(rest);
    }
    waves
}

/// The nodes, first who goes first, each with one partner.
fn groups(candidates: &[Candidate], number: u64) -> Vec<Vec<NodeName>> {
    let by_name: BTreeMap<&NodeName, &Candidate> =
        candidates.iter().map(|c| (&c.node, c)).collect();
    let drawn = |node: &NodeName| Digest::of(format!("{number} {node}").as_bytes()).0;
    let mut order: Vec<&Candidate> = candidates.iter().collect();
    order.sort_by_key(|candidate| drawn(&candidate.node));
    // Round after round, one of each agency and of each kind.
    let mut rounds: BTreeMap<(AgencyName, bool), usize> = BTreeMap::new();
    let mut ranked: Vec<(bool, usize, &Candidate)> = Vec::new();
    for candidate in order {
        let stratum = (candidate.node.agency(), candidate.public);
        let round = rounds.entry(stratum).or_default();
        ranked.push((!candidate.online, *round, candidate));
        *round += 1;
    }
    ranked.sort_by_key(|(offline, round, _)| (*offline, *round));
    let ranked = alternate_kinds(ranked);
    let with_partner = |candidate: &Candidate| {
        let partners = candidate.partners.iter();
        let known = partners.filter_map(|partner| by_name.get(partner));
        let best = known.min_by_key(|partner| (!partner.online, drawn(&partner.node)));
        let partner = best.map(|partner| partner.node.clone());
        [candidate.node.clone()]
            .into_iter()
            .chain(partner)
            .collect()
    };
    ranked.into_iter().map(with_partner).collect()
}

/// Public and hidden nodes by turns, as long as there are both; who is offline stays last.
fn alternate_kinds(ranked: Vec<(bool, usize, &Candidate)>) -> Vec<&Candidate> {
    let (offline, online): (Vec<_>, Vec<_>) = ranked.into_iter().partition(|(off, _, _)| *off);
    let (public, hidden): (Vec<_>, Vec<_>) = online.into_iter().partition(|(_, _, c)| c.public);
    let longest = public.len().max(hidden.len());
    let by_turns = (0..longest).flat_map(|turn| [hidden.get(turn), public.get(turn)]);
    let by_turns: Vec<_> = by_turns.flatten().copied().collect();
    by_turns
        .into_iter()
        .chain(offline)
        .map(|(_, _, candidate)| candidate)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `agencies` agencies with two nodes each, of which the first is public in every third.
    fn fleet(agencies: usize) -> Vec<Candidate> {
        let nodes = (0..agencies).flat_map(|agency| [(agency, 1), (agency, 2)]);
        nodes
            .map(|(agency, gateway)| Candidate {
                node: format!("a{agency}/gw{gateway}").parse().unwrap(),
                online: true,
                public: gateway == 1 && agency % 3 == 0,
                partners: Vec::new(),
            })
            .collect()
    }

    fn sizes(waves: &[BTreeSet<NodeName>]) -> Vec<usize> {
        waves.iter().map(BTreeSet::len).collect()
    }

    #[test]
    fn waves_grow_fourfold_and_everybody_is_in_one() {
        for (agencies, share, expected) in [
            (500, 5, &[50, 150, 800][..]),
            (500, 1, &[10, 30, 120, 840]),
            (500, 50, &[500, 500]),
            (500, 51, &[1000]),
            (10, 5, &[1, 3, 16]),
            (1, 5, &[1, 1]),
        ] {
            let fleet = fleet(agencies);
            let waves = waves(&fleet, share, 7, |_| true);
            assert_eq!(sizes(&waves), expected, "{agencies} agencies, {share} %");
            let all: BTreeSet<&NodeName> = waves.iter().flatten().collect();
            assert_eq!(all.len(), fleet.len());
        }
        let one = &fleet(1)[..1];
        assert_eq!(sizes(&waves(one, 1, 7, |_| true)), [1]);
    }

    #[test]
    fn the_first_wave_is_of_many_agencies_and_of_both_kinds_and_the_same_each_time() {
        let fleet = fleet(30);
        let first = |number: u64| waves(&fleet, 20, number, |_| true)[0].clone();
        let agencies: BTreeSet<AgencyName> = first(7).iter().map(NodeName::agency).collect();
        assert_eq!((first(7).len(), agencies.len()), (12, 12));
        let public = fleet
            .iter()
            .filter(|c| c.public && first(7).contains(&c.node));
        assert!((3..=9).contains(&public.count()));
        assert_eq!(first(7), first(7));
        assert_ne!(first(7), first(8), "not the same boxes each time");
    }

    #[test]
    fn who_is_offline_comes_last_and_a_pair_comes_together() {
        let mut fleet = fleet(30);
        let online = |candidate: &mut Candidate, number: usize| candidate.online = number < 15;
        for (number, candidate) in fleet.iter_mut().enumerate() {
            online(candidate, number);
        }
        let first = |fleet: &[Candidate]| waves(fleet, 20, 7, |_| true)[0].clone();
        let is_online = |fleet: &[Candidate], node: &NodeName| {
            fleet.iter().any(|c| c.node == *node && c.online)
        };
        assert!(first(&fleet).iter().all(|node| is_online(&fleet, node)));

        let names: Vec<NodeName> = fleet.iter().map(|c| c.node.clone()).collect();
        for (number, candidate) in fleet.iter_mut().enumerate() {
            candidate.partners = vec![names[number ^ 1].clone()];
        }
        let first = first(&fleet);
        let alone = names
            .iter()
            .enumerate()
            .filter(|(number, name)| first.contains(name) && !first.contains(&names[number ^ 1]));
        assert_eq!(alone.count(), 0, "{first:?}");
    }

    #[test]
    fn the_first_wave_takes_more_until_it_changes_something() {
        let fleet = fleet(30);
        let waves = waves(&fleet, 1, 7, |first| first.len() >= 4);
        assert_eq!(sizes(&waves)[0], 4);
        assert_eq!(
            super::waves(&fleet, 1, 7, |_| false)[0].len(),
            60,
            "then there is only one"
        );
    }
}
