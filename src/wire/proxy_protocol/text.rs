//! Version 1: one line (section 2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Endpoints, Malformed, begins};

/// The longest line, its CRLF included.
const MAX_LINE: usize = 107;
const PREFIX: &[u8] = b"PROXY ";

pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Endpoints, usize)>, Malformed> {
    if !begins(bytes, PREFIX) {
        return Err(Malformed("no PROXY header"));
    }
    let window = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = memchr::memchr2(b'\r', b'\n', window) else {
        return match bytes.len() < MAX_LINE {
            true => Ok(None),
            false => Err(Malformed("the PROXY line is over 107 bytes")),
        };
    };
    match &window[end..] {
        [b'\r', b'\n', ..] => {
            let rest = window[..end].strip_prefix(PREFIX);
            let endpoints = endpoints(rest.ok_or(Malformed("no PROXY header"))?)?;
            Ok(Some((endpoints, end + 2)))
        }
        [b'\r'] if bytes.len() < MAX_LINE => Ok(None),
        _ => Err(Malformed("the PROXY line does not end in CRLF")),
    }
}

/// Of what stands between "PROXY " and CRLF.
fn endpoints(line: &[u8]) -> Result<Endpoints, Malformed> {
    // What follows UNKNOWN is ignored, as section 2.1 asks for.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(Endpoints::Real);
    }
    let line = std::str::from_utf8(line).map_err(|_| Malformed("the PROXY line is not ASCII"))?;
    let mut words = line.split(' ');
    let mut word = || {
        words
            .next()
            .ok_or(Malformed("the PROXY line is incomplete"))
    };
    let (family, source, destination) = (word()?, word()?, word()?);
    let (source_port, destination_port) = (word()?, word()?);
    if words.next().is_some() {
        return Err(Malformed("the PROXY line goes on after the ports"));
    }
    let address = match family {
        "TCP4" => ipv4,
        "TCP6" => ipv6,
        _ => return Err(Malformed("neither TCP4, TCP6 nor UNKNOWN")),
    };
    Ok(Endpoints::Proxied {
        source: SocketAddr::new(address(source)?, port(source_port)?),
        destination: SocketAddr::new(address(destination)?, port(destination_port)?),
    })
}

/// The standard library takes what the grammar does: four decimal numbers, no leading zero.
fn ipv4(text: &str) -> Result<IpAddr, Malformed> {
    match text.parse() {
        Ok(address) => Ok(IpAddr::V4(address)),
        Err(_) => Err(Malformed("not an IPv4 address")),
    }
}

/// With the dotted end that haproxy itself writes for IPv4 in IPv6; never a zone.
fn ipv6(text: &str) -> Result<IpAddr, Malformed> {
    match text.parse() {
        Ok(address) => Ok(IpAddr::V6(address)),
        Err(_) => Err(Malformed("not an IPv6 address")),
    }
}

fn port(text: &str) -> Result<u16, Malformed> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    match text.parse() {
        Ok(port) if plain && !leading_zero => Ok(port),
        _ => Err(Malformed("not a port: 0 to 65535 without leading zeros")),
    }
}

/// The line that names a client; addresses of two families are written as IPv6.
pub fn proxied_v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (from, to) = (source.port(), destination.port());
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            format!("PROXY TCP4 {source} {destination} {from} {to}\r\n")
        }
        (source, destination) => {
            let (source, destination) = (mapped(source), mapped(destination));
            format!("PROXY TCP6 {source} {destination} {from} {to}\r\n")
        }
    }
    .into_bytes()
}

/// The line of a connection that is no client's, or of one without an internet address.
pub fn unknown_v1() -> &'static [u8] {
    b"PROXY UNKNOWN\r\n"
}

/// As IPv6, IPv4 mapped into it.
pub(super) fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::to_ipv6_mapped(&address),
        IpAddr::V6(address) => address,
    }
}
