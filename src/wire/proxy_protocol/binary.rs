//! Version 2: a signature, a command, a family, a length, addresses, extensions (section 2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::text::mapped;
use super::{Endpoints, MAX_BYTES, Malformed, begins};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

const UNSPEC: u8 = 0x00;
const TCP_V4: u8 = 0x11;
const TCP_V6: u8 = 0x21;

/// Source and destination, with ports where there are any.
const V4_ADDRESSES: usize = 12;
const V6_ADDRESSES: usize = 36;
const UNIX_ADDRESSES: usize = 216;

const TYPE_CRC32C: u8 = 0x03;
const TYPE_SSL: u8 = 0x20;
/// What stands before the extensions inside that of TLS: a bit field and a verdict.
const SSL_FIXED: usize = 5;

pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Endpoints, usize)>, Malformed> {
    if !begins(bytes, SIGNATURE) {
        return Err(Malformed("no PROXY header"));
    }
    // Each is refused as soon as it is there: nobody is waited for in vain.
    let (command, family) = (bytes.get(12).copied(), bytes.get(13).copied());
    if command.is_some_and(|command| !matches!(command, LOCAL | PROXY)) {
        return Err(Malformed(
            "version 2 and the command LOCAL or PROXY expected",
        ));
    }
    let addresses = family.map(addresses_of).transpose()?;
    let (Some(command), Some(addresses), Some(length)) = (command, addresses, length(bytes)) else {
        return Ok(None);
    };
    let whole = FIXED + length;
    if whole > MAX_BYTES {
        return Err(Malformed("the PROXY header is over 536 bytes"));
    }
    // LOCAL: what follows is discarded, family included.
    if command == PROXY && length < addresses {
        return Err(Malformed("the length leaves no room for the addresses"));
    }
    let Some(header) = bytes.get(..whole) else {
        return Ok(None);
    };
    if command == LOCAL || family == Some(UNSPEC) {
        return Ok(Some((Endpoints::Real, whole)));
    }
    extensions(header, FIXED + addresses)?;
    Ok(Some((endpoints(&header[FIXED..], addresses), whole)))
}

fn length(bytes: &[u8]) -> Option<usize> {
    let field: [u8; 2] = bytes.get(14..16)?.try_into().ok()?;
    Some(usize::from(u16::from_be_bytes(field)))
}

/// How many bytes the addresses of a family take. A datagram's client is a client too: a proxy may
/// turn QUIC into a stream.
fn addresses_of(family: u8) -> Result<usize, Malformed> {
    match family {
        UNSPEC => Ok(0),
        0x11 | 0x12 => Ok(V4_ADDRESSES),
        0x21 | 0x22 => Ok(V6_ADDRESSES),
        0x31 | 0x32 => Ok(UNIX_ADDRESSES),
        _ => Err(Malformed("unknown address family or transport")),
    }
}

/// `block`: after the fixed part; holds at least as many bytes as the family takes.
fn endpoints(block: &[u8], addresses: usize) -> Endpoints {
    fn part<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        if let Some(from) = block.get(at..at + N) {
            bytes.copy_from_slice(from);
        }
        bytes
    }
    let port = |at| u16::from_be_bytes(part(block, at));
    let v4 = |at| IpAddr::V4(Ipv4Addr::from(part::<4>(block, at)));
    let v6 = |at| IpAddr::V6(Ipv6Addr::from(part::<16>(block, at)));
    match addresses {
        V4_ADDRESSES => Endpoints::Proxied {
            source: SocketAddr::new(v4(0), port(8)),
            destination: SocketAddr::new(v4(4), port(10)),
        },
        V6_ADDRESSES => Endpoints::Proxied {
            source: SocketAddr::new(v6(0), port(32)),
            destination: SocketAddr::new(v6(16), port(34)),
        },
        _ => Endpoints::Real,
    }
}

/// Everything from `start` on is extensions whose lengths add up, and a checksum is right.
fn extensions(header: &[u8], start: usize) -> Result<(), Malformed> {
    let mut checksum = None;
    walk(&header[start..], |kind, at, value| match kind {
        TYPE_CRC32C if checksum.is_some() => Err(Malformed("two checksums")),
        TYPE_CRC32C => {
            let sum: [u8; 4] = value
                .try_into()
                .map_err(|_| Malformed("a checksum has 4 bytes"))?;
            checksum = Some((start + at, u32::from_be_bytes(sum)));
            Ok(())
        }
        TYPE_SSL => match value.get(SSL_FIXED..) {
            Some(inner) => walk(inner, |_, _, _| Ok(())),
            None => Err(Malformed("an extension is too short")),
        },
        _ => Ok(()),
    })?;
    match checksum {
        Some((at, sum)) if sum != crc32c(header, at) => Err(Malformed("wrong checksum")),
        _ => Ok(()),
    }
}

/// Calls `each` with type, place of the value, and value.
fn walk(
    bytes: &[u8],
    mut each: impl FnMut(u8, usize, &[u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut at = 0;
    while at < bytes.len() {
        let [kind, high, low, rest @ ..] = &bytes[at..] else {
            return Err(Malformed("an extension is cut off"));
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(value) = rest.get(..length) else {
            return Err(Malformed("an extension is longer than the header"));
        };
        each(*kind, at + 3, value)?;
        at += 3 + length;
    }
    Ok(())
}

/// CRC-32C (RFC 4960 appendix B) of `header`, with the four bytes at `zeroed` taken as 0.
pub(super) fn crc32c(header: &[u8], zeroed: usize) -> u32 {
    let mut crc = !0u32;
    for (at, byte) in header.iter().enumerate() {
        let byte = if (zeroed..zeroed + 4).contains(&at) {
            0
        } else {
            *byte
        };
        crc ^= u32::from(byte);
        for _ in 0..8 {
            // The reversed polynomial where the bit that leaves is set.
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// The header that names a client; addresses of two families are written as IPv6.
pub fn proxied_v2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([PROXY, TCP_V4, 0, V4_ADDRESSES as u8]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            header.extend([PROXY, TCP_V6, 0, V6_ADDRESSES as u8]);
            header.extend(mapped(from).octets());
            header.extend(mapped(to).octets());
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

/// The header of a connection that is no client's (a health check), or of one without an internet
/// address: every receiver must take it, which it need not for PROXY without a family.
pub fn local_v2() -> &'static [u8] {
    b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"
}
