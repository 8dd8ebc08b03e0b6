//! A body coming in: buffered bytes to frames, whatever its framing.

use crate::config::model::UnderscoreHeaders;
use crate::message::{Frame, Length};
use crate::wire::h1::chunked::Chunked;
use crate::wire::h1::framing::{FRAMING_TRAILERS, Framing, forbidden_trailer};
use crate::wire::h1::inbound::Inbound;
use crate::wire::h1::parse::{self, HeadLimits};

/// A trailer section; read whole before it is passed on.
const TRAILERS: HeadLimits = HeadLimits {
    bytes: 8 * 1024,
    fields: 64,
    underscores: UnderscoreHeaders::Allow,
};

/// From here on a pipe costs less than copies: two calls that move pages instead of bytes.
const PIPED_BYTES: u64 = 128 * 1024;

#[derive(Debug)]
pub(super) struct BodyReader {
    state: State,
    length: Length,
    /// A request's: trailers that frame or route are refused, not only dropped.
    of_request: bool,
}

#[derive(Debug)]
enum State {
    /// Bytes to come.
    Length(u64),
    Chunked(Chunked),
    /// The last chunk's size line is next and this long.
    Trailers(usize),
    UntilClose,
    Done,
    Broken,
}

/// What buffered bytes gave.
#[derive(Debug)]
pub(super) enum Step {
    Frame(Frame),
    /// Read more, then ask again.
    More,
}

impl BodyReader {
    pub(super) fn new(framing: Framing) -> Self {
        let (state, length) = match framing {
            Framing::Length(0) => (State::Done, Length::Exact(0)),
            Framing::Length(length) => (State::Length(length), Length::Exact(length)),
            Framing::Chunked => (State::Chunked(Chunked::default()), Length::Unknown),
            Framing::UntilClose => (State::UntilClose, Length::Unknown),
        };
        BodyReader {
            state,
            length,
            of_request: false,
        }
    }

    /// Of a request: nothing in it is repaired.
    pub(super) fn of_request(framing: Framing) -> Self {
        BodyReader {
            of_request: true,
            ..Self::new(framing)
        }
    }

    /// As the head declared it.
    pub(super) fn length(&self) -> Length {
        self.length
    }

    /// Everything has been handed out but `End`.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    pub(super) fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }

    /// Bytes still to come, as far as they are known.
    pub(super) fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(remaining) => Some(remaining),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// A long rest of known length, as it is: worth a pipe. How long it is.
    pub(super) fn pipeable(&self) -> Option<u64> {
        match self.state {
            State::Length(remaining) if remaining >= PIPED_BYTES => Some(remaining),
            _ => None,
        }
    }

    /// These bytes went another way.
    pub(super) fn piped(&mut self, count: u64) {
        if let State::Length(remaining) = &mut self.state {
            *remaining -= count.min(*remaining);
            if *remaining == 0 {
                self.state = State::Done;
            }
        }
    }

    /// The peer's FIN: an end only where nothing else marks it (RFC 9112 section 8). True if it
    /// is the body's end.
    pub(super) fn closed(&mut self) -> bool {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                true
            }
            _ => {
                self.state = State::Broken;
                false
            }
        }
    }

    /// The next frame out of what is buffered; `Err` is malformed framing.
    pub(super) fn next(&mut self, inbound: &mut Inbound) -> Result<Step, &'static str> {
        let step = self.step(inbound);
        if step.is_err() {
            self.state = State::Broken;
        }
        step
    }

    fn step(&mut self, inbound: &mut Inbound) -> Result<Step, &'static str> {
        loop {
            match &mut self.state {
                State::Done => return Ok(Step::Frame(Frame::End)),
                State::Broken => return Err("the body broke off before"),
                State::Trailers(_) => return self.trailers(inbound),
                State::Length(_) | State::UntilClose if inbound.is_empty() => {
                    return Ok(Step::More);
                }
                State::UntilClose => {
                    return Ok(Step::Frame(Frame::Data(inbound.take(inbound.len(), 0))));
                }
                State::Length(remaining) => {
                    let count = (*remaining).min(inbound.len() as u64);
                    *remaining -= count;
                    if *remaining == 0 {
                        self.state = State::Done;
                    }
                    return Ok(Step::Frame(Frame::Data(inbound.take(count as usize, 0))));
                }
                State::Chunked(_) => {
                    if let Some(step) = self.chunks(inbound)? {
                        return Ok(step);
                    }
                }
            }
        }
    }

    /// `None`: look at the new state, or at the bytes again.
    fn chunks(&mut self, inbound: &mut Inbound) -> Result<Option<Step>, &'static str> {
        let State::Chunked(decoder) = &mut self.state else {
            return Ok(None);
        };
        let bytes = inbound.bytes();
        let pass = decoder.pass(bytes)?;
        let mut extra = 0;
        if let Some(last) = pass.last {
            // Nearly every body ends without trailers: taken together with its last bytes.
            if bytes[pass.framed + last..].starts_with(b"\r\n") {
                extra = last + 2;
                self.state = State::Done;
            } else {
                self.state = State::Trailers(last);
            }
        }
        if pass.framed == 0 {
            inbound.consume(extra);
            return Ok(if pass.last.is_some() {
                None
            } else {
                Some(Step::More)
            });
        }
        let data = inbound
            .take(pass.framed, extra)
            .with_framing(pass.from, pass.payload);
        let data = if pass.canonical {
            data
        } else {
            data.unframed()
        };
        Ok((!data.is_empty()).then_some(Step::Frame(Frame::Data(data))))
    }

    fn trailers(&mut self, inbound: &mut Inbound) -> Result<Step, &'static str> {
        let State::Trailers(last) = self.state else {
            return Ok(Step::More);
        };
        let section = &inbound.bytes()[last..];
        let parsed = parse::trailers(section, &TRAILERS).map_err(|malformed| malformed.detail)?;
        let Some((mut fields, length)) = parsed else {
            return Ok(Step::More);
        };
        inbound.consume(last + length);
        self.state = State::Done;
        if self.of_request && fields.contains_any(FRAMING_TRAILERS) {
            return Err("a trailer field that frames or routes a message");
        }
        fields.retain(|known, name| !forbidden_trailer(known, name));
        Ok(Step::Frame(if fields.is_empty() {
            Frame::End
        } else {
            Frame::Trailers(fields)
        }))
    }
}
