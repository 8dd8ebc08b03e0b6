//! The one thread that writes the access log.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::{self, Thread};
use std::time::Duration;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use super::target::Target;
use super::time::Clock;
use super::{AccessLog, Settings};
use crate::config::model::{self, AccessLogFormat};
use crate::telemetry::Metrics;
use crate::util::units::Percent;

/// Between two looks while lines keep coming: the longest that a line waits for its write.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// Batches of `buffer` bytes that a worker may have pending before lines are dropped. One batch
/// alone would lose lines whenever the writer is not scheduled for a moment on a busy machine.
const BATCHES: usize = 32;

/// What one worker has pending. The worker appends, the writer takes all: either holds the lock
/// for one line or one swap, never over a system call.
#[derive(Default)]
pub(super) struct Pending(Mutex<Lines>);

#[derive(Default)]
pub(super) struct Lines {
    pub current: Batch,
    /// For targets that a reload replaced since the writer last looked.
    earlier: Vec<Batch>,
    /// The writer was already woken for this batch.
    pub signalled: bool,
}

/// Lines for one target.
#[derive(Default)]
pub(super) struct Batch {
    pub bytes: Vec<u8>,
    pub lines: u64,
    target: Option<Arc<Target>>,
}

impl Pending {
    pub fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> (Vec<Batch>, Batch) {
        let mut lines = self.lock();
        lines.signalled = false;
        (
            std::mem::take(&mut lines.earlier),
            std::mem::take(&mut lines.current),
        )
    }

    /// Lets the worker use the memory of a written batch again, unless it has begun another one.
    fn give_back(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        let mut lines = self.lock();
        if lines.current.bytes.capacity() == 0 {
            lines.current.bytes = bytes;
        }
    }
}

impl Lines {
    /// The batch to append a line for `target` to.
    pub fn batch_for(&mut self, target: &Arc<Target>) -> &mut Batch {
        let same = |batch: &Batch| {
            batch
                .target
                .as_ref()
                .is_some_and(|of| Arc::ptr_eq(of, target))
        };
        if self.current.lines > 0 && !same(&self.current) {
            let done = std::mem::take(&mut self.current);
            self.earlier.push(done);
        }
        if self.current.lines == 0 {
            self.current.target = Some(target.clone());
        }
        &mut self.current
    }

    fn is_empty(&self) -> bool {
        self.current.lines == 0 && self.earlier.is_empty()
    }
}

/// Wakes the writer.
#[derive(Debug, Clone)]
pub(super) struct Wake(Arc<WakeState>);

#[derive(Debug, Default)]
struct WakeState {
    /// The writer sleeps until it is woken. It sets this before it looks at each worker's lines
    /// under their lock a last time; a worker reads it after it appended under the same lock. So
    /// either the writer sees the line or the worker sees this, and `Relaxed` is enough.
    idle: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Wake {
    pub fn after_push(&self, urgent: bool) {
        let was_idle =
            self.0.idle.load(Ordering::Relaxed) && self.0.idle.swap(false, Ordering::Relaxed);
        if urgent || was_idle {
            self.now();
        }
    }

    fn now(&self) {
        if let Some(thread) = self.0.thread.get() {
            thread.unpark();
        }
    }
}

enum Command {
    Reopen,
    /// Answer when everything so far is written.
    Flush(mpsc::Sender<()>),
    Stop,
}

/// The process' access log: owns the target and the thread that writes to it.
pub struct AccessLogWriter {
    shared: Arc<Shared>,
}

struct Shared {
    metrics: Arc<Metrics>,
    settings: Arc<ArcSwap<Settings>>,
    workers: Mutex<Vec<Arc<Pending>>>,
    commands: Mutex<Vec<Command>>,
    wake: Wake,
}

/// A target that was opened, not yet in use: opening can fail, using it cannot.
pub struct Prepared {
    settings: Settings,
}

impl AccessLogWriter {
    /// Starts without a target: no line is written until [`AccessLogWriter::apply`].
    pub fn start(metrics: Arc<Metrics>) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            metrics,
            settings: Arc::new(ArcSwap::from_pointee(off())),
            workers: Mutex::default(),
            commands: Mutex::default(),
            wake: Wake(Arc::default()),
        });
        let writer = shared.clone();
        let thread = thread::Builder::new()
            .name("access-log".into())
            .spawn(move || run(&writer))?;
        // Nothing can have asked for a wake-up before this, and the thread looks before it sleeps.
        let _ = shared.wake.0.thread.set(thread.thread().clone());
        Ok(Arc::new(AccessLogWriter { shared }))
    }

    /// Opens what `config` names (`None`: no access log). A file that is in use stays the one that is
    /// open where it cannot be opened anew: no other change must wait for a directory that is gone.
    pub fn prepare(&self, config: Option<&model::AccessLog>) -> io::Result<Prepared> {
        let Some(config) = config else {
            return Ok(Prepared { settings: off() });
        };
        let batch_bytes = usize::try_from(config.buffer.0)
            .unwrap_or(usize::MAX)
            .max(1);
        let settings = Settings {
            target: Some(self.open(&config.target)?),
            format: config.format,
            sample: config.sample,
            batch_bytes,
            limit_bytes: batch_bytes.saturating_mul(BATCHES),
        };
        Ok(Prepared { settings })
    }

    fn open(&self, target: &model::LogTarget) -> io::Result<Arc<Target>> {
        let failed = match Target::open(target) {
            Ok(opened) => return Ok(Arc::new(opened)),
            Err(error) => error,
        };
        let settings = self.shared.settings.load();
        let in_use = settings.target.as_ref().filter(|open| open.is(target));
        let Some(in_use) = in_use else {
            return Err(failed);
        };
        tracing::warn!(error = %failed, "access log cannot be opened anew, the open one is written on");
        in_use.reopen_later();
        Ok(in_use.clone())
    }

    /// Lines from now on go to `prepared`, in its format; those from before to their own target.
    pub fn apply(&self, prepared: Prepared) {
        self.shared.settings.store(Arc::new(prepared.settings));
    }

    /// The handle for one worker, to be made on any thread and used on one.
    pub fn worker(&self) -> AccessLog {
        let pending = Arc::new(Pending::default());
        self.shared.workers().push(pending.clone());
        AccessLog {
            pending,
            settings: Cache::new(self.shared.settings.clone()).into(),
            clock: Clock::default().into(),
            wake: self.shared.wake.clone(),
            metrics: self.shared.metrics.clone(),
        }
    }

    /// Opens the file anew (USR1, after a rotation).
    pub fn reopen(&self) {
        self.shared.command(Command::Reopen);
    }

    /// Waits until every line so far is written, at most `limit`; false when that was not enough.
    /// Blocks: not for a worker.
    pub fn flush(&self, limit: Duration) -> bool {
        let (done, written) = mpsc::channel();
        self.shared.command(Command::Flush(done));
        written.recv_timeout(limit).is_ok()
    }
}

