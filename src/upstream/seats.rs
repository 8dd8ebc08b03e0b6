//! Which servers an upstream has: what the file says, over what its names say now. Pure.
//!
//! An entry of the file is a server by its IP address or its socket, or a name that stands for as
//! many servers as it has addresses ([`Says`]). This is the one door for both, and for any other
//! source of servers: a source says something, the seats follow, and what differs from the seats
//! of before is swapped in (`Registry::reseat`).
//!
//! - *Weight.* The servers of a name share its weight in proportion to their own (equal parts, or
//!   the weights of SRV records), so that a name has the share of the traffic that the file gives
//!   it, however many addresses it has. Exact: all weights are scaled by the least number that
//!   makes every part whole. `round-robin` knows no weights: there each address takes its turn.
//! - *Identity.* A server is its address. An address that two entries lead to is one server: it
//!   has the weight of both, and everything else from the entry that owns it, which is the one
//!   that gives the address itself, else the first in the file. (An entry that differs in `backup`
//!   or `drain` adds nothing: it cannot hold for half a server.)
//! - *A name without an answer* has one seat that stands for it. Requests of an upstream that has
//!   nothing else wait there for the first answer, within their connect deadline; once it is known
//!   that there is none, it takes nothing.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::model::{self, Balance, ServerAddress};
use crate::upstream::resolve::{Says, Told};

/// The most that weights are scaled by: a weight of 1000 in tenths still fits a `u32`, with room
/// for the sum of some. Beyond it parts are rounded.
const LARGEST_SCALE: u64 = 100_000;

/// The servers of an upstream, in the order of the file, those of one name by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seats {
    pub list: Box<[Seat]>,
    /// What a weight of 1 in the file is here.
    pub scale: u32,
}

/// One server, as far as its configuration goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Of its live state: its address, or the name while that has none.
    pub key: ServerAddress,
    /// What it is asked for by (Host, the name of its certificate) where nothing else is given.
    pub origin: ServerAddress,
    /// Which entries of the file lead here, and how much of their weight, in parts of the scale.
    /// The first is the owner.
    pub parts: Box<[(usize, u32)]>,
    pub backup: bool,
    pub drain: bool,
    pub max_requests: u32,
    pub place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A server.
    Known,
    /// Stands for a name whose first answer is on its way.
    Pending,
    /// Stands for a name without an address.
    Missing,
}

impl Seat {
    /// The entry that everything but the weight is from.
    pub fn owner(&self) -> usize {
        self.parts.first().map_or(0, |(entry, _)| *entry)
    }

    /// With the weight that each entry has, in units of the scale.
    pub fn weight(&self, of: impl Fn(usize) -> u32) -> u32 {
        let parts = self.parts.iter();
        let sum = parts.map(|(entry, part)| u64::from(of(*entry)) * u64::from(*part));
        u32::try_from(sum.sum::<u64>())
            .unwrap_or(u32::MAX)
            .min(u32::MAX / 10)
    }
}

/// One server of an entry, before the entries are put together.
struct Found {
    key: ServerAddress,
    origin: ServerAddress,
    weight: u64,
    /// Of all that are drawn together with it: backups are not, with the others.
    whole: u64,
    backup: bool,
    place: Place,
}

/// `says`: what is known of a name.
pub fn seats(config: &model::Upstream, says: impl Fn(&ServerAddress) -> Arc<Says>) -> Seats {
    let found: Vec<Vec<Found>> = config
        .servers
        .iter()
        .map(|entry| find(&entry.address, &says))
        .collect();
    let turns = config.balance == Balance::RoundRobin;
    let scale = match turns {
        true => 1,
        false => scale(found.iter().flatten()),
    };
    let mut list: Vec<Seat> = Vec::with_capacity(found.len());
    let mut taken: HashMap<ServerAddress, usize> = HashMap::new();
    let entries = config.servers.iter().zip(found).enumerate();
    // Given as they are first, so that names join them and not the other way round.
    let (given, named): (Vec<_>, Vec<_>) =
        entries.partition(|(_, (entry, _))| !entry.address.is_name());
    for (index, (entry, found)) in given.into_iter().chain(named) {
        for one in found {
            let part = match turns {
                true => 1,
                false => part(one.weight, one.whole, scale),
            };
            let backup = entry.backup || one.backup;
            if let Some(seat) = taken.get(&one.key).and_then(|at| list.get_mut(*at)) {
                if seat.backup == backup && seat.drain == entry.drain && !turns {
                    let mut parts = seat.parts.to_vec();
                    parts.push((index, part));
                    seat.parts = parts.into();
                }
                continue;
            }
            taken.insert(one.key.clone(), list.len());
            list.push(Seat {
                key: one.key,
                origin: one.origin,
                parts: Box::new([(index, part)]),
                backup,
                drain: entry.drain,
                max_requests: entry.max_requests,
                place: one.place,
            });
        }
    }
    // Stable: those of one entry stay in order.
    list.sort_by_key(Seat::owner);
    Seats {
        list: list.into(),
        scale: u32::try_from(scale).unwrap_or(1),
    }
}

