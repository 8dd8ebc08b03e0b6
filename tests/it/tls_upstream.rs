//! TLS towards servers: whom we trust, what we show, and what a failure looks like.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use rcgen::SanType;
use tempfile::TempDir;

use crate::support::tls::{Authority, Issued, replace};
use crate::support::tls_origin::{Behaviour, TlsOrigin};
use crate::support::{ONE_WORKER, Origin, Proxy, Response, eventually};

/// `tls`: the lines of `[upstream.app.tls]`; `more`: keys and tables of the upstream.
fn config(address: std::net::SocketAddr, tls: &str, more: &str) -> String {
    format!(
        "{ONE_WORKER}[upstream.app]\nservers = [\"{address}\"]\nretry = {{ attempts = 0 }}\n{more}\n\
         [upstream.app.tls]\n{tls}\n[[route]]\nprefix = \"/\"\nupstream = \"app\"\n"
    )
}

fn place(ca: &Authority) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    replace(&directory.path().join("ca.pem"), &ca.pem());
    directory
}

#[track_caller]
fn start(directory: TempDir, config: &str) -> Proxy {
    match Proxy::start_in(directory, config) {
        Ok(proxy) => proxy,
        Err(error) => panic!("the proxy starts: {error:?}"),
    }
}

/// For 127.0.0.1.
fn local(ca: &Authority) -> Issued {
    ca.issue(&["127.0.0.1"])
}

#[track_caller]
fn failed(answer: &Response) {
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert_eq!(answer.evenkeel_reason(), Some("tls_failed"));
}

const TRUSTED: &str = "ca = \"ca.pem\"";

#[test]
fn servers_are_verified_and_connections_kept() {
    let ca = Authority::new();
    let origin = TlsOrigin::start(&Behaviour::of(&local(&ca)));
    let proxy = start(place(&ca), &config(origin.address(), TRUSTED, ""));
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "secret");
    }
    assert_eq!(origin.accepted(), 1, "the connection is kept");
    let seen = &origin.handshakes()[0];
    assert_eq!(seen.alpn.as_deref(), Some("http/1.1"));
    assert_eq!(seen.server_name, None, "an address is not asked for by SNI");
    assert_eq!(seen.client_certificate, None);
    let series = format!(
        "evenkeel_upstream_connects_total{{upstream=\"app\",server=\"{}\",result=\"ok\"}}",
        origin.address()
    );
    assert_eq!(proxy.metric(&series), Some(1.0));
}

#[test]
fn a_name_is_verified_and_asked_for() {
    let ca = Authority::new();
    let origin = TlsOrigin::start(&Behaviour::of(&ca.issue(&["app.internal"])));
    let tls = format!("{TRUSTED}\nserver-name = \"app.internal\"");
    let proxy = start(place(&ca), &config(origin.address(), &tls, ""));
    assert_eq!(proxy.get("/").text(), "secret");
    let seen = &origin.handshakes()[0];
    assert_eq!(seen.server_name.as_deref(), Some("app.internal"));

    let by_name = format!("localhost:{}", origin.address().port());
    let origin = TlsOrigin::start(&Behaviour::of(&ca.issue(&["localhost"])));
    let by_name = by_name.replace(
        &by_name["localhost:".len()..],
        &origin.address().port().to_string(),
    );
    let config =
        config(origin.address(), TRUSTED, "").replace(&origin.address().to_string(), &by_name);
    let proxy = start(place(&ca), &config);
    assert_eq!(proxy.get("/").text(), "secret");
    let seen = &origin.handshakes()[0];
    assert_eq!(seen.server_name.as_deref(), Some("localhost"));
}

