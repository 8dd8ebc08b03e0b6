//! One task per name: ask, tell, wait for the TTL, ask again.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::config::model::ServerAddress;
use crate::telemetry::ResolveResult;
use crate::upstream::resolve::Told;
use crate::upstream::resolve::names::Source;

/// Also how often a name with a TTL of 0 is asked for.
const SHORTEST: Duration = Duration::from_secs(1);
/// A TTL of days is no reason to miss a move for days.
const LONGEST: Duration = Duration::from_secs(300);
/// After a failure, at first and at most: a name server that is back is noticed in seconds, and a
/// question in five seconds is nothing to it.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// No question goes on for longer, whatever the resolver does.
const LONGEST_QUESTION: Duration = Duration::from_secs(15);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// In any order, maybe with repetitions; empty is a failure.
    pub told: Vec<Told>,
    pub ttl: Duration,
}

/// No answer, or one that there is nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Never [`ResolveResult::Success`].
    pub result: ResolveResult,
    /// For people.
    pub cause: Arc<str>,
}

/// Asks for a name; [`super::SystemResolver`] or a test's script.
pub trait Lookup: Send + Sync + 'static {
    fn lookup(&self, name: &ServerAddress) -> impl Future<Output = Result<Answer, Trouble>> + Send;
}

/// Keeps `source` at what its name resolves to, from now on, until aborted. Call it on the control
/// runtime.
pub fn spawn<L: Lookup>(lookup: Arc<L>, source: Arc<Source>) -> AbortHandle {
    tokio::spawn(async move {
        let mut failures = 0;
        loop {
            let asked = timeout(LONGEST_QUESTION, lookup.lookup(source.name())).await;
            let asked = asked.unwrap_or_else(|_| {
                Err(Trouble {
                    result: ResolveResult::Timeout,
                    cause: "no answer in time".into(),
                })
            });
            let wait = match asked.and_then(not_empty) {
                Ok(answer) => {
                    failures = 0;
                    let ttl = answer.ttl.clamp(SHORTEST, LONGEST);
                    source.answered(answer);
                    ttl
                }
                Err(trouble) => {
                    source.failed(trouble);
                    failures += 1;
                    backoff(failures)
                }
            };
            let wait = jittered(wait);
            source.asks_again(Instant::now() + wait);
            sleep(wait).await;
        }
    })
    .abort_handle()
}

fn not_empty(answer: Answer) -> Result<Answer, Trouble> {
    match answer.told.is_empty() {
        false => Ok(answer),
        true => Err(Trouble {
            result: ResolveResult::Empty,
            cause: "the name has no address".into(),
        }),
    }
}

fn backoff(failures: u32) -> Duration {
    (SHORTEST_BACKOFF * 2u32.saturating_pow(failures.saturating_sub(1).min(8))).min(LONGEST_BACKOFF)
}

