use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use proptest::prelude::*;

use super::testing::{Fakes, entries, entry};
use super::*;
use crate::config::model::HashKey;

const HASH: Balance = Balance::Hash(HashKey::ClientIp);
const ALL: [Balance; 6] = [
    Balance::Random,
    Balance::RoundRobin,
    Balance::SmoothWeighted,
    Balance::LeastRequests,
    Balance::PeakEwma,
    HASH,
];

fn build(policy: &Balance, entries: &[Entry]) -> Picker {
    Picker::build(policy, entries, Start::Beginning)
}

fn first<S: Servers>(picker: &Picker, servers: &S, random: &mut Random) -> Option<usize> {
    picker.pick(
        &Pick {
            servers,
            first_attempt: true,
            hash: None,
        },
        random,
    )
}

fn retry<S: Servers>(picker: &Picker, servers: &S, random: &mut Random) -> Option<usize> {
    picker.pick(
        &Pick {
            servers,
            first_attempt: false,
            hash: None,
        },
        random,
    )
}

/// How often each of `count` servers is taken by `picks` first attempts.
fn counts(picker: &Picker, servers: &Fakes, picks: usize) -> Vec<usize> {
    let mut random = Random::seeded(11);
    let mut counts = vec![0; servers.admits.len()];
    for _ in 0..picks {
        counts[first(picker, servers, &mut random).unwrap()] += 1;
    }
    counts
}

/// Pearson's statistic; its mean is the number of categories less one.
fn chi_square(counts: &[usize], chances: &[f64]) -> f64 {
    let total: usize = counts.iter().sum();
    counts
        .iter()
        .zip(chances)
        .map(|(&count, chance)| {
            let expected = chance * total as f64;
            (count as f64 - expected).powi(2) / expected
        })
        .sum()
}

fn letters(picker: &Picker, servers: &Fakes, picks: usize) -> String {
    let mut random = Random::seeded(1);
    let mut letter = || (b'a' + first(picker, servers, &mut random).unwrap() as u8) as char;
    (0..picks).map(|_| letter()).collect()
}

#[test]
fn first_attempts_follow_nginx_over_periods() {
    let picker = build(&Balance::SmoothWeighted, &entries(&[5, 1, 1]));
    assert_eq!(letters(&picker, &Fakes::new(3), 14), "aabacaaaabacaa");
    let picker = build(&Balance::SmoothWeighted, &entries(&[4, 2, 1]));
    assert_eq!(letters(&picker, &Fakes::new(3), 7), "abacaba");
}

#[test]
fn retries_never_move_the_order() {
    for policy in [Balance::SmoothWeighted, Balance::RoundRobin] {
        let picker = build(&policy, &entries(&[1, 1, 1]));
        let (servers, mut random) = (Fakes::new(3), Random::seeded(1));
        for expected in [0, 1, 2, 0, 1, 2] {
            for _ in 0..5 {
                retry(&picker, &servers, &mut random).unwrap();
            }
            assert_eq!(first(&picker, &servers, &mut random), Some(expected));
        }
    }
}

#[test]
fn counts_are_exact_over_whole_periods_of_racing_threads() {
    let weights = [5, 3, 1, 7, 0, 2];
    for policy in [Balance::SmoothWeighted, Balance::RoundRobin] {
        let picker = Picker::build(&policy, &entries(&weights), Start::Random(1234));
        let taken: Vec<AtomicU64> = weights.iter().map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for seed in 0..16 {
                let (picker, taken) = (&picker, &taken);
                scope.spawn(move || {
                    let (servers, mut random) = (Fakes::new(6), Random::seeded(seed));
                    for _ in 0..18 * 5 * 10 {
                        let index = first(picker, &servers, &mut random).unwrap();
                        taken[index].fetch_add(1, SeqCst);
                    }
                });
            }
        });
        for (weight, taken) in weights.into_iter().zip(&taken) {
            let even = u64::from(weight.min(1)) * 16 * 18 * 10;
            let weighted = u64::from(weight) * 16 * 5 * 10;
            let exact = if policy == Balance::RoundRobin {
                even
            } else {
                weighted
            };
            assert_eq!(
                taken.load(SeqCst),
                exact,
                "weight {weight} under {policy:?}"
            );
        }
    }
}

