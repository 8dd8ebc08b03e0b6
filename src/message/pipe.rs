//! Bytes of a long body that stay in the kernel on their way from one socket to another.
//!
//! A pipe takes over the pages that a socket received and gives them to the other socket
//! (`splice(2)`): they are never copied into this process. Pipes come from a small stack of the
//! thread, as scratch buffers do, and an exchange holds one only while there are bytes in it.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{OFlag, SpliceFFlags, splice};

/// Pipes that the stack keeps; each is two descriptors.
const KEPT: usize = 8;

thread_local! {
    static STACK: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe with bytes of a body in it, or an empty one to be filled.
pub struct Pipe {
    /// `None` only while being dropped.
    ends: Option<Ends>,
    length: usize,
}

impl Pipe {
    /// An empty pipe from the stack of this thread, or a new one.
    ///
    /// # Errors
    ///
    /// Out of descriptors, or of the memory that this user may have in pipes (pipe(7)).
    pub fn take() -> io::Result<Pipe> {
        let ends = match STACK.with_borrow_mut(Vec::pop) {
            Some(ends) => ends,
            None => {
                let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
                Ends { read, write }
            }
        };
        Ok(Pipe {
            ends: Some(ends),
            length: 0,
        })
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Takes up to `limit` received bytes out of `socket`; 0 is its FIN. Only into an empty pipe:
    /// in a full one `WouldBlock` would not tell which side it means.
    pub(crate) fn fill(&mut self, socket: impl AsFd, limit: usize) -> io::Result<usize> {
        debug_assert!(
            self.is_empty(),
            "a pipe is emptied before it is filled again"
        );
        let Some(ends) = &self.ends else { return Ok(0) };
        self.length = splice(socket, None, &ends.write, None, limit, flags())?;
        Ok(self.length)
    }

    /// Puts bytes into `socket`; gives how many went.
    pub(crate) fn drain(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Ok(0) };
        let count = splice(&ends.read, None, socket, None, self.length, flags())?;
        self.length -= count;
        Ok(count)
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // One with somebody's bytes in it must never be used again.
        if !self.is_empty() {
            return;
        }
        let Some(ends) = self.ends.take() else { return };
        // A thread that is ending has no stack any more: the pipe is simply closed.
        let _ = STACK.try_with(|stack| {
            let mut stack = stack.borrow_mut();
            if stack.len() < KEPT {
                stack.push(ends);
            }
        });
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pipe({})", self.length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
        (client, listener.accept().expect("connected").0)
    }

    #[test]
    fn bytes_go_through_unread_and_in_order() {
        let ((mut from, inner), (outer, mut to)) = (connection(), connection());
        from.write_all(b"one two three").expect("written");
        let mut pipe = Pipe::take().expect("a pipe");
        assert_eq!(pipe.fill(&inner, 7).expect("filled"), 7);
        assert_eq!(pipe.drain(&outer).expect("drained"), 7);
        assert_eq!(pipe.fill(&inner, 100).expect("filled"), 6);
        assert_eq!(pipe.drain(&outer).expect("drained"), 6);
        drop(outer);
        let mut seen = String::new();
        to.read_to_string(&mut seen).expect("read");
        assert_eq!(seen, "one two three");
        drop(from);
        assert_eq!(pipe.fill(&inner, 100).expect("the end"), 0);
    }

    #[test]
    fn a_socket_with_nothing_to_read_would_block() {
        let (_client, inner) = connection();
        inner.set_nonblocking(true).expect("set");
        let mut pipe = Pipe::take().expect("a pipe");
        let error = pipe.fill(&inner, 100).expect_err("nothing there");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn only_an_empty_pipe_is_used_again() {
        let descriptor = |pipe: &Pipe| pipe.ends.as_ref().map(|ends| ends.read.as_raw_fd());
        let (mut client, inner) = connection();
        client.write_all(b"secret").expect("written");
        let mut dirty = Pipe::take().expect("a pipe");
        let clean = Pipe::take().expect("a pipe");
        dirty.fill(&inner, 100).expect("filled");
        let (of_dirty, of_clean) = (descriptor(&dirty), descriptor(&clean));
        drop(clean);
        drop(dirty);
        let next = Pipe::take().expect("a pipe");
        assert_eq!(descriptor(&next), of_clean);
        assert_ne!(descriptor(&next), of_dirty);
    }
}
