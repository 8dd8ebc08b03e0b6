//! Rate limits: GCRA (the generic cell rate algorithm, ITU-T I.371 annex A), one number per key.
//!
//! The number is the theoretical arrival time: when the key will have used up nothing of its
//! burst. A request that would move it further ahead of now than the burst allows is refused and
//! moves nothing. A number in the past says nothing, so an entry whose time has come is free for
//! any other key: nothing has to be swept, and a table of fixed size is enough.
//!
//! Where all places of a key's bucket are in use, the one that is nearest to saying nothing makes
//! room. Whoever floods the table with keys can so be forgiven a little, never refuse others.
//!
//! Shared by all workers and kept over reloads by the route's name. Every place is two words that
//! anybody may change: a key's mark, taken by compare-and-swap, and its time, moved by
//! compare-and-swap. Relaxed: the two are not read as one. Between the mark and the time another
//! worker may still move the time for the key that was there before: that charges one request to
//! the wrong key, which the algorithm's own rounding does too.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::{Limit, LimitKey};
use crate::message::Fields;

/// Places that keys with the same low bits share.
const BUCKET: usize = 8;
/// Buckets of a limit with keys: 64 Ki keys, 1 MiB.
const BUCKETS: usize = 8192;

/// `rate` and `burst` of a limit, as times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between two requests at the rate, in nanoseconds; never 0.
    interval: u64,
    /// How far ahead of now a key may be.
    tolerance: u64,
    pub burst: u32,
}

/// A route's limit with the times of its keys.
#[derive(Debug, Clone)]
pub struct Limiter {
    pace: Pace,
    by: LimitKey,
    table: Arc<Table>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Admitted,
    Refused {
        /// Until one is admitted again.
        retry_after: Duration,
        /// Until the whole burst is there again.
        reset: Duration,
    },
}

/// The times of one route's keys.
#[derive(Debug)]
pub struct Table {
    buckets: Box<[Bucket]>,
}

/// On a cache line or two of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Bucket([Place; BUCKET]);

#[derive(Debug, Default)]
struct Place {
    /// Of a key; 0 is nobody's.
    mark: AtomicU64,
    /// Theoretical arrival time, in nanoseconds of the caller's clock.
    time: AtomicU64,
}

impl Limiter {
    /// Goes on with the times of `before`, the limit of the route of that name so far, where they
    /// are of the same keys.
    pub fn new(limit: &Limit, before: Option<&Limiter>) -> Self {
        let kept = before.filter(|before| before.by == limit.by);
        let table = match (kept, &limit.by) {
            (Some(kept), _) => kept.table.clone(),
            (None, LimitKey::Route) => Arc::new(Table::single()),
            (None, LimitKey::ClientIp | LimitKey::Header(_)) => Arc::new(Table::keyed()),
        };
        Limiter {
            pace: Pace::new(limit.rate.count, limit.rate.period, limit.burst),
            by: limit.by.clone(),
            table,
        }
    }

    pub fn burst(&self) -> u32 {
        self.pace.burst
    }

    /// Who pays for a request: "by client 192.0.2.1". Values of headers may be secrets.
    pub fn describe_key(&self, client: IpAddr, fields: &Fields) -> String {
        match &self.by {
            LimitKey::Route => "all requests together".to_owned(),
            LimitKey::ClientIp => format!("by client {}", client.to_canonical()),
            LimitKey::Header(name) => match values(fields, name).next() {
                Some(_) => format!("by its {name}"),
                None => format!("by client {}, having no {name}", client.to_canonical()),
            },
        }
    }

    /// Whether a request of `client` with these fields may go on.
    pub fn check(&self, client: IpAddr, fields: &Fields, now: Instant) -> Verdict {
        let now = nanoseconds(now);
        self.each_key(client, fields, |hash| {
            self.table.check(hash, self.pace, now)
        })
    }

    /// The same, and nothing is used up.
    pub fn would_check(&self, client: IpAddr, fields: &Fields, now: Instant) -> Verdict {
        let now = nanoseconds(now);
        self.each_key(client, fields, |hash| self.table.peek(hash, self.pace, now))
    }

