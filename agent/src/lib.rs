//! What an agent does: sockets, kernel, files, and the `pnsbox` command. What to do is decided in `pnsbox_agent_core`.
//!
//! | question | module |
//! |---|---|
//! | Who owns the core? | [`eventloop`] |
//! | How is the controller, how are peers talked to? | [`control`], [`links`] |
//! | Which call changes the host? | [`host`], and nothing else |
//! | Every knob and its default? | [`config`], `configs/agent.toml` |
//! | What is kept over a reboot? | [`keys`], [`store`], [`handshakes`] |
//! | How is a running agent asked? | [`admin`], [`cli`]; by `wg show`: [`uapi`]; over a [`socket`] |
//! | What is measured? | [`metrics`], served by [`http`] |

pub mod admin;
pub mod checks;
pub mod cli;
pub mod config;
pub mod control;
mod dying;
pub mod eventloop;
pub mod handshakes;
pub mod host;
pub mod http;
pub mod keys;
pub mod links;
pub mod metrics;
pub mod run;
pub mod socket;
pub mod store;
pub mod systemd;
pub mod uapi;

pub use pnsbox_program::failpoint;
