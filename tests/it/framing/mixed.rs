//! A stream of requests of every kind, cut at random places, stays the requests that were meant.

use crate::support::{Client, Origin, Proxy};

struct Wanted {
    bytes: Vec<u8>,
    answer: String,
    method: &'static str,
}

fn request(random: &mut fastrand::Rng, number: usize) -> Wanted {
    let method = ["GET", "POST", "PUT", "HEAD", "DELETE", "get"][random.usize(..6)];
    let mut payload = String::new();
    let size = [0, 1, 17, 300, 5000, 70_000][random.usize(..6)];
    // A body that looks like requests.
    while payload.len() < size {
        payload += "GET /smuggled HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n0\r\n\r\n";
    }
    payload.truncate(size);
    let mut bytes = if random.u8(..4) == 0 { "\r\n" } else { "" }.to_owned();
    bytes += &format!("{method} /{number} HTTP/1.1\r\nHost: h\r\n");
    bytes += ["", "X-Filler: y\r\n", "X:\r\nY: \t z \r\n"][random.usize(..3)];
    if random.bool() {
        bytes += &format!("Content-Length: {size}\r\n\r\n{payload}");
    } else {
        bytes += "transfer-Encoding: Chunked\r\n\r\n";
        let mut rest = payload.as_str();
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(random.usize(1..=rest.len()));
            let size = chunk.len();
            let line = match random.u8(..4) {
                0 => format!("{size:X};a=\"b c\""),
                1 => format!("000{size:x}"),
                _ => format!("{size:x}"),
            };
            bytes += &format!("{line}\r\n{chunk}\r\n");
            rest = after;
        }
        bytes += ["0\r\n\r\n", "00;x\r\n\r\n", "0\r\nX-Sum: 1\r\n\r\n"][random.usize(..3)];
    }
    let answer = match method {
        "HEAD" => String::new(),
        _ => format!("{method} /{number} {payload}"),
    };
    Wanted {
        bytes: bytes.into_bytes(),
        answer,
        method,
    }
}

fn payload(raw: &[u8], chunked: bool) -> Vec<u8> {
    if !chunked {
        return raw.to_vec();
    }
    let (mut rest, mut payload) = (raw, Vec::new());
    loop {
        let line = rest.iter().position(|&byte| byte == b'\r').expect("a line");
        let digits = String::from_utf8_lossy(&rest[..line]).into_owned();
        let size = usize::from_str_radix(&digits, 16).expect("digits and nothing else");
        if size == 0 {
            return payload;
        }
        payload.extend(&rest[line + 2..][..size]);
        rest = &rest[line + 2 + size + 2..];
    }
}

/// Says what it got, in one of the ways to frame that.
fn echo() -> Origin {
    Origin::scripted(|connection| {
        while let Some(request) = connection.request() {
            let chunked = request.header("transfer-encoding").is_some();
            let (method, target) = (request.method(), request.target());
            let mut answer = format!("{method} {target} ").into_bytes();
            answer.extend(payload(&request.body, chunked));
            let length = answer.len();
            let head = "HTTP/1.1 200 OK\r\n";
            if method == "HEAD" {
                connection.send(format!("{head}Content-Length: {length}\r\n\r\n"));
            } else if connection.served % 2 == 0 {
                connection.send(format!("{head}Content-Length: {length}\r\n\r\n"));
                connection.send(answer);
            } else {
                let head = format!("{head}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n");
                connection.send([head.as_bytes(), &answer, b"\r\n0\r\n\r\n"].concat());
            }
        }
    })
}

#[test]
fn streams_of_requests_are_read_as_they_were_meant_wherever_they_are_cut() {
    let origin = echo();
    let proxy = Proxy::start(&format!(
        "[upstream.app]\nservers = [\"{}\"]\n[[route]]\nprefix = \"/\"\nupstream = \"app\"\n",
        origin.address()
    ));
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let wanted: Vec<_> = (0..random.usize(1..12))
            .map(|number| request(&mut random, number))
            .collect();
        let stream: Vec<u8> = wanted.iter().flat_map(|one| one.bytes.clone()).collect();
        let client = proxy.client();
        let mut writer = Client::over(client.stream().try_clone().expect("descriptors are left"));
        let upload = std::thread::spawn(move || {
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let most = [3, 40, 2000, 100_000][random.usize(..4)].min(rest.len());
                let (piece, after) = rest.split_at(random.usize(1..=most));
                writer.send(piece);
                rest = after;
            }
        });
        let mut client = client;
        for (number, one) in wanted.iter().enumerate() {
            let answer = client.try_response_to(one.method);
            let answer = answer.unwrap_or_else(|error| panic!("seed {seed}, {number}: {error}"));
            assert_eq!(answer.status, 200, "seed {seed}, {number}");
            assert!(
                answer.text() == one.answer,
                "seed {seed}, {number}: another answer"
            );
        }
        upload.join().expect("no panic");
    }
}
