//! The order of Nginx's smooth weighted round robin, for one whole period.
//!
//! Nginx keeps a number per server; each pick adds every server's weight to its number, takes the
//! first server with the greatest and subtracts the sum of all weights from that one (commit
//! 52327e062, `ngx_http_upstream_get_peer`). After sum / gcd picks all numbers are zero again, so
//! the order of one period says everything, and a pick becomes a look-up.
//!
//! Before pick `t` the number of a server that was taken `c` times is `weight * t - sum * c`: a line
//! over `t` that drops when its server is taken. The greatest of `n` lines is kept in a tournament
//! whose nodes know when their winner will be overtaken (a kinetic tournament, Basch, Guibas and
//! Hershberger 1997), so a period of `p` picks costs about `p log n` instead of `p n`.

/// The longest order that is kept; a longer one is made from scaled weights.
pub const LONGEST_PERIOD: u64 = 65_536;

/// Entries of one period under `smooth-weighted`: the sum of the weights over their greatest common
/// divisor. Over [`LONGEST_PERIOD`] it is approximated by scaled weights.
pub fn period(weights: &[u32]) -> u64 {
    let weights = weights.iter().map(|&weight| u64::from(weight));
    match weights.clone().fold(0, gcd) {
        0 => 0,
        divisor => weights.sum::<u64>() / divisor,
    }
}

/// The order of one period as positions in `weights`; none of these may be 0.
pub fn order(weights: &[u32]) -> Vec<u32> {
    let weights = reduced(weights);
    let length: i64 = weights.iter().sum();
    let mut tournament = Tournament::new(weights, length);
    (1..=length).map(|time| tournament.take(time)).collect()
}

/// Divided by their common divisor and, if the period is too long, scaled to the longest.
fn reduced(weights: &[u32]) -> Vec<i64> {
    let weights: Vec<u64> = weights.iter().map(|&weight| u64::from(weight)).collect();
    let divided = divide(&weights);
    let sum: u64 = divided.iter().sum();
    let fitting = if sum > LONGEST_PERIOD {
        divide(&scaled(&divided, sum))
    } else {
        divided
    };
    fitting.into_iter().map(|weight| weight as i64).collect()
}

/// Each gets its share of [`LONGEST_PERIOD`] rounded down, at least 1, and those that lost most by
/// rounding get what is left over.
fn scaled(weights: &[u64], sum: u64) -> Vec<u64> {
    let mut scaled: Vec<u64> = weights
        .iter()
        .map(|weight| (weight * LONGEST_PERIOD / sum).max(1))
        .collect();
    let left = LONGEST_PERIOD.saturating_sub(scaled.iter().sum());
    let rounded_down = |&position: &usize| weights[position] * LONGEST_PERIOD >= sum;
    let mut losers: Vec<usize> = (0..weights.len()).filter(rounded_down).collect();
    losers.sort_by_key(|&position| {
        (
            std::cmp::Reverse(weights[position] * LONGEST_PERIOD % sum),
            position,
        )
    });
    for position in losers.into_iter().take(left as usize) {
        scaled[position] += 1;
    }
    scaled
}

fn divide(weights: &[u64]) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    weights.iter().map(|weight| weight / divisor).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// No winner in this part of the tournament.
const NOBODY: usize = usize::MAX;
const NEVER: i64 = i64::MAX;

struct Tournament {
    weights: Vec<i64>,
    /// What each line has lost by being taken.
    lost: Vec<i64>,
    sum: i64,
    leaves: usize,
    /// A heap-shaped tree: the children of `n` are `2n` and `2n + 1`.
    nodes: Vec<Node>,
}

#[derive(Clone, Copy)]
struct Node {
    winner: usize,
    /// The first time at which a winner in this part changes.
    until: i64,
}

impl Tournament {
    fn new(weights: Vec<i64>, sum: i64) -> Tournament {
        let leaves = weights.len().next_power_of_two();
        let mut nodes = vec![
            Node {
                winner: NOBODY,
                until: NEVER
            };
            2 * leaves
        ];
        for position in 0..weights.len() {
            nodes[leaves + position].winner = position;
        }
        let lost = vec![0; weights.len()];
        let mut tournament = Tournament {
            weights,
            lost,
            sum,
            leaves,
            nodes,
        };
        for node in (1..leaves).rev() {
            tournament.play(node, 1);
        }
        tournament
    }

    /// The server of pick `time`; times are asked for one after the other, from 1.
    fn take(&mut self, time: i64) -> u32 {
        self.advance(1, time);
        let winner = self.nodes[1].winner;
        self.lost[winner] += self.sum;
        let mut node = (self.leaves + winner) / 2;
        while node > 0 {
            self.play(node, time);
            node /= 2;
        }
        winner as u32
    }

    /// Replays what has changed by `time`.
    fn advance(&mut self, node: usize, time: i64) {
        if self.nodes[node].until > time {
            return;
        }
        self.advance(2 * node, time);
        self.advance(2 * node + 1, time);
        self.play(node, time);
    }

