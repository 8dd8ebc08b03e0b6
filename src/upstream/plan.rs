//! Who takes part now: facts about each server in, roles and the picker's entries out. Pure.
//!
//! A server has exactly one [`Role`]: the first thing that keeps it from taking requests, in the
//! order draining, weight, name, checks, breaker, backup. `explain` prints it, a refusal is told from it,
//! and the order is built from it, so the three cannot disagree.

use std::sync::Arc;

use crate::balance;
use crate::upstream::breaker;
use crate::upstream::health::verdict::Standing;
use crate::upstream::seats::Place;
use crate::util::units::Percent;

/// What the order of an upstream depends on, for one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub key: Arc<str>,
    /// Effective, in the scale of [`super::seats::Seats`]: an override counts.
    pub weight: u32,
    pub draining: bool,
    pub backup: bool,
    pub place: Place,
    /// [`Standing::Untested`] without checks.
    pub standing: Standing,
    pub breaker: breaker::State,
    /// Of slow start, 1..=10.
    pub tenths: u32,
}

impl Facts {
    /// Counts for the panic threshold and `max-ejected`.
    pub fn counted(&self) -> bool {
        self.weight > 0 && !self.draining && !self.backup && self.place == Place::Known
    }
}

/// What a server does at the moment, or what keeps it from doing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    InRotation,
    /// In rotation itself, but a backup while others are.
    StandBy,
    /// Probes only.
    HalfOpen,
    Open,
    Unhealthy,
    /// Added next to others: no passed check yet.
    Waiting,
    NoWeight,
    /// Stands for a name that does not resolve.
    Unresolved,
    Draining,
}

impl Role {
    /// Its breaker alone keeps it out.
    pub fn ejected(self) -> bool {
        matches!(self, Role::Open | Role::HalfOpen)
    }

    /// Drawn by a pick.
    pub fn takes_requests(self) -> bool {
        matches!(self, Role::InRotation | Role::HalfOpen)
    }
}

/// What follows from the facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In the order of the facts, like `entries`.
    pub roles: Box<[Role]>,
    pub entries: Box<[balance::Entry]>,
    /// Serves those that stick to it, by the same reasons but its weight.
    pub sticky: Box<[bool]>,
    pub panic: bool,
}

/// Decides for all servers of an upstream. `threshold` is `None` when panic is off; `panicking`: it
/// panicked until now.
pub fn plan(facts: &[Facts], threshold: Option<Percent>, panicking: bool) -> Plan {
    let panic = panics(facts, threshold, panicking);
    let mut roles: Box<[Role]> = facts.iter().map(|facts| role(facts, panic)).collect();
    let entries = facts.iter().zip(&roles).map(entry).collect();
    let primary = |(facts, role): (&Facts, &Role)| !facts.backup && *role == Role::InRotation;
    if facts.iter().zip(&roles).any(primary) {
        for (facts, role) in facts.iter().zip(&mut roles) {
            if facts.backup && role.takes_requests() {
                *role = Role::StandBy;
            }
        }
    }
    let sticky = facts.iter().zip(&roles);
    Plan {
        sticky: sticky.map(|one| serves_sticky(one, panic)).collect(),
        roles,
        entries,
        panic,
    }
}

/// Weight 0 keeps those that are there already, as HAProxy has it; what is left to a backup ends
/// with the need for it.
fn serves_sticky((facts, current): (&Facts, &Role), panic: bool) -> bool {
    match current {
        Role::NoWeight if facts.backup => false,
        Role::NoWeight => {
            let weighted = Facts {
                weight: 1,
                ..facts.clone()
            };
            role(&weighted, panic).takes_requests()
        }
        current => current.takes_requests(),
    }
}

