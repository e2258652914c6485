//! A moment of patience with a program that was killed: its leader can be gone while its threads, or a child that is
//! just being started, still hold a socket, a lock or an interface.

use std::time::Duration;

use tokio::time::sleep;

/// They are gone within milliseconds; what is still held after a second stays held.
pub(crate) const TRIES: u32 = 10;
/// Between two tries.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// Tries until nobody holds it any more, or patience ends.
pub(crate) async fn outlast<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_held: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 0..TRIES {
        match attempt() {
            Err(error) if is_held(&error) => sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_tried_for_a_second_and_nothing_else_is() {
        let mut tries = 0;
        let mut third = || {
            tries += 1;
            if tries < 3 { Err("held") } else { Ok(tries) }
        };
        assert_eq!(outlast(&mut third, |e| *e == "held").await, Ok(3));
        let begun = tokio::time::Instant::now();
        let held: Result<(), _> = outlast(|| Err("held"), |e| *e == "held").await;
        assert_eq!((held, begun.elapsed()), (Err("held"), PAUSE * TRIES));
        let other: Result<(), _> = outlast(|| Err("other"), |e| *e == "held").await;
        assert_eq!((other, begun.elapsed()), (Err("other"), PAUSE * TRIES));
    }
}
