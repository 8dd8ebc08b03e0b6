//! The faster of two servers drawn by weight, where load counts as time (Finagle's peak-EWMA).

use crate::balance::Servers;
use crate::balance::candidates::Candidate;

/// Latency x (1 + in flight / weight); the one that costs less is taken, in a tie the first drawn.
/// `all` is who takes part: the latency of a server without samples is the mean of the others'. Its
/// load still counts, so that a burst does not all go to a newcomer.
pub(super) fn cost<S: Servers>(servers: &S, all: &[Candidate], candidate: Candidate) -> f64 {
    let latency = servers
        .latency(candidate.index)
        .unwrap_or_else(|| mean_of_others(servers, all, candidate));
    let load = f64::from(servers.in_flight(candidate.index)) / candidate.weight();
    latency * (1.0 + load)
}

/// Looked up only as long as a server has no samples. 1 when nobody has any: then load decides.
fn mean_of_others<S: Servers>(servers: &S, all: &[Candidate], candidate: Candidate) -> f64 {
    let others = all.iter().filter(|other| other.index != candidate.index);
    let (sum, count) = others
        .filter_map(|other| servers.latency(other.index))
        .fold((0.0, 0.0), |(sum, count), latency| {
            (sum + latency, count + 1.0)
        });
    if count > 0.0 { sum / count } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::testing::Fakes;

    /// Of the first two, as a pick that draws them in this order takes it.
    fn winner(latency: &[Option<f64>], in_flight: &[u32], shares: &[u32]) -> usize {
        let (latency, in_flight) = (latency.to_vec(), in_flight.to_vec());
        let servers = Fakes {
            latency,
            in_flight,
            ..Fakes::new(shares.len())
        };
        let numbered = shares.iter().enumerate();
        let all: Vec<Candidate> = numbered
            .map(|(index, &share)| Candidate { index, share })
            .collect();
        usize::from(cost(&servers, &all, all[1]) < cost(&servers, &all, all[0]))
    }

    #[test]
    fn the_faster_one_wins_until_its_load_makes_up_for_it() {
        let latency = [Some(0.010), Some(0.021)];
        assert_eq!(winner(&latency, &[0, 0], &[10, 10]), 0);
        assert_eq!(winner(&latency, &[1, 0], &[10, 10]), 0);
        assert_eq!(winner(&latency, &[2, 0], &[10, 10]), 1);
        assert_eq!(
            winner(&latency, &[2, 0], &[20, 10]),
            0,
            "twice the weight bears twice"
        );
    }

    #[test]
    fn a_tie_goes_to_the_first_drawn() {
        assert_eq!(winner(&[Some(0.01), Some(0.01)], &[3, 3], &[10, 10]), 0);
    }

    #[test]
    fn without_samples_it_costs_the_mean_of_the_others() {
        let latency = [None, Some(0.010), Some(0.030)];
        assert_eq!(
            winner(&latency, &[0, 0, 0], &[10, 10, 10]),
            1,
            "0.020 against 0.010"
        );
        let latency = [Some(0.030), None, Some(0.010)];
        assert_eq!(
            winner(&latency, &[0, 0, 0], &[10, 10, 10]),
            1,
            "0.020 against 0.030"
        );
    }

    #[test]
    fn when_nobody_has_samples_load_decides() {
        assert_eq!(winner(&[None, None], &[1, 0], &[10, 10]), 1);
        assert_eq!(winner(&[None, None], &[0, 0], &[10, 10]), 0);
    }
}
