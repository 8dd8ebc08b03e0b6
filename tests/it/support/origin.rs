//! Origin servers that do what a test tells them, well-formed or not.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::client::{find, lossy};
use super::{DEADLINE, eventually};

/// A server on a port of its own; gone when dropped.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Box<dyn Fn(&mut Connection) + Send + Sync>,
    stopped: AtomicBool,
    accepted: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<Received>>,
    streams: Mutex<Vec<TcpStream>>,
    /// Of a stopped origin: bound, so that no other test gets its port meanwhile.
    reserved: Mutex<Option<socket2::Socket>>,
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// Start line, header section, empty line: the exact bytes.
    pub head: Vec<u8>,
    /// The exact bytes, chunk framing and trailers included.
    pub body: Vec<u8>,
    /// Which connection of this origin it came on, from 0.
    pub connection: usize,
}

impl Received {
    pub fn head_text(&self) -> String {
        lossy(&self.head)
    }

    pub fn start_line(&self) -> String {
        self.head_text()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    pub fn method(&self) -> String {
        self.start_line()
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    pub fn target(&self) -> String {
        self.start_line()
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    }

    /// The values of all fields of this name.
    pub fn headers(&self, name: &str) -> Vec<String> {
        self.head_text()
            .split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.headers(name).into_iter().next()
    }
}

/// The origin's side of one connection, for scripts.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
    /// From 0.
    pub index: usize,
    /// Requests read so far.
    pub served: usize,
}

impl Origin {
    /// `script` runs once per connection, on a thread of its own; the connection closes after it.
    pub fn scripted(script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), script)
    }

    pub fn at(
        address: SocketAddr,
        script: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> Self {
        let listener = listen(address);
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            script: Box::new(script),
            stopped: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            requests: Mutex::default(),
            streams: Mutex::default(),
            reserved: Mutex::default(),
        });
        let origin = Origin { address, shared };
        origin.serve(listener);
        origin
    }

    /// Answers every request with 200 and `body`, keeping connections alive.
    pub fn good(body: &str) -> Self {
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        Self::answering(answer)
    }

    /// Answers every request with these bytes.
    pub fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::scripted(move |connection| {
            while connection.request().is_some() {
                connection.send(&bytes);
            }
        })
    }

    /// Answers `count` requests per connection with 200, then closes without a word.
    pub fn closing_after(count: usize) -> Self {
        Self::scripted(move |connection| {
            while connection.served < count && connection.request().is_some() {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        })
    }

    /// Reads requests and never answers.
    pub fn stalling() -> Self {
        Self::scripted(|connection| while connection.request().is_some() {})
    }

    /// Reads a request, then resets the connection.
    pub fn resetting() -> Self {
        Self::scripted(|connection| {
            connection.request();
            connection.reset();
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests read so far.
    pub fn requests(&self) -> Vec<Received> {
        self.shared
            .requests
            .lock()
            .expect("no script panics with the lock")
            .clone()
    }

    pub fn request_count(&self) -> usize {
        self.shared
            .requests
            .lock()
            .expect("no script panics with the lock")
            .len()
    }

    /// The last request; waits for the first.
    #[track_caller]
    pub fn last(&self) -> Received {
        eventually("a request arrives at the origin", || {
            self.request_count() > 0
        });
        let requests = self.shared.requests.lock();
        let requests = requests.expect("no script panics with the lock");
        requests.last().expect("there is one").clone()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Refuses connections from now on and breaks off the open ones.
    pub fn stop(&self) {
        self.close();
        let reserved = super::value_within(DEADLINE, "the origin's port is free", || {
            reserve(self.address).ok()
        });
        *self.shared.reserved.lock().expect("no panic with the lock") = Some(reserved);
    }

    fn close(&self) {
        if self.shared.stopped.swap(true, Ordering::SeqCst) {
            return;
        }
        // Wakes the accept loop, which then closes its socket.
        drop(TcpStream::connect(self.address));
        for stream in self
            .shared
            .streams
            .lock()
            .expect("no panic with the lock")
            .drain(..)
        {
            // Fails for those that have ended.
            let _ = stream.shutdown(Shutdown::Both);
        }
        eventually("the origin has stopped", || {
            TcpStream::connect(self.address).is_err()
        });
    }

    /// Accepts again, at the same address.
    pub fn resume(&self) {
        assert!(self.shared.stopped.load(Ordering::SeqCst), "stopped before");
        drop(
            self.shared
                .reserved
                .lock()
                .expect("no panic with the lock")
                .take(),
        );
        let listener = listen(self.address);
        self.shared.stopped.store(false, Ordering::SeqCst);
        self.serve(listener);
    }

    fn serve(&self, listener: TcpListener) {
        let shared = self.shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let index = shared.accepted.fetch_add(1, Ordering::SeqCst);
                let shared = shared.clone();
                thread::spawn(move || {
                    let copy = stream.try_clone().expect("descriptors are left");
                    shared
                        .streams
                        .lock()
                        .expect("no panic with the lock")
                        .push(copy);
                    shared.open.fetch_add(1, Ordering::SeqCst);
                    let _ = stream.set_nodelay(true);
                    let mut connection = Connection {
                        stream,
                        buffer: Vec::new(),
                        shared: shared.clone(),
                        index,
                        served: 0,
                    };
                    (shared.script)(&mut connection);
                    connection.close();
                    let mut streams = shared.streams.lock().expect("no panic with the lock");
                    let peer = connection.stream.peer_addr().ok();
                    streams.retain(|stream| peer.is_some() && stream.peer_addr().ok() != peer);
                    drop(streams);
                    drop(connection);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.close();
        }
    }
}

/// A port that refuses connections and that nobody else is given.
fn reserve(address: SocketAddr) -> io::Result<socket2::Socket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    // To be bound beside what lingers of its connections; then no longer, because the system
    // gives a port with it to others who have it, too.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.set_reuse_address(false)?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> TcpListener {
    // A stopped origin's port may be taken again while its connections linger; std sets
    // SO_REUSEADDR.
    super::value_within(DEADLINE, "the origin's port is free", || {
        TcpListener::bind(address).ok()
    })
}

impl Connection {
    /// Reads one request, body included, and records it. `None`: the proxy closed.
    pub fn request(&mut self) -> Option<Received> {
        let head = self.head()?;
        let mut received = Received {
            head,
            body: Vec::new(),
            connection: self.index,
        };
        if received.header("transfer-encoding").is_some() {
            received.body = self.chunked()?;
        } else if let Some(length) = received.header("content-length") {
            received.body = self.exactly(length.parse().expect("Content-Length is a number"))?;
        }
        self.record(received.clone());
        Some(received)
    }

    /// Reads and records the head only.
    pub fn request_head(&mut self) -> Option<Received> {
        let head = self.head()?;
        let received = Received {
            head,
            body: Vec::new(),
            connection: self.index,
        };
        self.record(received.clone());
        Some(received)
    }

    fn record(&mut self, received: Received) {
        self.served += 1;
        self.shared
            .requests
            .lock()
            .expect("no script panics with the lock")
            .push(received);
    }

    /// Sends; a proxy that has gone is no mistake of the script.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends these pieces with a pause between them.
    pub fn drip(&mut self, pieces: &[&str], pause: Duration) {
        for piece in pieces {
            self.send(piece);
            thread::sleep(pause);
        }
    }

    pub fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill()?;
        }
        Some(self.buffer.drain(..count).collect())
    }

    /// Takes up to `count` bytes and leaves the others with the kernel; `None` at the end.
    pub fn at_most(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        let count = self
            .stream
            .read(&mut bytes)
            .ok()
            .filter(|&count| count > 0)?;
        bytes.truncate(count);
        Some(bytes)
    }

    /// Waits for a byte and leaves it where it is; `false` at the end.
    pub fn has_bytes(&mut self) -> bool {
        !self.buffer.is_empty() || matches!(self.stream.peek(&mut [0; 1]), Ok(1))
    }

    /// Some bytes; `None` at the end.
    pub fn some(&mut self) -> Option<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        Some(std::mem::take(&mut self.buffer))
    }

    /// For a thread that writes while this one reads.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("descriptors are left")
    }

    /// The proxy has closed or reset, whatever it sent before.
    pub fn is_broken(&mut self) -> bool {
        let state = socket2::SockRef::from(&self.stream);
        state.take_error().is_ok_and(|error| error.is_some()) || self.ended()
    }

    /// The kernel has seen the proxy's end, behind bytes that are not read yet.
    fn ended(&self) -> bool {
        let local = self.stream.local_addr().map(|one| one.port()).unwrap_or(0);
        let peer = self.stream.peer_addr().map(|one| one.port()).unwrap_or(0);
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let ends = (format!(":{local:04X}"), format!(":{peer:04X}"));
        !table.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let mut next = || words.next().unwrap_or_default();
            // 01 is ESTABLISHED.
            next().ends_with(&ends.0) && next().ends_with(&ends.1) && next() == "01"
        })
    }

    /// Nothing comes for `time`.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        let _ = self.stream.set_read_timeout(Some(time));
        let read = self.stream.peek(&mut [0; 1]);
        let _ = self.stream.set_read_timeout(None);
        self.buffer.is_empty()
            && matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Puts bytes back in front of what is still to be read.
    pub fn unread(&mut self, bytes: Vec<u8>) {
        self.buffer.splice(..0, bytes);
    }

    /// Waits until the proxy closes.
    pub fn wait_for_close(&mut self) {
        while self.some().is_some() {}
    }

    /// FIN.
    pub fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    pub fn close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// RST.
    pub fn reset(&mut self) {
        let socket = socket2::SockRef::from(&self.stream);
        let _ = socket.set_linger(Some(Duration::ZERO));
        // The copy that `stop` uses would keep the socket open.
        let peer = self.stream.peer_addr().ok();
        let mut streams = self.shared.streams.lock().expect("no panic with the lock");
        streams.retain(|stream| stream.peer_addr().ok() != peer);
        drop(streams);
        if let Ok(null) = TcpStream::connect(self.shared_null()) {
            self.stream = null;
        }
    }

    /// Something to put in the place of a stream that must be closed now.
    fn shared_null(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || drop(listener.accept()));
        address
    }

    fn head(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                return Some(self.buffer.drain(..end + 4).collect());
            }
            self.fill()?;
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                return Some(self.buffer.drain(..end + 2).collect());
            }
            self.fill()?;
        }
    }

    /// A chunked body: its exact bytes, framing and trailers included.
    pub fn chunked(&mut self) -> Option<Vec<u8>> {
        let mut raw = Vec::new();
        loop {
            let line = self.line()?;
            raw.extend_from_slice(&line);
            let text = lossy(&line);
            let size = text.split([';', '\r']).next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).expect("a chunk size");
            if size == 0 {
                break;
            }
            raw.extend(self.exactly(size + 2)?);
        }
        loop {
            let line = self.line()?;
            raw.extend_from_slice(&line);
            if line == b"\r\n" {
                return Some(raw);
            }
        }
    }

    fn fill(&mut self) -> Option<()> {
        let mut bytes = [0; 64 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) | Err(_) => None,
            Ok(count) => {
                self.buffer.extend_from_slice(&bytes[..count]);
                Some(())
            }
        }
    }
}
