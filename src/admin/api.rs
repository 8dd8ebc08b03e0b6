//! The calls: path and method to what they do.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};

use super::access::{self, Needs};
use super::body;
use super::context::{Control, ExplainRequest, Readiness};
use super::page;
use super::reply::{self, Refused, Reply};
use super::server::Local;
use super::status;
use crate::upstream::{Override, OverrideError};

/// A call with what its path says.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Page,
    Healthz,
    Readyz,
    Metrics,
    Status,
    Config,
    Reload,
    Explain,
    Server { upstream: String, server: String },
}

/// Whether the answer to `path` is long: the more there is in the configuration, the longer.
pub(super) fn takes_time(path: &str) -> bool {
    matches!(
        call(path),
        Some(Call::Metrics | Call::Status | Call::Config)
    )
}

/// Answers one request. Never fails: what goes wrong is an answer too.
pub(super) async fn answer<B>(
    control: &Arc<dyn Control>,
    local: &Local,
    request: Request<B>,
) -> Reply
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match dispatch(control, local, request).await {
        Ok(reply) => reply,
        Err(refused) => refused.reply(),
    }
}

async fn dispatch<B>(
    control: &Arc<dyn Control>,
    local: &Local,
    request: Request<B>,
) -> Result<Reply, Refused>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let call = call(request.uri().path());
    let needs = call.as_ref().map_or(Needs::Reading, Call::needs);
    access::check(&request, needs, local, &control.settings())?;
    let call = call.ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, "no such path"))?;
    call.allows(request.method())?;
    match call {
        Call::Page => page::part(request.uri().path())
            .ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, "no such path")),
        Call::Healthz => Ok(reply::text(StatusCode::OK, "ok\n")),
        Call::Readyz => Ok(readiness(control.readiness())),
        Call::Metrics => {
            let content_type = "text/plain; version=0.0.4; charset=utf-8";
            Ok(reply::reply(
                StatusCode::OK,
                content_type,
                control.metrics(),
            ))
        }
        Call::Status => Ok(reply::json(StatusCode::OK, &status::view(&**control))),
        Call::Config => Ok(reply::text(StatusCode::OK, control.configuration())),
        Call::Reload => Ok(match control.reload().await {
            Ok(reloaded) => reply::json(StatusCode::OK, &reloaded),
            Err(rejected) => reply::json(StatusCode::UNPROCESSABLE_ENTITY, &rejected),
        }),
        Call::Explain => {
            let question: ExplainRequest = body::json(request).await?;
            let told = control.explain(question);
            told.map(|told| reply::json(StatusCode::OK, &told))
                .map_err(|mistake| Refused::new(StatusCode::BAD_REQUEST, mistake))
        }
        Call::Server { upstream, server } if request.method() == Method::DELETE => {
            let view = control
                .clear_override(&upstream, &server)
                .map_err(|e| refused(&e))?;
            Ok(reply::json(StatusCode::OK, &view))
        }
        Call::Server { upstream, server } => {
            let change: Override = body::json(request).await?;
            let view = control
                .set_override(&upstream, &server, change)
                .map_err(|e| refused(&e))?;
            Ok(reply::json(StatusCode::OK, &view))
        }
    }
}

fn readiness(readiness: Readiness) -> Reply {
    match readiness {
        Readiness::Ready => reply::text(StatusCode::OK, "ready\n"),
        Readiness::Starting => reply::text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Readiness::Draining => reply::text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

fn refused(error: &OverrideError) -> Refused {
    let status = match error {
        OverrideError::NoUpstream | OverrideError::NoServer => StatusCode::NOT_FOUND,
        OverrideError::Weight | OverrideError::RoundRobin | OverrideError::Empty => {
            StatusCode::BAD_REQUEST
        }
        OverrideError::HandedOver => StatusCode::SERVICE_UNAVAILABLE,
    };
    Refused::new(status, error.to_string())
}

fn call(path: &str) -> Option<Call> {
    Some(match path {
        "/" | "/app.js" | "/app.css" | "/icon.svg" => Call::Page,
        "/healthz" => Call::Healthz,
        "/readyz" => Call::Readyz,
        "/metrics" => Call::Metrics,
        "/status" => Call::Status,
        "/config" => Call::Config,
        "/reload" => Call::Reload,
        "/explain" => Call::Explain,
        _ => {
            let rest = path.strip_prefix("/upstreams/")?;
            // An address may hold slashes (`unix:/run/x.sock`), a name may too when it is encoded.
            let (upstream, server) = rest.split_once("/servers/")?;
            if upstream.is_empty() || upstream.contains('/') || server.is_empty() {
                return None;
            }
            Call::Server {
                upstream: decoded(upstream)?,
                server: decoded(server)?,
            }
        }
    })
}

/// RFC 3986 section 2.1; `None` for what is no text afterwards.
fn decoded(segment: &str) -> Option<String> {
    let mut out = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            out.push(byte);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(out).ok()
}

impl Call {
    fn needs(&self) -> Needs {
        match self {
            Call::Healthz | Call::Readyz | Call::Metrics => Needs::Nothing,
            Call::Page => Needs::OwnName,
            Call::Status | Call::Config | Call::Explain => Needs::Reading,
            Call::Reload | Call::Server { .. } => Needs::Changing,
        }
    }

    fn allows(&self, method: &Method) -> Result<(), Refused> {
        let (allowed, list): (&[Method], _) = match self {
            Call::Reload | Call::Explain => (&[Method::POST], "POST"),
            Call::Server { .. } => (&[Method::PUT, Method::DELETE], "PUT, DELETE"),
            _ => (&[Method::GET, Method::HEAD], "GET, HEAD"),
        };
        if allowed.contains(method) {
            Ok(())
        } else {
            Err(Refused::method(list))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn server(path: &str) -> Option<(String, String)> {
        match call(path)? {
            Call::Server { upstream, server } => Some((upstream, server)),
            other => panic!("{path} must not be {other:?}"),
        }
    }

    #[test]
    fn servers_are_named_by_the_path() {
        let named = |upstream: &str, server: &str| Some((upstream.to_string(), server.to_string()));
        assert_eq!(
            server("/upstreams/users/servers/10.0.0.1:9000"),
            named("users", "10.0.0.1:9000")
        );
        assert_eq!(
            server("/upstreams/users/servers/[::1]:9000"),
            named("users", "[::1]:9000")
        );
        assert_eq!(
            server("/upstreams/users/servers/%5B::1%5D:9000"),
            named("users", "[::1]:9000")
        );
        assert_eq!(
            server("/upstreams/a%2Fb/servers/unix:/run/x"),
            named("a/b", "unix:/run/x")
        );
        for none in [
            "/upstreams/a/servers/",
            "/upstreams//servers/x",
            "/upstreams/a/b/servers/x",
            "/upstreams/a/servers/%zz",
            "/upstreams/a/servers/%ff",
            "/upstreams/a",
            "/upstreams/a/servers/%+1",
        ] {
            assert_eq!(server(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_a_call_or_none(path in "/[ -~]{0,40}") {
            let _ = call(&path);
        }
    }
}