impl Drop for AccessLogWriter {
    fn drop(&mut self) {
        self.shared.command(Command::Stop);
    }
}

fn off() -> Settings {
    Settings {
        target: None,
        format: AccessLogFormat::Combined,
        sample: Percent::from_fraction(1.0),
        batch_bytes: 1,
        limit_bytes: 0,
    }
}

impl Shared {
    fn workers(&self) -> MutexGuard<'_, Vec<Arc<Pending>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commands(&self) -> MutexGuard<'_, Vec<Command>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, command: Command) {
        self.commands().push(command);
        self.wake.now();
    }

    /// Writes what worker after worker has pending; false when that was nothing. A worker that is
    /// gone is forgotten after its last lines.
    fn drain(&self) -> bool {
        let workers = self.workers().clone();
        let mut any = false;
        for worker in &workers {
            let (earlier, current) = worker.take();
            for batch in earlier.iter().chain([&current]) {
                any |= batch.lines > 0;
                self.write(batch);
            }
            worker.give_back(current.bytes);
        }
        drop(workers);
        self.workers()
            .retain(|worker| Arc::strong_count(worker) > 1 || !worker.lock().is_empty());
        any
    }

    fn write(&self, batch: &Batch) {
        if let Some(target) = &batch.target
            && batch.lines > 0
        {
            let lost = target.write(&batch.bytes);
            self.metrics.log_dropped(lost);
        }
    }

    fn has_work(&self) -> bool {
        !self.commands().is_empty()
            || self
                .workers()
                .iter()
                .any(|worker| !worker.lock().is_empty())
    }
}

