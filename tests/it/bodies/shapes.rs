//! Every framing of a body into every other, whatever its size.

use super::flow::start;
use crate::support::{Client, Origin, Proxy};

/// Around the sizes where buffers end.
const SIZES: [usize; 11] = [
    0, 1, 4095, 4097, 32_767, 65_535, 65_537, 131_071, 131_073, 262_145, 1_000_003,
];

fn body(size: usize) -> Vec<u8> {
    let mut state = size as u32 | 1;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..size).map(step).collect()
}

/// In chunks of uneven sizes.
fn chunked(body: &[u8]) -> Vec<u8> {
    let (mut bytes, mut rest, mut size) = (Vec::new(), body, 1);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        bytes.extend(format!("{:X}\r\n", chunk.len()).into_bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
        (rest, size) = (after, (size * 7 + 3) % 90_000 + 1);
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

fn unchunked(mut raw: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = raw
            .iter()
            .position(|&byte| byte == b'\n')
            .expect("a size line");
        let digits = std::str::from_utf8(&raw[..line - 1]).expect("digits");
        let size = usize::from_str_radix(digits, 16).expect("digits");
        if size == 0 {
            return body;
        }
        body.extend(&raw[line + 1..][..size]);
        raw = &raw[line + 1 + size + 2..];
    }
}

/// Answers with the request's body, framed as the target says.
fn echo() -> Origin {
    Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            let body = match request.header("transfer-encoding") {
                Some(_) => unchunked(&request.body),
                None => request.body.clone(),
            };
            match request.target().as_str() {
                "/length" => {
                    let length = body.len();
                    connection.send(format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
                    ));
                    connection.send(body);
                }
                "/chunked" => {
                    connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                    connection.send(chunked(&body));
                }
                _ => {
                    connection.send("HTTP/1.0 200 OK\r\n\r\n");
                    connection.send(body);
                    return;
                }
            }
        }
    })
}

/// Sends from a thread of its own: the answer may begin before the request has ended.
fn exchange(client: &mut Client, head: &str, body: Vec<u8>) -> Vec<u8> {
    let mut stream = client.stream().try_clone().expect("descriptors are left");
    let bytes = [head.as_bytes(), &body].concat();
    let upload = std::thread::spawn(move || std::io::Write::write_all(&mut stream, &bytes));
    let answer = client.response();
    assert_eq!(answer.status, 200);
    upload.join().expect("no panic").expect("the upload ends");
    answer.body
}

#[test]
fn every_framing_carries_every_size_both_ways() {
    let origin = echo();
    carries_everything(&start(&origin, "", ""));
}

#[test]
fn every_framing_carries_every_size_through_the_smallest_buffers() {
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\n\
                    limits = { connection-buffer = \"4KiB\" }\n";
    let origin = echo();
    let proxy = start(&origin, "", listener);
    carries_everything(&proxy);
    // A head has a limit of its own.
    let long = format!("X-Long: {}\r\n", "x".repeat(20_000));
    let answer = proxy.client().request("POST", "/length", &long);
    assert_eq!(answer.status, 200);
}

fn carries_everything(proxy: &Proxy) {
    let mut client = proxy.client();
    for size in SIZES {
        let body = body(size);
        for to in ["length", "chunked", "end"] {
            let length = format!("Content-Length: {size}\r\n\r\n");
            let head = format!("POST /{to} HTTP/1.1\r\nHost: h\r\n");
            let back = exchange(&mut client, &format!("{head}{length}"), body.clone());
            assert!(back == body, "{size} bytes by length, then by {to}");
            let coding = "Transfer-Encoding: chunked\r\n\r\n";
            let back = exchange(&mut client, &format!("{head}{coding}"), chunked(&body));
            assert!(back == body, "{size} bytes in chunks, then by {to}");
            let head = format!("POST /{to} HTTP/1.0\r\nHost: h\r\n{length}");
            let back = exchange(&mut proxy.client(), &head, body.clone());
            assert!(back == body, "{size} bytes for HTTP/1.0, then by {to}");
        }
    }
}

#[test]
fn chunked_bodies_survive_any_cut() {
    let origin = echo();
    let proxy = start(&origin, "", "");
    let raw = chunked(&body(40));
    let head = "POST /chunked HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = proxy.client();
    for cut in 0..raw.len() {
        client.send(head).send(&raw[..cut]);
        client.send(&raw[cut..]);
        assert!(client.response().body == body(40), "cut at {cut}");
    }
    let mut client = proxy.client();
    client.send(head);
    for byte in &raw {
        client.send([*byte]);
    }
    assert!(client.response().body == body(40), "byte by byte");
}

#[test]
fn http_1_0_clients_get_no_chunks_no_interim_answers_and_no_trailers() {
    let origin = Origin::answering(
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
         HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    let proxy = start(&origin, "", "");
    let mut client = proxy.client();
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.status, &*answer.text()), (200, "hello"));
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(
        answer.header("connection"),
        Some("close"),
        "its end is the body's end"
    );
}