#[test]
fn one_of_three_out_of_rotation_leaves_one_to_one() {
    let mut entries = entries(&[1, 1, 1]);
    let picker = build(&Balance::SmoothWeighted, &entries);
    entries[0].standing = Standing::Out;
    let picker = picker
        .rebuilt(&Balance::SmoothWeighted, &entries, 5)
        .unwrap();
    assert_eq!(counts(&picker, &Fakes::new(3), 1_000), [0, 500, 500]);
}

#[test]
fn a_turn_that_is_not_admitted_is_passed_on() {
    let picker = build(&Balance::SmoothWeighted, &entries(&[1, 1, 1]));
    let servers = Fakes {
        admits: vec![true, false, true],
        ..Fakes::new(3)
    };
    assert_eq!(letters(&picker, &servers, 6), "acacac");
}

#[test]
fn after_nine_turns_in_vain_it_draws() {
    let mut weights = vec![1; 40];
    weights[39] = 3;
    let picker = build(&Balance::SmoothWeighted, &entries(&weights));
    let mut servers = Fakes {
        admits: vec![false; 40],
        ..Fakes::new(40)
    };
    let mut random = Random::seeded(3);
    assert_eq!(first(&picker, &servers, &mut random), None);
    servers.admits[38] = true;
    for _ in 0..200 {
        assert_eq!(first(&picker, &servers, &mut random), Some(38));
    }
}

#[test]
fn slow_start_takes_its_tenths() {
    for policy in [Balance::SmoothWeighted, Balance::RoundRobin] {
        let mut entries = entries(&[1, 1, 1]);
        for tenths in 1..=10 {
            entries[1].tenths = tenths;
            let picker = build(&policy, &entries);
            let period = 20 + tenths as usize;
            let counts = counts(&picker, &Fakes::new(3), period * 10);
            assert_eq!(counts, [100, tenths as usize * 10, 100], "{policy:?}");
        }
    }
}

#[test]
fn a_rebuilt_order_starts_anywhere_and_the_first_at_its_beginning() {
    let even = entries(&[1, 1, 1, 1]);
    let mut fewer = even.clone();
    fewer[3].weight = 0;
    for policy in [Balance::SmoothWeighted, Balance::RoundRobin] {
        let picker = build(&policy, &even);
        assert_eq!(letters(&picker, &Fakes::new(4), 4), "abcd");
        let starts: Vec<String> = (0..3)
            .map(|seed| picker.rebuilt(&policy, &fewer, seed).unwrap())
            .map(|rebuilt| letters(&rebuilt, &Fakes::new(4), 3))
            .collect();
        assert_eq!(starts, ["abc", "bca", "cab"]);
    }
}

#[test]
fn nothing_is_rebuilt_when_nothing_that_counts_changed() {
    for policy in ALL {
        let mut entries = entries(&[3, 2, 1, 0]);
        entries[0].standing = Standing::HalfOpen;
        let picker = build(&policy, &entries);
        entries[0].standing = Standing::InRotation;
        assert!(
            picker.rebuilt(&policy, &entries, 1).is_none(),
            "a closed breaker: {policy:?}"
        );
        entries.push(entry("10.0.0.9:80", 0));
        assert!(
            picker.rebuilt(&policy, &entries, 1).is_none(),
            "weight 0: {policy:?}"
        );
        entries[1].standing = Standing::Out;
        assert!(
            picker.rebuilt(&policy, &entries, 1).is_some(),
            "one is out: {policy:?}"
        );
        for other in ALL.iter().filter(|other| **other != policy) {
            assert!(
                picker.rebuilt(other, &entries, 1).is_some(),
                "{policy:?} to {other:?}"
            );
        }
    }
}

#[test]
fn the_order_goes_on_when_only_indices_move() {
    let mut before = entries(&[1, 1, 1, 1]);
    before[0].standing = Standing::Out;
    let picker = build(&Balance::SmoothWeighted, &before);
    assert_eq!(letters(&picker, &Fakes::new(4), 4), "bcdb");
    let rebuilt = picker
        .rebuilt(&Balance::SmoothWeighted, &before[1..], 1)
        .unwrap();
    assert_eq!(
        letters(&rebuilt, &Fakes::new(3), 4),
        "bcab",
        "c is now the second of three"
    );
    let picker = build(&HASH, &before);
    let rebuilt = picker.rebuilt(&HASH, &before[..3], 1).unwrap();
    assert!(rebuilt.rebuilt(&HASH, &before[..3], 1).is_none());
}

