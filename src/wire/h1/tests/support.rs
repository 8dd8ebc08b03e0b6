//! A scripted handler, a scripted server and a client that speaks raw bytes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::timeout;

use crate::config::model::UnderscoreHeaders;
use crate::message::{
    Abort, Body, BodyError, BodyStream, Data, Downstream, Fields, Frame, Length, ResponseHead,
    SCRATCH_BYTES,
};
use crate::util::timer::Timers;
use crate::wire::h1::{Ended, serve};
use crate::wire::io::Socket;
use crate::wire::{Handler, Limits, Refusal, RefusalReason, Request, Response};

/// Long enough for a loaded machine, short enough for a person.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) type Answer = Pin<Box<dyn Future<Output = Response>>>;

/// Answers by a function; notes refusals.
pub(super) struct Scripted {
    answer: Box<dyn Fn(Request) -> Answer>,
    pub(super) limits: Cell<Limits>,
    pub(super) refused: RefCell<Vec<(RefusalReason, &'static str)>>,
    pub(super) silent: Cell<u32>,
    pub(super) closing: Cell<bool>,
}

impl Handler for Rc<Scripted> {
    type Work = Answer;

    fn limits(&self) -> Limits {
        self.limits.get()
    }

    fn handle(&self, request: Request) -> Answer {
        (self.answer)(request)
    }

    fn refuse(&self, refusal: Refusal) -> Response {
        self.refused
            .borrow_mut()
            .push((refusal.reason, refusal.detail));
        let status = match refusal.reason {
            RefusalReason::BadRequest => 400,
            RefusalReason::UriTooLong => 414,
            RefusalReason::HeaderTooLarge => 431,
            RefusalReason::RequestTimeout => 408,
            RefusalReason::NotImplemented => 501,
            RefusalReason::VersionNotSupported => 505,
            RefusalReason::ExpectationFailed => 417,
        };
        Response {
            head: ResponseHead::new(status),
            body: Body::Empty,
            close: true,
        }
    }

    fn idle_timeout(&self) {
        self.silent.set(self.silent.get() + 1);
    }

    fn closing(&self) -> bool {
        self.closing.get()
    }
}

pub(super) fn limits() -> Limits {
    Limits {
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(75),
        max_header_bytes: 32 * 1024,
        max_headers: 100,
        max_requests: 0,
        underscore_headers: UnderscoreHeaders::Remove,
        connection_buffer: SCRATCH_BYTES,
        half_close: false,
        http1: true,
        h2: false,
        max_concurrent_streams: 128,
        h2_stream_window: 256 << 10,
        h2_connection_window: 1 << 20,
    }
}

/// A client's end of a connection that is being served.
pub(super) struct Client {
    pub(super) stream: UnixStream,
    pub(super) handler: Rc<Scripted>,
    pub(super) served: JoinHandle<Ended>,
}

impl Client {
    pub(super) fn new(answer: impl Fn(Request) -> Answer + 'static) -> Client {
        Client::with_limits(limits(), answer)
    }

    /// In a `LocalSet`.
    pub(super) fn with_limits(
        limits: Limits,
        answer: impl Fn(Request) -> Answer + 'static,
    ) -> Client {
        let (stream, ours) = UnixStream::pair().expect("a socket pair");
        let handler = Rc::new(Scripted {
            answer: Box::new(answer),
            limits: Cell::new(limits),
            refused: RefCell::default(),
            silent: Cell::new(0),
            closing: Cell::new(false),
        });
        let timers = Timers::new();
        let deadline = timers.slot();
        let patience = limits.header_timeout;
        deadline.set_end(tokio::time::Instant::now() + patience, patience);
        let serving = serve(Socket::from(ours), deadline, Rc::clone(&handler));
        let driver = tokio::task::spawn_local(async move { timers.run().await });
        let served = tokio::task::spawn_local(async move {
            let ended = serving.await;
            driver.abort();
            ended
        });
        Client {
            stream,
            handler,
            served,
        }
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream
            .write_all(bytes.as_ref())
            .await
            .expect("the proxy reads");
    }

    /// Reads until the text ends with `end`.
    pub(super) async fn read_until(&mut self, end: &str) -> String {
        read_until(&mut self.stream, end).await
    }

    /// Everything until the connection's end.
    pub(super) async fn read_all(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, self.stream.read_to_end(&mut bytes)).await;
        // A reset after the last byte is an end too.
        let _ = read.expect("the connection must end");
        without_date(&bytes)
    }