#[test]
fn trailers_pass_to_the_client_without_what_must_not_be_there() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\
         X-Sum: 1\r\nSet-Cookie: a=b\r\nContent-Length: 3\r\nX-Last: 2\r\n\r\n",
    );
    let proxy = start(&origin, "", "");
    let answer = proxy.client().get("/");
    let trailers: Vec<_> = answer
        .trailers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        (answer.text().as_str(), &trailers[..]),
        ("hello", &["X-Sum", "X-Last"][..])
    );
}

#[test]
fn answers_without_a_body_keep_what_they_say_about_it() {
    for (method, head, length) in [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n",
            Some("5"),
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n",
            Some("5"),
        ),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\nETag: \"a\"\r\n\r\n",
            None,
        ),
    ] {
        let origin = Origin::answering(head);
        let proxy = start(&origin, "", "");
        let mut client = proxy.client();
        for _ in 0..3 {
            let answer = client.request(method, "/", "");
            assert_eq!(answer.header("content-length"), length, "{head:?}");
            assert_eq!(answer.header("etag"), Some("\"a\""), "{head:?}");
        }
        assert_eq!(origin.connections(), 1, "{head:?}");
    }
}

/// The first server breaks off in the middle of the body, wherever that is; the second one must
/// get it from its first byte.
#[test]
fn body_that_is_sent_again_is_whole_wherever_the_first_try_broke_off() {
    let raw = b"3;x=y\r\nabc\r\n0a\r\n0123456789\r\n4\r\nwxyz\r\n0\r\nX-Sum: 1\r\n\r\n";
    let plain = b"abc0123456789wxyz";
    for (framing, bytes) in [
        ("Transfer-Encoding: chunked", &raw[..]),
        ("Content-Length: 17", &plain[..]),
    ] {
        for cut in (0..bytes.len()).step_by(3) {
            let breaking = Origin::scripted(move |connection| {
                connection.request_head();
                if cut > 8 {
                    connection.some();
                }
                connection.reset();
            });
            let good = Origin::good("ok");
            let proxy = crate::support::Proxy::start(&format!(
                "[process]\nworkers = 1\n[[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
                 [upstream.app]\nservers = [\"{}\", \"{}\"]\nbalance = \"round-robin\"\n",
                breaking.address(),
                good.address()
            ));
            let mut client = proxy.client();
            client.send(format!("PUT / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"));
            client.send(&bytes[..cut]);
            breaking.last();
            crate::support::eventually("the first try is over", || breaking.open() == 0);
            client.send(&bytes[cut..]);
            assert_eq!(client.response().text(), "ok", "{framing}, cut at {cut}");
            let received = good.last();
            let body = match framing {
                "Content-Length: 17" => received.body.clone(),
                _ => unchunked(&received.body),
            };
            assert_eq!(body, plain, "{framing}, cut at {cut}");
            let trailer = received.body.ends_with(b"0\r\nX-Sum: 1\r\n\r\n");
            assert_eq!(trailer, framing.starts_with('T'), "{framing}, cut at {cut}");
        }
    }
}
