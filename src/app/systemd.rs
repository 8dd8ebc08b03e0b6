//! Telling the service manager how we are (`sd_notify(3)`), and the watchdog.
//!
//! A message is lines of `NAME=value` in one datagram to the socket that `NOTIFY_SOCKET` names; a
//! first `@` stands for the abstract namespace. Nothing here ever stops or fails us: where nobody
//! listens there is nobody to tell.
//!
//! The watchdog is fed only after the control runtime and every worker have come round since it was
//! fed last: one that hangs gets us restarted, which a timer alone would prevent.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::signals::Replaced;
use crate::reload;
use crate::worker::Workers;

/// A manager that does not read must not hold us up.
const PATIENCE: Duration = Duration::from_secs(1);
/// How old the status line may be.
const STATUS: Duration = Duration::from_secs(5);

/// Where to send. Cheap to clone; without an address it does nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Notify {
    address: Option<SocketAddr>,
    /// Half of what the manager waits for.
    beat: Option<Duration>,
}

impl Notify {
    pub fn from_environment() -> Self {
        let variable = |name: &str| std::env::var_os(name);
        let Some(address) = variable("NOTIFY_SOCKET").and_then(|name| address(&name)) else {
            return Notify::default();
        };
        let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
        let meant = variable("WATCHDOG_PID").is_none()
            || number("WATCHDOG_PID") == Some(std::process::id().into());
        let beat = number("WATCHDOG_USEC")
            .filter(|usec| *usec > 0 && meant)
            .map(|usec| Duration::from_micros(usec) / 2);
        Notify {
            address: Some(address),
            beat,
        }
    }

    fn is_on(&self) -> bool {
        self.address.is_some()
    }

    /// Serving. `status` in one line.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}\n", line(status)));
    }

    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}\n", line(status)));
    }

    /// The answer to a reload signal, to be followed by [`Notify::ready`].
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let usec = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.send(&format!(
            "RELOADING=1\nMONOTONIC_USEC={usec}\nSTATUS=reloading\n"
        ));
    }

    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}\n", line(status)));
    }

    /// From here on another process is the one that counts.
    pub fn main_pid(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}\nSTATUS=handed over to {pid}\n"));
    }

    fn send(&self, text: &str) {
        let Some(address) = &self.address else {
            return;
        };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            socket.set_write_timeout(Some(PATIENCE))?;
            socket.send_to_addr(text.as_bytes(), address)
        });
        if let Err(error) = sent {
            tracing::debug!(%error, "the service manager cannot be told");
        }
    }
}

fn address(name: &OsStr) -> Option<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        [b'/', ..] => SocketAddr::from_pathname(name).ok(),
        _ => None,
    }
}

/// A value must not end before its end.
fn line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// What an operator wants to read in one line.
pub(super) fn status(reload: &reload::Handle, workers: usize) -> String {
    let current = reload.current();
    let listeners = current.snapshot.config.listeners.len();
    let generation = current.snapshot.generation;
    let last = reload.last();
    let mut text =
        format!("serving: generation {generation}, {listeners} listeners, {workers} workers");
    if !last.successful {
        text.push_str("; the last reload was refused: ");
        text.push_str(last.summary.lines().next().unwrap_or_default());
    }
    text
}

/// Feeds the watchdog and keeps the status line true, until another process does that.
pub(super) async fn keep(
    notify: Notify,
    reload: reload::Handle,
    workers: Arc<Workers>,
    replaced: Replaced,
) {
    if !notify.is_on() {
        return;
    }
    let mut told = reload.last();
    while replaced.pid().is_none() {
        if notify.beat.is_some() {
            workers.beat().await;
            notify.send("WATCHDOG=1\n");
        }
        let last = reload.last();
        if !Arc::ptr_eq(&told, &last) {
            told = last;
            notify.status(&status(&reload, workers.count()));
        }
        tokio::time::sleep(notify.beat.unwrap_or(STATUS).min(STATUS)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let length = socket.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..length].to_vec()).expect("text")
    }

    #[test]
    fn both_kinds_of_socket_are_reached() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let name = format!("evenkeel-test-{}", std::process::id());
        let hidden = SocketAddr::from_abstract_name(name.as_bytes()).expect("a name");
        for (socket, name) in [
            (UnixDatagram::bind(&path), path.into_os_string()),
            (UnixDatagram::bind_addr(&hidden), format!("@{name}").into()),
        ] {
            let socket = socket.expect("binds");
            let notify = Notify {
                address: address(&name),
                beat: None,
            };
            notify.ready("two\nlines");
            assert_eq!(told(&socket), "READY=1\nSTATUS=two lines\n");
            notify.reloading();
            let text = told(&socket);
            assert!(text.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{text}");
        }
    }

    #[test]
    fn nobody_to_tell_is_no_failure() {
        Notify::default().ready("nobody hears it");
        let notify = Notify {
            address: address(OsStr::new("/nonexistent/notify")),
            beat: None,
        };
        notify.stopping("nobody hears it");
        assert!(address(OsStr::new("relative")).is_none());
    }
}
