//! A server that speaks frame by frame.

use crate::support::frames::{self, Frame};
use crate::support::{Connection, Origin};

/// The server's side of one connection after the prefaces.
pub struct Raw<'a> {
    pub connection: &'a mut Connection,
}

/// A server whose connections are scripted from after the handshake on.
pub fn raw(script: impl Fn(&mut Raw<'_>) + Send + Sync + 'static) -> Origin {
    raw_with(&[], script)
}

/// The same with settings.
pub fn raw_with(
    settings: &[(u16, u32)],
    script: impl Fn(&mut Raw<'_>) + Send + Sync + 'static,
) -> Origin {
    let settings = frames::settings(settings);
    Origin::scripted(move |connection| {
        let preface = connection.exactly(frames::PREFACE.len());
        if preface.as_deref() != Some(frames::PREFACE) {
            return;
        }
        connection.send(&settings);
        script(&mut Raw { connection });
    })
}

/// What a small answer is.
pub const OK: &[(&str, &str)] = &[(":status", "200"), ("content-length", "2")];

impl Raw<'_> {
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.connection.send(bytes);
    }

    /// The next frame of any kind; `None` at the end.
    pub fn any(&mut self) -> Option<Frame> {
        let head = self.connection.exactly(9)?;
        let payload = self.connection.exactly(frames::length(&head))?;
        Some(frames::parse(&head, payload))
    }

    /// The next frame that is no matter of the connection: settings and pings are answered.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.any()?;
            match frame.kind {
                frames::SETTINGS if !frame.is(frames::ACK) => {
                    self.send(frames::frame(frames::SETTINGS, frames::ACK, 0, b""));
                }
                frames::PING if !frame.is(frames::ACK) => {
                    let answer = frames::frame(frames::PING, frames::ACK, 0, &frame.payload);
                    self.send(answer);
                }
                frames::SETTINGS | frames::PING => {}
                frames::WINDOW_UPDATE if frame.stream == 0 => {}
                _ => return Some(frame),
            }
        }
    }

    /// The stream of the next request's head.
    pub fn request(&mut self) -> Option<u32> {
        loop {
            let frame = self.next()?;
            if frame.kind == frames::HEADERS {
                return Some(frame.stream);
            }
        }
    }

    /// Answers with 200 and two bytes.
    pub fn ok(&mut self, stream: u32) {
        self.send(frames::headers(stream, 0, OK));
        self.send(frames::data(stream, frames::END_STREAM, b"ok"));
    }

    /// Answers every further request well.
    pub fn serve(&mut self) {
        while let Some(stream) = self.request() {
            self.ok(stream);
        }
    }

    /// The next frame of this kind on `stream`.
    pub fn awaits(&mut self, kind: u8, stream: u32) -> Option<Frame> {
        loop {
            let frame = self.next()?;
            if frame.kind == kind && frame.stream == stream {
                return Some(frame);
            }
        }
    }
}
