//! What probes say of the path to one peer.

use std::collections::VecDeque;
use std::time::Duration;

use pnsbox_proto::probe::Probe;

/// Probes that statistics look back on.
const WINDOW: usize = 100;
/// A probe that was not answered by now is lost.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// Weight of the newest measurement in the smoothed round-trip time (RFC 6298 section 2).
const SMOOTHING: f64 = 1.0 / 8.0;
/// Gain of the jitter estimator (RFC 3550 section 6.4.1).
const JITTER_GAIN: f64 = 1.0 / 16.0;

/// Statistics of one peer; they outlive a link and begin anew only with the process.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PathStats {
    sent: VecDeque<Sent>,
    next: u64,
    rtt_ms: Option<f64>,
    last_rtt_ms: f64,
    jitter_ms: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Sent {
    sequence: u64,
    at: Duration,
    answered: bool,
}

impl PathStats {
    /// The next probe to send.
    pub(crate) fn probe(&mut self, now: Duration) -> Probe {
        let sequence = self.next;
        self.next += 1;
        self.sent.push_back(Sent {
            sequence,
            at: now,
            answered: false,
        });
        if self.sent.len() > WINDOW {
            self.sent.pop_front();
        }
        Probe {
            echo: false,
            sequence,
            sent_us: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// An echo came back; late and doubled ones count for nothing.
    pub(crate) fn echo(&mut self, probe: Probe, now: Duration) {
        let Some(sent) = self
            .sent
            .iter_mut()
            .find(|sent| sent.sequence == probe.sequence)
        else {
            return;
        };
        let took = now.saturating_sub(sent.at);
        if sent.answered || took > LOST_AFTER {
            return;
        }
        sent.answered = true;
        let rtt_ms = took.as_secs_f64() * 1e3;
        match &mut self.rtt_ms {
            None => self.rtt_ms = Some(rtt_ms),
            Some(smoothed) => {
                *smoothed += (rtt_ms - *smoothed) * SMOOTHING;
                self.jitter_ms +=
                    ((rtt_ms - self.last_rtt_ms).abs() - self.jitter_ms) * JITTER_GAIN;
            }
        }
        self.last_rtt_ms = rtt_ms;
    }

    /// Smoothed round-trip time, in milliseconds.
    pub(crate) fn rtt_ms(&self) -> Option<f64> {
        self.rtt_ms
    }

    /// Jitter, in milliseconds, once there were two measurements.
    pub(crate) fn jitter_ms(&self) -> Option<f64> {
        self.rtt_ms.map(|_| self.jitter_ms)
    }

    /// Share of judged probes that were lost, 0 to 1; those still under way are not judged.
    pub(crate) fn loss(&self, now: Duration) -> Option<f64> {
        let judged = self
            .sent
            .iter()
            .filter(|s| s.answered || now.saturating_sub(s.at) > LOST_AFTER);
        let (judged, lost) = judged.fold((0u32, 0u32), |(n, lost), s| {
            (n + 1, lost + u32::from(!s.answered))
        });
        (judged > 0).then(|| f64::from(lost) / f64::from(judged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn round_trips_jitter_and_loss_are_what_was_measured() {
        let mut stats = PathStats::default();
        assert_eq!(
            (stats.rtt_ms(), stats.jitter_ms(), stats.loss(ms(0))),
            (None, None, None)
        );
        for second in 0..10u64 {
            let probe = stats.probe(ms(second * 1000));
            if second != 4 {
                stats.echo(
                    Probe {
                        echo: true,
                        ..probe
                    },
                    ms(second * 1000 + 20 + second % 2 * 8),
                );
            }
        }
        let rtt = stats.rtt_ms().unwrap();
        assert!((20.0..28.0).contains(&rtt), "{rtt}");
        let jitter = stats.jitter_ms().unwrap();
        assert!((1.0..8.0).contains(&jitter), "{jitter}");
        assert_eq!(stats.loss(ms(20_000)), Some(0.1));
    }

    #[test]
    fn late_doubled_and_foreign_echoes_count_for_nothing() {
        let mut stats = PathStats::default();
        let probe = stats.probe(ms(0));
        stats.echo(
            Probe {
                echo: true,
                sequence: 99,
                sent_us: 0,
            },
            ms(1),
        );
        assert_eq!(stats.loss(ms(2000)), None, "still under way");
        stats.echo(
            Probe {
                echo: true,
                ..probe
            },
            ms(3001),
        );
        assert_eq!((stats.rtt_ms(), stats.loss(ms(3001))), (None, Some(1.0)));
    }

    #[test]
    fn only_the_last_hundred_count() {
        let mut stats = PathStats::default();
        for second in 0..300u64 {
            let probe = stats.probe(ms(second * 1000));
            if second >= 200 {
                stats.echo(
                    Probe {
                        echo: true,
                        ..probe
                    },
                    ms(second * 1000 + 5),
                );
            }
        }
        assert_eq!(stats.loss(ms(400_000)), Some(0.0));
    }
}
