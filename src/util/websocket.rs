//! What proves to an HTTP/1 client that its WebSocket was understood (RFC 6455 section 4.2.2).
//!
//! Between HTTP/1 peers it passes as it is. HTTP/2 knows no such proof (RFC 8441 section 5), so where
//! one side speaks it, the other side's is made here.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::util::base64;

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A `Sec-WebSocket-Key` (section 4.1): new for each connection.
pub fn new_key() -> String {
    text(&std::array::from_fn::<u8, 16, _>(|_| fastrand::u8(..)))
}

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
pub fn accept(key: &[u8]) -> String {
    let both = [key.trim_ascii(), GUID].concat();
    text(digest(&SHA1_FOR_LEGACY_USE_ONLY, &both).as_ref())
}

fn text(bytes: &[u8]) -> String {
    let mut encoded = Vec::new();
    base64::encode(bytes, &mut encoded);
    encoded.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        assert_eq!(
            accept(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}