#[test]
fn every_policy_takes_only_who_admits_and_never_invents() {
    for policy in ALL {
        let entries = entries(&[3, 0, 2, 1]);
        let picker = build(&policy, &entries);
        let mut random = Random::seeded(9);
        for bits in 0..16_u32 {
            let admits: Vec<bool> = (0..4).map(|index| bits >> index & 1 == 1).collect();
            let possible = admits[0] || admits[2] || admits[3];
            let servers = Fakes {
                admits: admits.clone(),
                ..Fakes::new(4)
            };
            for picked in [
                first(&picker, &servers, &mut random),
                retry(&picker, &servers, &mut random),
            ] {
                assert_eq!(picked.is_some(), possible, "{policy:?} {admits:?}");
                assert!(
                    picked.is_none_or(|index| admits[index] && index != 1),
                    "{policy:?}"
                );
            }
        }
    }
}

#[test]
fn every_policy_uses_backups_only_when_no_other_is_in_rotation() {
    for policy in ALL {
        let mut entries = entries(&[1, 1, 1]);
        entries[2].backup = true;
        let (servers, mut random) = (Fakes::new(3), Random::seeded(2));
        let picker = build(&policy, &entries);
        for _ in 0..100 {
            assert_ne!(first(&picker, &servers, &mut random), Some(2), "{policy:?}");
        }
        entries[0].standing = Standing::Out;
        entries[1].standing = Standing::Out;
        let picker = picker
            .rebuilt(&policy, &entries, 0)
            .expect("the backup takes part now");
        let gone = Fakes {
            admits: vec![false, false, true],
            ..Fakes::new(3)
        };
        for _ in 0..100 {
            assert_eq!(first(&picker, &gone, &mut random), Some(2), "{policy:?}");
        }
        entries[1].standing = Standing::InRotation;
        let picker = picker
            .rebuilt(&policy, &entries, 0)
            .expect("the backup leaves");
        let back = Fakes {
            admits: vec![false, true, true],
            ..Fakes::new(3)
        };
        for _ in 0..100 {
            assert_eq!(first(&picker, &back, &mut random), Some(1), "{policy:?}");
        }
    }
}

#[test]
fn no_servers_is_no_panic() {
    for policy in ALL {
        let picker = build(&policy, &[]);
        assert!(picker.is_empty());
        assert_eq!(first(&picker, &Fakes::new(0), &mut Random::seeded(1)), None);
        assert!(picker.chances(&Fakes::new(0), None, 0).is_empty());
    }
}

#[test]
fn random_follows_the_weights() {
    let weights = [1, 2, 3, 10, 0, 84];
    let picker = build(&Balance::Random, &entries(&weights));
    let counts = counts(&picker, &Fakes::new(6), 100_000);
    assert_eq!(counts[4], 0);
    let chances = [0.01, 0.02, 0.03, 0.10, 0.84];
    let statistic = chi_square(&[&counts[..4], &counts[5..]].concat(), &chances);
    // 99.9% quantile with 4 degrees of freedom.
    assert!(statistic < 18.5, "{statistic} for {counts:?}");
}

#[test]
fn retries_follow_the_weights_of_who_is_left() {
    let picker = build(&Balance::SmoothWeighted, &entries(&[90, 5, 3, 2]));
    let servers = Fakes {
        admits: vec![false, true, true, true],
        ..Fakes::new(4)
    };
    let mut random = Random::seeded(21);
    let mut counts = [0; 4];
    for _ in 0..50_000 {
        counts[retry(&picker, &servers, &mut random).unwrap()] += 1;
    }
    let statistic = chi_square(&counts[1..], &[0.5, 0.3, 0.2]);
    // 99.9% quantile with 2 degrees of freedom.
    assert!(
        counts[0] == 0 && statistic < 13.8,
        "{statistic} for {counts:?}"
    );
}

