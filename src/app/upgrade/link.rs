//! The socket between the two processes: messages, and descriptors after them.

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// What the kernel takes in one message (`SCM_MAX_FD`).
const DESCRIPTORS: usize = 253;
/// Some 10,000 listeners need less.
const LONGEST: usize = 16 * 1024 * 1024;

/// What the new process says.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum FromNew {
    Hello {
        protocol: u32,
        version: String,
    },
    Ready,
    Failed {
        reason: String,
    },
    /// By their place in the list: what is not there it has closed.
    Accepting {
        adopted: Vec<usize>,
    },
    /// Of a later version.
    #[serde(other)]
    Unknown,
}

/// What the old process says.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum FromOld {
    /// As many descriptors follow.
    Sockets {
        version: String,
        pid: u32,
        sockets: Vec<Passed>,
    },
    /// What is known of the upstreams, as of now: comes right before `begin`, if at all. Whether
    /// it can be read is another matter than whether the two understand each other.
    State {
        #[serde(default)]
        state: Value,
    },
    Begin,
    Yours,
    #[serde(other)]
    Unknown,
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Passed {
    /// Of its listener.
    pub name: String,
    /// It is the admin listener's.
    #[serde(default)]
    pub admin: bool,
    /// Its address in the old process' file, and the one that it has: `IP:PORT` or `unix:PATH`.
    pub configured: String,
    pub bound: String,
    /// Device and inode of a unix socket's file, if whoever has the socket is to remove it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<(u64, u64)>,
}

/// One end.
#[derive(Debug)]
pub struct Link(UnixStream);

impl Link {
    /// `stream`: not blocking. On a runtime.
    pub fn new(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        UnixStream::from_std(stream).map(Link)
    }

    pub async fn say(&mut self, message: &impl Serialize) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        if body.len() > LONGEST {
            // Nothing was sent: something else may be.
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend(body);
        self.0.write_all(&frame).await
    }

    pub async fn hear<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let length = self.0.read_u32().await? as usize;
        if length > LONGEST {
            return Err(io::Error::other("a message that is too long"));
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Sends second descriptors of these.
    pub async fn pass(&mut self, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        for some in descriptors.chunks(DESCRIPTORS) {
            let send = || {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !control.push(SendAncillaryMessage::ScmRights(some)) {
                    return Err(io::ErrorKind::OutOfMemory.into());
                }
                // They travel with a byte: alone they do not.
                let byte = [IoSlice::new(b".")];
                Ok(sendmsg(&self.0, &byte, &mut control, SendFlags::NOSIGNAL)?)
            };
            self.0.async_io(Interest::WRITABLE, send).await?;
        }
        Ok(())
    }

    /// Takes `count` descriptors.
    pub async fn receive(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        let mut received = Vec::with_capacity(count);
        while received.len() < count {
            let receive = || {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut byte = [0];
                let mut data = [IoSliceMut::new(&mut byte)];
                let flags = RecvFlags::CMSG_CLOEXEC;
                let message = recvmsg(&self.0, &mut data, &mut control, flags)?;
                if message.bytes == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if message.flags.contains(ReturnFlags::CTRUNC) {
                    return Err(io::Error::other("no room for more descriptors"));
                }
                let mut some = Vec::new();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                        some.extend(descriptors);
                    }
                }
                Ok(some)
            };
            let some = self.0.async_io(Interest::READABLE, receive).await?;
            if some.is_empty() {
                return Err(io::Error::other("a message without descriptors"));
            }
            received.extend(some);
        }
        Ok(received)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (Link, Link) {
        let (one, other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        for end in [&one, &other] {
            end.set_nonblocking(true).expect("is a socket");
        }
        (
            Link::new(one).expect("on a runtime"),
            Link::new(other).expect("on a runtime"),
        )
    }

    #[tokio::test]
    async fn more_descriptors_than_fit_in_a_message_arrive_in_order() {
        let (mut old, mut new) = pair();
        let sockets: Vec<_> = (0..600)
            .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").expect("binds"))
            .collect();
        let sent = async {
            old.say(&FromOld::Begin).await.expect("says");
            let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            old.pass(&descriptors).await.expect("passes");
            old.say(&FromOld::Yours).await.expect("says");
        };
        let received = async {
            assert_eq!(new.hear::<FromOld>().await.expect("hears"), FromOld::Begin);
            let received = new.receive(600).await.expect("receives");
            assert_eq!(new.hear::<FromOld>().await.expect("hears"), FromOld::Yours);
            received
        };
        let ((), received) = tokio::join!(sent, received);
        for (sent, received) in sockets.iter().zip(received) {
            let received = std::net::UdpSocket::from(received);
            let address = received.local_addr().expect("bound");
            assert_eq!(address, sent.local_addr().expect("bound"));
        }
    }

    #[tokio::test]
    async fn a_later_version_is_understood_as_far_as_it_goes() {
        let (mut old, mut new) = pair();
        let later = serde_json::json!({ "say": "weather", "sun": true });
        old.say(&later).await.expect("says");
        assert_eq!(
            new.hear::<FromOld>().await.expect("hears"),
            FromOld::Unknown
        );
        let later = serde_json::json!({ "say": "accepting", "adopted": [1], "also": "more" });
        new.say(&later).await.expect("says");
        let heard: FromNew = old.hear().await.expect("hears");
        assert_eq!(heard, FromNew::Accepting { adopted: vec![1] });
        drop(new);
        let error = old.hear::<FromNew>().await.expect_err("nobody is there");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
