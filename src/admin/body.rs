//! Bodies of calls: small JSON, within a time.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::reply::Refused;

const LIMIT: usize = 64 * 1024;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the whole body as JSON. Depth is bounded by serde_json (128), size and time here.
pub(super) async fn json<T, B>(request: Request<B>) -> Result<T, Refused>
where
    T: DeserializeOwned,
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = Limited::new(request.into_body(), LIMIT).collect();
    let bytes = match tokio::time::timeout(TIMEOUT, body).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the body is larger than {LIMIT} bytes");
            return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        Ok(Err(_)) => return Err(Refused::new(StatusCode::BAD_REQUEST, "the body is cut off")),
        Err(_) => {
            return Err(Refused::new(
                StatusCode::REQUEST_TIMEOUT,
                "the body does not end",
            ));
        }
    };
    // serde takes an array for a struct too, field by field: nobody means that.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Refused::new(
            StatusCode::BAD_REQUEST,
            "the body must be a JSON object",
        ));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Refused::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))
}