    fn play(&mut self, node: usize, time: i64) {
        let (left, right) = (self.nodes[2 * node], self.nodes[2 * node + 1]);
        let mut until = left.until.min(right.until);
        let mut winner = left.winner;
        // Positions on the left are lower: in a tie the left one is first.
        if right.winner != NOBODY {
            let lead = self.number(left.winner, time) - self.number(right.winner, time);
            let gain = self.weights[right.winner] - self.weights[left.winner];
            if lead >= 0 && gain > 0 {
                until = until.min(time + lead / gain + 1);
            }
            if lead < 0 {
                winner = right.winner;
                if gain < 0 {
                    until = until.min(time + (-lead + -gain - 1) / -gain);
                }
            }
        }
        self.nodes[node] = Node { winner, until };
    }

    fn number(&self, position: usize, time: i64) -> i64 {
        self.weights[position] * time - self.lost[position]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, line by line: nginx's `ngx_http_upstream_get_peer` without failures.
    fn nginx(weights: &[u32], picks: usize) -> Vec<u32> {
        let total: i64 = weights.iter().map(|&weight| i64::from(weight)).sum();
        let mut current = vec![0_i64; weights.len()];
        (0..picks)
            .map(|_| {
                let mut best: Option<usize> = None;
                for position in 0..weights.len() {
                    current[position] += i64::from(weights[position]);
                    if best.is_none_or(|best| current[position] > current[best]) {
                        best = Some(position);
                    }
                }
                let best = best.unwrap();
                current[best] -= total;
                best as u32
            })
            .collect()
    }

    fn letters(weights: &[u32]) -> String {
        order(weights)
            .into_iter()
            .map(|position| (b'a' + position as u8) as char)
            .collect()
    }

    #[test]
    fn known_sequences() {
        assert_eq!(letters(&[5, 1, 1]), "aabacaa");
        assert_eq!(letters(&[3, 1]), "aaba");
        assert_eq!(letters(&[6, 4]), "ababa");
        assert_eq!(letters(&[4, 2, 1]), "abacaba");
        assert_eq!(letters(&[10, 10, 10]), "abc");
        assert_eq!(letters(&[50, 30, 20]).len(), 10);
        assert_eq!(letters(&[7]), "a");
        assert_eq!(letters(&[]), "");
    }

    #[test]
    fn periods() {
        assert_eq!(period(&[]), 0);
        assert_eq!(period(&[0, 0]), 0);
        assert_eq!(period(&[0, 4, 6]), 5);
        assert_eq!(period(&[1_000; 500]), 500);
        assert_eq!(period(&[1_000, 999]), 1_999);
    }

    proptest! {
        #[test]
        fn the_order_is_nginx_s(weights in prop::collection::vec(1_u32..=1_000, 1..30)) {
            let order = order(&weights);
            prop_assert_eq!(order.len() as u64, period(&weights));
            prop_assert_eq!(&order, &nginx(&weights, order.len()));
        }

        #[test]
        fn the_order_is_nginx_s_with_many_ties(weights in prop::collection::vec(1_u32..=4, 1..80)) {
            let order = order(&weights);
            prop_assert_eq!(&order, &nginx(&weights, order.len()));
        }

        #[test]
        fn counts_of_a_period_are_the_weights(weights in prop::collection::vec(1_u32..=50, 1..20)) {
            let divisor = weights.iter().fold(0, |a, &b| gcd(a, u64::from(b))) as usize;
            let order = order(&weights);
            for (position, &weight) in weights.iter().enumerate() {
                let count = order.iter().filter(|&&taken| taken as usize == position).count();
                prop_assert_eq!(count * divisor, weight as usize);
            }
        }

        #[test]
        fn too_long_a_period_keeps_the_shares(
            weights in prop::collection::vec(1_u32..=10_000, 40..200),
        ) {
            let sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            prop_assume!(period(&weights) > LONGEST_PERIOD);
            let reduced = reduced(&weights);
            let length: i64 = reduced.iter().sum();
            prop_assert!(length as u64 <= LONGEST_PERIOD + weights.len() as u64);
            for (&weight, &now) in weights.iter().zip(&reduced) {
                let exact = f64::from(weight) * LONGEST_PERIOD as f64 / sum as f64;
                prop_assert!(now >= 1 && (now as f64 - exact).abs() <= 1.0, "{} {}", now, exact);
            }
        }
    }

    #[test]
    fn the_longest_order_is_nginx_s_for_its_scaled_weights() {
        let weights: Vec<u32> = (0..300)
            .map(|position| 1 + position * 7919 % 10_000)
            .collect();
        let reduced: Vec<u32> = reduced(&weights)
            .iter()
            .map(|&weight| weight as u32)
            .collect();
        let order = order(&weights);
        assert!(order.len() as u64 <= LONGEST_PERIOD);
        assert_eq!(order, nginx(&reduced, order.len()));
    }
}
