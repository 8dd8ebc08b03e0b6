//! A client's TLS handshake, under the listener's terms as they are when it begins.

use std::sync::Arc;

use super::opening::Opened;
use crate::proxy::Secured;
use crate::telemetry::{Handshake, ListenerMetrics};
use crate::tls::Terms;
use crate::util::base64;
use crate::wire::tls::{Cause, TlsError, accept};

/// Counts how it ended, whatever way; that it took too long is for who waits.
pub(super) async fn shake_hands(
    accepted: Opened,
    terms: &Arc<Terms>,
    metrics: &ListenerMetrics,
) -> Result<Opened, TlsError> {
    let Opened {
        socket,
        peer,
        port,
        destination,
        ..
    } = accepted;
    let (socket, handshaken) = match accept(socket, terms.server().clone()).await {
        Ok(shaken) => shaken,
        Err(error) => {
            metrics.handshake_ended(result(error.cause()));
            return Err(error);
        }
    };
    metrics.handshake_ended(match handshaken.resumed {
        true => Handshake::Resumed,
        false => Handshake::Ok,
    });
    let secured = Secured {
        server_name: handshaken.server_name,
        certificate: handshaken.certificate,
        client_certificate: handshaken.peer_certificate.as_deref().map(client_cert),
        terms: terms.clone(),
    };
    Ok(Opened {
        socket,
        peer,
        port,
        destination,
        secured: Some(Box::new(secured)),
        http2: handshaken.alpn.as_deref() == Some(b"h2"),
    })
}

/// A byte sequence of structured fields (RFC 9440 section 2.1, RFC 8941 section 3.3.5).
fn client_cert(der: &[u8]) -> Box<[u8]> {
    let mut value = vec![b':'];
    base64::encode(der, &mut value);
    value.push(b':');
    value.into()
}

fn result(cause: Cause) -> Handshake {
    match cause {
        Cause::Gone => Handshake::ClientGone,
        Cause::NotTls => Handshake::NotTls,
        Cause::NothingInCommon => Handshake::NothingInCommon,
        Cause::PeerCertificate => Handshake::ClientCertificate,
        Cause::RefusedByPeer => Handshake::RefusedByClient,
        Cause::Protocol => Handshake::ProtocolError,
    }
}
