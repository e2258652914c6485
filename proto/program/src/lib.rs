//! What both programs are as programs of a Unix system, whatever they do: exit codes, completions and manual pages,
//! their own process in metrics, and the steps at which a test stops them.
//!
//! | question | module |
//! |---|---|
//! | Which code does a command end with, and where does it print? | [`exit`] |
//! | Where do completions and manual pages come from? | [`generate`] |
//! | Who may see its memory? | [`dumps`] |
//! | Where can a test kill or hang a program? | [`failpoint`] |
//! | What does `/metrics` say of the process? | [`process`] |

pub mod dumps;
pub mod exit;
pub mod failpoint;
pub mod generate;
pub mod process;