/// Whether failed checks are ignored.
///
/// Judged by the share of healthy ones among the servers that have weight, are neither draining
/// nor backup, and have a result. While one of them has none yet and is usable, "none is healthy"
/// is not known, and a start with one dead server is no panic.
///
/// A panic lasts until a healthy server is in rotation, not only until one is healthy: after an
/// outage of all the first to pass its checks may be the one whose breaker is still open, and the
/// others, which serve again, would be taken away for its sake.
fn panics(facts: &[Facts], threshold: Option<Percent>, panicking: bool) -> bool {
    let Some(threshold) = threshold else {
        return false;
    };
    let counted = || facts.iter().filter(|facts| facts.counted());
    let healthy = counted()
        .filter(|f| f.standing == Standing::Healthy)
        .count();
    let unhealthy = counted()
        .filter(|f| f.standing == Standing::Unhealthy)
        .count();
    if unhealthy == 0 {
        return false;
    }
    if healthy > 0 {
        let share = healthy as f64 / (healthy + unhealthy) as f64;
        let in_rotation = |f: &Facts| role(f, false) == Role::InRotation;
        return (threshold.fraction() > 0.0 && share <= threshold.fraction())
            || (panicking && !facts.iter().any(in_rotation));
    }
    let backup = |f: &Facts| {
        let serves = f.weight > 0 && !f.draining && f.standing.usable();
        f.backup && f.place == Place::Known && serves
    };
    !counted().any(|f| f.standing.usable()) && !facts.iter().any(backup)
}

fn role(facts: &Facts, panic: bool) -> Role {
    if facts.draining {
        return Role::Draining;
    }
    if facts.weight == 0 {
        return Role::NoWeight;
    }
    if facts.place == Place::Missing {
        return Role::Unresolved;
    }
    if !panic && !facts.standing.usable() {
        return match facts.standing {
            Standing::Waiting => Role::Waiting,
            _ => Role::Unhealthy,
        };
    }
    match facts.breaker {
        breaker::State::Open => Role::Open,
        breaker::State::HalfOpen => Role::HalfOpen,
        breaker::State::Closed => Role::InRotation,
    }
}

