//! Things that happen once: each function logs and counts.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use super::{BreakerReading, Metrics, ServerMetrics};

/// The first configuration is in use.
pub fn started(metrics: &Metrics, generation: u64, workers: usize, max_connections: usize) {
    metrics.started(generation);
    metrics.set_overload(max_connections, false);
    tracing::info!(
        generation,
        workers,
        max_connections,
        version = env!("CARGO_PKG_VERSION"),
        "started"
    );
}

pub fn listening(listener: &str, address: &dyn Display) {
    tracing::info!(listener, %address, "listening");
}

/// A new configuration is in use; `changes` is its difference to the last one, in words, with the
/// overrides that stay in force.
pub fn reload_accepted(metrics: &Metrics, generation: u64, trigger: &str, changes: &dyn Display) {
    metrics.reload_accepted(generation);
    tracing::info!(generation, trigger, %changes, "reloaded");
}

/// Somebody asked for a reload of what is in use already.
pub fn reload_unchanged(generation: u64, trigger: &str) {
    tracing::info!(
        generation,
        trigger,
        "nothing to reload: the file is the one in use"
    );
}

/// The file was refused and changes nothing; `mistakes` in one line.
pub fn reload_rejected(metrics: &Metrics, trigger: &str, mistakes: &dyn Display) {
    metrics.reload_rejected();
    tracing::error!(trigger, %mistakes, "reload rejected, the configuration in use stays");
}

/// A certificate in use ends soon, or has ended; once for each.
pub fn certificate_ends(name: &str, left: Duration) {
    match left.as_secs() {
        0 => tracing::error!(
            certificate = name,
            "a certificate has expired: clients refuse it"
        ),
        seconds => {
            let days = seconds / 86_400;
            tracing::warn!(certificate = name, days, "a certificate expires soon");
        }
    }
}

/// The active checks changed their verdict.
pub fn health(upstream: &str, server: &str, healthy: bool, cause: &dyn Display) {
    if healthy {
        tracing::info!(upstream, server, "server is healthy");
    } else {
        tracing::warn!(upstream, server, %cause, "server is unhealthy");
    }
}

/// A breaker moved to `to`.
pub fn breaker(
    upstream: &str,
    server: &str,
    metrics: &ServerMetrics,
    to: BreakerReading,
    cause: &dyn Display,
) {
    metrics.breaker_moved(to);
    match to {
        BreakerReading::Open => tracing::warn!(upstream, server, %cause, "breaker opened"),
        BreakerReading::HalfOpen => tracing::info!(upstream, server, "breaker half-open"),
        BreakerReading::Closed => tracing::info!(upstream, server, "breaker closed"),
    }
}

/// A breaker in `watch` mode would have opened, or one found no place under `max-ejected`.
pub fn breaker_held(upstream: &str, server: &str, why: &'static str) {
    tracing::warn!(upstream, server, why, "breaker would open, but does not");
}

/// Verdicts of active checks are ignored from now on, or honoured again.
pub fn panic(upstream: &str, on: bool) {
    if on {
        tracing::warn!(
            upstream,
            "too few servers are healthy: health checks are ignored"
        );
    } else {
        tracing::info!(
            upstream,
            "enough servers are healthy: health checks count again"
        );
    }
}

/// Requests are refused with `overloaded` from now on, or none was for a while. Once per overload.
pub fn shedding(upstream: &str, on: bool, waiting: usize) {
    if on {
        tracing::warn!(upstream, waiting, "overloaded: requests are refused");
    } else {
        tracing::info!(upstream, "overload is over: requests are taken again");
    }
}

/// A server's share grows from now on, or has come to its full weight.
pub fn slow_start(upstream: &str, server: &str, begins: bool) {
    if begins {
        tracing::info!(upstream, server, "slow start begins");
    } else {
        tracing::info!(upstream, server, "slow start is over");
    }
}

