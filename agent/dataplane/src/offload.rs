//! What a TUN with `virtio_net_hdr` needs: super-packets cut into packets of the wire's size, and packets of a flow put
//! together again. Pure functions over bytes; reading, writing and the buffers are the worker's.
//!
//! | question | module |
//! |---|---|
//! | What stands before each packet? | [`vnet`] |
//! | What does the Internet checksum of these bytes come to? | [`checksum`] |
//! | Where are a packet's headers, and may it be merged? | [`headers`] |
//! | How does one TUN read become packets? | [`segment`] |
//! | How do packets become few TUN writes? | [`coalesce`] |
//! | Which write has a flow's last packet? | [`flows`] |

pub(crate) mod checksum;
pub(crate) mod coalesce;
#[cfg(test)]
mod coalesce_tests;
pub(crate) mod flows;
pub(crate) mod headers;
#[cfg(test)]
mod kernel_tests;
#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
pub(crate) mod packets;
pub(crate) mod segment;
#[cfg(test)]
mod segment_tests;
pub(crate) mod vnet;