fn entry((facts, role): (&Facts, &Role)) -> balance::Entry {
    balance::Entry {
        key: facts.key.clone(),
        weight: if facts.draining { 0 } else { facts.weight },
        tenths: facts.tenths,
        backup: facts.backup,
        standing: match role {
            Role::InRotation | Role::StandBy => balance::Standing::InRotation,
            Role::HalfOpen => balance::Standing::HalfOpen,
            _ => balance::Standing::Out,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(standing: Standing) -> Facts {
        Facts {
            key: "a".into(),
            weight: 1,
            draining: false,
            backup: false,
            place: Place::Known,
            standing,
            breaker: breaker::State::Closed,
            tenths: 10,
        }
    }

    fn healthy() -> Facts {
        server(Standing::Healthy)
    }

    fn unhealthy() -> Facts {
        server(Standing::Unhealthy)
    }

    fn percent(value: f64) -> Option<Percent> {
        Some(Percent::from_fraction(value / 100.0))
    }

    fn panic(facts: &[Facts], threshold: f64) -> bool {
        plan(facts, percent(threshold), false).panic
    }

    #[test]
    fn zero_percent_panics_only_when_none_is_left() {
        assert!(!panic(&[healthy(), unhealthy()], 0.0));
        assert!(panic(&[unhealthy(), unhealthy()], 0.0));
    }

    #[test]
    fn a_share_at_the_threshold_panics() {
        assert!(panic(&[healthy(), unhealthy()], 50.0));
        assert!(!panic(&[healthy(), unhealthy()], 49.0));
    }

    #[test]
    fn a_panic_lasts_until_a_healthy_server_is_in_rotation() {
        let ejected = Facts {
            breaker: breaker::State::Open,
            ..healthy()
        };
        let panic = |first: Facts, panicking| {
            let facts = [first, unhealthy()];
            plan(&facts, percent(0.0), panicking).panic
        };
        assert!(panic(ejected.clone(), true));
        assert!(!panic(ejected, false), "it does not begin by a breaker");
        assert!(!panic(healthy(), true));
    }

    #[test]
    fn a_full_share_never_panics() {
        assert!(!panic(&[healthy(), healthy()], 100.0));
    }

    #[test]
    fn off_never_panics() {
        assert!(!plan(&[unhealthy()], None, true).panic);
    }

    #[test]
    fn a_healthy_backup_comes_before_panic() {
        let backup = |facts: Facts| Facts {
            backup: true,
            ..facts
        };
        let with_healthy = plan(&[unhealthy(), backup(healthy())], percent(0.0), false);
        assert!(!with_healthy.panic);
        assert_eq!(*with_healthy.roles, [Role::Unhealthy, Role::InRotation]);
        let without = plan(&[unhealthy(), backup(unhealthy())], percent(0.0), false);
        assert!(without.panic);
        assert_eq!(*without.roles, [Role::InRotation, Role::StandBy]);
    }

    #[test]
    fn a_name_without_an_address_is_no_server() {
        let unresolved = |place, backup| Facts {
            place,
            backup,
            ..server(Standing::Untested)
        };
        for backup in [false, true] {
            let facts = [unhealthy(), unresolved(Place::Missing, backup)];
            let plan = plan(&facts, percent(0.0), false);
            assert!(plan.panic, "it does not keep the others from panic");
            assert_eq!(*plan.roles, [Role::InRotation, Role::Unresolved]);
        }
        let pending = unresolved(Place::Pending, true);
        let roles = plan(&[healthy(), pending.clone()], None, false).roles;
        assert_eq!(*roles, [Role::InRotation, Role::StandBy]);
        let roles = plan(&[pending], None, false).roles;
        assert_eq!(
            *roles,
            [Role::InRotation],
            "nothing else: requests wait there"
        );
    }

    #[test]
    fn a_threshold_reached_with_some_healthy_panics_although_a_backup_is_healthy() {
        let backup = Facts {
            backup: true,
            ..healthy()
        };
        assert!(panic(&[healthy(), unhealthy(), unhealthy(), backup], 50.0));
    }

    #[test]
    fn servers_without_weight_result_or_place_do_not_count() {
        let draining = Facts {
            draining: true,
            ..healthy()
        };
        let weightless = Facts {
            weight: 0,
            ..healthy()
        };
        assert!(panic(&[unhealthy(), draining, weightless], 0.0));
        assert!(!panic(&[server(Standing::Waiting)], 100.0));
        assert!(!panic(&[server(Standing::Untested)], 100.0));
    }

    #[test]
    fn one_dead_server_at_the_start_is_no_panic() {
        assert!(!panic(&[unhealthy(), server(Standing::Untested)], 0.0));
    }

    #[test]
    fn panic_ignores_verdicts_and_nothing_else() {
        let facts = [
            unhealthy(),
            Facts {
                draining: true,
                ..unhealthy()
            },
            Facts {
                weight: 0,
                ..unhealthy()
            },
            Facts {
                breaker: breaker::State::Open,
                ..unhealthy()
            },
            server(Standing::Waiting),
        ];
        let plan = plan(&facts, percent(0.0), false);
        assert!(plan.panic);
        let roles = [
            Role::InRotation,
            Role::Draining,
            Role::NoWeight,
            Role::Open,
            Role::InRotation,
        ];
        assert_eq!(*plan.roles, roles);
    }

    #[test]
    fn backups_stand_by_until_no_other_is_in_rotation() {
        let backup = Facts {
            backup: true,
            ..healthy()
        };
        let half_open = Facts {
            breaker: breaker::State::HalfOpen,
            ..healthy()
        };
        let roles = plan(&[half_open, backup.clone()], None, false).roles;
        assert_eq!(*roles, [Role::HalfOpen, Role::InRotation]);
        let roles = plan(&[healthy(), backup], None, false).roles;
        assert_eq!(*roles, [Role::InRotation, Role::StandBy]);
    }
}