    fn each_key(&self, client: IpAddr, fields: &Fields, check: impl Fn(u64) -> Verdict) -> Verdict {
        let LimitKey::Header(name) = &self.by else {
            return check(match self.by {
                LimitKey::Route => 0,
                _ => hash_of(of_client(client)),
            });
        };
        // Which of several a server goes by is not known, so each has to have room: nobody gets
        // around his limit by a value before it or behind it.
        let mut verdict = None;
        for (index, value) in values(fields, name).enumerate() {
            // One that is given twice is one key.
            if values(fields, name).take(index).any(|seen| seen == value) {
                continue;
            }
            match check(hash_of(OfHeader { name, value })) {
                Verdict::Admitted => verdict = Some(Verdict::Admitted),
                refused @ Verdict::Refused { .. } => return refused,
            }
        }
        verdict.unwrap_or_else(|| check(hash_of(of_client(client))))
    }
}

/// That may be keys.
fn values<'a>(fields: &'a Fields, name: &str) -> impl Iterator<Item = &'a [u8]> {
    fields.values_text(name).filter(|value| !value.is_empty())
}

/// The key that a field's value is.
struct OfHeader<'a> {
    name: &'a str,
    value: &'a [u8],
}

impl Hash for OfHeader<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut rest = self.value;
        if self.name == "authorization" {
            // RFC 9110 section 11.4: the scheme in any case, and any number of spaces behind it.
            let end = memchr::memchr(b' ', rest).unwrap_or(rest.len());
            let scheme = rest[..end].iter();
            scheme.for_each(|byte| state.write_u8(byte.to_ascii_lowercase()));
            rest = rest[end..].trim_ascii_start();
        }
        state.write_u8(b' ');
        rest.hash(state);
    }
}

/// Addresses of one customer: an IPv4 address, or the 64 bits of an IPv6 network, which is the
/// least that a customer gets (RFC 6177).
fn of_client(client: IpAddr) -> [u8; 9] {
    let mut key = [0; 9];
    match client.to_canonical() {
        IpAddr::V4(address) => key[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => {
            key[0] = 6;
            key[1..].copy_from_slice(&address.octets()[..8]);
        }
    }
    key
}

/// Not to be guessed from outside: who can choose colliding keys makes others pay for his.
fn hash_of(key: impl Hash) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEYS.hash_one(key)
}

/// Since all workers began to count.
fn nanoseconds(now: Instant) -> u64 {
    // A second more: the clock may begin with the process.
    let now = now.saturating_duration_since(*START) + Duration::from_secs(1);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX >> 1)
}

/// What all workers count from.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Pace {
    /// `requests` per `period`, of which `burst` may come at once (at least one).
    pub fn new(requests: u32, period: Duration, burst: u32) -> Self {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let interval = (period / u64::from(requests.max(1))).max(1);
        let burst = burst.max(1);
        Pace {
            interval,
            tolerance: interval.saturating_mul(u64::from(burst - 1)),
            burst,
        }
    }

    /// A key whose time is so far ahead of now.
    fn judge(self, ahead: u64) -> Verdict {
        if ahead <= self.tolerance {
            return Verdict::Admitted;
        }
        Verdict::Refused {
            retry_after: Duration::from_nanos(ahead - self.tolerance),
            reset: Duration::from_nanos(ahead),
        }
    }

    /// No request of this pace takes a key's time further.
    fn farthest(self, now: u64) -> u64 {
        now + self.tolerance + self.interval
    }
}

impl Table {
    /// For any number of keys.
    pub fn keyed() -> Self {
        Table::of(BUCKETS)
    }

    /// For one key.
    pub fn single() -> Self {
        Table::of(1)
    }

    fn of(buckets: usize) -> Self {
        Table {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
        }
    }

