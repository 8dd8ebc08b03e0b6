//! Buffers of heads that are done with, kept for the next ones of this thread.

use std::cell::RefCell;

use crate::message::fields::buffer::Buffer;

const POOLED: usize = 64;
/// A larger buffer is given back to the allocator.
const POOLED_BYTES: usize = 16 * 1024;

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes are what is handed out")]
    static POOL: RefCell<Vec<Box<Buffer>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer.
pub(super) fn take() -> Box<Buffer> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_default()
}

pub(super) fn give_back(mut buffer: Box<Buffer>) {
    if buffer.bytes.capacity() > POOLED_BYTES {
        return;
    }
    buffer.clear();
    // A head that outlives its thread's pool is simply freed.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < POOLED {
            pool.push(buffer);
        }
    });
}
