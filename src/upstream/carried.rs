//! What is known of upstreams beyond their configuration, as one process tells another: an upgrade
//! changes what must be learnt anew no more than a reload does. A server that an operator drained
//! stays drained; one that is down is not found out a second time at the expense of requests; a
//! name whose name server is down keeps its servers.
//!
//! # What goes along
//!
//! | what | why |
//! |---|---|
//! | overrides, with the entry of the file that they were set over | nobody but the operator may take them back, or an edit of the file as ever |
//! | what checks say of a server | one that is down is asked for nothing; the first check comes at once and counts as the next one would have |
//! | breakers that are not closed, with the time left and the trips in a row | the same without checks |
//! | slow starts under way | a server that has just come back is not thrown into the whole traffic |
//! | which servers an upstream has | one that the new file adds joins them: it waits for a check and starts slowly |
//! | that an upstream panics | which of two states it is in depends on the one before |
//! | last good answers of names | a name server may be down during an upgrade |
//! | adaptive limits | a service at its knee is not searched for it anew under full load |
//!
//! Left behind is what comes back by itself with the traffic of a moment and costs nobody anything
//! until then: latencies, what a closed breaker has counted, retry budgets, places in an order.
//! Rate limits begin anew as well, so a client has one burst more: their keys are hashed with a
//! secret of the process, which is not for telling.
//!
//! # The form
//!
//! JSON, by (upstream, address). Times are durations: no process knows another one's clock. Either
//! side may be the older one, so what is missing is as in a new process, what is not known is
//! passed over, and what cannot be read is left out, item by item. Only where the meaning of what
//! is there changes, [`VERSION`] does, and nothing of another version is read.
//!
//! Live state is given to servers before anything runs for them ([`super::Registry::inherit`]), so
//! nothing that was learnt since is ever overwritten. What the new configuration has no place for
//! goes nowhere.

use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::upstream::health::verdict::Standing;
use crate::upstream::resolve::Told;

/// Of the meaning.
const VERSION: u32 = 1;

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Carried {
    pub(super) version: u32,
    #[serde(default, deserialize_with = "each")]
    pub(super) overrides: Vec<CarriedOverride>,
    #[serde(default, deserialize_with = "each")]
    pub(super) upstreams: Vec<CarriedUpstream>,
    #[serde(default, deserialize_with = "each")]
    pub(super) names: Vec<CarriedName>,
}

impl Default for Carried {
    fn default() -> Self {
        Carried {
            version: VERSION,
            overrides: Vec::new(),
            upstreams: Vec::new(),
            names: Vec::new(),
        }
    }
}

/// Why nothing of it is taken.
#[derive(Debug, thiserror::Error)]
pub enum CarriedError {
    #[error("it is of version {0}, this process reads {VERSION}")]
    Version(u64),
    #[error("it makes no sense")]
    Nonsense,
}

impl Carried {
    /// As far as it can be read.
    pub fn read(value: Value) -> Result<Self, CarriedError> {
        let version = value.get("version").and_then(Value::as_u64);
        match version {
            Some(version) if version == u64::from(VERSION) => {
                serde_json::from_value(value).map_err(|_| CarriedError::Nonsense)
            }
            Some(version) => Err(CarriedError::Version(version)),
            None => Err(CarriedError::Nonsense),
        }
    }

    pub fn overrides(&self) -> usize {
        self.overrides.len()
    }

    /// Of which something is known.
    pub fn servers(&self) -> usize {
        let servers = self.upstreams.iter().flat_map(|it| &it.servers);
        servers.filter(|server| !server.is_fresh()).count()
    }

    pub fn names(&self) -> usize {
        self.names.len()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CarriedOverride {
    pub upstream: String,
    /// The address of a server, or a name.
    pub server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<bool>,
    /// What the file said when it was set: the entry, and what of it belongs to it alone.
    pub entry: String,
    pub file_weight: u32,
    pub file_backup: bool,
    pub file_drain: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CarriedUpstream {
    pub name: String,
    #[serde(default, deserialize_with = "lenient")]
    pub panic: bool,
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub limit: Option<CarriedLimit>,
    /// All its servers are here, also those of which nothing is known: others are new.
    #[serde(default, deserialize_with = "lenient")]
    pub complete: bool,
    #[serde(default, deserialize_with = "each")]
    pub servers: Vec<CarriedServer>,
}

/// `concurrency = "adaptive"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CarriedLimit {
    pub limit: f64,
    /// The time to a response head without a queue, once it is known.
    #[serde(default)]
    pub base_us: Option<f64>,
    /// Less than that costs throughput, if that is known.
    #[serde(default)]
    pub knee: Option<f64>,
    /// It has met a queue.
    pub found: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CarriedServer {
    pub server: String,
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "CarriedStanding::is_untested"
    )]
    pub standing: CarriedStanding,
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub breaker: Option<CarriedBreaker>,
    /// It could not be reached, so that to reach it is news.
    #[serde(default, deserialize_with = "lenient")]
    pub unreached: bool,
    /// How long ago its slow start began.
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub ramp_ms: Option<u64>,
}

impl CarriedServer {
    /// What any server is in a new process.
    pub fn is_fresh(&self) -> bool {
        self.standing.is_untested()
            && self.breaker.is_none()
            && !self.unreached
            && self.ramp_ms.is_none()
    }
}

/// [`Standing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CarriedStanding {
    #[default]
    Untested,
    Waiting,
    Healthy,
    Unhealthy,
}

