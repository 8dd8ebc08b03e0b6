//! Worker-wide stack of scratch buffers: taken when a socket is readable, given back on drop.

/// Bytes of one scratch buffer: the size of one read of a body.
pub const SCRATCH_BYTES: usize = 128 * 1024;

/// A buffer of [`SCRATCH_BYTES`] from the stack of this thread; returns there when dropped.
pub struct Scratch {
    _bytes: Option<Box<[u8]>>,
}

/// A piece of a body: a view into a scratch buffer, or bytes of our own.
#[derive(Debug)]
pub struct Data {
    /// These bytes are chunk-framed as received and validated: sent as they are where the other
    /// side is chunked HTTP/1.1 too. [`Data::len`] counts them raw.
    pub framed: bool,
}
