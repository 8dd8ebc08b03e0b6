//! Every metric family, and the handles that are alive.
//!
//! Handles are kept here weakly, by name: who builds a snapshot asks for the handle of a name and
//! gets the one that the previous snapshot holds, and what nobody holds any more is not scraped.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::proto::MetricType;
use prometheus::{Registry, TextEncoder};

use super::handles::{ListenerMetrics, NameMetrics, RouteMetrics, ServerMetrics, UpstreamMetrics};
use super::scrape::Collect;
use super::shard::Counter;
use super::{Reason, process};

/// One family: what `# HELP` and `# TYPE` say, and its labels in order.
pub(super) struct Family {
    pub name: &'static str,
    pub kind: MetricType,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Id {
            $($id,)+
        }

        /// By [`Id`].
        pub(super) const FAMILIES: &[Family] = &[
            $(Family {
                name: $name,
                kind: MetricType::$kind,
                labels: &[$($label),*],
                help: $help,
            },)+
        ];
    };
}

families! {
    Requests COUNTER "evenkeel_requests_total" ["listener", "route", "method", "code"]
        "Requests answered or given up, by the status in the access log.";
    RequestDuration HISTOGRAM "evenkeel_request_duration_seconds" ["route"]
        "Time from the first byte of a request to the last byte of its response.";
    RequestsInFlight GAUGE "evenkeel_requests_in_flight" ["listener"]
        "Requests being worked on.";
    RequestBytes COUNTER "evenkeel_request_bytes_total" ["route"]
        "Bytes of request bodies received from clients.";
    ResponseBytes COUNTER "evenkeel_response_bytes_total" ["route"]
        "Bytes of response bodies sent to clients.";
    RateLimited COUNTER "evenkeel_rate_limited_total" ["route"]
        "Requests refused because their route's limit was reached.";
    Mirrored COUNTER "evenkeel_mirrored_total" ["route", "result"]
        "Copies of requests for the route's mirror, by what became of them.";
    Rejected COUNTER "evenkeel_rejected_total" ["reason"]
        "Requests that the proxy answered or ended itself, by reason.";
    ConnectionsActive GAUGE "evenkeel_connections_active" ["listener"]
        "Open connections from clients.";
    Connections COUNTER "evenkeel_connections_total" ["listener"]
        "Connections accepted from clients.";
    ConnectionsRefused COUNTER "evenkeel_connections_refused_total" ["listener"]
        "Connections from clients closed at once because of a limit.";
    AcceptPauses COUNTER "evenkeel_accept_pauses_total" ["listener"]
        "Times that new connections were left waiting: no descriptor, no memory or no place.";
    ConnectionsCut COUNTER "evenkeel_downstream_connections_cut_total" ["listener", "cause"]
        "Connections from clients cut off because of what they did, by cause.";
    Handshakes COUNTER "evenkeel_tls_handshakes_total" ["listener", "result"]
        "TLS handshakes with clients, by how they ended.";
    CertificateExpiry GAUGE "evenkeel_tls_certificate_expiry_timestamp_seconds" ["name"]
        "Unix time at which a certificate ends, by its first name; of several the earliest.";
    Attempts COUNTER "evenkeel_upstream_requests_total" ["upstream", "server", "code"]
        "Attempts at servers, by status or by the reason of the failure.";
    AttemptDuration HISTOGRAM "evenkeel_upstream_request_duration_seconds" ["upstream"]
        "Time from the start of an attempt to the end of its response.";
    ServerLatency GAUGE "evenkeel_upstream_server_latency_seconds" ["upstream", "server"]
        "Moving average of the time to the response head.";
    ServerInFlight GAUGE "evenkeel_upstream_requests_in_flight" ["upstream", "server"]
        "Requests that a server is working on.";
    QueueLength GAUGE "evenkeel_upstream_queue_length" ["upstream"]
        "Requests waiting for a server that admits them.";
    ConcurrencyLimit GAUGE "evenkeel_upstream_concurrency_limit" ["upstream"]
        "Requests that an upstream is sent at once; only with an adaptive limit.";
    ServerConnectionsActive GAUGE "evenkeel_upstream_connections_active" ["upstream", "server"]
        "Connections to a server that carry a request.";
    ServerConnectionsIdle GAUGE "evenkeel_upstream_connections_idle" ["upstream", "server"]
        "Connections to a server kept for the next request.";
    Connects COUNTER "evenkeel_upstream_connects_total" ["upstream", "server", "result"]
        "Connections dialled to a server.";
    ServerHealthy GAUGE "evenkeel_upstream_server_healthy" ["upstream", "server"]
        "Verdict of the active checks: 1 healthy (or unchecked), 0 not.";
    ServerWeight GAUGE "evenkeel_upstream_server_weight" ["upstream", "server"]
        "Weight of a server as it is used.";
    HealthChecks COUNTER "evenkeel_upstream_health_checks_total" ["upstream", "server", "result"]
        "Active checks of a server.";
    BreakerState GAUGE "evenkeel_upstream_breaker_state" ["upstream", "server"]
        "State of a server's breaker: 0 closed, 1 half-open, 2 open.";
    BreakerTransitions COUNTER "evenkeel_upstream_breaker_transitions_total" ["upstream", "server", "to"]
        "State changes of a server's breaker.";
    Retries COUNTER "evenkeel_upstream_retries_total" ["upstream", "result"]
        "Retries made or refused.";
    Panic GAUGE "evenkeel_upstream_panic" ["upstream"]
        "1 while the verdicts of active checks are ignored.";
    Resolutions COUNTER "evenkeel_resolutions_total" ["name", "result"]
        "Questions asked for a name that servers are given by, by how they ended.";
    ResolutionSuccess GAUGE "evenkeel_resolution_last_success_timestamp_seconds" ["name"]
        "Unix time of the answer that the servers of a name are from.";
    Generation GAUGE "evenkeel_config_generation" []
        "Number of the configuration in use, counted from 1 at start.";
    ReloadSuccessful GAUGE "evenkeel_config_last_reload_successful" []
        "1 when the last reload was accepted.";
    ReloadTimestamp GAUGE "evenkeel_config_last_reload_success_timestamp_seconds" []
        "Unix time of the last accepted configuration.";
    Reloads COUNTER "evenkeel_config_reloads_total" ["result"]
        "Reloads by result.";
    UpgradesFailed COUNTER "evenkeel_upgrades_failed_total" []
        "Upgrades (USR2) whose new process did not come to serve.";
    MaxConnections GAUGE "evenkeel_max_connections" []
        "Connections from clients that the process takes at once.";
    Shedding GAUGE "evenkeel_memory_shedding" []
        "1 while new connections and requests are shed because of memory-limit.";
    LogDropped COUNTER "evenkeel_access_log_dropped_total" []
        "Access log lines dropped because the target was too slow or failed.";
    BuildInfo GAUGE "evenkeel_build_info" ["version"]
        "Always 1; the version is in the label.";
    ProcessCpu COUNTER "process_cpu_seconds_total" []
        "Total user and system CPU time spent in seconds.";
    ProcessOpenFds GAUGE "process_open_fds" []
        "Number of open file descriptors.";
    ProcessMaxFds GAUGE "process_max_fds" []
        "Maximum number of open file descriptors.";
    ProcessVirtual GAUGE "process_virtual_memory_bytes" []
        "Virtual memory size in bytes.";
    ProcessResident GAUGE "process_resident_memory_bytes" []
        "Resident memory size in bytes.";
    ProcessStart GAUGE "process_start_time_seconds" []
        "Start time of the process since unix epoch in seconds.";
    ProcessThreads GAUGE "process_threads" []
        "Number of threads in the process.";
}

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Arc<Families>,
}

