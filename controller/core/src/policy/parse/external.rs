//! The `[[external]]` tables: what plain WireGuard devices may reach.
//!
//! What counts of an opening at another agency is what its link opens too; the plan makes that intersection.

use std::collections::BTreeMap;

use pnsbox_proto::id::{AgencyName, NodeName};

use super::{Parser, unknown_agency};
use crate::policy::{Accepted, External, Link};
use crate::reader::Reader;

impl Parser<'_> {
    pub(super) fn externals(
        &mut self,
        top: &mut Reader<'_>,
        links: &BTreeMap<[AgencyName; 2], Link>,
        accepted: &[Accepted],
    ) -> Vec<External> {
        let mut externals: BTreeMap<NodeName, External> = BTreeMap::new();
        for mut table in top.tables(&mut self.mistakes, "external") {
            let device = self.device(&mut table);
            if device.as_ref().is_some_and(|d| externals.contains_key(d)) {
                let rule = "already has an [[external]] above; put all openings there";
                let mistake = table.mistake("device", table.written("device"), rule);
                self.mistakes.push(mistake);
            }
            let (rule, agencies) = match &device {
                Some(device) => {
                    let own = device.agency();
                    let others = links.values().filter_map(|link| link.other(&own).cloned());
                    let rule = format!("must be {own}, or an agency that a [[link]] links with it");
                    (rule, others.chain([own.clone()]).collect::<Vec<_>>())
                }
                None => ("must be an agency".to_owned(), Vec::new()),
            };
            let may_open = |agency: &AgencyName| device.is_none() || agencies.contains(agency);
            let openings = self.openings(&mut table, &rule, may_open, accepted);
            table.finish(&mut self.mistakes);
            if let Some(device) = device {
                let external = External {
                    device: device.clone(),
                    openings,
                };
                externals.entry(device).or_insert(external);
            }
        }
        externals.into_values().collect()
    }

    fn device(&mut self, table: &mut Reader<'_>) -> Option<NodeName> {
        let rule = "must be a device, for example \"kab-demak/laptop-budi\"";
        let device = table.required(&mut self.mistakes, "device", rule, |value| {
            value.as_str()?.parse::<NodeName>().ok()
        })?;
        let agency = device.agency();
        let wrong = if !self.registry.agencies.contains_key(&agency) {
            Some(unknown_agency(&agency))
        } else if self.registry.nodes.contains_key(&device) {
            Some("is a node; what nodes may reach stands in [[link]]".to_owned())
        } else {
            None
        };
        if let Some(rule) = wrong {
            let mistake = table.mistake("device", table.written("device"), &rule);
            self.mistakes.push(mistake);
        } else if !self.registry.externals.contains_key(&device) {
            self.warnings.push(format!(
                "device {device} is not added yet; what is opened to it waits for: pnsbox-controller external add"
            ));
        }
        Some(device)
    }
}
