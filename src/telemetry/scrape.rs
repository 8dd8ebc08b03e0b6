//! A scrape: handles and live state read into Prometheus' families.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::Reason;
use super::handles::{self, Durations, ListenerMetrics, Outcome, RouteMetrics};
use super::metrics::{FAMILIES, Families, Family, Id};

/// All families as one collector: they are read in one pass over the live handles.
pub(super) struct Collect {
    families: Arc<Families>,
    descriptions: Vec<Desc>,
}

impl Collect {
    pub fn new(families: Arc<Families>) -> Self {
        let describe = |family: &Family| {
            let labels = family.labels.iter().map(ToString::to_string).collect();
            Desc::new(
                family.name.into(),
                family.help.into(),
                labels,
                HashMap::new(),
            )
        };
        // A family that cannot be described is left out, and the test over FAMILIES fails.
        let descriptions = FAMILIES
            .iter()
            .filter_map(|family| describe(family).ok())
            .collect();
        Collect {
            families,
            descriptions,
        }
    }
}

impl Collector for Collect {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut scrape = Scrape::default();
        scrape.traffic(&self.families);
        scrape.certificates(&self.families);
        scrape.upstreams(&self.families);
        scrape.process(&self.families);
        scrape.finish()
    }
}

/// Samples by family.
struct Scrape(Vec<Vec<Metric>>);

impl Default for Scrape {
    fn default() -> Self {
        Scrape(FAMILIES.iter().map(|_| Vec::new()).collect())
    }
}

impl Scrape {
    fn traffic(&mut self, families: &Families) {
        let (listeners, mut routes) = {
            let alive = families.alive();
            (alive.listeners.alive(), alive.routes.alive())
        };
        routes.push(families.unrouted.clone());
        let names: HashMap<u64, &str> = listeners
            .iter()
            .map(|listener| (listener.slot, &*listener.name))
            .collect();
        for listener in &listeners {
            self.listener(listener);
        }
        for route in &routes {
            self.route(route, &names);
        }
        for (reason, counter) in Reason::ALL.iter().zip(&families.rejected) {
            self.counter(Id::Rejected, &[reason.as_str()], counter.value() as f64);
        }
    }

    fn listener(&mut self, listener: &ListenerMetrics) {
        let labels = &[&*listener.name];
        let sum = |value: fn(&handles::ListenerShard) -> u64| -> f64 {
            listener.shards.iter().map(value).sum::<u64>() as f64
        };
        self.gauge(
            Id::RequestsInFlight,
            labels,
            listener.requests_in_flight() as f64,
        );
        self.gauge(
            Id::ConnectionsActive,
            labels,
            listener.connections_active() as f64,
        );
        self.counter(Id::Connections, labels, sum(|shard| shard.accepted.value()));
        self.counter(
            Id::ConnectionsRefused,
            labels,
            sum(|shard| shard.refused.value()),
        );
        self.counter(Id::AcceptPauses, labels, sum(|shard| shard.paused.value()));
        for (place, cause) in handles::CAUSES.iter().enumerate() {
            let shards = listener.shards.iter();
            let count = shards.map(|shard| shard.cut[place].value()).sum::<u64>();
            self.counter(Id::ConnectionsCut, &[&listener.name, cause], count as f64);
        }
        // Where nobody shook hands, no series: it may be a plain one.
        if listener.handshakes().any(|(_, count)| count > 0) {
            for (result, count) in listener.handshakes() {
                self.counter(Id::Handshakes, &[labels[0], result], count as f64);
            }
        }
    }

    fn certificates(&mut self, families: &Families) {
        for (name, expiry) in &*families.certificates() {
            self.gauge(Id::CertificateExpiry, &[name], *expiry as f64);
        }
    }

