//! Keeps the clock of handshakes over reboots: a small file that says which timestamps no handshake has reached yet.
//! What must be in it, [`HandshakeClock`] decides.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pnsbox_dataplane::{HandshakeClock, ProtocolCore};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::store::{self, Steps};

/// Name of the file in the state directory.
pub const HANDSHAKES_FILE: &str = "handshakes.json";

/// The clock of handshakes and its file.
#[derive(Debug)]
pub struct Handshakes {
    path: PathBuf,
    clock: HandshakeClock,
    unsaved: Option<Unsaved>,
}

/// The disk does not have what it should.
#[derive(Debug)]
struct Unsaved {
    reason: String,
    retry_at: Instant,
}

impl Handshakes {
    /// The clock as the file has it. A file that cannot be read costs its memory and stops nothing.
    pub fn load(state_dir: &Path) -> Self {
        let path = state_dir.join(HANDSHAKES_FILE);
        let reserved = read(&path).unwrap_or_else(|error| {
            let path = path.display();
            warn!(
                %path, %error,
                "which timestamps handshakes have used is not known any more: \
                 peers refuse this box for as long as its clock is behind them"
            );
            None
        });
        Self {
            path,
            clock: HandshakeClock::new(reserved),
            unsaved: None,
        }
    }

    /// For the data planes.
    pub fn clock(&self) -> HandshakeClock {
        self.clock.clone()
    }

    /// Says what an admin may want to know of it at the start.
    pub fn tell(&self, core: ProtocolCore) {
        let ahead = self.clock.ahead();
        if ahead <= ORDINARY {
            return;
        }
        let ahead = format!("{} s", ahead.as_secs());
        match core {
            ProtocolCore::Native => info!(
                %ahead,
                "the wall clock is behind, or was ahead once: handshakes go on with timestamps that peers accept"
            ),
            ProtocolCore::Boringtun => warn!(
                %ahead,
                "the wall clock is behind, or was ahead once, and core \"boringtun\" has no other: \
                 peers refuse this box for so long; set the clock, or [wireguard] core = \"native\""
            ),
        }
    }

    /// Writes what is due ahead of use; `None` if nothing is, or if the disk refused it lately.
    pub fn keep(&mut self) -> Option<Result<(), String>> {
        let now = Instant::now();
        if self.unsaved.as_ref().is_some_and(|u| now < u.retry_at) {
            return None;
        }
        self.keep_now(now)
    }

    /// The same, whenever the disk refused it. The error stays until the disk takes it.
    pub fn keep_again(&mut self) -> Result<(), String> {
        if self.unsaved.is_some() {
            self.keep_now(Instant::now());
        }
        match &self.unsaved {
            Some(unsaved) => Err(unsaved.reason.clone()),
            None => Ok(()),
        }
    }

    fn keep_now(&mut self, now: Instant) -> Option<Result<(), String>> {
        let until = self.clock.reservation_due()?;
        let written = store::replace(&self.path, &encode(until), &STEPS);
        self.clock.reserved(written.is_ok().then_some(until));
        let result = written.map_err(|error| {
            let path = self.path.display();
            format!("{path} cannot be written: {error}")
        });
        self.unsaved = result.as_ref().err().map(|reason| Unsaved {
            reason: reason.clone(),
            retry_at: now + RETRY,
        });
        Some(result)
    }
}

fn read(path: &Path) -> io::Result<Option<u64>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let saved: Saved = serde_json::from_slice(&bytes)?;
    if saved.schema != SCHEMA || saved.reserved_until > MOST {
        let Saved {
            schema,
            reserved_until,
        } = saved;
        let what =
            format!("schema '{schema}' with {reserved_until} is nothing that is written here");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(Some(saved.reserved_until))
}

fn encode(until: u64) -> Vec<u8> {
    let saved = Saved {
        schema: SCHEMA.to_owned(),
        reserved_until: until,
    };
    serde_json::to_vec_pretty(&saved).expect("a string and a number")
}

#[derive(Serialize, Deserialize)]
struct Saved {
    schema: String,
    /// Seconds since 1970.
    reserved_until: u64,
}

/// 1 (2026-11): first.
const SCHEMA: &str = "pnsbox.handshakes/1";
/// Twice as far as Linux lets a clock be set (to 2232): more is no clock's work.
const MOST: u64 = 1 << 34;
/// A reservation is up to an hour ahead, and so is the next start.
const ORDINARY: Duration = Duration::from_secs(2 * 3600);
/// A full disk is not emptied within seconds, and each attempt costs a write.
const RETRY: Duration = Duration::from_secs(10);

const STEPS: Steps = Steps {
    before_write: "handshakes_before_write",
    written: "handshakes_written",
    synced: "handshakes_synced",
    renamed: "handshakes_renamed",
    durable: "handshakes_durable",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_written_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Handshakes::load(dir.path());
        assert_eq!(first.keep(), Some(Ok(())));
        assert_eq!(first.keep(), None, "nothing is due");
        let reserved = read(&dir.path().join(HANDSHAKES_FILE)).unwrap().unwrap();
        let mut again = Handshakes::load(dir.path());
        assert!(again.clock.ahead() > Duration::from_secs(3500));
        assert_eq!(again.keep(), Some(Ok(())));
        let later = read(&dir.path().join(HANDSHAKES_FILE)).unwrap().unwrap();
        assert!(later > reserved, "each start is above the one before");
    }

    #[test]
    fn a_disk_that_takes_nothing_is_told_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        let mut handshakes = Handshakes::load(&gone);
        let told = handshakes.keep().unwrap().unwrap_err();
        assert!(told.contains("gone/handshakes.json"), "{told}");
        assert_eq!(handshakes.keep(), None, "not again at once");
        let again = handshakes.keep_again().unwrap_err();
        assert!(again.contains("gone/handshakes.json"), "{again}");
        std::fs::create_dir(&gone).unwrap();
        assert_eq!(handshakes.keep_again(), Ok(()));
        assert_eq!(handshakes.keep(), None);
    }

    #[test]
    fn a_file_that_cannot_be_read_costs_its_memory_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(HANDSHAKES_FILE);
        let far = r#"{"schema":"pnsbox.handshakes/1","reserved_until":18446744073709551615}"#;
        let newer = r#"{"schema":"pnsbox.handshakes/2","reserved_until":7}"#;
        for bad in ["", "{", far, newer] {
            std::fs::write(&path, bad).unwrap();
            let mut handshakes = Handshakes::load(dir.path());
            assert_eq!(handshakes.clock.ahead(), Duration::ZERO, "{bad}");
            assert_eq!(handshakes.keep(), Some(Ok(())), "{bad}");
            assert!(read(&path).unwrap().is_some());
        }
    }
}