#[test]
fn whoever_is_not_the_server_gets_no_request() {
    let (ca, other) = (Authority::new(), Authority::new());
    let past = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    };
    let future = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    };
    let client_only = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    };
    for (identity, what) in [
        (local(&other), "another CA's"),
        (ca.issue(&["127.0.0.2"]), "another address"),
        (
            ca.issue(&["app.internal"]),
            "a name where an address is asked for",
        ),
        (ca.issue(&[]), "no name"),
        (ca.issue_with(&["127.0.0.1"], past), "expired"),
        (ca.issue_with(&["127.0.0.1"], future), "not valid yet"),
        (ca.issue_with(&["127.0.0.1"], client_only), "not a server's"),
        (
            ca.issue_with(&[], |params| {
                // The address as a name, as some write it.
                let name = "127.0.0.1".to_owned().try_into().expect("is ASCII");
                params.subject_alt_names = vec![SanType::DnsName(name)];
            }),
            "an address in the place of a name",
        ),
    ] {
        let origin = TlsOrigin::start(&Behaviour::of(&identity));
        let proxy = start(place(&ca), &config(origin.address(), TRUSTED, ""));
        failed(&proxy.get("/"));
        assert!(origin.requests().is_empty(), "{what}");
        let series = format!(
            "evenkeel_upstream_connects_total{{upstream=\"app\",server=\"{}\",result=\"tls_failed\"}}",
            origin.address()
        );
        assert_eq!(proxy.metric(&series), Some(1.0), "{what}");
    }
}

#[test]
fn a_server_is_taken_unverified_where_that_is_said() {
    let ca = Authority::new();
    let origin = TlsOrigin::start(&Behaviour::of(&ca.issue(&["elsewhere"])));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let proxy = start(directory, &config(origin.address(), "verify = false", ""));
    assert_eq!(proxy.get("/").text(), "secret");
}

#[test]
fn the_system_s_roots_are_the_default() {
    let ca = Authority::new();
    let origin = TlsOrigin::start(&Behaviour::of(&local(&ca)));
    let directory = tempfile::tempdir().expect("a temporary directory");
    match Proxy::start_in(directory, &config(origin.address(), "", "")) {
        Ok(proxy) => failed(&proxy.get("/")),
        // A machine without any says so instead.
        Err(evenkeel::app::StartError::Config(mistakes)) => {
            let text = mistakes.render_human(false);
            assert!(text.contains("CA certificates"), "{text}");
        }
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn a_certificate_of_ours_is_shown_to_who_asks() {
    let ca = Authority::new();
    let asking = Behaviour {
        client_ca: Some(ca.pem()),
        ..Behaviour::of(&local(&ca))
    };
    let origin = TlsOrigin::start(&asking);
    let identity = ca.issue(&["evenkeel"]);
    let directory = place(&ca);
    identity.write(directory.path(), "client");
    let tls = format!("{TRUSTED}\nclient-cert = \"client.pem\"\nclient-key = \"client.key\"");
    let proxy = start(directory, &config(origin.address(), &tls, ""));
    assert_eq!(proxy.get("/").text(), "secret");
    let shown = origin.handshakes()[0].client_certificate.clone();
    assert_eq!(shown.as_deref(), Some(&identity.der()[..]));

    // Without one the server refuses us; in TLS 1.3 after we could send.
    let proxy = start(place(&ca), &config(origin.address(), TRUSTED, ""));
    failed(&proxy.get("/"));
    assert_eq!(origin.requests().len(), 1, "only the first was answered");
}

#[test]
fn sessions_are_resumed_per_server() {
    let ca = Authority::new();
    let (one, two) = (
        TlsOrigin::start(&Behaviour::of(&local(&ca))),
        TlsOrigin::start(&Behaviour::of(&local(&ca))),
    );
    // Each connection serves one request.
    let more = "connections = { max-idle = 1, idle-timeout = \"1ms\" }";
    let servers = format!("\"{}\", \"{}\"", one.address(), two.address());
    let config =
        config(one.address(), TRUSTED, more).replace(&format!("\"{}\"", one.address()), &servers);
    let proxy = start(place(&ca), &config);
    for _ in 0..3 {
        for origin in [&one, &two] {
            let before = origin.handshakes().len();
            eventually("a new connection is opened", || {
                assert_eq!(proxy.get("/").status, 200);
                origin.handshakes().len() > before
            });
        }
    }
    for origin in [one, two] {
        let resumed: Vec<bool> = origin
            .handshakes()
            .iter()
            .map(|seen| seen.resumed)
            .collect();
        assert!(!resumed[0], "the first one is whole: {resumed:?}");
        assert!(resumed[1..].iter().all(|resumed| *resumed), "{resumed:?}");
    }
}

#[test]
fn plain_text_before_the_handshake_is_not_an_answer() {
    // CVE-2026-1642: whoever is on the way writes an answer before the handshake.
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
            open.push(stream);
        }
    });
    let ca = Authority::new();
    let proxy = start(place(&ca), &config(address, TRUSTED, ""));
    let answer = proxy.get("/");
    failed(&answer);
    assert!(!answer.text().contains("hello"));

    let plain = Origin::scripted(|connection| {
        connection.some();
        connection.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    });
    let proxy = start(place(&ca), &config(plain.address(), TRUSTED, ""));
    failed(&proxy.get("/"));
    assert!(plain.requests().is_empty());
}