impl CarriedStanding {
    fn is_untested(&self) -> bool {
        *self == CarriedStanding::Untested
    }
}

impl From<Standing> for CarriedStanding {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Untested => CarriedStanding::Untested,
            Standing::Waiting => CarriedStanding::Waiting,
            Standing::Healthy => CarriedStanding::Healthy,
            Standing::Unhealthy => CarriedStanding::Unhealthy,
        }
    }
}

impl From<CarriedStanding> for Standing {
    fn from(standing: CarriedStanding) -> Self {
        match standing {
            CarriedStanding::Untested => Standing::Untested,
            CarriedStanding::Waiting => Standing::Waiting,
            CarriedStanding::Healthy => Standing::Healthy,
            CarriedStanding::Unhealthy => Standing::Unhealthy,
        }
    }
}

/// One that is not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedBreaker {
    /// In a row.
    pub trips: u32,
    /// Until it lets probes through; nothing of a half-open one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_ms: Option<u64>,
}

/// The last good answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CarriedName {
    pub name: String,
    pub age_ms: u64,
    #[serde(default, deserialize_with = "each")]
    pub servers: Vec<CarriedAddress>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CarriedAddress {
    at: SocketAddr,
    weight: u32,
    #[serde(default)]
    backup: bool,
}

impl From<Told> for CarriedAddress {
    fn from(told: Told) -> Self {
        CarriedAddress {
            at: told.at,
            weight: told.weight,
            backup: told.backup,
        }
    }
}

impl From<CarriedAddress> for Told {
    fn from(address: CarriedAddress) -> Self {
        Told {
            at: address.at,
            weight: address.weight,
            backup: address.backup,
        }
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Those of a list that can be read.
fn each<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Vec<T>, D::Error> {
    let Value::Array(values) = Value::deserialize(from)? else {
        return Ok(Vec::new());
    };
    let read = |value| serde_json::from_value(value).ok();
    Ok(values.into_iter().filter_map(read).collect())
}

/// What cannot be read is as if it were missing.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    from: D,
) -> Result<T, D::Error> {
    let value = Value::deserialize(from)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn whole() -> Carried {
        Carried {
            overrides: vec![CarriedOverride {
                upstream: "app".into(),
                server: "10.0.0.1:80".into(),
                weight: None,
                drain: Some(true),
                entry: "10.0.0.1:80".into(),
                file_weight: 1,
                file_backup: false,
                file_drain: false,
            }],
            upstreams: vec![CarriedUpstream {
                name: "app".into(),
                panic: true,
                limit: Some(CarriedLimit {
                    limit: 12.5,
                    base_us: Some(1_000.0),
                    knee: None,
                    found: true,
                }),
                complete: true,
                servers: vec![CarriedServer {
                    server: "10.0.0.1:80".into(),
                    standing: CarriedStanding::Unhealthy,
                    breaker: Some(CarriedBreaker {
                        trips: 2,
                        open_ms: Some(1_500),
                    }),
                    unreached: true,
                    ramp_ms: Some(9),
                }],
            }],
            names: vec![CarriedName {
                name: "app:80".into(),
                age_ms: 5,
                servers: vec![Told::plain(([10, 0, 0, 1], 80).into()).into()],
            }],
            ..Carried::default()
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let value = serde_json::to_value(whole()).expect("plain data");
        assert_eq!(Carried::read(value).expect("ours"), whole());
    }

    #[test]
    fn a_later_one_is_read_as_far_as_it_goes() {
        let mut value = serde_json::to_value(whole()).expect("plain data");
        value["weather"] = json!({ "sun": true });
        value["upstreams"][0]["mood"] = json!("good");
        value["upstreams"][0]["limit"] = json!("a limit of later");
        value["upstreams"][0]["servers"][0]["standing"] = json!("resting");
        value["upstreams"][0]["servers"][0]["ramp_ms"] = json!({ "tenths": 4 });
        let more = json!([{ "server": 7 }, "nothing", { "server": "10.0.0.2:80" }]);
        let servers = value["upstreams"][0]["servers"]
            .as_array_mut()
            .expect("a list");
        servers.extend(more.as_array().expect("a list").clone());
        value["names"] = json!({ "app:80": [] });
        let read = Carried::read(value).expect("as far as it goes");
        let mut expected = whole();
        expected.names.clear();
        expected.upstreams[0].limit = None;
        let servers = &mut expected.upstreams[0].servers;
        servers[0].standing = CarriedStanding::Untested;
        servers[0].ramp_ms = None;
        servers.push(CarriedServer {
            server: "10.0.0.2:80".into(),
            standing: CarriedStanding::Untested,
            breaker: None,
            unreached: false,
            ramp_ms: None,
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn what_means_something_else_is_not_read() {
        for (value, why) in [
            (json!({ "version": 2, "overrides": [] }), "of version 2"),
            (json!({ "overrides": [] }), "no sense"),
            (json!({ "version": "1" }), "no sense"),
            (json!("hello"), "no sense"),
            (Value::Null, "no sense"),
        ] {
            let error = Carried::read(value).expect_err("is not ours");
            assert!(error.to_string().contains(why), "{error}");
        }
        let empty = Carried::read(json!({ "version": 1 })).expect("says nothing");
        assert_eq!(empty, Carried::default());
    }
}
