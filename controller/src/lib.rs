//! `pnsbox-controller`: sockets, store, HTTP and the operator's commands around `pnsbox-controller-core`.
//!
//! It does what the core decides. It carries no user traffic, and the network lives without it.
//!
//! | question | module |
//! |---|---|
//! | What can an operator type? | [`cli`] |
//! | Every knob? | [`config`], and `configs/controller.toml` |
//! | Who calls the core? | [`eventloop`], and nobody else |
//! | How do agents reach it? | [`agents`] |
//! | How do commands reach it? | [`operator`] |
//! | Where is state? | [`store`], [`keys`] |
//! | What does Prometheus see? | [`metrics`], [`http`] |

pub mod activation;
pub mod agents;
pub mod cli;
pub mod config;
pub mod eventloop;
pub mod http;
pub mod keys;
pub mod metrics;
pub mod operator;
pub mod serve;
pub mod store;

pub use pnsbox_program::failpoint;