/// Up to a tenth later, never earlier: an answer is asked for again when it has run out, and
/// many names not at the same moment.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + fastrand::f64() / 10.0)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use super::*;
    use crate::telemetry::Metrics;
    use crate::upstream::resolve::Says;

    /// Answers in turn, the last one for ever; notes when it was asked.
    struct Script {
        answers: Mutex<VecDeque<Result<Answer, Trouble>>>,
        asked: Mutex<Vec<Instant>>,
    }

    impl Script {
        fn new(answers: impl IntoIterator<Item = Result<Answer, Trouble>>) -> Arc<Self> {
            Arc::new(Script {
                answers: Mutex::new(answers.into_iter().collect()),
                asked: Mutex::new(Vec::new()),
            })
        }

        fn asked(&self) -> Vec<Instant> {
            self.asked.lock().expect("no panic holds it").clone()
        }
    }

    impl Lookup for Script {
        async fn lookup(&self, _name: &ServerAddress) -> Result<Answer, Trouble> {
            self.asked
                .lock()
                .expect("no panic holds it")
                .push(Instant::now());
            let mut answers = self.answers.lock().expect("no panic holds it");
            let answer = answers.front().cloned().expect("a script has an answer");
            if answers.len() > 1 {
                answers.pop_front();
            }
            answer
        }
    }

    /// Never answers.
    struct Silent;

    impl Lookup for Silent {
        async fn lookup(&self, _name: &ServerAddress) -> Result<Answer, Trouble> {
            std::future::pending().await
        }
    }

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn found(last: &[u8], ttl: u64) -> Result<Answer, Trouble> {
        Ok(Answer {
            told: last.iter().map(|last| Told::plain(at(*last))).collect(),
            ttl: Duration::from_secs(ttl),
        })
    }

    fn trouble(result: ResolveResult) -> Result<Answer, Trouble> {
        Err(Trouble {
            result,
            cause: "the cause".into(),
        })
    }

    fn source() -> Arc<Source> {
        Source::alone(&ServerAddress::Name("app".into(), 80), &Metrics::new(1))
    }

    fn known(source: &Source) -> Vec<SocketAddr> {
        match &*source.says() {
            Says::Known(told) => told.iter().map(|told| told.at).collect(),
            _ => Vec::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_again_when_its_ttl_has_passed() {
        let script = Script::new([found(&[1], 20), found(&[2], 20)]);
        let source = source();
        let task = spawn(script.clone(), source.clone());
        sleep(Duration::from_secs(19)).await;
        assert_eq!(script.asked().len(), 1);
        assert_eq!(known(&source), [at(1)]);
        sleep(Duration::from_secs(4)).await;
        assert_eq!(script.asked().len(), 2);
        assert_eq!(known(&source), [at(2)]);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_ttl_of_zero_or_days_is_bounded() {
        for (ttl, gap) in [(0, 1..2), (86_400, 300..331)] {
            let script = Script::new([found(&[1], ttl)]);
            let task = spawn(script.clone(), source());
            sleep(Duration::from_secs(1000)).await;
            let asked = script.asked();
            for pair in asked.windows(2) {
                let apart = (pair[1] - pair[0]).as_secs();
                assert!(
                    gap.contains(&apart),
                    "asked again after {apart}s with a TTL of {ttl}s"
                );
            }
            task.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_keep_the_last_answer_however_long() {
        for result in [
            ResolveResult::NotFound,
            ResolveResult::Empty,
            ResolveResult::Timeout,
            ResolveResult::Refused,
            ResolveResult::Failure,
        ] {
            let script = Script::new([found(&[1], 1), trouble(result)]);
            let source = source();
            let task = spawn(script.clone(), source.clone());
            sleep(Duration::from_secs(100_000)).await;
            assert_eq!(known(&source), [at(1)], "{result:?}");
            let asked = script.asked();
            let apart = asked[asked.len() - 1] - asked[asked.len() - 2];
            assert!((5.0..=5.5).contains(&apart.as_secs_f64()), "{apart:?}");
            task.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_server_that_is_back_is_noticed_within_seconds() {
        let failures = std::iter::repeat_n(trouble(ResolveResult::Failure), 200);
        let script = Script::new(failures.chain([found(&[1], 60)]));
        let source = source();
        let task = spawn(script.clone(), source.clone());
        while known(&source).is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
        let asked = script.asked();
        assert!(asked[200] - asked[199] <= Duration::from_millis(5500));
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_is_never_answered_ends() {
        let source = source();
        let task = spawn(Arc::new(Silent), source.clone());
        sleep(LONGEST_QUESTION + Duration::from_secs(1)).await;
        assert!(matches!(&*source.says(), Says::Missing(cause) if **cause == *"no answer in time"));
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn before_the_first_answer_a_name_server_is_waited_for_and_a_no_is_taken() {
        let failing = source();
        let script = Script::new([trouble(ResolveResult::Refused)]);
        let task = spawn(script, failing.clone());
        sleep(Duration::from_secs(3)).await;
        assert_eq!(*failing.says(), Says::Pending, "it may be back in a moment");
        sleep(Duration::from_secs(10)).await;
        assert!(matches!(&*failing.says(), Says::Missing(_)));
        task.abort();
        let missing = source();
        let script = Script::new([trouble(ResolveResult::NotFound), found(&[1], 9)]);
        let task = spawn(script, missing.clone());
        sleep(Duration::from_millis(100)).await;
        assert!(matches!(&*missing.says(), Says::Missing(_)));
        sleep(Duration::from_secs(1)).await;
        assert_eq!(known(&missing), [at(1)]);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_decidedly_gone_is_gone() {
        let script = Script::new([found(&[1], 1), trouble(ResolveResult::Unavailable)]);
        let source = source();
        let task = spawn(script, source.clone());
        sleep(Duration::from_secs(3)).await;
        assert!(matches!(&*source.says(), Says::Missing(_)));
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_another_order_or_with_repetitions_is_the_same() {
        let script = Script::new([found(&[2, 1], 1), found(&[1, 2, 1], 1)]);
        let source = source();
        let task = spawn(script, source.clone());
        sleep(Duration::from_millis(100)).await;
        let first = source.says();
        sleep(Duration::from_secs(5)).await;
        assert!(Arc::ptr_eq(&first, &source.says()));
        assert_eq!(known(&source), [at(1), at(2)]);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_those_in_use_stay() {
        let many = |range: std::ops::Range<u16>| {
            let told = range.map(|n| Told::plain(([10, 1, (n >> 8) as u8, n as u8], 80).into()));
            Ok(Answer {
                told: told.collect(),
                ttl: Duration::from_secs(1),
            })
        };
        let script = Script::new([many(1000..1256), many(0..4000)]);
        let source = source();
        let task = spawn(script, source.clone());
        sleep(Duration::from_millis(100)).await;
        let first = source.says();
        sleep(Duration::from_secs(5)).await;
        assert_eq!(source.says(), first);
        assert_eq!(source.view(Instant::now()).left_out, 4000 - 256);
        task.abort();
    }
}
