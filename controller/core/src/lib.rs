//! What the controller decides: who is in the network, what each node must do, who is told, and what an operator sees.
//!
//! Sans-IO: it has no runtime, socket, clock, file, thread or entropy. Time and random bytes are arguments,
//! changes of the store leave as a [`store::Transaction`], messages as [`controller::Output`]s.
//! The shell commits the transaction before any message leaves.
//!
//! | question | module |
//! |---|---|
//! | What can happen, and what follows? | [`controller`] |
//! | Who is in the network, and which prefixes are whose? | [`registry`] |
//! | What did the operator write, and what is wrong with it? | [`policy`], [`reader`] |
//! | What must each node do? | [`plan`] |
//! | How does that become a signed view, a delta? | [`view`] |
//! | What would a policy change, and whom does it touch? | [`difference`] |
//! | What has an agent, what is under way to it? | [`session`] |
//! | How is the fleet? Does a box run twice? | [`fleet`], `runs` |
//! | Who did what, when and from where? Is that still what it was? | [`audit`] |
//! | Which policies were in force before? | [`history`] |
//! | Who has a new policy first, and does it hold? | [`rollout`] |
//! | What can an operator ask? | [`operator`] |
//! | What must be on disk? | [`store`], [`image`] |

pub mod audit;
pub mod controller;
pub mod difference;
pub mod fleet;
pub mod history;
pub mod image;
pub mod operator;
pub mod plan;
pub mod policy;
pub mod reader;
pub mod registry;
pub mod rollout;
mod runs;
pub mod session;
pub mod store;
pub mod view;
