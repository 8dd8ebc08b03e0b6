//! What crosses from HTTP/1 to HTTP/2 and back.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};

use super::{posted, proxy};
use crate::support::{H2Origin, h2_origin::send};

#[test]
fn a_request_arrives_in_the_words_of_http2_and_its_answer_in_those_of_http1() {
    let origin = H2Origin::good("hello");
    let proxy = proxy(&origin);
    let mut client = proxy.client();
    for _ in 0..3 {
        let answer = client.request("GET", "/a/b?c=d", "X-Mixed: One\r\nTE: trailers\r\n");
        assert_eq!((answer.status, &*answer.text()), (200, "hello"));
        assert_eq!(answer.header("content-length"), Some("5"));
    }
    assert_eq!(origin.accepted(), 1, "one connection carries all of them");
    let calls = origin.calls();
    let call = &calls[0];
    assert_eq!(call.method, "GET");
    assert_eq!(call.uri, "http://test/a/b?c=d");
    let field = |name: &str| {
        call.fields
            .get(name)
            .map(|value| value.to_str().expect("text"))
    };
    assert_eq!(field("x-mixed"), Some("One"));
    assert_eq!(field("te"), Some("trailers"));
    assert_eq!(field("host"), None, "it is :authority");
    assert_eq!(field("connection"), None);
    assert_eq!(field("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn bodies_and_trailers_cross_both_ways() {
    let origin = H2Origin::scripted(|mut call| async move {
        let (body, trailers) = call.body().await.expect("it is whole");
        let mut stream = call.head(Response::builder(), false);
        assert!(send(&mut stream, Bytes::from(body), false).await);
        let mut back = HeaderMap::new();
        let sum = trailers.and_then(|map| map.get("x-sum").cloned());
        back.insert("x-sum", sum.unwrap_or(HeaderValue::from_static("none")));
        stream.send_trailers(back).expect("open");
    });
    let proxy = proxy(&origin);
    let mut client = proxy.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
         3\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n",
    );
    let answer = client.response();
    assert_eq!((answer.status, &*answer.text()), (200, "abcdefg"));
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "7".to_owned())]);

    for size in [0, 1, 16_384, 65_535, 65_536, 1 << 20, 9 << 20] {
        let body = noise(size);
        let answer = posted(&mut client, "/", &body);
        assert_eq!(answer.status, 200);
        assert!(answer.body == body, "{size} bytes come back");
    }
    assert_eq!(origin.accepted(), 1);
}

fn noise(size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(size as u64);
    (0..size).map(|_| random.u8(..)).collect()
}
