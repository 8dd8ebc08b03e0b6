//! Extended CONNECT (RFC 8441) as what it means: an upgrade from HTTP/1.1.
//!
//! Above the wire it is the request that HTTP/1.1 would have sent: GET with `Upgrade` and
//! `Connection`, and for WebSocket the key that RFC 6455 section 4.1 asks for and HTTP/2 leaves
//! out. The key is ours, so what the server makes of it is ours to check.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use bytes::Bytes;

use crate::message::{Body, Known, Method, RequestHead, ResponseHead};
use crate::wire::Response;

/// RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What an extended CONNECT asked for.
pub(super) struct Upgrade {
    /// What the server has to make of our key; `None` where the protocol is not WebSocket.
    accept: Option<String>,
}

impl Upgrade {
    /// Turns `head` into the request that asks a server for `protocol`.
    pub(super) fn ask(head: &mut RequestHead, protocol: &str) -> Self {
        head.method = Method::Get;
        head.fields.append(Known::Connection, b"upgrade");
        head.fields.append(Known::Upgrade, protocol.as_bytes());
        // RFC 8441 section 5: neither has a meaning here, whatever the client sent.
        head.fields.remove_text("sec-websocket-key");
        head.fields.remove_text("sec-websocket-accept");
        if !protocol.eq_ignore_ascii_case("websocket") {
            return Upgrade { accept: None };
        }
        let key = base64(&std::array::from_fn::<u8, 16, _>(|_| fastrand::u8(..)));
        head.fields.append_text("Sec-WebSocket-Key", key.as_bytes());
        Upgrade {
            accept: Some(accept_of(&key)),
        }
    }

    /// The answer as HTTP/2 gives it: 200 where the server switched.
    pub(super) fn answer(self, mut response: Response) -> Response {
        if !matches!(response.body, Body::Tunnel(_)) {
            // To the client any 2xx would be the tunnel (RFC 8441 section 5).
            let mistakable = (200..300).contains(&response.head.status);
            return if mistakable { refused() } else { response };
        }
        let fields = &mut response.head.fields;
        let accepted = fields.get_text("sec-websocket-accept").map(<[u8]>::to_vec);
        if let Some(accept) = self.accept
            && accepted.as_deref() != Some(accept.as_bytes())
        {
            // Somebody switched to what nobody asked for.
            return refused();
        }
        fields.remove_text("sec-websocket-accept");
        fields.remove(Known::Upgrade);
        fields.remove(Known::Connection);
        response.head.status = 200;
        response
    }
}

/// The server did not switch to what it was asked for.
fn refused() -> Response {
    let mut head = ResponseHead::new(502);
    head.fields
        .set(Known::ContentType, b"text/plain; charset=utf-8");
    Response {
        head,
        body: Body::Bytes(Bytes::from_static(
            b"the server did not switch to the protocol that was asked for\n",
        )),
        close: false,
    }
}

/// RFC 6455 section 4.2.2.
fn accept_of(key: &str) -> String {
    let input = [key, GUID].concat();
    base64(digest(&SHA1_FOR_LEGACY_USE_ONLY, input.as_bytes()).as_ref())
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .chain([0, 0].iter().skip(group.len() - 1))
            .fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
        for place in 0..4 {
            let digit = bits >> (18 - 6 * place) & 63;
            text.push(if place <= group.len() {
                char::from(ALPHABET[digit as usize])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_answered_as_in_the_rfc() {
        assert_eq!(
            accept_of("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
