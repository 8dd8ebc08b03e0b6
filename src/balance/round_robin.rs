//! Each server in turn; one in slow start sits out turns in proportion.

/// Rounds after which every step of slow start has come out even.
const ROUNDS: u32 = 10;

/// The order as positions in `tenths`, which says for each server how many of ten turns it takes.
pub(super) fn order(tenths: &[u32]) -> Vec<u32> {
    let even = tenths.windows(2).all(|pair| pair[0] == pair[1]);
    let rounds = if even { ROUNDS - 1..ROUNDS } else { 0..ROUNDS };
    // Its turns are spread over the rounds: it takes one where its share reaches a whole number.
    let takes = |tenths: u32, round: u32| (round + 1) * tenths / ROUNDS > round * tenths / ROUNDS;
    rounds
        .flat_map(|round| {
            let turn = move |(_, tenths): &(usize, &u32)| takes(**tenths, round);
            tenths
                .iter()
                .enumerate()
                .filter(turn)
                .map(|(position, _)| position as u32)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_in_turn() {
        assert_eq!(order(&[10, 10, 10]), [0, 1, 2]);
        assert!(order(&[]).is_empty());
    }

    #[test]
    fn those_that_start_together_share_evenly() {
        assert_eq!(order(&[1, 1]), [0, 1]);
    }

    #[test]
    fn a_slow_start_takes_its_tenths_of_the_turns_spread_out() {
        for tenths in 1..=9 {
            let order = order(&[10, tenths]);
            assert_eq!(order.iter().filter(|&&position| position == 0).count(), 10);
            assert_eq!(
                order.iter().filter(|&&position| position == 1).count(),
                tenths as usize
            );
        }
        assert_eq!(
            order(&[10, 5]),
            [0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1]
        );
    }
}