    pub(super) async fn ended(self) -> Ended {
        drop(self.stream);
        timeout(PATIENCE, self.served)
            .await
            .expect("the connection must end")
            .expect("no panic")
    }
}

pub(super) async fn read_until(stream: &mut UnixStream, end: &str) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        while !bytes.ends_with(end.as_bytes()) {
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).await.expect("readable");
            if count == 0 {
                break;
            }
            bytes.extend_from_slice(&piece[..count]);
        }
    };
    if timeout(PATIENCE, reading).await.is_err() {
        panic!(
            "no {end:?} came in time, only {:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
    without_date(&bytes)
}

pub(super) fn without_date(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.split_inclusive("\r\n")
        .filter(|line| !line.starts_with("Date: "))
        .collect()
}

/// Runs a test in a `LocalSet`, as a worker does.
pub(super) async fn local<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

pub(super) fn plain(status: u16, body: impl Into<Bytes>) -> Response {
    Response {
        head: ResponseHead::new(status),
        body: Body::Bytes(body.into()),
        close: false,
    }
}

/// Says what arrived: method, target, body.
pub(super) fn echo(request: Request) -> Answer {
    Box::pin(async move {
        let start = format!(
            "{} {} ",
            request.head.method.as_str(),
            String::from_utf8_lossy(request.head.target())
        );
        let mut said = start.into_bytes();
        match read_body(&*request.downstream).await {
            Ok(body) => said.extend_from_slice(&body),
            Err(error) => said.extend_from_slice(error.to_string().as_bytes()),
        }
        plain(200, said)
    })
}

pub(super) async fn read_body(body: &dyn Downstream) -> Result<Vec<u8>, BodyError> {
    let mut bytes = Vec::new();
    loop {
        match poll_fn(|cx| body.poll_frame(cx)).await? {
            Frame::Data(data) => bytes.extend_from_slice(&data.unframed()),
            Frame::Trailers(fields) => {
                for (name, value) in fields.iter() {
                    bytes.extend_from_slice(&[b"|", name, b"=", value].concat());
                }
            }
            Frame::Piped(_) => panic!("nobody here takes pipes"),
            Frame::End => return Ok(bytes),
        }
    }
}

/// A body of given frames.
pub(super) struct Frames {
    pub(super) length: Length,
    pub(super) frames: VecDeque<Result<Frame, BodyError>>,
}

impl Frames {
    pub(super) fn new(length: Length, pieces: &[&str]) -> Self {
        let data = |piece: &&str| Ok(Frame::Data(Data::from(piece.as_bytes().to_vec())));
        Frames {
            length,
            frames: pieces.iter().map(data).collect(),
        }
    }

    pub(super) fn then(mut self, frame: Result<Frame, BodyError>) -> Self {
        self.frames.push_back(frame);
        self
    }
}

impl BodyStream for Frames {
    fn length(&self) -> Length {
        self.length
    }

    fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        Poll::Ready(self.frames.pop_front().unwrap_or(Ok(Frame::End)))
    }
}

pub(super) fn stream(body: impl BodyStream + 'static) -> Response {
    Response {
        head: ResponseHead::new(200),
        body: Body::Stream(Box::new(body)),
        close: false,
    }
}

/// A client's side of an exchange, from given frames.
pub(super) struct Given {
    pub(super) length: Length,
    pub(super) frames: RefCell<VecDeque<Result<Frame, BodyError>>>,
    pub(super) pulls: Cell<u32>,
}

impl Given {
    pub(super) fn nothing() -> Rc<Given> {
        Given::new(Length::Exact(0), &[])
    }

    pub(super) fn new(length: Length, pieces: &[&str]) -> Rc<Given> {
        let frames = Frames::new(length, pieces).frames;
        Rc::new(Given {
            length,
            frames: RefCell::new(frames),
            pulls: Cell::new(0),
        })
    }
}

impl Downstream for Given {
    fn length(&self) -> Length {
        self.length
    }

    fn poll_frame(&self, _cx: &mut Context<'_>) -> Poll<Result<Frame, BodyError>> {
        self.pulls.set(self.pulls.get() + 1);
        Poll::Ready(
            self.frames
                .borrow_mut()
                .pop_front()
                .unwrap_or(Ok(Frame::End)),
        )
    }

    fn poll_interim(&self, _cx: &mut Context<'_>, _head: &ResponseHead) -> Poll<()> {
        Poll::Ready(())
    }

    fn poll_gone(&self, _cx: &mut Context<'_>) -> Poll<Abort> {
        Poll::Pending
    }
}

pub(super) fn fields(pairs: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in pairs {
        fields.append_text(name, value.as_bytes());
    }
    fields
}
