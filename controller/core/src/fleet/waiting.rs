//! What waits for somebody's signature: an agency's, or the root's.

use std::time::Duration;

use pnsbox_proto::id::NodeName;
use pnsbox_proto::time::UnixTime;

use crate::image::Image;

/// The root is offline: its people must be called together in time.
const RENEW_BEFORE: Duration = Duration::from_secs(14 * 24 * 3600);
/// Links that are named one by one; more are counted.
const NAMED: usize = 10;

/// What the operator should know, for the whole network.
pub(super) fn for_the_network(image: &Image, now: UnixTime) -> Vec<String> {
    let mut texts = Vec::new();
    let ends = image
        .registry
        .network
        .admission_certificate()
        .map_or(UnixTime(0), |c| c.ends);
    if ends < now.plus(RENEW_BEFORE) {
        let tense = if ends < now { "ended" } else { "ends" };
        texts.push(format!(
            "the right to admit new agencies {tense} at {ends}: renew it where the root key is, \
             with 'pnsbox-controller admission renew --root-key FILE'"
        ));
    }
    let mut missing = Vec::new();
    for link in &image.policy.links {
        let [a, b] = &link.between;
        let waits: Vec<&str> = [(a, b), (b, a)]
            .into_iter()
            .filter(|(agency, with)| image.registry.consent(agency, with).is_none())
            .map(|(agency, _)| agency.as_str())
            .collect();
        if !waits.is_empty() {
            missing.push(format!(
                "the link {a} - {b} waits for the consent of {}",
                waits.join(" and ")
            ));
        }
    }
    let more = missing.len().saturating_sub(NAMED);
    texts.extend(missing.into_iter().take(NAMED));
    if more > 0 {
        texts.push(format!("{more} more links wait for consent"));
    }
    texts
}

/// Whether a node waits for its agency.
pub(super) fn for_node(image: &Image, name: &NodeName) -> Option<String> {
    let node = image.registry.nodes.get(name)?;
    node.claim.is_none().then(|| {
        let agency = name.agency();
        format!(
            "{name} waits until {agency} approves it, on the box with that agency's key: pnsbox node approve {name}"
        )
    })
}
