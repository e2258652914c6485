//! The words that agents and the controller exchange: ids, keys, signed documents, messages, frames.
//!
//! Types and their encoding, no behaviour: who may say what, and when, is decided in `agent/core` and `controller/core`.
//! Nothing here opens a socket, reads a clock or draws entropy.
//!
//! | question | module |
//! |---|---|
//! | How is an agency, a node, a service named? | [`id`] |
//! | How is a key written? | [`key`] |
//! | What is signed, and how? | [`envelope`], [`certificate`] |
//! | What do agencies sign? | [`agency`] |
//! | What does an operator hand to a new agency? | [`anchor`] |
//! | What must one node do? | [`view`] |
//! | What may pass between two agencies? | [`access`] |
//! | What is a service? | [`service`] |
//! | What does an agent report? | [`health`] |
//! | What is an overlay IPv6 address? | [`address`] |
//! | How is foreign text shown? | [`text`] |
//! | Who says what to whom? | [`message`], in [`frame`]s; [`probe`]s in datagrams |

pub mod access;
pub mod address;
pub mod agency;
pub mod anchor;
pub mod certificate;
pub mod envelope;
pub mod frame;
pub mod health;
pub mod id;
pub mod key;
pub mod message;
pub mod probe;
pub mod service;
pub mod text;
pub mod time;
pub mod view;

/// Version of the control and link protocols, sent in every greeting.
///
/// 1 (2026-11): first.
pub const PROTOCOL_VERSION: u32 = 1;

/// ALPN of a session between agent and controller.
pub const CONTROL_ALPN: &[u8] = b"pnsbox-control/1";

/// ALPN of a link between two agents.
pub const LINK_ALPN: &[u8] = b"pnsbox-link/1";

/// UDP port of WireGuard and of relay frames.
pub const WIREGUARD_PORT: u16 = 51820;

/// UDP port of links, on overlay addresses only.
pub const LINK_PORT: u16 = 51821;

/// UDP port of the controller.
pub const CONTROL_PORT: u16 = 443;

/// TCP port of the agent's `/metrics`, on loopback and the overlay address.
pub const AGENT_HTTP_PORT: u16 = 9586;

/// TCP port of the controller's `/metrics` and `/sd`, on loopback.
pub const CONTROLLER_HTTP_PORT: u16 = 9587;
