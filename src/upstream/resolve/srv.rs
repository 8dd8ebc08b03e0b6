//! SRV records (RFC 2782): the servers of a service, with ports, weights and priorities.
//!
//! - The lowest priority number serves; all higher ones are backups, together: `backup = true`
//!   knows no levels, and nginx does the same.
//! - A weight of 0 has "a very small chance" next to others: a hundredth of a weight of 1. Where
//!   all are 0, all are equal. The addresses of one target share its weight.
//! - A single record with the target `.` says that the service is decidedly not offered.
//! - A target's addresses are in the same answer, or asked for. One that cannot be asked for
//!   keeps its last ones: others of the service must not wait for it, nor it be lost.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hickory_resolver::TokioResolver;
use hickory_resolver::lookup::Lookup as Response;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::task::JoinSet;

use crate::telemetry::ResolveResult;
use crate::upstream::resolve::names::MOST;
use crate::upstream::resolve::system::{addresses, trouble, ttl, usable};
use crate::upstream::resolve::{Answer, Told, Trouble};

/// Of a weight of 1, next to which there is a weight of 0.
const ONE: u64 = 100;

/// The last addresses of each target, by service.
#[derive(Default)]
pub(super) struct Targets(Mutex<HashMap<Arc<str>, Known>>);

type Known = HashMap<Name, Vec<IpAddr>>;

/// One record with where its target is.
struct Placed {
    record: SRV,
    ips: Vec<IpAddr>,
}

pub(super) async fn lookup(
    resolver: &Arc<TokioResolver>,
    service: &Arc<str>,
    targets: &Targets,
) -> Result<Answer, Trouble> {
    let answer = resolver.lookup(&**service, RecordType::SRV).await;
    let answer = answer.map_err(|error| trouble_of(trouble(&error)))?;
    let records = records(&answer);
    if !records.is_empty() && records.iter().all(|record| record.target.is_root()) {
        return Err(Trouble {
            result: ResolveResult::Unavailable,
            cause: "the service is decidedly not available (its SRV target is `.`)".into(),
        });
    }
    let mut valid_until = answer.valid_until();
    let last = targets.of(service);
    let (known, failed) = place(resolver, &answer, &records, last, &mut valid_until).await;
    let placed = records.into_iter().filter_map(|record| {
        let ips = known.get(&record.target)?.clone();
        Some(Placed { record, ips })
    });
    let told = tell(&placed.collect::<Vec<_>>());
    targets.set(service, known);
    match (told.is_empty(), failed) {
        (true, Some(trouble)) => Err(trouble),
        _ => Ok(Answer {
            told,
            ttl: ttl(valid_until),
        }),
    }
}

impl Targets {
    fn of(&self, service: &Arc<str>) -> Known {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(service).cloned().unwrap_or_default()
    }

    fn set(&self, service: &Arc<str>, now: Known) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(service.clone(), now);
    }
}

fn trouble_of(trouble: Trouble) -> Trouble {
    match trouble.result {
        ResolveResult::Empty => Trouble {
            cause: "the name has no SRV record".into(),
            ..trouble
        },
        _ => trouble,
    }
}

/// As many as there may be servers; the most important ones first.
fn records(answer: &Response) -> Vec<SRV> {
    let records = answer.answers().iter();
    let mut records: Vec<SRV> = records
        .filter_map(|record| match &record.data {
            RData::SRV(srv) if srv.port != 0 || srv.target.is_root() => Some(srv.clone()),
            _ => None,
        })
        .collect();
    records.sort_by(|a, b| {
        let key = |srv: &SRV| (srv.priority, std::cmp::Reverse(srv.weight), srv.port);
        key(a).cmp(&key(b)).then_with(|| a.target.cmp(&b.target))
    });
    records.truncate(MOST);
    records
}

/// Where the targets are; the first that could not be asked for, and has no address from before.
async fn place(
    resolver: &Arc<TokioResolver>,
    answer: &Response,
    records: &[SRV],
    last: Known,
    valid_until: &mut Instant,
) -> (Known, Option<Trouble>) {
    let mut known = additional(answer);
    let mut asked = JoinSet::new();
    for record in records {
        if record.target.is_root() || known.contains_key(&record.target) {
            continue;
        }
        known.insert(record.target.clone(), Vec::new());
        let (resolver, target) = (resolver.clone(), record.target.clone());
        asked.spawn(async move {
            let found = addresses(&resolver, &target.to_string()).await;
            (target, found)
        });
    }
    let mut failed = None;
    while let Some(joined) = asked.join_next().await {
        let Ok((target, found)) = joined else {
            continue;
        };
        let ips = match found {
            Ok(found) => {
                *valid_until = found.valid_until.min(*valid_until);
                found.ips
            }
            Err(trouble) => {
                let before = match trouble.result.is_definite() {
                    true => None,
                    false => last.get(&target).cloned(),
                };
                let cause = format!("target {target}: {}", trouble.cause);
                failed = Some(Trouble {
                    cause: cause.into(),
                    ..trouble
                });
                before.unwrap_or_default()
            }
        };
        known.insert(target, ips);
    }
    known.retain(|target, _| records.iter().any(|record| record.target == *target));
    (known, failed)
}

/// Addresses that came with the records: IPv4 where there are any.
fn additional(answer: &Response) -> Known {
    let mut known = Known::new();
    for record in answer.additionals() {
        if let Some(ip) = record.data.ip_addr().and_then(usable) {
            known.entry(record.name.clone()).or_default().push(ip);
        }
    }
    for ips in known.values_mut() {
        if ips.iter().any(IpAddr::is_ipv4) {
            ips.retain(IpAddr::is_ipv4);
        }
    }
    known
}

fn tell(placed: &[Placed]) -> Vec<Told> {
    let placed = || placed.iter().filter(|placed| !placed.ips.is_empty());
    let Some(first) = placed().map(|placed| placed.record.priority).min() else {
        return Vec::new();
    };
    let mut told: Vec<(SocketAddr, u64, bool)> = Vec::new();
    let whole = placed().fold(1, |whole, placed| common(whole, placed.ips.len() as u64));
    for one in placed() {
        let backup = one.record.priority > first;
        let together = || placed().filter(|other| (other.record.priority > first) == backup);
        let (some, none) = (
            together().any(|other| other.record.weight > 0),
            together().any(|other| other.record.weight == 0),
        );
        let weight = match (u64::from(one.record.weight), some, none) {
            (0, _, _) => 1,
            (weight, true, true) => weight * ONE,
            (weight, _, _) => weight,
        };
        let each = (weight * whole / one.ips.len() as u64).max(1);
        for ip in &one.ips {
            told.push((SocketAddr::new(*ip, one.record.port), each, backup));
        }
    }
    smallest(told)
}

/// With the smallest weights that are in the same proportion.
fn smallest(told: Vec<(SocketAddr, u64, bool)>) -> Vec<Told> {
    let divisor = told.iter().fold(0, |gcd, told| divisor(gcd, told.1)).max(1);
    let most = told.iter().map(|told| told.1).max().unwrap_or(1) / divisor;
    let shrink = most / u64::from(u32::MAX) + 1;
    let told = told.into_iter().map(|(at, weight, backup)| Told {
        at,
        weight: u32::try_from((weight / divisor / shrink).max(1)).unwrap_or(u32::MAX),
        backup,
    });
    told.collect()
}

/// The least common multiple, as far as it is small.
fn common(a: u64, b: u64) -> u64 {
    match a / divisor(a, b).max(1) * b.max(1) {
        small @ ..=1_000_000 => small,
        _ => 1_000_000,
    }
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}