    /// Whether a request of the key with this hash may go on at `now`, nanoseconds of a clock that
    /// all callers share and that begins long enough ago to be over 0.
    pub fn check(&self, hash: u64, pace: Pace, now: u64) -> Verdict {
        let bucket = &self.buckets[(hash as usize) % self.buckets.len()];
        let mark = hash | 1 << 63;
        let place = bucket.place(mark, now);
        let mut time = place.time.load(Relaxed);
        loop {
            // Further ahead than any request of this pace goes: from a slower one, before a reload.
            let farthest = pace.farthest(now);
            if time > farthest {
                time = match place
                    .time
                    .compare_exchange(time, farthest, Relaxed, Relaxed)
                {
                    Ok(_) => farthest,
                    Err(seen) => seen,
                };
                continue;
            }
            let from = time.max(now);
            if let refused @ Verdict::Refused { .. } = pace.judge(from - now) {
                return refused;
            }
            let next = from + pace.interval;
            match place
                .time
                .compare_exchange_weak(time, next, Relaxed, Relaxed)
            {
                Ok(_) => return Verdict::Admitted,
                Err(seen) => time = seen,
            }
        }
    }
}

impl Table {
    /// What [`Table::check`] would say; nobody's time moves and no place is taken.
    pub fn peek(&self, hash: u64, pace: Pace, now: u64) -> Verdict {
        let bucket = &self.buckets[(hash as usize) % self.buckets.len()];
        let time = bucket
            .own(hash | 1 << 63)
            .map_or(0, |own| own.time.load(Relaxed));
        pace.judge(time.min(pace.farthest(now)).saturating_sub(now))
    }
}

impl Bucket {
    fn own(&self, mark: u64) -> Option<&Place> {
        self.0.iter().find(|place| place.mark.load(Relaxed) == mark)
    }

