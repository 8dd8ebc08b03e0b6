//! A raw HTTP/1.1 client: sends the bytes it is given, parses what comes back.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::DEADLINE;
use super::reference::{self, Reading};
use super::tls::Stream;

/// One connection, plain or over TLS.
pub struct Client {
    stream: Stream,
    /// Read but not yet part of a response.
    buffer: Vec<u8>,
}

/// One response, interim ones included.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub reason: String,
    /// Names as received.
    pub headers: Vec<(String, String)>,
    /// Without chunk framing.
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Head as received.
    pub head: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Why the answer is the proxy's own.
    pub fn evenkeel_reason(&self) -> Option<&str> {
        self.header("x-evenkeel-reason")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("the address accepts connections"))
    }

    /// On a socket that is connected already.
    pub fn over(stream: TcpStream) -> Self {
        Self::speaking(Stream::Plain(stream))
    }

    /// On a connection that has been opened already, TLS or not.
    pub fn speaking(stream: Stream) -> Self {
        let tcp = stream.tcp();
        tcp.set_read_timeout(Some(DEADLINE))
            .expect("a timeout can be set");
        tcp.set_write_timeout(Some(DEADLINE))
            .expect("a timeout can be set");
        tcp.set_nodelay(true).expect("the socket is alive");
        Client {
            stream,
            buffer: Vec::new(),
        }
    }

    pub fn local(&self) -> SocketAddr {
        self.stream().local_addr().expect("the socket is alive")
    }

    /// The socket, below TLS.
    pub fn stream(&self) -> &TcpStream {
        self.stream.tcp()
    }

    /// What TLS says of the connection.
    pub fn tls(&mut self) -> &mut rustls::ClientConnection {
        match &mut self.stream {
            Stream::Tls(tls) => &mut tls.conn,
            Stream::Plain(_) => panic!("this connection is plain"),
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream
            .write_all(bytes.as_ref())
            .expect("the proxy takes the bytes");
        self
    }

    /// Sends as far as the proxy takes it; `Err` when it closed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// A request without body and with `Host: test`, and its response.
    pub fn get(&mut self, target: &str) -> Response {
        self.request("GET", target, "")
    }

    /// `headers`: whole lines, each with its CRLF.
    pub fn request(&mut self, method: &str, target: &str, headers: &str) -> Response {
        self.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: test\r\n{headers}\r\n"
        ));
        self.read(method).expect("a response comes")
    }

    /// A request with a body, and its response.
    pub fn post(&mut self, target: &str, body: &[u8]) -> Response {
        let length = body.len();
        let head =
            format!("POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
        self.send([head.as_bytes(), body].concat());
        self.response()
    }

    /// The next response, interim ones (1xx) included.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.read("GET").expect("a response comes")
    }

    /// The same; `Err` when the connection ends before it is whole.
    pub fn try_response(&mut self) -> io::Result<Response> {
        self.read("GET")
    }

    /// The same after a request with `method`: the answer to HEAD has no body.
    pub fn try_response_to(&mut self, method: &str) -> io::Result<Response> {
        self.read(method)
    }

    /// The next final answer as the reference reads it, once it is whole or nothing more comes.
    pub fn strictly(&mut self, method: &str) -> Reading {
        loop {
            let reading = self.next_strictly(method);
            match &reading {
                Reading::Whole(message) if message.start[1].starts_with(b"1") => {}
                _ => return reading,
            }
        }
    }

    /// The same, interim answers too. What is not whole stays in the buffer.
    pub fn next_strictly(&mut self, method: &str) -> Reading {
        loop {
            match reference::response(&self.buffer, method) {
                Reading::Whole(message) => {
                    self.buffer.drain(..message.length);
                    return Reading::Whole(message);
                }
                Reading::Partial(head) => {
                    if self.fill().is_err() {
                        return Reading::Partial(head);
                    }
                }
                faulty @ Reading::Faulty(_) => return faulty,
            }
        }
    }

    /// True once the proxy has closed the connection without a further byte.
    pub fn is_closed(&mut self) -> bool {
        assert!(
            self.buffer.is_empty(),
            "bytes are left: {:?}",
            lossy(&self.buffer)
        );
        match self.stream.read(&mut [0; 1]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Nothing comes for `time`.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream()
            .set_read_timeout(Some(time))
            .expect("a timeout can be set");
        let read = self.stream().peek(&mut [0; 1]);
        self.stream()
            .set_read_timeout(Some(DEADLINE))
            .expect("a timeout can be set");
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Everything until the proxy closes.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.buffer);
        // A reset ends it like a close: what came before is what is asked for.
        let _ = self.stream.read_to_end(&mut bytes);
        bytes
    }

    /// Some bytes, at least one.
    pub fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Exactly `count` bytes.
    pub fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill()?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// FIN (and close_notify before it): we send nothing more.
    pub fn finish(&mut self) -> &mut Self {
        if let Stream::Tls(tls) = &mut self.stream {
            tls.conn.send_close_notify();
            tls.flush().expect("the socket is alive");
        }
        self.stream()
            .shutdown(Shutdown::Write)
            .expect("the socket is alive");
        self
    }

    /// Closes with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(self.stream())
            .set_linger(Some(Duration::ZERO))
            .expect("the socket is alive");
    }

    fn read(&mut self, method: &str) -> io::Result<Response> {
        let head = self.head()?;
        let mut response = parse_head(&head);
        let bodyless =
            method == "HEAD" || response.status < 200 || matches!(response.status, 204 | 304);
        let chunked = response
            .header("transfer-encoding")
            .is_some_and(|coding| coding.to_ascii_lowercase().ends_with("chunked"));
        let length = response
            .header("content-length")
            .map(|length| length.parse::<usize>().expect("Content-Length is a number"));
        if bodyless {
        } else if chunked {
            self.chunks(&mut response)?;
        } else if let Some(length) = length {
            response.body = self.exactly(length)?;
        } else {
            self.stream.read_to_end(&mut self.buffer)?;
            response.body = std::mem::take(&mut self.buffer);
        }
        Ok(response)
    }

    /// What was read and not looked at.
    pub fn take_buffered(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// The next head, with its empty line.
    pub fn head(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                return Ok(self.buffer.drain(..end + 4).collect());
            }
            self.fill()?;
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(lossy(&line[..end]));
            }
            self.fill()?;
        }
    }

    fn chunks(&mut self, response: &mut Response) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).expect("a chunk size");
            if size == 0 {
                break;
            }
            response.body.extend(self.exactly(size)?);
            assert_eq!(self.line()?, "", "a chunk ends with CRLF");
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(());
            }
            response.trailers.push(field(&line));
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 64 * 1024];
        let count = self.stream.read(&mut bytes)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(())
    }
}

fn parse_head(head: &[u8]) -> Response {
    let text = lossy(head);
    let mut lines = text.split("\r\n");
    let mut start = lines.next().unwrap_or_default().splitn(3, ' ');
    let version = start.next().unwrap_or_default();
    assert!(version.starts_with("HTTP/1."), "not a response: {text:?}");
    let status = start
        .next()
        .and_then(|status| status.parse().ok())
        .expect("a status");
    Response {
        status,
        reason: start.next().unwrap_or_default().to_owned(),
        headers: lines
            .take_while(|line| !line.is_empty())
            .map(field)
            .collect(),
        body: Vec::new(),
        trailers: Vec::new(),
        head: head.to_vec(),
    }
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').expect("a field has a colon");
    (name.to_owned(), value.trim().to_owned())
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
