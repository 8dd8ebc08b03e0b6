//! The less loaded of two servers drawn by weight (Mitzenmacher 2001, "The Power of Two Choices").

use crate::balance::Servers;
use crate::balance::candidates::Candidate;

/// In flight per weight; the one that costs less is taken, in a tie the first drawn.
///
/// Two equal ratios give the same number, because division rounds correctly: ties are found.
pub(super) fn cost<S: Servers>(servers: &S, candidate: Candidate) -> f64 {
    f64::from(servers.in_flight(candidate.index)) / f64::from(candidate.share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::Fakes;

    fn costs(in_flight: [u32; 2], shares: [u32; 2]) -> [f64; 2] {
        let servers = Fakes {
            in_flight: in_flight.to_vec(),
            ..Fakes::new(2)
        };
        [0, 1].map(|index| {
            cost(
                &servers,
                Candidate {
                    index,
                    share: shares[index],
                },
            )
        })
    }

    #[test]
    fn less_in_flight_per_weight_costs_less() {
        let [first, second] = costs([3, 2], [10, 10]);
        assert!(second < first);
        let [first, second] = costs([3, 2], [20, 10]);
        assert!(first < second);
        let [first, second] = costs([u32::MAX, u32::MAX - 1], [10_000, 10_000]);
        assert!(second < first);
    }

    #[test]
    fn equal_ratios_are_a_tie() {
        for times in 1..1_000 {
            let [first, second] = costs([7, 7 * times], [3, 3 * times]);
            assert!(first == second, "7/3 and {times} times that");
        }
    }
}
