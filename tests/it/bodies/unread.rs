//! Bodies of requests that we answer ourselves: nothing of them is ever a request, whoever reads
//! them, and what follows them is answered in its turn or not at all.

use std::time::Duration;

use crate::support::{Origin, Proxy};

/// A proxy that has a reason for every kind of answer of its own.
fn start(origin: &Origin) -> Proxy {
    let address = origin.address();
    Proxy::start(&format!(
        "[upstream.app]\nservers = [\"{address}\"]\n\
         [upstream.gone]\nservers = [\"127.0.0.1:1\"]\nbreaker = {{ mode = \"off\" }}\n\
         [upstream.drained.servers]\n\"{address}\" = {{ weight = 1, drain = true }}\n\
         [[route]]\npath = \"/next\"\nupstream = \"app\"\n\
         [[route]]\npath = \"/smuggled\"\nupstream = \"app\"\n\
         [[route]]\npath = \"/gone\"\nupstream = \"gone\"\n\
         [[route]]\npath = \"/drained\"\nupstream = \"drained\"\n\
         [[route]]\npath = \"/fallback\"\nupstream = \"gone\"\n\
         fallback = {{ status = 200, body = \"instead\" }}\n\
         [[route]]\npath = \"/small\"\nupstream = \"app\"\nmax-body = \"1B\"\n"
    ))
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: h\r\n\r\n";

/// Fields and body of a request, each body made of requests.
fn bodies() -> Vec<(String, String)> {
    let many = SMUGGLED.repeat(4_000);
    let with_length = |body: &str| (format!("Content-Length: {}", body.len()), body.to_owned());
    let chunked = |body: &str| {
        let size = body.len();
        let body = format!("{size:x}\r\n{body}\r\n0\r\n\r\n");
        ("Transfer-Encoding: chunked".to_owned(), body)
    };
    let (length, body) = with_length(SMUGGLED);
    vec![
        with_length(SMUGGLED),
        with_length(&many),
        chunked(SMUGGLED),
        chunked(&many),
        (format!("Expect: 100-continue\r\n{length}"), body),
    ]
}

#[test]
fn body_of_a_request_that_we_answer_is_never_a_request() {
    let origin = Origin::good("next");
    let proxy = start(&origin);
    let mut seen = 0;
    for (path, status) in [
        ("/gone", 502),
        ("/drained", 503),
        ("/fallback", 200),
        ("/small", 413),
        ("/none", 404),
    ] {
        for (fields, body) in bodies() {
            for pause in [false, true] {
                let what = format!("{path}, {fields}, {} bytes, pause: {pause}", body.len());
                let head = format!("POST {path} HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
                let mut client = proxy.client();
                if pause {
                    // Answered, perhaps, before a byte of the body is there.
                    client.send(head);
                    let _ = client.is_silent_for(Duration::from_millis(2));
                    let _ = client.try_send(body.clone() + NEXT);
                } else {
                    let _ = client.try_send(head + &body + NEXT);
                }
                let mut answers = Vec::new();
                while let Ok(answer) = client.try_response() {
                    if answer.status >= 200 {
                        let closes = answer.header("connection") == Some("close");
                        answers.push(answer.status);
                        if closes || answers.len() == 2 {
                            break;
                        }
                    }
                }
                let followed = answers == [status, 200];
                assert!(followed || answers == [status], "{what}: {answers:?}");
                let requests = origin.requests();
                let new: Vec<_> = requests[seen..].iter().map(|one| one.target()).collect();
                let expected: &[&str] = if followed { &["/next"] } else { &[] };
                assert_eq!(new, expected, "{what}");
                seen = requests.len();
            }
        }
    }
}
