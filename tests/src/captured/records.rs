//! Records of a view, taken apart and put together anew.

use anyhow::{Context as _, Result};
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::view::{LinkRecord, NodeRecord, PeerRecord, Record};

/// The record of the node itself.
pub fn own(records: &mut [Record]) -> Result<&mut NodeRecord> {
    let mut found = records.iter_mut().filter_map(|record| match record {
        Record::Node(node) => Some(node),
        _ => None,
    });
    found.next().context("a view has its node")
}

/// The record of a peer.
pub fn peer<'a>(records: &'a mut [Record], name: &str) -> Result<&'a mut PeerRecord> {
    let name: NodeName = name.parse()?;
    let mut found = records.iter_mut().filter_map(|record| match record {
        Record::Peer(peer) if peer.node == name => Some(peer),
        _ => None,
    });
    found.next().with_context(|| format!("{name} is a peer"))
}

/// The record of a link.
pub fn link<'a>(records: &'a mut [Record], with: &str) -> Result<&'a mut LinkRecord> {
    let with: AgencyName = with.parse()?;
    let mut found = records.iter_mut().filter_map(|record| match record {
        Record::Link(link) if link.with == with => Some(link),
        _ => None,
    });
    found.next().with_context(|| format!("{with} is linked"))
}

/// Puts a record in the place of the one with its id, or beside the others.
pub fn put(records: &mut Vec<Record>, record: Record) {
    records.retain(|other| other.id() != record.id());
    records.push(record);
}
