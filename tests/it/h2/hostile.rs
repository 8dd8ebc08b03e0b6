//! Clients that make us work for nothing: each is cut, counted, and nobody else notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::raw::*;
use crate::support::{Connection, Origin, Proxy, app, eventually};

fn cuts(proxy: &Proxy, cause: &str) -> f64 {
    let series =
        format!("evenkeel_downstream_connections_cut_total{{listener=\"web\",cause=\"{cause}\"}}");
    proxy
        .metric(&series)
        .unwrap_or_else(|| panic!("{series} is not there"))
}

/// Sends `flood` again and again until the connection is cut; how it was.
fn flooded(proxy: &Proxy, opening: &[u8], flood: &[u8], times: usize) -> Option<u32> {
    let mut raw = Raw::connect(proxy.address());
    raw.send(opening);
    for _ in 0..times {
        if !raw.send(flood) {
            break;
        }
    }
    raw.goaway()
}

#[test]
fn floods_are_cut_and_counted_by_their_kind() {
    let origin = Origin::good("hello");
    let proxy = Proxy::start(&app(&[&origin], ""));
    let open = head(1, 0, &POST, &[]);
    let priority = frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]);
    let update = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    let table: Vec<(&str, &[u8], Vec<u8>, usize)> = vec![
        ("ping_flood", b"", frame(PING, 0, 0, &[1; 8]), 10_000),
        ("settings_flood", b"", frame(SETTINGS, 0, 0, &[]), 10_000),
        (
            "settings_flood",
            b"",
            frame(SETTINGS, 0, 0, &setting(4, 65_535)),
            10_000,
        ),
        ("priority_flood", b"", priority, 10_000),
        ("window_update_flood", b"", update, 10_000),
        ("empty_frames", &open, frame(DATA, 0, 1, &[]), 10_000),
        ("unknown_frames", b"", frame(0x20, 0, 0, b"x"), 10_000),
    ];
    for (cause, opening, flood, times) in table {
        let before = cuts(&proxy, cause);
        let started = Instant::now();
        let code = flooded(&proxy, opening, &flood, times);
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{cause}");
        assert!(started.elapsed() < Duration::from_secs(2), "{cause}");
        assert_eq!(cuts(&proxy, cause), before + 1.0, "{cause}");
        assert_eq!(proxy.get("/").status, 200, "others are served");
    }
}

#[test]
fn header_blocks_without_end_are_cut() {
    let origin = Origin::good("hello");
    let proxy = Proxy::start(&app(&[&origin], ""));
    let begin = frame(HEADERS, 0, 1, &block(&GET));
    let floods = [
        frame(CONTINUATION, 0, 1, &[]),
        frame(CONTINUATION, 0, 1, &block(&[("x", "y")])),
        frame(CONTINUATION, 0, 1, &block(&[("x", &"y".repeat(16_000))])),
    ];
    for flood in floods {
        let code = flooded(&proxy, &begin, &flood, 2_000);
        assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    }
    let cut = cuts(&proxy, "limits") + cuts(&proxy, "empty_frames");
    assert_eq!(cut + cuts(&proxy, "continuation_flood"), 3.0);
    assert_eq!(origin.request_count(), 0);
    assert_eq!(proxy.get("/").status, 200, "others are served");
}

#[test]
fn heads_that_unpack_to_much_are_refused_or_cut() {
    let origin = Origin::good("hello");
    let proxy = Proxy::start(&app(&[&origin], ""));
    // One entry of 4000 bytes, then one byte for each repetition of it (CVE-2016-6581).
    let mut bomb = block(&GET);
    bomb.push(0x40);
    push_text(&mut bomb, b"x");
    push_text(&mut bomb, &[b'y'; 4000]);
    for (repeated, refused) in [(7, None), (12, Some(431)), (16_000, None)] {
        let mut raw = Raw::connect(proxy.address());
        let mut fields = bomb.clone();
        fields.extend(vec![0xbe; repeated]);
        raw.send(frame(
            HEADERS,
            END_STREAM,
            1,
            &fields[..5_000.min(fields.len())],
        ));
        for piece in fields[5_000.min(fields.len())..].chunks(16_384) {
            raw.send(frame(CONTINUATION, 0, 1, piece));
        }
        raw.send(frame(CONTINUATION, END_HEADERS, 1, &[]));
        match (repeated, refused) {
            (_, Some(status)) => assert_eq!(raw.answer(1), status),
            (7, _) => assert_eq!(raw.answer(1), 200),
            _ => assert_eq!(raw.goaway(), Some(ENHANCE_YOUR_CALM)),
        }
    }
    // Tiny fields and cookie crumbs at a byte each (CVE-2026-49975).
    for name in [&b"a"[..], b"cookie"] {
        let mut raw = Raw::connect(proxy.address());
        let mut fields = block(&GET);
        fields.push(0x40);
        push_text(&mut fields, name);
        push_text(&mut fields, b"b");
        fields.extend(vec![0xbe; 1_500]);
        raw.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields));
        assert_eq!(raw.answer(1), 431);
    }
    assert_eq!(origin.request_count(), 1);
    let refused = proxy.metric("evenkeel_rejected_total{reason=\"header_too_large\"}");
    assert_eq!(refused, Some(3.0));
    assert_eq!(proxy.get("/").status, 200, "others are served");
}

