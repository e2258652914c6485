//! Wall-clock moments as they travel: seconds since 1970-01-01T00:00:00Z.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Seconds since the Unix epoch; printed as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The moment `duration` later, saturating.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_secs()))
    }

    /// The end of a day, `YYYY-MM-DD`, in UTC.
    pub fn end_of_day(date: &str) -> Result<Self, NoDate> {
        // A moment of that day is no day.
        let is_day = date.len() == "2027-12-31".len();
        let end = date
            .parse::<jiff::civil::Date>()
            .and_then(|date| date.tomorrow()?.to_zoned(jiff::tz::TimeZone::UTC))
            .ok()
            .filter(|_| is_day)
            .ok_or(NoDate)?;
        u64::try_from(end.timestamp().as_second())
            .map(Self)
            .map_err(|_| NoDate)
    }

    /// How long ago `self` was at `now`; zero if it lies in the future.
    pub fn age(self, now: Self) -> Duration {
        Duration::from_secs(now.0.saturating_sub(self.0))
    }
}

/// A text is no date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a date is expected, for example 2027-12-31")]
pub struct NoDate;

impl From<SystemTime> for UnixTime {
    /// A clock before 1970 reads as 1970.
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_second(seconds) {
            Ok(timestamp) => timestamp.fmt(f),
            Err(_) => write!(f, "@{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_with_it() {
        let end = UnixTime::end_of_day("2026-11-22").unwrap();
        assert_eq!(end, UnixTime(1_795_392_000));
        for bad in [
            "",
            "2026-13-01",
            "tomorrow",
            "2026-11-22T10:00",
            "1960-01-01",
        ] {
            assert_eq!(UnixTime::end_of_day(bad), Err(NoDate), "{bad}");
        }
    }

    #[test]
    fn prints_rfc3339_and_survives_the_far_future() {
        assert_eq!(UnixTime(1_795_392_000).to_string(), "2026-11-23T00:00:00Z");
        assert!(UnixTime(u64::MAX).to_string().starts_with('@'));
        assert_eq!(UnixTime(5).age(UnixTime(3)), Duration::ZERO);
    }
}
