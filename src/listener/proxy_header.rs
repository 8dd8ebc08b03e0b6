//! The PROXY header at the beginning of a connection, as its first step.
//!
//! It is believed only from a trusted proxy, and such a one must send it: a listener that took
//! connections with and without would let whoever reaches it choose who they are. It is looked at
//! in the socket and taken out alone, so that what follows in the same segment (a handshake, a
//! request) is read by whom it is for.

use std::future::poll_fn;
use std::net::SocketAddr;

use ipnet::IpNet;

use super::opening::{Opened, Refused};
use crate::proxy::client_address::is_trusted;
use crate::wire::io::Socket;
use crate::wire::proxy_protocol::{self, Endpoints, MAX_BYTES};

/// Waits for the whole header; from then on `opened` comes from where the header says.
pub(super) async fn take(opened: &mut Opened, trusted: &[IpNet]) -> Result<(), Refused> {
    let peer = opened.peer.ip();
    if !is_trusted(peer, trusted) {
        return Err(Refused::NotTrusted(peer));
    }
    let endpoints = receive(&mut opened.socket).await?;
    if let Endpoints::Proxied {
        source,
        destination,
    } = endpoints
    {
        opened.peer = SocketAddr::new(source.ip().to_canonical(), source.port());
        opened.port = destination.port();
        opened.destination = Some(Box::new(destination));
    }
    Ok(())
}

async fn receive(socket: &mut Socket) -> Result<Endpoints, Refused> {
    let mut header = [0; MAX_BYTES];
    let mut taken = 0;
    loop {
        let peeked = poll_fn(|cx| socket.poll_peek(cx, &mut header[taken..])).await?;
        if peeked == 0 {
            return Err(Refused::Ended);
        }
        let parsed = proxy_protocol::parse(&header[..taken + peeked])?;
        // All of an unfinished header, or no byte more than its end.
        let end = parsed.map_or(taken + peeked, |(_, length)| length);
        while taken < end {
            let read = poll_fn(|cx| socket.poll_read(cx, &mut header[taken..end])).await?;
            if read == 0 {
                return Err(Refused::Ended);
            }
            taken += read;
        }
        if let Some((endpoints, _)) = parsed {
            return Ok(endpoints);
        }
    }
}
