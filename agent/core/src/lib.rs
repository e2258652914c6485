//! What an agent decides. Sans-IO: no runtime, socket, clock, file, thread or entropy.
//!
//! The contract: call [`agent::Agent::handle`] with one [`event::Input`] and the time, drain
//! [`agent::Agent::poll_output`] until it is empty, sleep until [`agent::Agent::next_timeout`] or the next input.
//!
//! | question | module |
//! |---|---|
//! | What can happen, and what can be done about it? | [`event`] |
//! | Who is believed, and when is a controller dialled? | `control` |
//! | Who is talked to, and how does a view travel? | `agent::talk`, `agent::views` |
//! | Which view is accepted? | [`view`] |
//! | What of it is believed? What does this box sign for its agency? | [`trust`] |
//! | What does an admin ask of the agency's signer? | [`agency`] |
//! | Which peer is told what agencies said? | `gossip`, `agent::knowing` |
//! | How does it come into force? Is it kept? | `force`, `trial`, `agent::proving` |
//! | What must the host look like? | [`host_config`], in the words of [`host`] |
//! | Whom to link with, who is silent? | `links`, `path_stats` |
//! | Which services are shown? | `catalogue` |
//! | What is shown and reported? | `report`, in the words of [`snapshot`] |

pub mod agency;
pub mod agent;
mod catalogue;
mod control;
pub mod event;
mod force;
mod gossip;
pub mod host;
pub mod host_config;
mod jitter;
pub mod lan;
mod links;
mod path_stats;
mod report;
pub mod snapshot;
mod trails;
mod trial;
pub mod trust;
pub mod view;
mod wall;