/// The thread: lines, then commands, then a pause or a sleep.
fn run(shared: &Shared) {
    loop {
        // Taken before the lines are: a flush is answered after what came before it.
        let commands = std::mem::take(&mut *shared.commands());
        let wrote = shared.drain();
        for command in commands {
            match command {
                Command::Reopen => {
                    if let Some(target) = &shared.settings.load().target {
                        target.output().reopen();
                    }
                }
                // Who asked may have stopped waiting.
                Command::Flush(done) => drop(done.send(())),
                Command::Stop => return,
            }
        }
        if wrote {
            thread::park_timeout(PAUSE);
            continue;
        }
        let idle = &shared.wake.0.idle;
        idle.store(true, Ordering::Relaxed);
        if !shared.has_work() {
            thread::park();
        }
        idle.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;
    use std::time::Instant;

    use nix::fcntl::OFlag;

    use super::*;
    use crate::config::model::LogTarget;
    use crate::telemetry::access::testing;
    use crate::util::units::ByteSize;

    fn log_to(path: &Path, buffer: u64) -> (Arc<Metrics>, Arc<AccessLogWriter>) {
        let metrics = Metrics::new(1);
        let writer = AccessLogWriter::start(metrics.clone()).expect("a thread can be started");
        let prepared = writer
            .prepare(Some(&config(path, buffer)))
            .expect("the target opens");
        writer.apply(prepared);
        (metrics, writer)
    }

    fn config(path: &Path, buffer: u64) -> model::AccessLog {
        model::AccessLog {
            target: LogTarget::File(path.to_owned()),
            format: AccessLogFormat::Json,
            sample: Percent::from_fraction(1.0),
            buffer: ByteSize(buffer),
        }
    }

    /// Waits for `condition` without a fixed sleep.
    fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "{what}");
            thread::yield_now();
        }
    }

    fn lines(path: &Path) -> usize {
        std::fs::read(path).map_or(0, |bytes| bytes.iter().filter(|&&b| b == b'\n').count())
    }

    #[test]
    fn every_line_of_every_worker_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        let (metrics, writer) = log_to(&path, 64 * 1024);
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let log = writer.worker();
                thread::spawn(move || (0..500).for_each(|_| log.write(&testing::record())))
            })
            .collect();
        for worker in workers {
            worker.join().expect("a worker does not panic");
        }
        assert!(writer.flush(Duration::from_secs(20)));
        assert_eq!((lines(&path), metrics.access_log_dropped()), (2000, 0));
        for line in std::fs::read_to_string(&path).expect("text").lines() {
            serde_json::from_str::<serde_json::Value>(line).expect("whole lines only");
        }
    }

    #[test]
    fn a_single_line_appears_without_another_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access.log");
        let (_metrics, writer) = log_to(&path, 64 * 1024);
        let log = writer.worker();
        for n in 1..=3 {
            log.write(&testing::record());
            until("the line must be written by itself", || lines(&path) == n);
        }
    }

    #[test]
    fn without_a_target_no_record_is_wanted() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_metrics, writer) = log_to(&folder.path().join("access.log"), 1024);
        let log = writer.worker();
        assert!(log.enabled());
        let prepared = writer.prepare(None).expect("nothing to open");
        writer.apply(prepared);
        assert!(!log.enabled());
    }

    #[test]
    fn a_full_disk_costs_lines_only() {
        let (metrics, writer) = log_to(Path::new("/dev/full"), 64 * 1024);
        let log = writer.worker();
        (0..10).for_each(|_| log.write(&testing::record()));
        assert!(writer.flush(Duration::from_secs(20)));
        assert_eq!(metrics.access_log_dropped(), 10);
    }

    #[test]
    fn a_pipe_that_nobody_reads_never_stops_a_worker() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let (metrics, writer) = {
            let unread = AccessLogWriter::start(Metrics::new(1)).expect("a thread");
            assert!(
                unread.prepare(Some(&config(&path, 1024))).is_err(),
                "nobody reads it yet"
            );
            let flags = OFlag::O_NONBLOCK.bits();
            let reader = OpenOptions::new()
                .read(true)
                .custom_flags(flags)
                .open(&path);
            let _reader = reader.expect("a reader");
            let (metrics, writer) = log_to(&path, 1024);
            let log = writer.worker();
            until("lines must be dropped, not waited for", || {
                log.write(&testing::record());
                metrics.access_log_dropped() > 0
            });
            (metrics, writer)
        };
        drop(writer);
        assert!(
            metrics
                .encode()
                .contains("evenkeel_access_log_dropped_total")
        );
    }

    #[test]
    fn reopening_follows_a_rotation() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, old) = (
            folder.path().join("access.log"),
            folder.path().join("access.log.1"),
        );
        let (_metrics, writer) = log_to(&path, 64 * 1024);
        let log = writer.worker();
        log.write(&testing::record());
        assert!(writer.flush(Duration::from_secs(20)));
        std::fs::rename(&path, &old).expect("a rotation");
        log.write(&testing::record());
        writer.reopen();
        assert!(writer.flush(Duration::from_secs(20)));
        log.write(&testing::record());
        assert!(writer.flush(Duration::from_secs(20)));
        assert_eq!((lines(&old), lines(&path)), (2, 1));
    }

    #[test]
    fn a_new_target_takes_over_between_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, second) = (folder.path().join("a.log"), folder.path().join("b.log"));
        let (metrics, writer) = log_to(&first, 64 * 1024);
        let log = writer.worker();
        (0..100).for_each(|_| log.write(&testing::record()));
        writer.apply(
            writer
                .prepare(Some(&config(&second, 1024)))
                .expect("the target opens"),
        );
        (0..10).for_each(|_| log.write(&testing::record()));
        assert!(writer.flush(Duration::from_secs(20)));
        assert_eq!(lines(&first) + lines(&second), 110);
        assert!(lines(&first) >= 100 && metrics.access_log_dropped() == 0);
    }
}
