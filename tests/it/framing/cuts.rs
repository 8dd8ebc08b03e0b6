//! The same bytes in two pieces, cut at every byte and read one after the other: they mean what
//! they mean in one.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use super::recorder::Recorder;
use super::requests::show;
use crate::support::{Origin, Proxy, Rounds, eventually};

/// What a stream is, its bytes, the statuses that answer it, what the server sees.
type Stream = (
    &'static str,
    &'static [u8],
    &'static [u16],
    &'static [&'static str],
);

const STREAMS: &[Stream] = &[
    (
        "requests of every framing",
        b"\r\nGET /1?a=b HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\n\
          POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\nhe\r\n\r\nl\
          POST /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
          1;a=\"b\"\r\nx\r\n5\r\nhe\r\nl\r\nA\r\n0123456789\r\n00\r\nX-Sum: 1\r\n\r\n\
          GET /4 HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n\
          GET http://h/5 HTTP/1.1\r\nHost: i\r\n\r\n",
        &[200, 200, 200, 200, 200],
        &[
            "GET /1?a=b | X: y",
            "POST /2 | Content-Length: 7 | he~~l",
            "POST /3 | Transfer-Encoding: chunked | 1~x~5~he~l~A~0123456789~0~X-Sum: 1~~",
            "GET /4",
            "GET /5",
        ],
    ),
    (
        "a body that waits for 100",
        b"PUT /1 HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello\
          GET /2 HTTP/1.1\r\nHost: h\r\n\r\n",
        &[100, 200, 200],
        &[
            "PUT /1 | Expect: 100-continue | Content-Length: 5 | hello",
            "GET /2",
        ],
    ),
    (
        "a bare LF behind a good request",
        b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\nHost: h\r\n\r\n",
        &[200, 400],
        &["GET /1"],
    ),
    (
        "a fold",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n Transfer-Encoding: chunked\r\n\r\n",
        &[400],
        &[],
    ),
    (
        "white space before the colon",
        b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        &[400],
        &[],
    ),
    (
        "two framings",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
          0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
        &[400],
        &[],
    ),
    (
        "two lengths",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 10\r\n\r\n0123456789",
        &[400],
        &[],
    ),
    (
        "a control byte",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: 0123456789\x0babcdefghijkl\r\n\r\n",
        &[400],
        &[],
    ),
    ("HTTP/0.9", b"GET /\r\n\r\n", &[400], &[]),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[505], &[]),
];

/// Of a chunked request: each is refused, and no whole request reaches the server.
const CHUNKS: &[&[u8]] = &[
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhelloX\r\n0\r\n\r\n",
    b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    b"ffffffffffffffff0\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX: y\nZ: z\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\n",
];

/// So that it is known when it has read.
fn one_worker(recorder: &Recorder) -> Proxy {
    let address = recorder.origin.address();
    Proxy::start(&format!(
        "[process]\nworkers = 1\n\
         [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\nprotocols = [\"http/1.1\"]\n\
         [upstream.app]\nservers = [\"{address}\"]\n\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n"
    ))
}

#[test]
fn streams_of_requests_mean_the_same_wherever_they_are_cut() {
    let recorder = Recorder::start();
    let proxy = one_worker(&recorder);
    let mut rounds = Rounds::of(&proxy);
    for &(name, bytes, statuses, seen) in STREAMS {
        for cut in 1..bytes.len() {
            let what = format!("{name}, cut at {cut}: {}", show(&bytes[..cut]));
            let mut client = proxy.client();
            client.send(&bytes[..cut]);
            rounds.pass();
            // It may be refused already.
            let _ = client.try_send(&bytes[cut..]);
            for &status in statuses {
                let answer = client.try_response();
                let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(answer.status, status, "{what}");
            }
            if *statuses.last().expect("one") != 200 {
                assert!(client.rest().is_empty(), "{what}: more is behind it");
            }
            assert_eq!(recorder.take(), seen, "{what}");
        }
    }
    recorder.check();
}

#[test]
fn chunks_mean_the_same_wherever_they_are_cut() {
    let recorder = Recorder::start();
    let proxy = one_worker(&recorder);
    let mut rounds = Rounds::of(&proxy);
    let head = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    for &bytes in CHUNKS {
        for cut in 0..bytes.len() {
            let what = format!("cut at {cut}: {}", show(bytes));
            let mut client = proxy.client();
            client.send([head.as_bytes(), &bytes[..cut]].concat());
            rounds.pass();
            let _ = client.try_send(&bytes[cut..]);
            let answer = client.try_response();
            let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(answer.status, 400, "{what}");
            assert!(client.rest().is_empty(), "{what}: more is behind it");
        }
    }
    eventually("the cut requests are over", || recorder.origin.open() == 0);
    let seen = recorder.take();
    let whole = seen.iter().find(|entry| !entry.ends_with("(cut)"));
    assert_eq!(whole, None, "a whole request at the server");
    recorder.check();
}

const ANSWERS: &[(&[u8], Option<&str>)] = &[
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello", Some("hello")),
    (b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nhel\r\n2\r\nlo\r\n0\r\nX: y\r\n\r\n", Some("hello")),
    (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Some("hello")),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello", None),
    (b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello", None),
    (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello", None),
];

#[test]
fn answers_mean_the_same_wherever_they_are_cut() {
    let (sent, half) = channel();
    let (rest, go) = channel::<()>();
    let ends = Mutex::new((sent, go));
    let origin = Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let target = request.target();
            let numbers: Vec<usize> = target.split('/').filter_map(|n| n.parse().ok()).collect();
            let (bytes, _) = ANSWERS[numbers[0]];
            let (sent, go) = &*ends.lock().expect("no panic with the lock");
            connection.send(&bytes[..numbers[1]]);
            let _ = sent.send(());
            let _ = go.recv();
            connection.send(&bytes[numbers[1]..]);
        }
    });
    let proxy = super::answers::start(&origin);
    let mut rounds = Rounds::of(&proxy);
    for (number, (bytes, body)) in ANSWERS.iter().enumerate() {
        let mut client = proxy.client();
        for cut in 1..bytes.len() {
            let what = format!("cut at {cut}: {}", show(bytes));
            client.send(format!("GET /{number}/{cut} HTTP/1.1\r\nHost: h\r\n\r\n"));
            half.recv().expect("the server answers");
            rounds.pass();
            rest.send(()).expect("the server waits");
            let mut answer = client.response();
            while answer.status < 200 {
                answer = client.response();
            }
            match body {
                Some(body) => assert_eq!((answer.status, &*answer.text()), (200, *body), "{what}"),
                None => assert_eq!(answer.evenkeel_reason(), Some("bad_response"), "{what}"),
            }
        }
    }
}