/// What a scrape reads.
#[derive(Debug)]
pub(super) struct Families {
    pub workers: usize,
    alive: Mutex<Alive>,
    /// Name and end of those in use; replaced with each configuration.
    certificates: Mutex<BTreeMap<Arc<str>, i64>>,
    pub unrouted: Arc<RouteMetrics>,
    /// By [`Reason::index`].
    pub rejected: Vec<Counter>,
    pub log_dropped: AtomicU64,
    pub config: ConfigState,
    pub process: process::Reader,
}

/// Handles by name.
#[derive(Debug, Default)]
pub(super) struct Alive {
    /// Slot of a listener's name, for ever: keys of [`RouteMetrics`] hold it.
    slots: HashMap<Arc<str>, u64>,
    pub listeners: Handles<Arc<str>, ListenerMetrics>,
    pub routes: Handles<Arc<str>, RouteMetrics>,
    pub upstreams: Handles<Arc<str>, UpstreamMetrics>,
    pub servers: Handles<(Arc<str>, Arc<str>), ServerMetrics>,
    pub names: Handles<Arc<str>, NameMetrics>,
}

#[derive(Debug)]
pub(super) struct Handles<K, T> {
    by_name: HashMap<K, Weak<T>>,
    /// Dead entries are cleared when as many were made as then were alive.
    sweep_at: usize,
}