#[test]
fn one_that_ends_or_stalls_in_the_handshake_is_given_up() {
    let ca = Authority::new();
    let ending = Origin::scripted(|connection| {
        connection.some();
    });
    let proxy = start(place(&ca), &config(ending.address(), TRUSTED, ""));
    failed(&proxy.get("/"));

    let stalling = Origin::scripted(|connection| while connection.some().is_some() {});
    let more = "timeout = { connect = \"300ms\" }";
    let proxy = start(place(&ca), &config(stalling.address(), TRUSTED, more));
    let answer = proxy.get("/");
    assert_eq!(answer.status, 504);
    assert_eq!(answer.evenkeel_reason(), Some("connect_timeout"));
}

#[test]
fn a_failed_handshake_is_retried_elsewhere_and_counts_against_the_server() {
    let (ca, other) = (Authority::new(), Authority::new());
    let good = TlsOrigin::start(&Behaviour::of(&local(&ca)));
    let bad = TlsOrigin::start(&Behaviour::of(&local(&other)));
    let servers = format!("\"{}\", \"{}\"", good.address(), bad.address());
    let more = "breaker = { consecutive-failures = 2 }";
    let config = config(good.address(), TRUSTED, more)
        .replace(&format!("\"{}\"", good.address()), &servers)
        .replace("retry = { attempts = 0 }\n", "");
    let proxy = start(place(&ca), &config);
    for _ in 0..8 {
        let mut client = proxy.client();
        let answer = client.post("/", b"");
        assert_eq!(
            answer.status, 200,
            "nothing was sent: any method is retried"
        );
    }
    assert_eq!(bad.accepted(), 2, "then its breaker is open");
}

#[test]
fn a_changed_ca_counts_with_the_next_connection_and_ends_those_that_are_kept() {
    let (ca, other) = (Authority::new(), Authority::new());
    let origin = TlsOrigin::start(&Behaviour::of(&local(&ca)));
    let directory = place(&ca);
    let path = directory.path().join("ca.pem");
    let proxy = start(
        directory,
        &config(origin.address(), TRUSTED, "breaker = \"off\""),
    );
    assert_eq!(proxy.get("/").text(), "secret");

    // Another change leaves the kept connection alone.
    proxy.edit("attempts = 0", "attempts = 1");
    assert_eq!(proxy.reload().status, 200);
    assert_eq!(proxy.get("/").text(), "secret");
    assert_eq!(origin.accepted(), 1);

    // The file alone: it is watched.
    replace(&path, &other.pem());
    eventually("the new CA is in use", || {
        let answer = proxy.get("/");
        answer.evenkeel_reason() == Some("tls_failed")
    });
    replace(&path, "no certificate");
    eventually("the broken file is refused", || {
        proxy.metric("evenkeel_config_last_reload_successful") == Some(0.0)
    });
    replace(&path, &ca.pem());
    eventually("the first CA is in use again", || {
        proxy.get("/").status == 200
    });
}

#[test]
fn tls_comes_and_goes_by_a_reload() {
    let ca = Authority::new();
    let secure = TlsOrigin::start(&Behaviour::of(&local(&ca)));
    let with = config(secure.address(), TRUSTED, "");
    let without = with.replace("[upstream.app.tls]\nca = \"ca.pem\"\n", "");
    let proxy = start(place(&ca), &with);
    assert_eq!(proxy.get("/").text(), "secret");
    proxy.reconfigure(&without);
    let answer = proxy.get("/");
    assert_eq!(
        answer.status,
        502,
        "a kept connection is not used: {}",
        answer.text()
    );
    proxy.reconfigure(&with);
    assert_eq!(proxy.get("/").text(), "secret");
}