/// A server that works long, and how many requests it worked on at once at most.
fn busy() -> (Origin, Arc<AtomicUsize>) {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = most.clone();
    let origin = Origin::scripted(move |connection: &mut Connection| {
        while let Some(request) = connection.request() {
            if request.target() == "/good" {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                continue;
            }
            let count = now.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(count, Ordering::SeqCst);
            connection.wait_for_close();
            now.fetch_sub(1, Ordering::SeqCst);
            return;
        }
    });
    (origin, seen)
}

const STREAMS: u32 = 20;

fn limited(origin: &Origin) -> Proxy {
    Proxy::start(&format!(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         limits = {{ max-concurrent-streams = {STREAMS} }}\n{}",
        app(&[origin], "")
    ))
}

#[test]
fn rapid_resets_are_cut_and_start_little() {
    let (origin, most) = busy();
    let proxy = limited(&origin);
    let mut raw = Raw::connect(proxy.address());
    for number in 0..5_000 {
        let stream = 2 * number + 1;
        let reset = frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
        if !raw.send([get(stream), reset].concat()) {
            break;
        }
    }
    assert_eq!(raw.goaway(), Some(ENHANCE_YOUR_CALM));
    assert!(most.load(Ordering::SeqCst) <= STREAMS as usize);
    assert!(cuts(&proxy, "resets") + cuts(&proxy, "limits") >= 1.0);
    assert_eq!(proxy.get("/good").status, 200, "others are served");
}

#[test]
fn paced_resets_start_little_too() {
    let (origin, most) = busy();
    let proxy = limited(&origin);
    let mut raw = Raw::connect(proxy.address());
    // As many as may be open, then each is given up for another.
    for number in 0..400 {
        let mut bytes = get(2 * number + 1);
        if let Some(before) = number.checked_sub(STREAMS) {
            bytes.extend(frame(RST_STREAM, 0, 2 * before + 1, &8u32.to_be_bytes()));
            bytes.rotate_left(get(2 * number + 1).len());
        }
        if !raw.send(bytes) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(raw.goaway(), Some(ENHANCE_YOUR_CALM));
    assert!(most.load(Ordering::SeqCst) <= 2 * STREAMS as usize);
    assert_eq!(cuts(&proxy, "resets"), 1.0);
    assert_eq!(proxy.get("/good").status, 200, "others are served");
}

#[test]
fn resets_that_we_are_made_to_send_are_cut_in_every_form() {
    let (origin, most) = busy();
    let proxy = limited(&origin);
    type Form = (&'static str, fn(u32) -> Vec<u8>);
    let forms: [Form; 7] = [
        ("window update of 0", |stream| {
            frame(WINDOW_UPDATE, 0, stream, &[0; 4])
        }),
        ("window beyond", |stream| {
            let update = frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffffu32.to_be_bytes());
            [&update[..], &update].concat()
        }),
        ("priority on itself", |stream| {
            frame(
                PRIORITY,
                0,
                stream,
                &[&stream.to_be_bytes()[..], &[1]].concat(),
            )
        }),
        ("priority of 4", |stream| {
            frame(PRIORITY, 0, stream, &[0; 4])
        }),
        ("data behind the end", |stream| frame(DATA, 0, stream, b"x")),
        ("headers behind the end", |stream| {
            head(stream, 0, &GET, &[])
        }),
        ("trailers without end", |stream| {
            head(stream, 0, &[], &[("x", "y")])
        }),
    ];
    for (name, form) in forms {
        let mut raw = Raw::connect(proxy.address());
        let started = Instant::now();
        for number in 0..2_000 {
            let stream = 2 * number + 1;
            if !raw.send([get(stream), form(stream)].concat()) {
                break;
            }
        }
        // The library takes some for errors of the connection, which ends it as well.
        assert!(raw.goaway().is_some(), "{name}");
        assert!(started.elapsed() < Duration::from_secs(2), "{name}");
        assert_eq!(proxy.get("/good").status, 200, "others are served: {name}");
        eventually("what was begun is given up", || origin.open() <= 2);
    }
    assert!(most.load(Ordering::SeqCst) <= STREAMS as usize);
}

#[test]
fn clients_that_take_no_answer_hold_little_and_are_cut() {
    let body = vec![b'x'; 4_000_000];
    let origin = Origin::scripted(move |connection| {
        while connection.request().is_some() {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            if connection.try_send(head).is_err() || connection.try_send(&body).is_err() {
                return;
            }
        }
    });
    let config =
        app(&[&origin], "").replace("[[route]]\n", "[[route]]\ntimeout = { idle = \"1s\" }\n");
    let proxy = Proxy::start(&config);
    for window in [0, 1, 65_535] {
        let mut raw = Raw::connect_with(proxy.address(), &setting(4, window));
        for number in 0..20 {
            raw.send(get(2 * number + 1));
        }
        let mut reset = 0;
        while reset < 20 {
            let frame = raw.next().expect("the connection goes on");
            reset += usize::from(frame.kind == RST_STREAM);
        }
        assert!(raw.pings());
    }
}
