//! Long bodies from socket to socket through the kernel.

use std::io;
use std::task::{Context, Poll, ready};

use crate::message::{Frame, Pipe};
use crate::wire::h1::reader::BodyReader;
use crate::wire::io::Socket;

/// The next frame of a body through a pipe, after what is buffered. `None`: it has to be read. No
/// more than `limit` bytes: what would wait in a buffer of ours may wait in the kernel. A pipe holds
/// fewer where they lie in many small pieces.
pub(super) fn poll_piped(
    reader: &mut BodyReader,
    socket: &mut Socket,
    limit: usize,
    cx: &mut Context<'_>,
) -> Poll<Option<io::Result<Frame>>> {
    let Some(remaining) = reader.pipeable().filter(|_| socket.splices()) else {
        return Poll::Ready(None);
    };
    let Ok(mut pipe) = Pipe::take() else {
        return Poll::Ready(None);
    };
    let limit = remaining.min(limit as u64) as usize;
    let filled = ready!(socket.poll_fill(cx, &mut pipe, limit));
    Poll::Ready(Some(match filled {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => {
            reader.piped(count as u64);
            Ok(Frame::Piped(pipe))
        }
        // Some kernels and sandboxes do not splice sockets: then it is copied.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Poll::Ready(None),
        Err(error) => Err(error),
    }))
}