impl<K, T> Default for Handles<K, T> {
    fn default() -> Self {
        Handles {
            by_name: HashMap::new(),
            sweep_at: 64,
        }
    }
}

impl<K: Hash + Eq + Clone, T> Handles<K, T> {
    fn get(&mut self, key: K, make: impl FnOnce(K) -> T) -> Arc<T> {
        if let Some(handle) = self.by_name.get(&key).and_then(Weak::upgrade) {
            return handle;
        }
        if self.by_name.len() >= self.sweep_at {
            self.by_name.retain(|_, handle| handle.strong_count() > 0);
            self.sweep_at = 64 + 2 * self.by_name.len();
        }
        let handle = Arc::new(make(key.clone()));
        self.by_name.insert(key, Arc::downgrade(&handle));
        handle
    }

    pub fn alive(&self) -> Vec<Arc<T>> {
        self.by_name.values().filter_map(Weak::upgrade).collect()
    }
}

#[derive(Debug, Default)]
pub(super) struct ConfigState {
    pub generation: AtomicU64,
    pub last_successful: AtomicU64,
    pub success_time: AtomicU64,
    pub accepted: AtomicU64,
    pub rejected: AtomicU64,
    pub upgrades_failed: AtomicU64,
    pub max_connections: AtomicU64,
    pub shedding: AtomicU64,
}

impl Metrics {
    /// Connections that the process takes, and whether memory lets it.
    pub fn set_overload(&self, max_connections: usize, shedding: bool) {
        let config = &self.families.config;
        config
            .max_connections
            .store(max_connections as u64, Ordering::Relaxed);
        config
            .shedding
            .store(u64::from(shedding), Ordering::Relaxed);
    }

    /// `workers` is the number of threads that will call [`super::shard::enter_worker`].
    pub fn new(workers: usize) -> Arc<Self> {
        let families = Arc::new(Families {
            workers,
            alive: Mutex::default(),
            certificates: Mutex::default(),
            unrouted: Arc::new(RouteMetrics::new("".into(), workers)),
            rejected: Reason::ALL.iter().map(|_| Counter::new(workers)).collect(),
            log_dropped: AtomicU64::new(0),
            config: ConfigState::default(),
            process: process::Reader::new(),
        });
        let registry = Registry::new();
        registry
            .register(Box::new(Collect::new(families.clone())))
            .expect("the families are distinct and well named, see the tests");
        Arc::new(Metrics { registry, families })
    }

    /// Threads that count into shards of their own.
    pub fn workers(&self) -> usize {
        self.families.workers
    }

    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let mut alive = self.families.alive();
        let name: Arc<str> = name.into();
        let next = alive.slots.len() as u64 + 1;
        let slot = *alive.slots.entry(name.clone()).or_insert(next);
        alive.listeners.get(name, |name| {
            ListenerMetrics::new(name, slot, self.families.workers)
        })
    }

    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        let mut alive = self.families.alive();
        alive.routes.get(name.into(), |name| {
            RouteMetrics::new(name, self.families.workers)
        })
    }

    /// For requests that match no route: the label is empty.
    pub fn unrouted(&self) -> &Arc<RouteMetrics> {
        &self.families.unrouted
    }

    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        let mut alive = self.families.alive();
        alive.upstreams.get(name.into(), |name| {
            UpstreamMetrics::new(name, self.families.workers)
        })
    }

    /// `name` as configured.
    pub fn name(&self, name: &str) -> Arc<NameMetrics> {
        let mut alive = self.families.alive();
        alive.names.get(name.into(), NameMetrics::new)
    }

    /// `server` is its address, or while that is not known its name, as configured.
    pub fn server(&self, upstream: &str, server: &str) -> Arc<ServerMetrics> {
        let mut alive = self.families.alive();
        alive
            .servers
            .get((upstream.into(), server.into()), |(upstream, server)| {
                ServerMetrics::new(upstream, server, self.families.workers)
            })
    }

    /// A request that got an answer of ours, or ended without one.
    pub fn rejected(&self, reason: Reason) {
        self.families.rejected[reason.index()].add(1);
    }

    /// Name and end (seconds since 1970) of the certificates in use now.
    pub fn set_certificates(&self, certificates: impl IntoIterator<Item = (Arc<str>, i64)>) {
        let mut earliest = BTreeMap::new();
        for (name, end) in certificates {
            let known = earliest.entry(name).or_insert(end);
            *known = end.min(*known);
        }
        *self.families.certificates() = earliest;
    }

    pub(super) fn log_dropped(&self, lines: u64) {
        self.families
            .log_dropped
            .fetch_add(lines, Ordering::Relaxed);
    }

    /// Access log lines dropped so far.
    pub fn access_log_dropped(&self) -> u64 {
        self.families.log_dropped.load(Ordering::Relaxed)
    }

    /// The first configuration is in use: not a reload.
    pub(super) fn started(&self, generation: u64) {
        let config = &self.families.config;
        config.generation.store(generation, Ordering::Relaxed);
        config.last_successful.store(1, Ordering::Relaxed);
        config.success_time.store(unix_seconds(), Ordering::Relaxed);
    }

    pub(super) fn reload_accepted(&self, generation: u64) {
        self.started(generation);
        self.families
            .config
            .accepted
            .fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn reload_rejected(&self) {
        self.families
            .config
            .last_successful
            .store(0, Ordering::Relaxed);
        self.families
            .config
            .rejected
            .fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn upgrade_failed(&self) {
        self.families
            .config
            .upgrades_failed
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Everything in Prometheus' text format 0.0.4. Reads live state; not for a worker.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            // Only an empty family or name can do that, and the registry leaves both out.
            tracing::error!(%error, "metrics cannot be encoded");
        }
        text
    }
}

