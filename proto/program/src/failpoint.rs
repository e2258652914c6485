//! Named steps at which a test makes a program hang or die. In what is installed there are none.
//!
//! `FAILPOINTS="name=return"` in the environment of a test build kills it there as SIGKILL would, `name=pause` hangs it;
//! `name=3*off->return` lets three passes go by first. The names stand where [`step`] is called.

/// Reads the environment once, when the program starts.
#[cfg(feature = "failpoints")]
pub fn arm() {
    // Kept for the life of the process: dropping it would disarm.
    std::mem::forget(fail::FailScenario::setup());
}

/// Nothing is armed.
#[cfg(not(feature = "failpoints"))]
pub fn arm() {}

/// Passes the step, hangs in it, or never returns.
#[cfg(feature = "failpoints")]
pub fn step(name: &str) {
    let die = |_| nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    if let Some(Err(error)) = fail::eval(name, die) {
        tracing::error!(%error, name, "a failpoint did not kill");
    }
}

/// Nothing happens.
#[cfg(not(feature = "failpoints"))]
pub fn step(_: &str) {}
