//! Who may be picked now, and weighted draws among them.
//!
//! A draw takes a server from an alias table (Walker 1974, Vose 1991) in constant time and rejects
//! it when it does not admit. What is left over by rejection is exactly the weighted choice among
//! those that admit; when many do not, one pass over all finds the same choice without luck.

use crate::balance::{Entry, Servers, Standing};
use crate::util::random::Random;

/// Rejections before a draw looks at everybody.
const TRIES: usize = 8;

/// One server that takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Of its [`Entry`].
    pub index: usize,
    /// What counts for the draw: its weight in tenths, as slow start has it.
    pub share: u32,
}

impl Candidate {
    /// The weight to divide load by.
    pub fn weight(self) -> f64 {
        f64::from(self.share) / 10.0
    }
}

#[derive(Debug)]
pub(super) struct Candidates {
    list: Box<[Candidate]>,
    /// Per candidate: below which number of `0..total` it is itself that is drawn, and who else.
    alias: Box<[(u64, usize)]>,
    total: u64,
}

/// The entries that take part: those in rotation and half-open, without backups while anybody else
/// is in rotation. A half-open one stays beside the backups, or nobody would ever probe it.
pub(super) fn taking_part(entries: &[Entry]) -> Vec<usize> {
    let able = |entry: &Entry| entry.weight > 0 && entry.standing != Standing::Out;
    let backups = backups_take_part(entries);
    (0..entries.len())
        .filter(|&index| able(&entries[index]) && (backups || !entries[index].backup))
        .collect()
}

pub(super) fn backups_take_part(entries: &[Entry]) -> bool {
    !entries
        .iter()
        .any(|entry| !entry.backup && entry.weight > 0 && entry.standing == Standing::InRotation)
}

impl Candidates {
    pub fn new(list: Vec<Candidate>) -> Candidates {
        let total = list
            .iter()
            .map(|candidate| u64::from(candidate.share))
            .sum();
        let alias = alias_table(&list, total);
        Candidates {
            list: list.into(),
            alias,
            total,
        }
    }

    pub fn list(&self) -> &[Candidate] {
        &self.list
    }

    /// Draws by weight among those that admit, `except` one.
    pub fn draw<S: Servers>(
        &self,
        servers: &S,
        except: Option<Candidate>,
        random: &mut Random,
    ) -> Option<Candidate> {
        let fits = |candidate: &Candidate| {
            except.is_none_or(|except| except.index != candidate.index)
                && servers.admits(candidate.index)
        };
        for _ in 0..TRIES {
            let candidate = self.draw_any(random)?;
            if fits(&candidate) {
                return Some(candidate);
            }
        }
        let fitting = || self.list.iter().filter(|candidate| fits(candidate));
        let total = fitting().map(|candidate| u64::from(candidate.share)).sum();
        let mut left = random.below(total);
        let mut last = None;
        // Who admits may change between the two passes: then the last one that still does.
        for candidate in fitting() {
            last = Some(*candidate);
            let share = u64::from(candidate.share);
            if left < share {
                break;
            }
            left -= share;
        }
        last
    }

    fn draw_any(&self, random: &mut Random) -> Option<Candidate> {
        let slot = random.below(self.list.len() as u64) as usize;
        let (own, other) = *self.alias.get(slot)?;
        let chosen = if random.below(self.total) < own {
            slot
        } else {
            other
        };
        self.list.get(chosen).copied()
    }
}

/// In whole numbers, so that the chances are exact: each slot holds `total`, each candidate brings
/// its share times the number of slots.
fn alias_table(list: &[Candidate], total: u64) -> Box<[(u64, usize)]> {
    let slots = list.len() as u64;
    let mut own: Vec<u64> = list
        .iter()
        .map(|candidate| u64::from(candidate.share) * slots)
        .collect();
    let mut alias: Vec<(u64, usize)> = (0..list.len()).map(|slot| (total, slot)).collect();
    let (mut under, mut over): (Vec<usize>, Vec<usize>) =
        (0..list.len()).partition(|&slot| own[slot] < total);
    while let (Some(small), Some(&large)) = (under.pop(), over.last()) {
        alias[small] = (own[small], large);
        own[large] -= total - own[small];
        if own[large] < total {
            over.pop();
            under.push(large);
        }
    }
    alias.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::testing::{Fakes, entry};

    fn candidates(shares: &[u32]) -> Candidates {
        let list = shares.iter().enumerate();
        Candidates::new(
            list.map(|(index, &share)| Candidate { index, share })
                .collect(),
        )
    }

    proptest! {
        #[test]
        fn the_alias_table_gives_each_exactly_its_share(
            shares in prop::collection::vec(1_u32..10_001, 1..60),
        ) {
            let candidates = candidates(&shares);
            let mut chances = vec![0_u64; shares.len()];
            for (slot, &(own, other)) in candidates.alias.iter().enumerate() {
                chances[slot] += own;
                chances[other] += candidates.total - own;
            }
            let slots = shares.len() as u64;
            let exact: Vec<u64> = shares.iter().map(|&share| u64::from(share) * slots).collect();
            prop_assert_eq!(chances, exact);
        }

        #[test]
        fn a_draw_gives_one_that_admits_whenever_there_is_one(
            admits in prop::collection::vec(any::<bool>(), 1..40), seed in any::<u64>(),
        ) {
            let candidates = candidates(&vec![7; admits.len()]);
            let servers = Fakes { admits: admits.clone(), ..Fakes::new(admits.len()) };
            let drawn = candidates.draw(&servers, None, &mut Random::seeded(seed));
            prop_assert_eq!(drawn.is_some(), admits.contains(&true));
            prop_assert!(drawn.is_none_or(|drawn| admits[drawn.index]));
        }
    }

    #[test]
    fn nobody_is_drawn_from_nobody() {
        let servers = Fakes::new(0);
        assert_eq!(
            candidates(&[]).draw(&servers, None, &mut Random::seeded(1)),
            None
        );
    }

    #[test]
    fn the_exception_is_never_drawn() {
        let candidates = candidates(&[1_000, 1]);
        let (servers, mut random) = (Fakes::new(2), Random::seeded(1));
        let except = Some(candidates.list()[0]);
        for _ in 0..100 {
            let drawn = candidates.draw(&servers, except, &mut random).unwrap();
            assert_eq!(drawn.index, 1);
        }
        assert_eq!(
            self::candidates(&[5]).draw(&servers, except, &mut random),
            None
        );
    }

    #[test]
    fn backups_take_part_when_no_other_is_in_rotation() {
        use Standing::{HalfOpen, InRotation, Out};
        let mut entries = [entry("a", 1), entry("b", 0), entry("c", 1), entry("d", 1)];
        entries[2].backup = true;
        entries[3].backup = true;
        assert_eq!(taking_part(&entries), [0]);
        entries[3].standing = Out;
        entries[0].standing = HalfOpen;
        assert_eq!(
            taking_part(&entries),
            [0, 2],
            "a probe must still be possible"
        );
        entries[0].standing = Out;
        assert_eq!(taking_part(&entries), [2]);
        entries[0].standing = InRotation;
        assert_eq!(taking_part(&entries), [0]);
    }
}