impl Families {
    pub fn alive(&self) -> MutexGuard<'_, Alive> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn certificates(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, i64>> {
        self.certificates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::{
        BreakerReading, CheckResult, ConnectResult, Handshake, Outcome, ResolveResult, RetryResult,
        ServerReading, UpstreamReading, events,
    };

    /// Metrics with a sample in every family, and the handles that keep them.
    fn full() -> (Arc<Metrics>, Vec<Box<dyn std::any::Any>>) {
        let metrics = Metrics::new(2);
        let listener = metrics.listener("web");
        listener.connection_opened();
        listener.handshake_ended(Handshake::Ok);
        metrics.set_certificates([("a.example".into(), 7), ("a.example".into(), 5)]);
        let route = metrics.route("users");
        route.show_mirrored();
        route.completed(&listener, "GET", 200, Duration::from_millis(30), (3, 512));
        let upstream = metrics.upstream("users");
        upstream.attempt_ended(Duration::from_millis(3));
        upstream.retried(RetryResult::Success);
        upstream.attach(|| {
            Some(UpstreamReading {
                queue_length: 2,
                concurrency_limit: Some(24),
                panic: true,
            })
        });
        let server = metrics.server("users", "10.0.0.1:9000");
        server.attempted(Outcome::Failed(Reason::ConnectTimeout));
        server.connected(ConnectResult::Ok);
        server.checked(CheckResult::Failure);
        events::breaker(
            "users",
            "10.0.0.1:9000",
            &server,
            BreakerReading::Open,
            &"5 failures in a row",
        );
        server.attach(|| {
            Some(ServerReading {
                in_flight: 4,
                latency: Some(0.25),
                connections_active: 4,
                connections_idle: 1,
                healthy: true,
                weight: 3.0,
                breaker: BreakerReading::Open,
            })
        });
        let name = metrics.name("app.internal:9000");
        name.asked(ResolveResult::Success);
        metrics.rejected(Reason::NoRoute);
        metrics.reload_accepted(2);
        let handles: Vec<Box<dyn std::any::Any>> = vec![
            Box::new(listener),
            Box::new(route),
            Box::new(upstream),
            Box::new(server),
            Box::new(name),
        ];
        (metrics, handles)
    }

    #[test]
    fn every_family_is_scraped_with_help_and_a_fitting_name() {
        let (metrics, _handles) = full();
        let text = metrics.encode();
        for family in FAMILIES {
            assert!(
                text.contains(&format!("# HELP {} ", family.name)),
                "{} is missing",
                family.name
            );
            assert!(
                family.help.ends_with('.'),
                "{} needs a sentence",
                family.name
            );
            let total = family.name.ends_with("_total");
            assert_eq!(total, family.kind == MetricType::COUNTER, "{}", family.name);
        }
    }