    fn route(&mut self, route: &RouteMetrics, listeners: &HashMap<u64, &str>) {
        let name = &*route.name;
        for (key, count) in route.requests() {
            let (slot, method, status) = handles::request_key_parts(key);
            // Series of a listener that is gone go with it.
            if let (Some(listener), Some(method)) =
                (listeners.get(&slot), handles::METHODS.get(method))
            {
                let code = format!("{status:03}");
                self.counter(Id::Requests, &[listener, name, method, &code], count as f64);
            }
        }
        let sum = |value: fn(&handles::RouteShard) -> u64| -> f64 {
            route.shards.iter().map(value).sum::<u64>() as f64
        };
        self.counter(
            Id::RequestBytes,
            &[name],
            sum(|shard| shard.request_bytes.value()),
        );
        self.counter(
            Id::ResponseBytes,
            &[name],
            sum(|shard| shard.response_bytes.value()),
        );
        self.counter(
            Id::RateLimited,
            &[name],
            sum(|shard| shard.rate_limited.value()),
        );
        for (result, count) in route.mirrored_totals() {
            self.counter(Id::Mirrored, &[name, result], count as f64);
        }
        let durations = route.shards.iter().map(|shard| &shard.durations);
        self.histogram(Id::RequestDuration, &[name], durations);
    }

    fn upstreams(&mut self, families: &Families) {
        let (upstreams, servers, names) = {
            let alive = families.alive();
            (
                alive.upstreams.alive(),
                alive.servers.alive(),
                alive.names.alive(),
            )
        };
        for name in &names {
            for (result, count) in name.results() {
                self.counter(Id::Resolutions, &[&name.name, result], count as f64);
            }
            if let Some(seconds) = name.last_success() {
                self.gauge(Id::ResolutionSuccess, &[&name.name], seconds as f64);
            }
        }
        for upstream in &upstreams {
            let name = &*upstream.name;
            self.histogram(Id::AttemptDuration, &[name], upstream.durations.iter());
            for (result, count) in upstream.retries() {
                self.counter(Id::Retries, &[name, result], count as f64);
            }
            if let Some(reading) = upstream.reading() {
                self.gauge(Id::QueueLength, &[name], reading.queue_length as f64);
                if let Some(limit) = reading.concurrency_limit {
                    self.gauge(Id::ConcurrencyLimit, &[name], f64::from(limit));
                }
                self.gauge(Id::Panic, &[name], f64::from(u8::from(reading.panic)));
            }
        }
        for server in &servers {
            self.server(server);
        }
    }

    fn server(&mut self, server: &handles::ServerMetrics) {
        let labels = [&*server.upstream, &*server.server];
        for (key, count) in server.attempts() {
            self.counter(
                Id::Attempts,
                &[labels[0], labels[1], &Outcome::label(key)],
                count as f64,
            );
        }
        let with = |last: &'static str| [labels[0], labels[1], last];
        for (result, count) in server.connects() {
            self.counter(Id::Connects, &with(result), count as f64);
        }
        // Where nothing is checked, no series: three zeros would look like checks that never ran.
        if server.checks().any(|(_, count)| count > 0) {
            for (result, count) in server.checks() {
                self.counter(Id::HealthChecks, &with(result), count as f64);
            }
        }
        for (to, count) in server.transitions() {
            self.counter(Id::BreakerTransitions, &with(to), count as f64);
        }
        let Some(reading) = server.reading() else {
            return;
        };
        if let Some(latency) = reading.latency {
            self.gauge(Id::ServerLatency, &labels, latency);
        }
        self.gauge(Id::ServerInFlight, &labels, reading.in_flight as f64);
        self.gauge(
            Id::ServerConnectionsActive,
            &labels,
            reading.connections_active as f64,
        );
        self.gauge(
            Id::ServerConnectionsIdle,
            &labels,
            reading.connections_idle as f64,
        );
        self.gauge(
            Id::ServerHealthy,
            &labels,
            f64::from(u8::from(reading.healthy)),
        );
        self.gauge(Id::ServerWeight, &labels, reading.weight);
        self.gauge(Id::BreakerState, &labels, f64::from(reading.breaker as u8));
    }

