//! Evenkeel: a Layer-7 reverse proxy and load balancer in one binary, driven by one TOML file that
//! it reloads while running.
//!
//! This page is the map. Three promises decide when in doubt, in this order: the request is safe;
//! change is safe; it costs next to nothing.
//!
//! # Threads
//!
//! *Workers*, one per core: each a local runtime with its own accepting sockets ([`listener`]), its
//! own connection pools ([`upstream::pool`]) and its own timers ([`util::timer`]); the clock is read
//! once per wake-up ([`util::clock`]). A request never leaves its worker; nothing on its way is `Send` or locked,
//! and it shares only atomics of the upstream and the server that it uses. *Control*, one small
//! runtime: signals, file watch, [`reload`], health checks, name resolution, [`admin`].
//! *One thread* writes the access log.
//!
//! # One request
//!
//! 1. [`listener`] accepts and hands the socket to [`wire`], whose HTTP/1.1 engine is our own:
//!    strict framing, one task per connection, no channel. It yields a [`message::RequestHead`]
//!    and a [`message::Downstream`] (the request body, and the way to the client).
//! 2. [`proxy::handle`] opens the account (one access-log record on every way out), pins the
//!    [`snapshot`], sanitises the head; [`router`] finds the route.
//! 3. Attempts: [`upstream`] picks a server by [`balance`] and claims a lease; the worker's pool
//!    gives a connection or one is dialled, over HTTP/2 a place on one that others use too
//!    ([`wire::client`] is one set of verbs for both); the head goes out, the response head comes
//!    back under its deadlines.
//! 4. The outcome is reported on the lease: breaker, latency, retry budget, metrics. A failure
//!    asks the pure `proxy::retry`, then 3 again with the tried servers excluded.
//! 5. The response body is pulled by the wire; pulling it also moves the request body, and a long
//!    one goes from socket to socket inside the kernel ([`message::Pipe`]). Its end or drop releases
//!    the lease, returns the connection and writes the record.
//!
//! # One change
//!
//! Trigger -> [`reload`] (one at a time) -> [`config`] loads and checks, collecting every mistake
//! -> [`snapshot::build`] on the live state that is there -> new sockets are bound and listen ->
//! *everything that can fail is behind us* -> publish by one swap -> checks, breakers and pools of
//! what stayed go on, what is gone drains.
//!
//! Names are the smaller loop of the same kind: what a name server says now ([`upstream::resolve`])
//! -> seats (`upstream::seats`, pure) -> one swap of the servers of an upstream and their order.
//! Other sources of servers come in by the same door.
//!
//! # One upgrade
//!
//! USR2 -> [`app`] starts the binary that stands in our place and lends it every listening socket
//! -> it builds everything as at a start, *where everything that can fail is behind it* says so, and
//! accepts -> this process lets go of the sockets without touching their queues, and drains. Reloads
//! wait meanwhile. `app::upgrade` has the conversation.
//!
//! # Invariants, each with a test
//!
//! 1. A request sees exactly one snapshot of rules; servers and their order are live state, read
//!    at each pick.
//! 2. Nothing after publish can fail; nothing before it is visible.
//! 3. Live state is keyed by (upstream, address).
//! 4. A lease is counted once and released once on every path, cancellation included; an
//!    unreported lease is neutral to the breaker.
//! 5. A pick never allocates, never waits, never returns a sentinel.
//! 6. Half-open admits at most `probes`, whatever the concurrency; an outcome from before a trip
//!    changes nothing.
//! 7. First attempts follow Nginx's sequence over all workers together, exact over every period
//!    without a change; retries never move the counter.
//! 8. An invalid configuration cannot be constructed.
//! 9. All timing uses tokio's clock (tests pause it); wall time only in logs, and to say when a
//!    sticky cookie was issued.
//! 10. Label values come from configured names, never from requests.
//! 11. Memory per connection and per request is bounded by configuration.
//! 12. A listening socket that clients can reach is closed only with an empty queue, or while another
//!     process has it too.
//!
//! # Memory
//!
//! Everything that grows with traffic has a bound, so that they add up to a number. Keys are those
//! of the file, with their defaults; the rows marked * are measured by `tests/it/overload/table.rs`.
//!
//! | each | holds at most |
//! |---|---|
//! | idle connection, plain HTTP/1 * | 2 KiB |
//! | idle connection over TLS * | 8 KiB |
//! | idle connection, HTTP/2 * | 32 KiB; 64 KiB where both tables of header compression are full |
//! | head that has begun * | 2 x `max-header-bytes`, and 2 KiB: 66 KiB |
//! | request under way | its head, `max-replay-body` where it may be sent again, 16 KiB: 112 KiB |
//! | body that somebody does not take, HTTP/1 * | `connection-buffer` each way, once more while it moves on: 512 KiB; next to nothing where the kernel moves it |
//! | bodies of one HTTP/2 connection * | `h2-connection-window` from its client (1 MiB); 512 KiB to it and a piece of 32 KiB per stream |
//! | request in a queue * | as one under way; `queue.size` of them per upstream |
//! | copy of a request (`mirror`) | as one under way; 128 of them per route: 14 MiB |
//! | kept connection to a server | 2 KiB, over TLS 8 KiB; `max-idle` of them per server |
//! | server * | breaker and limit windows, and counts on each worker: 6 KiB with two; of one name at most 256 servers |
//! | worker * | 16 scratch buffers of 128 KiB, 32 batches of the access log's `buffer` (64 KiB): 4 MiB |
//! | rate limit with keys | 1 MiB |
//! | server in `hash` | 65,537 places of 4 bytes per upstream, shared |
//! | admin listener | 256 connections with a head of 32 KiB and a body of 64 KiB: 24 MiB |
//!
//! Sticky cookies are with the clients; a body for another try is in its request; what a name server
//! said is kept for the names in the file only.
//!
//! So with C connections (`process.max-connections`) of which R are busy, over HTTP/1 the most is
//! about C x 2 KiB + R x (112 + 512) KiB + workers x 4 MiB + 24 MiB, and the rows of the file's own
//! making; what clients that read hold is a small part of that. A connection of HTTP/2 is 64 KiB
//! instead, with up to `max-concurrent-streams` requests of 112 + 32 KiB and 1.5 MiB of bodies: at its
//! worst 20 MiB, which is what `memory-limit` is there for. The kernel's socket and pipe buffers are
//! its own (`net.ipv4.tcp_mem`, `fs.pipe-user-pages-soft`).
//!
//! What an allocator keeps of freed memory comes on top. It does not grow with each crowd that comes
//! and goes, but glibc gives little of it back: the feature `jemalloc` of the build does. How
//! `memory-limit` deals with what is kept is in [`util::memory`].
//!
//! # Who may use whom
//!
//! | module | may use |
//! |---|---|
//! | [`util`] | nothing |
//! | [`message`] | util |
//! | [`tls`] | util |
//! | [`config`] | tls util |
//! | [`balance`] | config util |
//! | [`router`] | message config util |
//! | [`telemetry`] | message config util |
//! | [`filter`] | router balance message telemetry config util |
//! | [`wire`] | message tls telemetry config util |
//! | [`upstream`] | balance wire message telemetry config util |
//! | [`snapshot`] | config router upstream telemetry balance util |
//! | [`proxy`] | snapshot router filter upstream balance wire message tls telemetry config util |
//! | [`listener`] | proxy wire message snapshot tls telemetry config util |
//! | [`worker`] | listener proxy snapshot upstream wire tls telemetry config util |
//! | [`reload`] | config snapshot worker listener upstream tls telemetry util |
//! | [`admin`] | reload snapshot upstream router filter proxy message telemetry config util |
//! | [`app`], [`cli`] | everything |
//!
//! A test reads the `use crate::` lines and fails on an edge that is not in this table.

#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod balance;
pub mod cli;
pub mod config;
pub mod filter;
pub mod listener;
pub mod message;
pub mod proxy;
pub mod reload;
pub mod router;
pub mod snapshot;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod util;
pub mod wire;
pub mod worker;
