//! Servers that fail in every way at once, clients that leave, and what must hold through it: nobody
//! gets another's answer, nothing cut looks whole, and when it is over nothing is left.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Response;

use crate::support::h2::{H2, block_on};
use crate::support::h2_origin::{Call, send};
use crate::support::{Client, H2Origin, Proxy, eventually};

/// Answers with the path again and again, or does what a bad server does.
async fn capricious(mut call: Call) {
    let path = call.path().to_owned();
    let body = Bytes::from(path.repeat(1 + path.len() * fastrand::usize(0..40)));
    match fastrand::u8(0..20) {
        0 => call.respond.send_reset(Reason::REFUSED_STREAM),
        1 => call.respond.send_reset(Reason::INTERNAL_ERROR),
        2 => {
            let Some(mut stream) = call.try_head(Response::builder()) else {
                return;
            };
            let _ = stream.send_data(body, false);
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        3 => {
            // One that says more than it sends.
            let head = Response::builder().header("content-length", body.len() + 1);
            let Some(mut stream) = call.try_head(head) else {
                return;
            };
            send(&mut stream, body, false).await;
            stream.send_reset(Reason::NO_ERROR);
        }
        4 => {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..20))).await;
            let Some(mut stream) = call.try_head(Response::builder()) else {
                return;
            };
            send(&mut stream, body, true).await;
        }
        5 => {
            let interim = Response::builder().status(103).body(()).expect("a head");
            let _ = call.respond.send_informational(interim);
            let Some(mut stream) = call.try_head(Response::builder()) else {
                return;
            };
            send(&mut stream, body, true).await;
        }
        6 => {
            // The answer before the request.
            let Some(mut stream) = call.try_head(Response::builder()) else {
                return;
            };
            send(&mut stream, body, true).await;
        }
        _ => {
            let _ = call.body().await;
            let Some(mut stream) = call.try_head(Response::builder()) else {
                return;
            };
            send(&mut stream, body, true).await;
        }
    }
}

/// One request after the other; counts those that were answered well.
fn insist(address: SocketAddr, own: usize, stop: &AtomicBool, answered: &AtomicUsize) {
    let mut client = Client::connect(address);
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let path = format!("/client-{own}-round-{round}-");
        let request = match fastrand::u8(0..4) {
            0 => format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"),
            1 => format!(
                "PUT {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                 4\r\nbody\r\n0\r\nx-t: 1\r\n\r\n"
            ),
            _ => format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"),
        };
        if client.try_send(&request).is_err() {
            client = Client::connect(address);
            continue;
        }
        if fastrand::u8(0..12) == 0 {
            // One that leaves.
            client = Client::connect(address);
            continue;
        }
        let answer = loop {
            match client.try_response() {
                Ok(answer) if answer.status == 103 => {}
                other => break other,
            }
        };
        match answer {
            Ok(answer) if answer.status == 200 => {
                let text = answer.text();
                let own =
                    text.len() % path.len() == 0 && text == path.repeat(text.len() / path.len());
                assert!(own && !text.is_empty(), "{path} got {text}");
                answered.fetch_add(1, Ordering::SeqCst);
            }
            Ok(answer) => {
                let reason = answer.evenkeel_reason();
                assert!(
                    matches!(reason, Some("upstream_reset" | "bad_response")),
                    "{} {reason:?}",
                    answer.status
                );
            }
            // Cut where the server cut it.
            Err(_) => client = Client::connect(address),
        }
    }
}

#[test]
fn nothing_is_mixed_up_and_nothing_is_left() {
    let origins = [
        H2Origin::scripted(capricious),
        H2Origin::scripted(capricious),
    ];
    let addresses = origins
        .each_ref()
        .map(|origin| origin.address().to_string());
    let proxy = Proxy::start(&format!(
        "[[route]]\nprefix = \"/\"\nupstream = \"app\"\n\
         [upstream.app]\nprotocol = \"h2\"\nservers = [\"{}\", \"{}\"]\n\
         breaker = {{ mode = \"off\" }}\nretry = {{ budget = {{ ratio = \"100%\" }} }}\n\
         connections = {{ max-connections = 3 }}\n",
        addresses[0], addresses[1]
    ));
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let address = proxy.address();
    let clients: Vec<_> = (0..16)
        .map(|own| {
            let (stop, answered) = (stop.clone(), answered.clone());
            thread::spawn(move || insist(address, own, &stop, &answered))
        })
        .collect();
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(150));
        origins.iter().for_each(H2Origin::leave);
    }
    block_on(async {
        let mut client = H2::connect(address).await;
        let mut many = Vec::new();
        for number in 0..200 {
            let request = client.request("GET", &format!("/h2-{number}-")).body(());
            let (answer, _) = client.send(request.expect("a request"), true).await;
            if number % 3 == 0 {
                continue;
            }
            many.push((number, tokio::spawn(answer)));
        }
        for (number, answer) in many {
            let Ok(answer) = answer.await.expect("no panic") else {
                continue;
            };
            let status = answer.status();
            let mut body = answer.into_body();
            let mut text = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                text.extend_from_slice(&data);
            }
            let own = format!("/h2-{number}-");
            let text = String::from_utf8_lossy(&text);
            assert!(status != 200 || text.starts_with(&own), "{own} got {text}");
        }
    });
    eventually("enough is answered", || {
        answered.load(Ordering::SeqCst) > 300
    });
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("every answer is its own");
    }
    for (origin, address) in origins.iter().zip(&addresses) {
        let gauge = |name: &str| {
            let labels = format!("{{upstream=\"app\",server=\"{address}\"}}");
            proxy.metric(&format!("evenkeel_upstream_{name}{labels}"))
        };
        eventually("no request holds anything", || {
            gauge("requests_in_flight") == Some(0.0) && gauge("connections_active") == Some(0.0)
        });
        eventually("no call goes on", || origin.running() == 0);
        eventually("the cap holds", || origin.open() <= 3);
    }
}