    fn process(&mut self, families: &Families) {
        let config = &families.config;
        let value = |cell: &AtomicU64| cell.load(Ordering::Relaxed) as f64;
        self.gauge(Id::Generation, &[], value(&config.generation));
        self.gauge(Id::ReloadSuccessful, &[], value(&config.last_successful));
        self.gauge(Id::ReloadTimestamp, &[], value(&config.success_time));
        self.counter(Id::Reloads, &["success"], value(&config.accepted));
        self.counter(Id::Reloads, &["failure"], value(&config.rejected));
        self.counter(Id::UpgradesFailed, &[], value(&config.upgrades_failed));
        self.gauge(Id::MaxConnections, &[], value(&config.max_connections));
        self.gauge(Id::Shedding, &[], value(&config.shedding));
        self.counter(Id::LogDropped, &[], value(&families.log_dropped));
        self.gauge(Id::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1.0);
        let Some(usage) = families.process.read() else {
            return;
        };
        self.counter(Id::ProcessCpu, &[], usage.cpu_seconds);
        self.gauge(Id::ProcessVirtual, &[], usage.virtual_bytes as f64);
        self.gauge(Id::ProcessResident, &[], usage.resident_bytes as f64);
        self.gauge(Id::ProcessStart, &[], usage.start_seconds);
        self.gauge(Id::ProcessThreads, &[], usage.threads as f64);
        if let Some(open) = usage.open_fds {
            self.gauge(Id::ProcessOpenFds, &[], open as f64);
        }
        if let Some(max) = usage.max_fds {
            self.gauge(Id::ProcessMaxFds, &[], max as f64);
        }
    }

    fn counter(&mut self, id: Id, labels: &[&str], value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = Metric::from_label(pairs(id, labels));
        metric.set_counter(counter);
        self.0[id as usize].push(metric);
    }

    fn gauge(&mut self, id: Id, labels: &[&str], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(pairs(id, labels));
        metric.set_gauge(gauge);
        self.0[id as usize].push(metric);
    }

    fn histogram<'a>(
        &mut self,
        id: Id,
        labels: &[&str],
        shards: impl Iterator<Item = &'a Durations>,
    ) {
        let mut counts = [0u64; handles::BUCKETS.len() + 1];
        let mut nanos = 0u64;
        for shard in shards {
            for (count, cell) in counts.iter_mut().zip(&shard.counts) {
                *count += cell.value();
            }
            nanos = nanos.wrapping_add(shard.sum_nanos.value());
        }
        let mut below = 0;
        let buckets = handles::BUCKETS.iter().zip(counts).map(|(&bound, count)| {
            below += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(below);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(nanos as f64 / 1e9);
        let mut metric = Metric::from_label(pairs(id, labels));
        metric.set_histogram(histogram);
        self.0[id as usize].push(metric);
    }

    fn finish(self) -> Vec<MetricFamily> {
        FAMILIES
            .iter()
            .zip(self.0)
            .filter(|(_, samples)| !samples.is_empty())
            .map(|(family, samples)| {
                let mut metrics = MetricFamily::default();
                metrics.set_name(family.name.into());
                metrics.set_help(family.help.into());
                metrics.set_field_type(family.kind);
                metrics.set_metric(samples);
                metrics
            })
            .collect()
    }
}

fn pairs(id: Id, values: &[&str]) -> Vec<LabelPair> {
    let family = &FAMILIES[id as usize];
    debug_assert_eq!(
        family.labels.len(),
        values.len(),
        "{} has other labels",
        family.name
    );
    debug_assert!(family.kind != MetricType::SUMMARY);
    family
        .labels
        .iter()
        .zip(values)
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).into());
            pair.set_value((*value).into());
            pair
        })
        .collect()
}
