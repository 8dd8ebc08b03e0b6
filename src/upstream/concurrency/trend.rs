//! From window to window between dips: where does the latency want the limit?

use super::TOLERANCE;
use super::dip::Reason;
use super::round::Mean;

/// Latency this much over the base, in powers of two, is far over the knee.
const FAR: f64 = 2.0;
/// Latency this little over the base: there is no queue at all.
const NO_QUEUE: f64 = 0.15;
/// A limit of this share of the usual asks for a dip.
const SUSPICIOUS: f64 = 0.75;
/// A throughput that differs from the one before by more, in powers of two, has changed.
const CHANGED: f64 = 0.6;

#[derive(Debug, Clone, Copy)]
pub(super) struct Trend {
    /// The limit of late.
    usual: f64,
    /// Logarithm of the latency of late, while the limit was reached.
    pub recent: Option<f64>,
    /// Answers per millisecond of the saturated service, at the last dip.
    throughput: Option<f64>,
    /// Windows in a row that speak of another service than the last dip found.
    doubts: u32,
    /// Windows in a row without a queue.
    clear: u32,
    /// Windows in a row that were far over the knee.
    far: u32,
}

/// A window under a limit that was reached.
pub(super) struct Reached {
    pub mean: Mean,
    pub base: f64,
    pub limit: f64,
    /// Latency takes it no lower.
    pub least: f64,
    /// Somebody had to wait for it.
    pub held: bool,
    pub may_grow: bool,
    pub starting: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Verdict {
    pub limit: f64,
    pub dip: Option<Reason>,
}

impl Trend {
    pub fn new(limit: f64) -> Self {
        Trend {
            usual: limit,
            recent: None,
            throughput: None,
            doubts: 0,
            clear: 0,
            far: 0,
        }
    }

    /// There was no dip yet: the base may be that of a service that was overloaded from the start.
    pub fn is_unverified(&self) -> bool {
        self.throughput.is_none()
    }

    /// Signs of overload take the limit no lower, for now.
    pub fn least_under_drops(&self) -> f64 {
        self.usual / 4.0
    }

    pub fn dip_begins(&mut self, mean: Mean) {
        self.throughput = Some(mean.rate);
        self.doubts = 0;
    }

    pub fn dip_ended(&mut self, limit: f64, rate: f64) {
        self.throughput = Some(rate);
        self.recent = None;
        self.usual = limit;
    }

    pub fn judge(&mut self, seen: &Reached) -> Verdict {
        let &Reached { mean, limit, .. } = seen;
        self.recent = Some(match self.recent {
            Some(recent) => recent + (mean.log - recent) * 0.5,
            None => mean.log,
        });
        let slower = mean.log - seen.base;
        let faster = slower < -0.5 - mean.error;
        // Down is a matter of certainty, up is not.
        let over = slower - TOLERANCE.log2() - mean.error;
        let throughput = (mean.rate / self.throughput.unwrap_or(mean.rate)).log2();
        let lost = limit < self.usual * SUSPICIOUS || over > 0.0 && limit <= seen.least;
        let changed = seen.held && (faster || throughput.abs() > CHANGED);
        self.doubts = if lost || changed { self.doubts + 1 } else { 0 };
        let grows = seen.held && seen.may_grow;
        let verified = !self.is_unverified();
        if seen.starting && verified && over <= 0.0 && !faster {
            return Verdict {
                limit: if grows { limit * 2.0 } else { limit },
                dip: None,
            };
        }
        self.clear = if slower <= NO_QUEUE {
            self.clear + 1
        } else {
            0
        };
        let limit = if seen.starting && !verified {
            // Neither up nor down before it is known from where.
            limit
        } else if over > 0.0 {
            self.shrink(limit, slower, over).max(seen.least.min(limit))
        } else if grows {
            let step = (limit.sqrt() / 2.0).max(1.0) * f64::from(1 << self.clear.min(4));
            limit + step.min(limit / 2.0).max(1.0)
        } else {
            limit
        };
        self.usual += (limit - self.usual) * 0.1;
        let dip = if self.far > 1 && throughput < -CHANGED {
            Reason::Collapse
        } else if seen.starting || self.doubts > 1 {
            Reason::Doubt
        } else {
            Reason::Time
        };
        Verdict {
            limit,
            dip: Some(dip),
        }
    }

    fn shrink(&mut self, limit: f64, slower: f64, over: f64) -> f64 {
        self.far = if slower > FAR { self.far + 1 } else { 0 };
        let most = if self.far > 1 { 0.5 } else { 0.15 };
        limit * (-over).exp2().max(1.0 - most)
    }
}
