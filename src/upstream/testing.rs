//! What the tests of this module share: upstreams without a network.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::model::{
    self, Balance, Breaker, BreakerMode, Connections, Health, HealthProbe, Protocol, Queue, Retry,
    RetryBudget, StatusRange, Timeouts,
};
use crate::telemetry::{CheckResult, Metrics};
use crate::upstream::common::lock;
use crate::upstream::health::Report;
use crate::upstream::health::verdict::Standing;
use crate::upstream::{
    AnyConnection, Lease, Pick, Refused, Registry, Server, ServerId, Tag, Upstream,
};
use crate::util::random::Random;
use crate::util::units::{ByteSize, Percent};

pub fn registry() -> Arc<Registry> {
    Registry::new(&Metrics::new(1))
}

/// An upstream `u` with the defaults of the contract but for: no checks, no slow start, no queue.
pub fn config(servers: &[(u16, u32)]) -> model::Upstream {
    model::Upstream {
        name: "u".into(),
        balance: Balance::SmoothWeighted,
        slow_start: Duration::ZERO,
        max_requests: 1024,
        adaptive: false,
        queue: None,
        panic_threshold: Some(Percent::from_fraction(0.0)),
        protocol: Protocol::Http1,
        servers: servers
            .iter()
            .map(|&(port, weight)| server(port, weight))
            .collect(),
        health: None,
        breaker: breaker(),
        retry: Retry {
            attempts: 1,
            on: Default::default(),
            methods: Vec::new(),
            budget: RetryBudget {
                ratio: Percent::from_fraction(0.2),
                min_per_second: 3,
                window: Duration::from_secs(10),
            },
            max_replay_body: ByteSize(0),
        },
        timeout: Timeouts {
            connect: None,
            first_byte: None,
            idle: None,
            tunnel: None,
            total: None,
        },
        connections: Connections {
            max_idle: 256,
            max_connections: None,
            idle_timeout: None,
            max_lifetime: None,
        },
        proxy_protocol: model::ProxyProtocol::Off,
        sticky: None,
        tls: None,
    }
}

pub fn server(port: u16, weight: u32) -> model::Server {
    model::Server {
        address: model::ServerAddress::Ip(([127, 0, 0, 1], port).into()),
        weight,
        max_requests: 1024,
        backup: false,
        drain: false,
    }
}

fn breaker() -> Breaker {
    Breaker {
        mode: BreakerMode::On,
        consecutive_failures: 5,
        failure_ratio: None,
        min_requests: 20,
        window: Duration::from_secs(10),
        slow: None,
        open: Duration::from_secs(10),
        max_open: Duration::from_secs(300),
        probes: 3,
        max_ejected: Percent::from_fraction(0.5),
        failure_grpc: Default::default(),
        failure_status: vec![StatusRange {
            first: 502,
            last: 504,
        }],
    }
}

pub fn health() -> Health {
    Health {
        probe: HealthProbe::Tcp,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        rise: 2,
        fall: 3,
        port: 0,
        plain: false,
        h2: false,
    }
}

pub fn queue(size: usize) -> Option<Queue> {
    Some(Queue {
        size,
        timeout: Duration::from_secs(1),
    })
}

/// Prepares and publishes, and stops the checks that this starts: tests report results themselves.
pub fn publish(registry: &Arc<Registry>, config: model::Upstream) -> Arc<Upstream> {
    let upstream = registry.prepare(&Arc::new(config));
    registry.publish(std::slice::from_ref(&upstream));
    for server in upstream.servers().iter() {
        lock(&server.control).checks = None;
    }
    upstream
}

pub fn pick(upstream: &Arc<Upstream>) -> Result<Lease, Refused> {
    pick_other(upstream, &[])
}

pub fn pick_other(upstream: &Arc<Upstream>, tried: &[ServerId]) -> Result<Lease, Refused> {
    upstream.pick(&mut Pick {
        tried,
        hash: None,
        sticky: None,
        carry: &AnyConnection,
        random: &mut Random::seeded(7),
    })
}

/// Of a request whose cookie has `tag`.
pub fn pick_stuck(
    upstream: &Arc<Upstream>,
    tag: Tag,
    tried: &[ServerId],
) -> Result<Lease, Refused> {
    upstream.pick(&mut Pick {
        tried,
        hash: Some(7),
        sticky: Some(tag),
        carry: &AnyConnection,
        random: &mut Random::seeded(7),
    })
}

/// The ports of as many first attempts, each ended at once.
pub fn sequence(upstream: &Arc<Upstream>, picks: usize) -> Vec<u16> {
    (0..picks)
        .map(|_| port(pick(upstream).expect("a server").server()))
        .collect()
}

pub fn port(server: &Server) -> u16 {
    match server.address() {
        model::ServerAddress::Ip(address) => address.port(),
        _ => 0,
    }
}

/// A result of a check that leaves the server with this verdict.
pub fn verdict(server: &Server, standing: Standing) {
    server.checked(Report {
        result: match standing {
            Standing::Unhealthy => CheckResult::Failure,
            _ => CheckResult::Success,
        },
        outcome: match standing {
            Standing::Unhealthy => Err("status 500".into()),
            _ => Ok(()),
        },
        took: Duration::from_millis(1),
        standing,
        changed: true,
    });
}

/// Fails as many attempts at one server.
pub fn fail(server: &Arc<Server>, config: &model::Upstream, times: usize) {
    for _ in 0..times {
        if let Some(mut lease) = server.claim(1024, &config.breaker) {
            lease.failure(
                Instant::now(),
                Duration::ZERO,
                crate::upstream::FailureKind::Connect,
            );
        }
    }
}
