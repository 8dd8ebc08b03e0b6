//! Extended CONNECT (RFC 8441) as what it means: an upgrade from HTTP/1.1.
//!
//! Above the wire it is the request that HTTP/1.1 would have sent: GET with `Upgrade` and
//! `Connection`, and for WebSocket the key that RFC 6455 section 4.1 asks for and HTTP/2 leaves
//! out. The key is ours, so what the server makes of it is ours to check.

use bytes::Bytes;

use crate::message::{Body, Known, Method, RequestHead, ResponseHead};
use crate::util::websocket;
use crate::wire::Response;

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
        let key = websocket::new_key();
        head.fields.append_text("Sec-WebSocket-Key", key.as_bytes());
        Upgrade {
            accept: Some(websocket::accept(key.as_bytes())),
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