#[test]
fn two_choices_follow_their_exact_chances() {
    let weights = [1, 2, 3, 4];
    for policy in [Balance::LeastRequests, Balance::PeakEwma] {
        let picker = build(&policy, &entries(&weights));
        let latency = [0.01, 0.02, 0.03, 0.02].map(Some).to_vec();
        let servers = Fakes {
            in_flight: vec![3, 4, 5, 9],
            latency,
            ..Fakes::new(4)
        };
        let chances = picker.chances(&servers, None, 4);
        assert!((chances.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        let counts = counts(&picker, &servers, 100_000);
        let likely = |index: &usize| chances[*index] > 0.0;
        let (seen, expected): (Vec<usize>, Vec<f64>) = (0..4)
            .filter(likely)
            .map(|index| (counts[index], chances[index]))
            .unzip();
        assert_eq!(
            seen.iter().sum::<usize>(),
            100_000,
            "no impossible one was taken"
        );
        let statistic = chi_square(&seen, &expected);
        // 99.9% quantile with 3 degrees of freedom.
        assert!(statistic < 16.3, "{policy:?}: {statistic} for {counts:?}");
    }
}

#[test]
fn least_requests_without_load_follows_the_weights() {
    // In a tie the first drawn is taken, and that one is drawn by weight.
    let picker = build(&Balance::LeastRequests, &entries(&[1, 1, 8]));
    let counts = counts(&picker, &Fakes::new(3), 50_000);
    let statistic = chi_square(&counts, &[0.1, 0.1, 0.8]);
    assert!(statistic < 13.8, "{statistic} for {counts:?}");
}

#[test]
fn least_requests_keeps_load_in_proportion_to_weight() {
    let picker = build(&Balance::LeastRequests, &entries(&[1, 2, 5]));
    let (mut servers, mut random) = (Fakes::new(3), Random::seeded(4));
    for _ in 0..8_000 {
        let index = first(&picker, &servers, &mut random).unwrap();
        servers.in_flight[index] += 1;
    }
    for (in_flight, weight) in servers.in_flight.iter().zip([1, 2, 5]) {
        let exact = f64::from(weight) * 1_000.0;
        assert!(
            (f64::from(*in_flight) - exact).abs() < exact * 0.05,
            "{:?}",
            servers.in_flight
        );
    }
}

#[test]
fn chances_are_what_is_promised() {
    let even = |chances: Vec<f64>| {
        chances
            .iter()
            .all(|chance| (chance - 1.0 / 3.0).abs() < 0.01)
    };
    for policy in ALL {
        let picker = build(&policy, &entries(&[7, 7, 7]));
        assert!(even(picker.chances(&Fakes::new(3), None, 3)), "{policy:?}");
        let none = Fakes {
            admits: vec![false; 3],
            ..Fakes::new(3)
        };
        assert_eq!(picker.chances(&none, None, 3), [0.0; 3], "{policy:?}");
        let one = Fakes {
            admits: vec![false, true, false],
            ..Fakes::new(3)
        };
        let chances = picker.chances(&one, None, 3);
        assert!((chances[1] - 1.0).abs() < 1e-9, "{policy:?} {chances:?}");
    }
    let chances = build(&HASH, &entries(&[1, 1])).chances(&Fakes::new(2), Some(77), 2);
    assert!(chances.contains(&1.0) && chances.contains(&0.0));
}

fn by_hash(picker: &Picker, servers: &Fakes, hash: u64) -> Option<usize> {
    let pick = Pick {
        servers,
        first_attempt: true,
        hash: Some(hash),
    };
    picker.pick(&pick, &mut Random::seeded(0))
}

#[test]
fn a_key_stays_while_others_come_and_go() {
    let mut entries = entries(&[1, 1, 1, 1]);
    let picker = build(&HASH, &entries);
    let homes: Vec<usize> = (0..1_000)
        .map(|hash| by_hash(&picker, &Fakes::new(4), hash).unwrap())
        .collect();
    entries[2].standing = Standing::Out;
    let picker = picker.rebuilt(&HASH, &entries, 0).unwrap();
    let servers = Fakes {
        admits: vec![true, true, false, true],
        ..Fakes::new(4)
    };
    for (hash, &home) in homes.iter().enumerate() {
        let now = by_hash(&picker, &servers, hash as u64).unwrap();
        assert!(
            now != 2 && (home == 2 || now == home),
            "only keys of the lost one move"
        );
    }
    let back = homes.iter().enumerate();
    for (hash, &home) in back {
        assert_eq!(by_hash(&picker, &Fakes::new(4), hash as u64), Some(home));
    }
}

#[test]
fn the_order_of_the_file_does_not_move_keys() {
    let mut entries = entries(&[1, 2, 3]);
    let picker = build(&HASH, &entries);
    entries.reverse();
    let reversed = build(&HASH, &entries);
    for hash in 0..1_000 {
        let there = by_hash(&reversed, &Fakes::new(3), hash).unwrap();
        assert_eq!(by_hash(&picker, &Fakes::new(3), hash), Some(2 - there));
    }
}

#[test]
fn slow_start_does_not_move_keys() {
    let mut entries = entries(&[1, 1, 1]);
    let picker = build(&HASH, &entries);
    entries[1].tenths = 1;
    assert!(picker.rebuilt(&HASH, &entries, 0).is_none());
}

#[test]
fn a_hot_server_is_passed_over_only_above_its_bound() {
    let picker = build(&HASH, &entries(&[1, 1, 1, 1]));
    let hash = (0..)
        .find(|&hash| by_hash(&picker, &Fakes::new(4), hash) == Some(0))
        .unwrap();
    let with = |in_flight: [u32; 4]| {
        let servers = Fakes {
            in_flight: in_flight.to_vec(),
            ..Fakes::new(4)
        };
        by_hash(&picker, &servers, hash).unwrap()
    };
    assert_eq!(with([16, 0, 0, 0]), 0, "16 are always fine");
    assert_ne!(with([17, 0, 0, 0]), 0);
    assert_eq!(with([30, 20, 20, 10]), 0, "1.5 times 20 is the bound");
    assert_ne!(with([31, 20, 20, 10]), 0);
    let only = Fakes {
        admits: vec![true, false, false, false],
        in_flight: vec![500, 0, 0, 0],
        ..Fakes::new(4)
    };
    assert_eq!(
        by_hash(&picker, &only, hash),
        Some(0),
        "better a hot server than none"
    );
}

#[test]
fn a_half_open_primary_is_probed_by_its_own_keys_beside_the_backups() {
    let mut entries = entries(&[1, 1, 1]);
    entries[0].standing = Standing::HalfOpen;
    entries[1].standing = Standing::Out;
    entries[2].backup = true;
    let picker = build(&HASH, &entries);
    let servers = Fakes {
        admits: vec![true, false, true],
        ..Fakes::new(3)
    };
    let chances = picker.chances(&servers, None, 3);
    assert!(
        (chances[0] - 0.5).abs() < 0.01 && (chances[2] - 0.5).abs() < 0.01,
        "{chances:?}"
    );
    let full = Fakes {
        admits: vec![true, false, false],
        ..Fakes::new(3)
    };
    assert!((0..50).all(|hash| by_hash(&picker, &full, hash) == Some(0)));
}

proptest! {
    #[test]
    fn hash_takes_the_next_different_one_in_the_table(
        admits in prop::collection::vec(any::<bool>(), 6), hash in any::<u64>(),
    ) {
        let picker = build(&HASH, &entries(&[1, 5, 2, 9, 1, 3]));
        let servers = Fakes { admits: admits.clone(), ..Fakes::new(6) };
        // Walked place by place with everybody admitted.
        let naive = (0..maglev::PLACES as u64)
            .map(|step| by_hash(&picker, &Fakes::new(6), (hash % 65_537 + step) % 65_537).unwrap())
            .find(|&index| admits[index]);
        prop_assert_eq!(by_hash(&picker, &servers, hash), naive);
    }

    #[test]
    fn exact_counts_per_period(weights in prop::collection::vec(0_u32..12, 1..12), start in any::<u64>()) {
        prop_assume!(weights.iter().any(|&weight| weight > 0));
        let picker =
            Picker::build(&Balance::SmoothWeighted, &entries(&weights), Start::Random(start));
        let period = period(&weights) as usize;
        let sum: u32 = weights.iter().sum();
        let counts = counts(&picker, &Fakes::new(weights.len()), period);
        for (&weight, count) in weights.iter().zip(counts) {
            prop_assert_eq!(count * sum as usize, weight as usize * period);
        }
    }
}