fn find(address: &ServerAddress, says: &impl Fn(&ServerAddress) -> Arc<Says>) -> Vec<Found> {
    let alone = |place| {
        vec![Found {
            key: address.clone(),
            origin: origin(address, 0),
            weight: 1,
            whole: 1,
            backup: false,
            place,
        }]
    };
    if !address.is_name() {
        return alone(Place::Known);
    }
    match &*says(address) {
        Says::Pending => alone(Place::Pending),
        Says::Missing(_) => alone(Place::Missing),
        Says::Known(told) => {
            let whole = |backup: bool| {
                let together = told.iter().filter(|told| told.backup == backup);
                together.map(|told| u64::from(told.weight)).sum::<u64>()
            };
            let wholes = [whole(false), whole(true)];
            let found = |told: &Told| Found {
                key: ServerAddress::Ip(told.at),
                origin: origin(address, told.at.port()),
                weight: u64::from(told.weight),
                whole: wholes[usize::from(told.backup)].max(1),
                backup: told.backup,
                place: Place::Known,
            };
            told.iter().map(found).collect()
        }
    }
}

/// The name that a client means by `address`: of `_http._tcp.api.internal` it is `api.internal`
/// (RFC 6125 section 6.2.1: the source domain, never what an answer without a signature says).
fn origin(address: &ServerAddress, port: u16) -> ServerAddress {
    match address {
        ServerAddress::Srv(name) => {
            let mut labels = name.splitn(3, '.');
            let domain = labels.nth(2).unwrap_or(name);
            ServerAddress::Name(domain.into(), port)
        }
        other => other.clone(),
    }
}

/// The least number by which every part becomes whole, if it is not too large.
fn scale<'a>(found: impl Iterator<Item = &'a Found>) -> u64 {
    let mut scale = 1_u64;
    for one in found {
        let parts = one.whole / divisor(one.whole, one.weight).max(1);
        scale = scale / divisor(scale, parts).max(1) * parts;
        if scale > LARGEST_SCALE {
            return LARGEST_SCALE;
        }
    }
    scale
}

