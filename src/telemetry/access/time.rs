//! Wall time in the log's notations, rendered once per second.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The time of a line. One per worker.
#[derive(Debug, Default)]
pub(super) struct Clock {
    second: u64,
    /// `21/Nov/2026:11:52:08 +0000`, in local time as nginx writes it.
    local: String,
    /// `2026-11-21T11:52:08`, in UTC.
    utc: String,
}

impl Clock {
    /// nginx' `$time_local`.
    pub fn local(&mut self) -> &str {
        self.advance(since_epoch());
        &self.local
    }

    /// RFC 3339 in UTC with milliseconds.
    pub fn write_utc(&mut self, out: &mut Vec<u8>) {
        let now = since_epoch();
        self.advance(now);
        out.extend_from_slice(self.utc.as_bytes());
        // Writing to a vector cannot fail.
        let _ = write!(out, ".{:03}Z", now.subsec_millis());
    }

    fn advance(&mut self, now: Duration) {
        if self.second == now.as_secs() && !self.utc.is_empty() {
            return;
        }
        self.second = now.as_secs();
        let second = i64::try_from(now.as_secs()).unwrap_or(0);
        let time = Timestamp::from_second(second).unwrap_or_default();
        self.utc = time.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        let local = time.to_zoned(TimeZone::system());
        self.local = local.strftime("%d/%b/%Y:%H:%M:%S %z").to_string();
    }
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_follow_the_second() {
        let mut clock = Clock::default();
        clock.advance(Duration::from_secs(1_795_261_928));
        assert_eq!(clock.utc, "2026-11-21T11:52:08");
        clock.advance(Duration::from_millis(1_795_261_929_900));
        assert_eq!(clock.utc, "2026-11-21T11:52:09");
        // The zone is the machine's: only the shape is known here.
        let shape: String = clock
            .local
            .chars()
            .map(|c| if c.is_ascii_digit() { '9' } else { c })
            .map(|c| if c.is_ascii_alphabetic() { 'a' } else { c })
            .map(|c| if c == '-' { '+' } else { c })
            .collect();
        assert_eq!(shape, "99/aaa/9999:99:99:99 +9999");
    }

    #[test]
    fn utc_has_milliseconds() {
        let mut out = Vec::new();
        Clock::default().write_utc(&mut out);
        assert_eq!(out.len(), "2026-11-21T11:52:08.123Z".len());
        assert!(out.ends_with(b"Z"));
    }
}
