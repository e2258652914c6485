//! The host against the real kernel: each test in network namespaces of its own.
//! Needs root, `/dev/net/tun`, `ip` and `nft`; without them the tests fail and say so.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod apply;
mod filter;
mod namespace;