/// Of the scale. Nothing that has weight loses it by rounding.
fn part(weight: u64, whole: u64, scale: u64) -> u32 {
    let part = (weight * scale + whole / 2) / whole;
    u32::try_from(part.max(u64::from(weight > 0))).unwrap_or(u32::MAX)
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::upstream::testing;

    fn name(text: &str) -> ServerAddress {
        ServerAddress::Name(text.into(), 80)
    }

    fn ip(last: u8) -> ServerAddress {
        ServerAddress::Ip(([10, 0, 0, last], 80).into())
    }

    fn told(last: u8, weight: u32, backup: bool) -> Told {
        Told {
            at: ([10, 0, 0, last], 80).into(),
            weight,
            backup,
        }
    }

    fn config(entries: &[(ServerAddress, u32)]) -> model::Upstream {
        let server = |(address, weight): &(ServerAddress, u32)| model::Server {
            address: address.clone(),
            ..testing::server(1, *weight)
        };
        model::Upstream {
            servers: entries.iter().map(server).collect(),
            ..testing::config(&[])
        }
    }

    fn known(told: impl IntoIterator<Item = Told>) -> Arc<Says> {
        Arc::new(Says::Known(told.into_iter().collect()))
    }

    /// Keys with the weights by the file, in parts of the scale.
    fn weights(config: &model::Upstream, seats: &Seats) -> Vec<(ServerAddress, u32)> {
        let weight = |seat: &Seat| seat.weight(|entry| config.servers[entry].weight);
        let list = seats.list.iter();
        list.map(|seat| (seat.key.clone(), weight(seat))).collect()
    }

    #[test]
    fn a_name_has_its_share_whatever_the_number_of_its_addresses() {
        let config = config(&[(ip(1), 1), (name("a"), 3)]);
        let says = known([told(2, 1, false), told(3, 1, false)]);
        let seats = seats(&config, |_| says.clone());
        assert_eq!(seats.scale, 2);
        assert_eq!(
            weights(&config, &seats),
            [(ip(1), 2), (ip(2), 3), (ip(3), 3)]
        );
        assert_eq!(
            seats.list[2].origin,
            name("a"),
            "it is asked for by its name"
        );
    }

    #[test]
    fn the_weights_that_a_source_tells_divide_that_of_the_entry() {
        let config = config(&[(ServerAddress::Srv("_http._tcp.api".into()), 2)]);
        let says = known([told(1, 3, false), told(2, 1, false), told(3, 9, true)]);
        let seats = seats(&config, |_| says.clone());
        assert_eq!(seats.scale, 4);
        assert_eq!(
            weights(&config, &seats),
            [(ip(1), 6), (ip(2), 2), (ip(3), 8)]
        );
        assert!(seats.list[2].backup && !seats.list[1].backup);
        assert_eq!(seats.list[0].origin, name("api"));
    }

    #[test]
    fn an_address_that_two_entries_lead_to_is_one_server_of_both_weights() {
        let config = config(&[(name("a"), 2), (ip(1), 1), (name("b"), 5)]);
        let seats = seats(&config, |asked| match asked {
            ServerAddress::Name(asked, _) if **asked == *"a" => {
                known([told(1, 1, false), told(2, 1, false)])
            }
            _ => known([told(2, 1, false)]),
        });
        let by_key: Vec<_> = weights(&config, &seats);
        assert_eq!(
            by_key,
            [(ip(2), 12), (ip(1), 4)],
            "of 2: 2/2 + 5, and 2/2 + 1"
        );
        assert_eq!(seats.list[1].owner(), 1, "the address itself owns it");
        assert_eq!(seats.list[0].owner(), 0, "the first name owns it");
    }

    #[test]
    fn what_differs_in_drain_or_backup_adds_nothing() {
        let mut config = config(&[(ip(1), 1), (name("a"), 5)]);
        config.servers[1].drain = true;
        let seats = seats(&config, |_| known([told(1, 1, false)]));
        assert_eq!(weights(&config, &seats), [(ip(1), 1)]);
        assert!(!seats.list[0].drain);
    }

    #[test]
    fn under_round_robin_each_address_has_a_turn() {
        let mut config = config(&[(ip(1), 1), (name("a"), 1)]);
        config.balance = Balance::RoundRobin;
        let says = known([told(1, 1, false), told(2, 7, false)]);
        let seats = seats(&config, |_| says.clone());
        assert_eq!(weights(&config, &seats), [(ip(1), 1), (ip(2), 1)]);
    }

    #[test]
    fn a_name_without_an_answer_has_one_seat() {
        let config = config(&[(name("a"), 5), (ip(1), 1)]);
        for (says, place) in [
            (Says::Pending, Place::Pending),
            (Says::Missing("no such name".into()), Place::Missing),
        ] {
            let says = Arc::new(says);
            let seats = seats(&config, |_| says.clone());
            assert_eq!(weights(&config, &seats), [(name("a"), 5), (ip(1), 1)]);
            assert_eq!(seats.list[0].place, place);
        }
    }

    proptest! {
        /// The parts of every entry add up to its weight: exactly where the scale is exact,
        /// nearly where it would be too large, and nobody with weight is left without.
        #[test]
        fn parts_add_up(
            entries in prop::collection::vec(
                (1_u32..1001, prop::collection::vec(1_u32..65_536, 1..40)), 1..6)
        ) {
            let named = |index: usize| name(&index.to_string());
            let listed: Vec<_> = entries.iter().enumerate()
                .map(|(index, (weight, _))| (named(index), *weight)).collect();
            let config = config(&listed);
            let seats = seats(&config, |asked| {
                let index = (0..entries.len()).find(|index| named(*index) == *asked).unwrap();
                known(entries[index].1.iter().enumerate().map(|(n, weight)| Told {
                    at: ([10, index as u8, 0, n as u8], 80).into(),
                    weight: *weight,
                    backup: false,
                }))
            });
            prop_assert!(u64::from(seats.scale) <= LARGEST_SCALE);
            for (index, (_, told)) in entries.iter().enumerate() {
                let of_it = seats.list.iter().filter(|seat| seat.owner() == index);
                let parts: Vec<u32> = of_it.map(|seat| seat.parts[0].1).collect();
                prop_assert!(parts.iter().all(|part| *part > 0));
                let sum: u32 = parts.iter().sum();
                let slack = if u64::from(seats.scale) < LARGEST_SCALE { 0 } else { told.len() as u32 };
                prop_assert!(sum.abs_diff(seats.scale) <= slack, "{} of {}", sum, seats.scale);
            }
        }
    }
}