/// An operator changed a server by the admin API, or took the change back.
pub fn overridden(upstream: &str, server: &str, weight: Option<u32>, drain: Option<bool>) {
    if weight.is_none() && drain.is_none() {
        tracing::info!(upstream, server, "override removed");
    } else {
        tracing::info!(upstream, server, weight, drain, "override set");
    }
}

/// A new binary runs, and is not ready yet.
pub fn upgrade_started(pid: u32, path: &Path) {
    tracing::info!(pid, path = %path.display(), "upgrade: started the new process");
}

/// Nothing came of it, nothing changed.
pub fn upgrade_failed(metrics: &Metrics, reason: &dyn Display) {
    metrics.upgrade_failed();
    tracing::error!(%reason, "upgrade failed, this process goes on as before");
}

pub fn upgrade_is_under_way() {
    tracing::warn!("upgrade: one is under way already, the signal is ignored");
}

/// The new process accepts.
pub fn handed_over(pid: u32) {
    tracing::info!(pid, "upgrade: the new process is ready, this one ends");
}

/// The one that this one has handed over to, and that was its child, has ended. One that ends by
/// itself was told to, or has handed over in its turn.
pub fn successor_ended(pid: u32, status: std::io::Result<ExitStatus>) {
    match status {
        Ok(status) if status.success() => {
            tracing::info!(pid, "upgrade: the process that has taken over has ended");
        }
        status => {
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            tracing::error!(
                pid,
                status,
                "upgrade: the process that has taken over is gone, and this one cannot go back: it \
                 ends what it has, nobody is accepted until evenkeel is started anew"
            );
        }
    }
}

/// This process is the new one of an upgrade, and has the sockets.
pub fn taking_over(pid: u32, version: &str) {
    tracing::info!(pid, version, "upgrade: taking over from the old process");
}

/// The new process has been told what the old one knew.
pub fn carried(overrides: usize, servers: usize, names: usize) {
    tracing::info!(
        overrides,
        servers,
        names,
        "upgrade: took over what is known"
    );
}

/// It has not, or not so that it understands.
pub fn nothing_carried(reason: &dyn Display) {
    tracing::warn!(%reason, "upgrade: overrides, health and breakers begin afresh");
}

/// The old process cannot tell it.
pub fn carried_too_much(reason: &dyn Display) {
    tracing::warn!(%reason, "upgrade: the new process is not told of overrides, health and breakers");
}

/// The servers of a name are others than before. Of many, a few are shown.
pub fn name_moved(
    name: &dyn Display,
    servers: usize,
    added: &[SocketAddr],
    removed: &[SocketAddr],
) {
    const SHOWN: usize = 8;
    let shown = |list: &[SocketAddr]| {
        let mut text: Vec<String> = list.iter().take(SHOWN).map(ToString::to_string).collect();
        if list.len() > SHOWN {
            text.push(format!("and {} more", list.len() - SHOWN));
        }
        text.join(", ")
    };
    let (added, removed) = (shown(added), shown(removed));
    tracing::info!(%name, servers, added, removed, "name resolved");
}

/// An answer with more servers than a name may have.
pub fn name_over_limit(name: &dyn Display, servers: usize, left_out: usize) {
    tracing::warn!(%name, servers, left_out, "name has too many servers, the rest is left out");
}

/// The first failure of some in a row. `kept`: there is an answer of before.
pub fn name_fails(name: &dyn Display, cause: &str, kept: bool) {
    if kept {
        tracing::warn!(%name, cause, "name does not resolve, its last answer is kept");
    } else {
        tracing::warn!(%name, cause, "name does not resolve");
    }
}

/// The first answer after failures.
pub fn name_back(name: &dyn Display, after: Duration) {
    let after = format_args!("{:.1}s", after.as_secs_f64());
    tracing::info!(%name, %after, "name resolves again");
}

/// A graceful stop begins.
pub fn draining(signal: &str) {
    tracing::info!(signal, "draining");
}

/// The process ends; `aborted` requests did not get to their end.
pub fn stopped(aborted: u64) {
    if aborted == 0 {
        tracing::info!("stopped");
    } else {
        tracing::warn!(aborted, "stopped with requests under way");
    }
}
