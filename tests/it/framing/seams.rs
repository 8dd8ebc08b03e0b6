//! Messages laid across the ends of buffers: heads as large as they may be, in a row, and chunk
//! framing that begins at each byte around where a read may end.

use super::recorder::Recorder;
use super::requests::start;
use crate::support::reference::{self, Reading};
use crate::support::{Client, Origin};

/// Sends from a thread of its own: what is answered meanwhile must be read.
fn send(client: &Client, bytes: Vec<u8>) -> std::thread::JoinHandle<()> {
    let stream = client.stream().try_clone().expect("descriptors are left");
    std::thread::spawn(move || drop(Client::over(stream).try_send(bytes)))
}

#[test]
fn large_heads_in_a_row_are_each_read_whole() {
    let recorder = Recorder::start();
    let proxy = start(&recorder);
    let mut random = fastrand::Rng::with_seed(16);
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    for number in 0..60 {
        let size = [10, 1000, 30_000, 31_000][random.usize(..4)] + random.usize(..500);
        let value = "v".repeat(size);
        bytes.extend(format!("GET /{number} HTTP/1.1\r\nHost: h\r\nX: {value}\r\n\r\n").bytes());
        expected.push(format!("GET /{number} | X: {value}"));
    }
    let mut client = proxy.client();
    let sending = send(&client, bytes);
    for number in 0..60 {
        assert_eq!(client.response().status, 200, "request {number}");
    }
    sending.join().expect("no panic");
    assert!(recorder.take() == expected, "other requests than were sent");
    recorder.check();
}

/// Where buffers end: a read, what is gathered for a write, what is copied.
const ENDS: [usize; 5] = [4096, 16 * 1024, 32 * 1024, 64 * 1024, 128 * 1024];

/// A chunked message whose second size line begins so far from its first byte.
fn chunked(head: &str, second: usize) -> Option<(Vec<u8>, Vec<u8>)> {
    let line = format!("{:x}\r\n", second);
    let size = second.checked_sub(head.len() + line.len() + 2)?;
    let first = vec![b'a'; size];
    let mut bytes = format!("{head}{size:x}\r\n").into_bytes();
    bytes.extend(&first);
    bytes.extend(b"\r\n10;x=y\r\n0123456789abcdef\r\n3\r\n\r\n0\r\n0\r\nX-Sum: 1\r\n\r\n");
    Some((bytes, [&first[..], b"0123456789abcdef\r\n0"].concat()))
}

#[test]
fn chunks_of_a_request_may_begin_anywhere() {
    let origin = Origin::good("ok");
    let proxy = super::answers::start(&origin);
    let mut client = proxy.client();
    let head = "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    for end in ENDS {
        for second in end - 24..end + 8 {
            let (bytes, body) = chunked(head, second).expect("it is long enough");
            let sending = send(&client, bytes);
            assert_eq!(client.response().status, 200, "at {second}");
            sending.join().expect("no panic");
            let received = origin.last();
            let received = reference::request(&[received.head, received.body].concat());
            let Reading::Whole(request) = received else {
                panic!("at {second}: {received:?}");
            };
            assert!(request.body == body, "at {second}: another body");
            assert_eq!(
                request.trailers,
                [(b"X-Sum".to_vec(), b"1".to_vec())],
                "at {second}"
            );
        }
    }
}

#[test]
fn chunks_of_an_answer_may_begin_anywhere() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let origin = Origin::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let second = request.target()[1..].parse().expect("a number");
            let (bytes, _) = chunked(head, second).expect("it is long enough");
            connection.send(bytes);
        }
    });
    let proxy = super::answers::start(&origin);
    let mut client = proxy.client();
    for end in ENDS {
        for second in end - 24..end + 8 {
            client.send(format!("GET /{second} HTTP/1.1\r\nHost: h\r\n\r\n"));
            let Reading::Whole(answer) = client.strictly("GET") else {
                panic!("at {second}: broken off");
            };
            let (_, body) = chunked(head, second).expect("it is long enough");
            assert!(answer.body == body, "at {second}: another body");
            assert_eq!(
                answer.trailers,
                [(b"X-Sum".to_vec(), b"1".to_vec())],
                "at {second}"
            );
        }
    }
    assert_eq!(origin.connections(), 1, "it is used again each time");
}