    /// The key's own place, or one that it takes.
    fn place(&self, mark: u64, now: u64) -> &Place {
        if let Some(own) = self.own(mark) {
            return own;
        }
        loop {
            let taken = |place: &&Place| {
                let old = place.mark.load(Relaxed);
                let swapped = place.mark.compare_exchange(old, mark, Relaxed, Relaxed);
                // Somebody else took it meanwhile: for this very key, as good as ours.
                swapped.is_ok() || swapped == Err(mark)
            };
            let free = |place: &&Place| place.time.load(Relaxed) <= now;
            if let Some(place) = self.0.iter().filter(free).find(taken) {
                return place;
            }
            let nearest = self.0.iter().min_by_key(|place| place.time.load(Relaxed));
            if let Some(place) = nearest.filter(taken) {
                place.time.store(now, Relaxed);
                return place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn admitted(table: &Table, hash: u64, pace: Pace, now: u64) -> bool {
        table.check(hash, pace, now) == Verdict::Admitted
    }

    #[test]
    fn a_burst_then_the_rate() {
        let pace = Pace::new(10, Duration::from_secs(1), 5);
        let table = Table::single();
        let start = 100 * SECOND;
        let at_once = (0..20).filter(|_| admitted(&table, 1, pace, start)).count();
        assert_eq!(at_once, 5);
        let refused = table.check(1, pace, start);
        let expected = Verdict::Refused {
            retry_after: Duration::from_millis(100),
            reset: Duration::from_millis(500),
        };
        assert_eq!(refused, expected);
        assert!(!admitted(&table, 1, pace, start + SECOND / 10 - 1));
        assert!(admitted(&table, 1, pace, start + SECOND / 10));
        let later = start + 1000 * SECOND;
        let again = (0..20).filter(|_| admitted(&table, 1, pace, later)).count();
        assert_eq!(
            again, 5,
            "what was not used does not add up beyond the burst"
        );
    }

    #[test]
    fn a_look_says_what_a_check_would_and_moves_nothing() {
        let pace = Pace::new(10, Duration::from_secs(1), 2);
        let table = Table::keyed();
        for _ in 0..2 {
            for _ in 0..5 {
                assert_eq!(table.peek(7, pace, SECOND), Verdict::Admitted);
            }
            assert!(admitted(&table, 7, pace, SECOND));
        }
        let seen = table.peek(7, pace, SECOND);
        assert!(matches!(seen, Verdict::Refused { .. }));
        assert_eq!(seen, table.check(7, pace, SECOND));
        assert_eq!(table.peek(8, pace, SECOND), Verdict::Admitted);
        assert!(admitted(&table, 7, pace, SECOND + SECOND / 10));
    }

    #[test]
    fn keys_do_not_count_for_one_another() {
        let pace = Pace::new(1, Duration::from_secs(60), 1);
        let table = Table::keyed();
        for hash in 0..10_000u64 {
            assert!(admitted(
                &table,
                hash.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                pace,
                SECOND
            ));
        }
        let again = (0..10_000u64)
            .filter(|hash| {
                admitted(
                    &table,
                    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                    pace,
                    SECOND,
                )
            })
            .count();
        assert_eq!(again, 0);
    }

    #[test]
    fn a_flood_of_keys_forgives_and_never_refuses() {
        let pace = Pace::new(1, Duration::from_secs(60), 1);
        let table = Table::single();
        for hash in 0..1000 {
            assert!(
                admitted(&table, hash, pace, SECOND),
                "a new key is not refused"
            );
        }
        assert!(
            !admitted(&table, 999, pace, SECOND),
            "the last ones are known"
        );
    }

    #[test]
    fn a_key_that_is_given_twice_pays_once() {
        let limit = Limit {
            rate: "1/h".parse().unwrap(),
            burst: 2,
            by: LimitKey::Header("x-key".into()),
        };
        let limiter = Limiter::new(&limit, None);
        let client = "192.0.2.1".parse().unwrap();
        let mut fields = Fields::default();
        for value in ["ann", "ann", "bob", "ann"] {
            fields.append_text("x-key", value.as_bytes());
        }
        let now = Instant::now();
        for expected in [true, true, false] {
            let would = limiter.would_check(client, &fields, now);
            let verdict = limiter.check(client, &fields, now);
            assert_eq!(verdict == Verdict::Admitted, expected);
            assert_eq!(would == Verdict::Admitted, expected);
        }
    }

    #[test]
    fn a_faster_pace_counts_at_once() {
        let table = Table::single();
        let slow = Pace::new(1, Duration::from_secs(3600), 1);
        assert!(admitted(&table, 1, slow, SECOND));
        assert!(!admitted(&table, 1, slow, SECOND));
        let fast = Pace::new(100, Duration::from_secs(1), 10);
        assert!(!admitted(&table, 1, fast, SECOND), "used up");
        assert!(
            admitted(&table, 1, fast, SECOND + SECOND / 50),
            "but not for an hour"
        );
    }

    #[test]
    fn workers_together_admit_no_more_than_one_alone() {
        let pace = Pace::new(1, Duration::from_secs(3600), 500);
        let table = Table::keyed();
        let admitted: usize = std::thread::scope(|scope| {
            let worker = || {
                (0..1000)
                    .filter(|_| admitted(&table, 7, pace, SECOND))
                    .count()
            };
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .sum()
        });
        assert_eq!(admitted, 500);
    }

    proptest! {
        /// In any window of length t no more than burst + t / interval are admitted.
        #[test]
        fn no_window_has_more_than_its_share(
            requests in 1..1000u32,
            burst in 1..100u32,
            steps in prop::collection::vec(0..50_000_000u64, 1..300),
        ) {
            let pace = Pace::new(requests, Duration::from_secs(1), burst);
            let table = Table::single();
            let mut now = SECOND;
            let mut times = Vec::new();
            for step in steps {
                now += step;
                if admitted(&table, 1, pace, now) {
                    times.push(now);
                }
            }
            for (index, from) in times.iter().enumerate() {
                for (count, to) in times[index..].iter().enumerate() {
                    let most = u64::from(burst) + (to - from) / pace.interval;
                    prop_assert!((count as u64) < most, "{count} in {} ns", to - from);
                }
            }
        }
    }
}