    /// Debian's package `prometheus` has it; CI installs that. Elsewhere this proves nothing.
    #[test]
    fn promtool_finds_nothing_where_it_is_installed() {
        use std::io::Write;
        use std::process::{Command, Stdio};

        let child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else { return };
        let (metrics, _handles) = full();
        let mut input = child.stdin.take().expect("its input is a pipe");
        input
            .write_all(metrics.encode().as_bytes())
            .expect("promtool reads all of it");
        drop(input);
        let output = child.wait_with_output().expect("promtool ends");
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success() && said.is_empty(),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }

    #[test]
    fn samples_carry_their_labels_and_values() {
        let (metrics, _handles) = full();
        let text = metrics.encode();
        for line in [
            r#"evenkeel_requests_total{listener="web",route="users",method="GET",code="200"} 1"#,
            r#"evenkeel_request_duration_seconds_bucket{route="users",le="0.025"} 0"#,
            r#"evenkeel_request_duration_seconds_bucket{route="users",le="0.05"} 1"#,
            r#"evenkeel_request_duration_seconds_bucket{route="users",le="+Inf"} 1"#,
            r#"evenkeel_request_duration_seconds_sum{route="users"} 0.03"#,
            r#"evenkeel_response_bytes_total{route="users"} 512"#,
            r#"evenkeel_rejected_total{reason="no_route"} 1"#,
            r#"evenkeel_connections_active{listener="web"} 1"#,
            r#"evenkeel_upstream_requests_total{upstream="users",server="10.0.0.1:9000",code="connect_timeout"} 1"#,
            r#"evenkeel_upstream_server_weight{upstream="users",server="10.0.0.1:9000"} 3"#,
            r#"evenkeel_upstream_breaker_state{upstream="users",server="10.0.0.1:9000"} 2"#,
            r#"evenkeel_upstream_breaker_transitions_total{upstream="users",server="10.0.0.1:9000",to="open"} 1"#,
            r#"evenkeel_upstream_queue_length{upstream="users"} 2"#,
            r#"evenkeel_upstream_concurrency_limit{upstream="users"} 24"#,
            r#"evenkeel_upstream_panic{upstream="users"} 1"#,
            r#"evenkeel_resolutions_total{name="app.internal:9000",result="success"} 1"#,
            r#"evenkeel_resolutions_total{name="app.internal:9000",result="timeout"} 0"#,
            "evenkeel_config_generation 2",
            r#"evenkeel_config_reloads_total{result="success"} 1"#,
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "missing: {line}\n{text}"
            );
        }
    }

    #[test]
    fn counts_go_on_while_any_holder_is_left() {
        let metrics = Metrics::new(1);
        let old = metrics.upstream("users");
        old.retried(RetryResult::Failure);
        let new = metrics.upstream("users");
        assert!(Arc::ptr_eq(&old, &new));
        drop(old);
        assert!(
            metrics
                .encode()
                .contains(r#"{upstream="users",result="failure"} 1"#)
        );
    }

    #[test]
    fn series_are_gone_with_their_last_holder() {
        let (metrics, handles) = full();
        drop(handles);
        let text = metrics.encode();
        assert!(!text.contains("users") && !text.contains("web"), "{text}");
    }

    #[test]
    fn series_of_a_removed_listener_are_gone_from_its_routes() {
        let metrics = Metrics::new(1);
        let (listener, route) = (metrics.listener("web"), metrics.route("users"));
        route.completed(&listener, "GET", 200, Duration::ZERO, (0, 0));
        drop(listener);
        assert!(!metrics.encode().contains("evenkeel_requests_total{"));
        let listener = metrics.listener("other");
        route.completed(&listener, "GET", 200, Duration::ZERO, (0, 0));
        let text = metrics.encode();
        assert!(
            text.contains(r#"evenkeel_requests_total{listener="other""#) && !text.contains("web")
        );
    }

    #[test]
    fn names_that_come_and_go_leave_nothing_behind() {
        let metrics = Metrics::new(1);
        for n in 0..10_000 {
            metrics.upstream(&format!("upstream-{n}"));
        }
        assert!(metrics.families.alive().upstreams.by_name.len() <= 64);
    }

    proptest! {
        #[test]
        fn any_configured_name_is_one_line_with_its_quotes_closed(name in any::<String>()) {
            let metrics = Metrics::new(1);
            let _route = metrics.route(&name);
            let text = metrics.encode();
            let wanted = format!(
                "evenkeel_request_bytes_total{{route=\"{}\"}} 0",
                name.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
            );
            prop_assert!(name.is_empty() || text.split('\n').any(|line| line == wanted));
        }
    }
}
