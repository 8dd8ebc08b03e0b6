//! The less loaded of two servers drawn by weight (Mitzenmacher 2001, "The Power of Two Choices").

use crate::balance::Servers;
use crate::balance::candidates::Candidate;

/// The one with less in flight per weight; in a tie the first drawn.
pub(super) fn better<S: Servers>(servers: &S, first: Candidate, second: Candidate) -> Candidate {
    let in_flight = |candidate: Candidate| u64::from(servers.in_flight(candidate.index));
    // a / x > b / y without division.
    let first_load = in_flight(first) * u64::from(second.share);
    let second_load = in_flight(second) * u64::from(first.share);
    if second_load < first_load {
        second
    } else {
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::Fakes;

    fn winner(in_flight: [u32; 2], shares: [u32; 2]) -> usize {
        let servers = Fakes {
            in_flight: in_flight.to_vec(),
            ..Fakes::new(2)
        };
        let candidate = |index: usize| Candidate {
            index,
            share: shares[index],
        };
        better(&servers, candidate(0), candidate(1)).index
    }

    #[test]
    fn less_in_flight_per_weight_wins() {
        assert_eq!(winner([3, 2], [10, 10]), 1);
        assert_eq!(winner([3, 2], [20, 10]), 0);
        assert_eq!(winner([u32::MAX, u32::MAX - 1], [10_000, 10_000]), 1);
    }

    #[test]
    fn a_tie_goes_to_the_first_drawn() {
        assert_eq!(winner([0, 0], [1, 9]), 0);
        assert_eq!(winner([4, 2], [20, 10]), 0);
    }
}
