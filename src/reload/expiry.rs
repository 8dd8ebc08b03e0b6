//! Certificates that end soon are said so once each, and once more when they have ended.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::snapshot::Snapshot;
use crate::telemetry::events;

/// Before this a renewal is not late.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// What was said already.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    /// Name, end, and whether it had ended.
    said: HashSet<(String, i64, bool)>,
}

impl Expiry {
    /// At any time; says what is new.
    pub fn look(&mut self, snapshot: &Snapshot) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs() as i64);
        for (name, left) in self.news(now, ends(snapshot)) {
            events::certificate_ends(&name, left);
        }
    }

    fn news<'a>(
        &mut self,
        now: i64,
        ends: impl Iterator<Item = (&'a str, i64)>,
    ) -> Vec<(String, Duration)> {
        let mut news = Vec::new();
        let mut current = HashSet::new();
        for (name, end) in ends {
            let left = Duration::from_secs(u64::try_from(end - now).unwrap_or(0));
            if left > SOON {
                continue;
            }
            let word = (name.to_owned(), end, left.is_zero());
            if !self.said.contains(&word) && current.insert(word.clone()) {
                news.push((name.to_owned(), left));
            }
            current.insert(word);
        }
        // What is gone may come again, and is then worth a word again.
        self.said = current;
        news
    }
}

fn ends(snapshot: &Snapshot) -> impl Iterator<Item = (&str, i64)> {
    let terms = snapshot
        .listeners
        .iter()
        .filter_map(|listener| listener.rules.tls.as_ref());
    terms
        .flat_map(|terms| &terms.certificates)
        .map(|certificate| (&*certificate.name, certificate.not_after))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn each_is_said_once_when_soon_and_once_when_over() {
        let mut expiry = Expiry::default();
        let ends = || [("a", 100 * DAY), ("b", 20 * DAY), ("b", 20 * DAY)].into_iter();
        let mut days = |day: i64| -> Vec<(String, u64)> {
            let news = expiry.news(day * DAY, ends());
            news.into_iter()
                .map(|(name, left)| (name, left.as_secs() / DAY as u64))
                .collect()
        };
        assert_eq!(days(5), []);
        assert_eq!(days(6), [("b".to_owned(), 14)]);
        assert_eq!(days(7), []);
        assert_eq!(days(20), [("b".to_owned(), 0)]);
        assert_eq!(days(21), []);
        assert_eq!(days(90), [("a".to_owned(), 10)]);
    }
}
