//! One TLS connection as a matter of bytes in memory: rustls' unbuffered interface for both sides.
//!
//! It holds no buffer of its own: whoever reads brings the ciphertext, all that is not processed
//! yet in one piece, and keeps what is left over. rustls may have looked at a part of that already
//! (a handshake message in several records), so every later call brings the very same bytes again.

use std::io::IoSlice;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedConnectionCommon,
    UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

/// Plaintext of one record (RFC 8446 section 5.1).
pub(super) const RECORD: usize = 16 * 1024;
/// What a record may have on top of it: header, and expansion by any cipher.
pub(super) const OVERHEAD: usize = 5 + 256;
/// Room for alerts, tickets and key updates in front of records.
const CONTROL: usize = 4 * 1024;

/// Plaintext that one [`Session::seal`] may take.
pub(super) const SEALED: usize = 4 * RECORD;
/// Space that it needs.
pub(super) const SEALED_BYTES: usize = SEALED + 5 * OVERHEAD + CONTROL;

/// Its size is nearly all of what an idle connection costs: boxed by whoever holds it.
pub(super) enum Session {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What bytes that came led to.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Bytes that are done with; the rest is to be brought again.
    pub consumed: usize,
    /// The peer's `close_notify`: nothing follows.
    pub closed: bool,
}

/// What to do where application data may be written.
enum Job<'a> {
    Nothing,
    Seal {
        slices: &'a [IoSlice<'a>],
        staging: &'a mut Vec<u8>,
        out: &'a mut [u8],
        taken: usize,
        written: usize,
    },
    Close,
}

impl Session {
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        UnbufferedServerConnection::new(config).map(Session::Server)
    }

    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        UnbufferedClientConnection::new(config, name).map(Session::Client)
    }

    pub fn is_client(&self) -> bool {
        matches!(self, Session::Client(_))
    }

    pub fn common(&self) -> &CommonState {
        match self {
            Session::Server(connection) => connection,
            Session::Client(connection) => connection,
        }
    }

    /// Processes `incoming`: plaintext goes to `data`, records of the session's own to `control`.
    /// On an error the alert for the peer is in `control`, and the session is not to be used again.
    pub fn open(
        &mut self,
        incoming: &mut [u8],
        control: &mut Vec<u8>,
        data: &mut dyn FnMut(&[u8]),
    ) -> Result<Progress, Error> {
        self.run(incoming, control, data, &mut Job::Nothing)
    }

    /// Encrypts up to [`SEALED`] bytes of `slices` into `out`, which has [`SEALED_BYTES`], in
    /// records as long as can be. `rest`: what the last [`Session::open`] left over. Gives the bytes
    /// taken and the bytes written.
    pub fn seal(
        &mut self,
        rest: &mut [u8],
        slices: &[IoSlice<'_>],
        staging: &mut Vec<u8>,
        out: &mut [u8],
    ) -> Result<(usize, usize), Error> {
        let mut control = Vec::new();
        let room = out.get_mut(..SEALED_BYTES).unwrap_or_default();
        let mut job = Job::Seal {
            slices,
            staging,
            out: room,
            taken: 0,
            written: 0,
        };
        self.run(rest, &mut control, &mut |_| {}, &mut job)?;
        let Job::Seal { taken, written, .. } = job else {
            return Ok((0, 0));
        };
        if control.is_empty() {
            return Ok((taken, written));
        }
        // Rare: what the session had to say comes first.
        let length = control.len();
        let Some(end) = (written + length <= out.len()).then_some(written) else {
            return Err(Error::EncryptError);
        };
        out.copy_within(..end, length);
        out[..length].copy_from_slice(&control);
        Ok((taken, written + length))
    }

    /// `close_notify` into `control`; nothing can be sealed after it.
    pub fn close(&mut self, rest: &mut [u8], control: &mut Vec<u8>) -> Result<(), Error> {
        self.run(rest, control, &mut |_| {}, &mut Job::Close)
            .map(drop)
    }

    fn run(
        &mut self,
        incoming: &mut [u8],
        control: &mut Vec<u8>,
        data: &mut dyn FnMut(&[u8]),
        job: &mut Job<'_>,
    ) -> Result<Progress, Error> {
        match self {
            Session::Server(connection) => run(&mut **connection, incoming, control, data, job),
            Session::Client(connection) => run(&mut **connection, incoming, control, data, job),
        }
    }
}

/// The one call that both sides have, each for itself.
trait Records: Sized {
    type Side;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Side>;

    fn common(&self) -> &CommonState;
}

