//! The `Date` field, made once per second and thread (RFC 9110 section 6.6.1).

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::util::clock;

struct Cached {
    line: [u8; 37],
    until: Option<Instant>,
}

thread_local! {
    static CACHED: RefCell<Cached> = const { RefCell::new(Cached { line: [0; 37], until: None }) };
}

/// Appends `Date: ...` with its CRLF.
pub(super) fn push(buffer: &mut Vec<u8>) {
    with_line(|line| buffer.extend_from_slice(line));
}

/// The date alone.
pub(in crate::wire) fn value() -> [u8; 29] {
    with_line(|line| {
        let mut value = [0; 29];
        value.copy_from_slice(&line["Date: ".len()..][..29]);
        value
    })
}

fn with_line<T>(take: impl FnOnce(&[u8; 37]) -> T) -> T {
    let now = clock::now();
    CACHED.with_borrow_mut(|cached| {
        if cached.until.is_none_or(|until| until <= now) {
            cached.renew(now);
        }
        take(&cached.line)
    })
}

impl Cached {
    fn renew(&mut self, now: Instant) {
        let wall = SystemTime::now();
        let text = format!("Date: {}\r\n", httpdate::fmt_http_date(wall));
        if text.len() == self.line.len() {
            self.line.copy_from_slice(text.as_bytes());
        }
        let into_second = wall
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.subsec_nanos());
        let rest = 1_000_000_000u32.saturating_sub(into_second);
        self.until = Some(now + Duration::from_nanos(u64::from(rest)));
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn the_line_is_an_http_date_of_now() {
        let mut buffer = Vec::new();
        super::push(&mut buffer);
        let text = String::from_utf8(buffer).expect("a date is text");
        let date = text
            .strip_prefix("Date: ")
            .and_then(|rest| rest.strip_suffix("\r\n"));
        let date = httpdate::parse_http_date(date.expect("one field line")).expect("an HTTP date");
        let age = std::time::SystemTime::now()
            .duration_since(date)
            .expect("not in the future");
        assert!(age.as_secs() < 3);
    }
}
