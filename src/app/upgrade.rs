//! Another binary in our place, without a client noticing (USR2).
//!
//! The old process starts the new one and passes it every listening socket over a socket pair
//! (`SCM_RIGHTS`, unix(7)). A listening socket is an object of the kernel with a queue of connections;
//! what is passed is not a copy but a second owner, so nothing that waits in a queue is lost for as
//! long as one of the two accepts. The way without, a second process that binds the same port
//! (`SO_REUSEPORT`), loses what the kernel has put into the queues of the first when that one closes
//! them.
//!
//! | old | | new |
//! |---|---|---|
//! | starts the file that stands where it was started from | | |
//! | | ← `hello` | |
//! | passes the sockets | `sockets` → | |
//! | | | reads its configuration, takes the sockets, builds everything |
//! | | ← `ready` or `failed` | |
//! | *from here on it may be too late to go back* | `state`, `begin` → | |
//! | | | accepts |
//! | | ← `accepting`, with the sockets that it uses | |
//! | tells the service manager, stops accepting | `yours` → | tells the service manager |
//! | drains as after TERM, ends | | |
//!
//! Whatever goes wrong before `accepting` (no such file, a crash, a configuration that is refused,
//! silence) ends the new process and changes nothing: the old one has not stopped accepting. A
//! reload waits meanwhile, so that the sockets stay those that were passed. What the new process
//! does not use, because its file has no such listener any more, the old one closes as a reload
//! does: when its queue is empty.
//!
//! From `yours` on there is no way back: the old process has let go of every socket. When the new one
//! crashes then, the old one says so and ends what it has; to start the service anew is the service
//! manager's (it knows the new process as the main one). The admin socket is accepted on by one of
//! the two at a time, because by chance the old one would be asked for the state of the service.
//!
//! Which process is which version does not matter: messages are JSON objects with a length in
//! front, unknown fields and messages are passed over, and `hello` has the number of the protocol.
//!
//! `state` is what is known of the upstreams at that moment: overrides, health, breakers
//! ([`crate::upstream::carried`]). An old process that does not say it, or says what makes no sense,
//! is no reason to fail; the new one begins afresh then. From `state` on overrides are refused
//! (503): the old process would forget them, and the new one is not to be asked yet.
//!
//! What the old process is asked for meanwhile is not lost on the new one: a reload that waits is
//! made by whichever of the two goes on, and a rotation (USR1) that comes while the new one may
//! have its logs open already is passed on once it has taken over.
//!
//! What asks a process for something (HUP, USR1, USR2) ends it for as long as it has not said what
//! that is to mean. So these are blocked in the new process from before its first instruction, by
//! the mask that it inherits (signal(7)): one that comes too early waits until the handlers are
//! there. What asks for the end is not: who wants it gone has it.
//!
//! A process that is number 1 (of a container) cannot be replaced, because everything else ends
//! with it: there the container is what is replaced.

mod heir;
mod link;
mod offer;
mod succession;

pub(super) use heir::Heir;
pub(super) use offer::{Ended, Offer, Successor};
pub(super) use succession::{Succession, SuccessionError};

use std::time::Duration;

/// What is spoken. One that speaks a later one as well still speaks this.
const PROTOCOL: u32 = 1;

/// For the first word of a new process: anything that speaks needs milliseconds.
const HELLO: Duration = Duration::from_secs(10);
/// For a configuration with everything that it names.
const READY: Duration = Duration::from_secs(60);
/// From `begin` to `accepting` there is nothing left to wait for.
const ACCEPTING: Duration = Duration::from_secs(10);