impl Records for UnbufferedConnectionCommon<ServerConnectionData> {
    type Side = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Side> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Records for UnbufferedConnectionCommon<ClientConnectionData> {
    type Side = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Side> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

fn run<R: Records>(
    records: &mut R,
    incoming: &mut [u8],
    control: &mut Vec<u8>,
    data: &mut dyn FnMut(&[u8]),
    job: &mut Job<'_>,
) -> Result<Progress, Error> {
    let mut progress = Progress::default();
    loop {
        let (discard, paused) = match step(records, incoming, control, data, job, &mut progress) {
            Ok(stepped) => stepped,
            Err(error) => {
                alert(records, control);
                return Err(error);
            }
        };
        progress.consumed += discard;
        if paused {
            return Ok(progress);
        }
    }
}

/// One state: how many bytes it is done with, and whether nothing more can be done now.
fn step<R: Records>(
    records: &mut R,
    incoming: &mut [u8],
    control: &mut Vec<u8>,
    data: &mut dyn FnMut(&[u8]),
    job: &mut Job<'_>,
    progress: &mut Progress,
) -> Result<(usize, bool), Error> {
    let incoming = incoming.get_mut(progress.consumed..).unwrap_or_default();
    let whole = incoming.len();
    let UnbufferedStatus { mut discard, state } = records.process(incoming);
    let mut paused = false;
    match state? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record?;
                discard += record.discard;
                data(record.payload);
            }
            // Nearly always all that came: asked again, it would only say so.
            paused = discard == whole && matches!(job, Job::Nothing);
        }
        ConnectionState::EncodeTlsData(mut encoder) => encode(&mut encoder, control)?,
        // What was encoded goes out before anything that is written later.
        ConnectionState::TransmitTlsData(transmit) => transmit.done(),
        ConnectionState::PeerClosed => progress.closed = true,
        ConnectionState::Closed | ConnectionState::BlockedHandshake => paused = true,
        ConnectionState::WriteTraffic(traffic) => {
            match std::mem::replace(job, Job::Nothing) {
                Job::Nothing => paused = true,
                Job::Close => close(traffic, control)?,
                sealing => *job = seal(traffic, sealing)?,
            }
            paused |= matches!(job, Job::Seal { .. });
        }
        // Early data is never offered, and there is no other state yet.
        _ => return Err(Error::General("an unexpected TLS state".into())),
    }
    Ok((discard, paused))
}

fn encode<S>(encoder: &mut EncodeTlsData<'_, S>, control: &mut Vec<u8>) -> Result<(), Error> {
    let start = control.len();
    let mut room = 512;
    loop {
        control.resize(start + room, 0);
        match encoder.encode(&mut control[start..]) {
            Ok(length) => {
                control.truncate(start + length);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) if needed.required_size > room => {
                room = needed.required_size;
            }
            Err(_) => {
                control.truncate(start);
                return Err(Error::EncryptError);
            }
        }
    }
}

fn close<S>(mut traffic: WriteTraffic<'_, S>, control: &mut Vec<u8>) -> Result<(), Error> {
    let start = control.len();
    control.resize(start + CONTROL, 0);
    let written = traffic.queue_close_notify(&mut control[start..]);
    control.truncate(start + written.as_ref().copied().unwrap_or(0));
    written.map(drop).map_err(|_| Error::EncryptError)
}

/// Records of [`RECORD`] bytes wherever they lie: what is cut by a slice's end is staged, so that
/// a head, a piece of a body and what stands behind it do not cost a record each.
fn seal<'a, S>(mut traffic: WriteTraffic<'_, S>, job: Job<'a>) -> Result<Job<'a>, Error> {
    let Job::Seal {
        slices,
        staging,
        out,
        mut taken,
        mut written,
    } = job
    else {
        return Ok(job);
    };
    let mut slices_left = slices.iter().map(|slice| &slice[..]);
    let mut current = slices_left.next().unwrap_or_default();
    while taken < SEALED {
        while current.is_empty() {
            match slices_left.next() {
                Some(next) => current = next,
                None => {
                    return Ok(Job::Seal {
                        slices,
                        staging,
                        out,
                        taken,
                        written,
                    });
                }
            }
        }
        let last = slices_left.clone().all(<[u8]>::is_empty);
        let record = if last || current.len() >= RECORD {
            let (record, left) = current.split_at(current.len().min(RECORD));
            current = left;
            record
        } else {
            staging.clear();
            while staging.len() < RECORD {
                let count = current.len().min(RECORD - staging.len());
                staging.extend_from_slice(&current[..count]);
                current = &current[count..];
                if current.is_empty() {
                    match slices_left.next() {
                        Some(next) => current = next,
                        None => break,
                    }
                }
            }
            &staging[..]
        };
        let room = out.get_mut(written..).unwrap_or_default();
        match traffic.encrypt(record, room) {
            Ok(length) => written += length,
            Err(EncryptError::InsufficientSize(_)) if taken > 0 => break,
            Err(_) => return Err(Error::EncryptError),
        }
        taken += record.len();
    }
    Ok(Job::Seal {
        slices,
        staging,
        out,
        taken,
        written,
    })
}

/// What a failed session still has to say. No bytes are brought any more: rustls' view of them may
/// be gone, and while it has something to send it looks at none.
fn alert<R: Records>(records: &mut R, control: &mut Vec<u8>) {
    while records.common().wants_write() {
        match records.process(&mut []).state {
            Ok(ConnectionState::EncodeTlsData(mut encoder)) => {
                if encode(&mut encoder, control).is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}