#[test]
fn checks_speak_tls_as_the_traffic_does() {
    let (ca, other) = (Authority::new(), Authority::new());
    let health = |tls: &str| {
        format!(
            "[upstream.app.health]\npath = \"/\"\ninterval = \"200ms\"\nfall = 1\nrise = 1\n{tls}"
        )
    };
    for (identity, probe, healthy) in [
        (local(&ca), "", 1.0),
        (local(&other), "", 0.0),
        (local(&ca), "tls = \"off\"", 0.0),
    ] {
        let origin = TlsOrigin::start(&Behaviour::of(&identity));
        let proxy = start(
            place(&ca),
            &config(origin.address(), TRUSTED, &health(probe)),
        );
        let labels = format!("{{upstream=\"app\",server=\"{}\"}}", origin.address());
        let checks = ["success", "failure", "timeout"].map(|result| {
            let labels = labels.replace('}', &format!(",result=\"{result}\"}}"));
            format!("evenkeel_upstream_health_checks_total{labels}")
        });
        eventually("two checks are made", || {
            let count = |series: &String| proxy.metric(series).unwrap_or_default();
            checks.iter().map(count).sum::<f64>() >= 2.0
        });
        let series = format!("evenkeel_upstream_server_healthy{labels}");
        assert_eq!(proxy.metric(&series), Some(healthy), "{probe}");
        assert!(origin.handshakes().iter().all(|seen| !seen.resumed));
    }
}

#[test]
fn plain_checks_find_a_server_that_speaks_tls_elsewhere() {
    let ca = Authority::new();
    let (origin, checked) = (
        TlsOrigin::start(&Behaviour::of(&local(&ca))),
        Origin::good("ok"),
    );
    let more = format!(
        "[upstream.app.health]\npath = \"/\"\ntls = \"off\"\nport = {}\ninterval = \"200ms\"",
        checked.address().port()
    );
    let proxy = start(place(&ca), &config(origin.address(), TRUSTED, &more));
    eventually("it is checked", || !checked.requests().is_empty());
    assert_eq!(proxy.get("/").text(), "secret");
}

#[test]
fn mistakes_are_found_by_check() {
    let ca = Authority::new();
    let address = "127.0.0.1:9".parse().expect("an address");
    let bad = |directory: &Path| {
        let identity = local(&ca);
        identity.write(directory, "one");
        local(&ca).write(directory, "two");
    };
    for (tls, expected) in [
        ("ca = \"missing.pem\"", "cannot read `missing.pem`"),
        ("ca = \"one.key\"", "holds no certificate"),
        (
            "client-cert = \"one.pem\"",
            "`client-cert` without `client-key`",
        ),
        (
            "client-key = \"one.key\"",
            "`client-key` without `client-cert`",
        ),
        (
            "client-cert = \"one.pem\"\nclient-key = \"two.key\"",
            "does not belong to the certificate",
        ),
        (
            "ca = \"ca.pem\"\nserver-name = \"a:443\"",
            "is no name of a server",
        ),
        (
            "ca = \"ca.pem\"\nverify = false",
            "`ca` means nothing with `verify = false`",
        ),
    ] {
        let directory = place(&ca);
        bad(directory.path());
        match Proxy::start_in(directory, &config(address, tls, "")) {
            Err(evenkeel::app::StartError::Config(mistakes)) => {
                let text = mistakes.render_human(false);
                assert!(text.contains(expected), "{tls}: {text}");
            }
            Err(error) => panic!("{tls}: {error:?}"),
            Ok(_) => panic!("{tls} is accepted"),
        }
    }
}

/// Twenty requests at once over TLS connections, their bodies intact.
#[test]
fn bodies_pass_whole() {
    let ca = Authority::new();
    let origin = TlsOrigin::start(&Behaviour::of(&local(&ca)));
    let proxy = start(place(&ca), &config(origin.address(), TRUSTED, ""));
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let mut client = proxy.client();
                for _ in 0..5 {
                    let answer = client.get("/");
                    if answer.text() != "secret" {
                        failures.lock().expect("not poisoned").push(answer);
                    }
                }
            });
        }
    });
    assert!(failures.into_inner().expect("not poisoned").is_empty());
    assert_eq!(origin.requests().len(), 100);
}
