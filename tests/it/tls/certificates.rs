//! Which certificate is shown, and how it is replaced.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::super::support::tls::{Authority, connect, replace, shown, try_connect};
use super::super::support::{Origin, app, eventually, value_within};
use super::{Scene, listener, scene, simple};

fn several(origin: &Origin) -> Scene {
    let config = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
        [listener.tls]\ncertificates = [\n\
        { cert = \"first.pem\", key = \"first.key\" },\n\
        { cert = \"wild.pem\", key = \"wild.key\" },\n\
        { cert = \"exact.pem\", key = \"exact.key\" },\n]\n"
        .to_owned()
        + &app(&[origin], "");
    scene(&config, |authority, directory| {
        authority
            .issue(&["first.example"])
            .write(directory, "first");
        authority
            .issue(&["*.b.example", "b.example"])
            .write(directory, "wild");
        authority
            .issue(&["exact.b.example"])
            .write(directory, "exact");
    })
}

/// A client that takes any certificate, to see which it is.
fn names_shown(scene: &Scene, name: &str) -> Option<Vec<String>> {
    let config = scene.authority.client().build();
    let mut client = try_connect(scene.proxy.address(), &config, name).ok()?;
    let (_, certificate) = {
        let der = shown(&mut client);
        let leaked: &'static [u8] = der.to_vec().leak();
        x509_parser::parse_x509_certificate(leaked).expect("a certificate")
    };
    let names = certificate
        .subject_alternative_name()
        .expect("well-formed")?
        .value;
    Some(
        names
            .general_names
            .iter()
            .map(ToString::to_string)
            .collect(),
    )
}

#[test]
fn sni_chooses_exact_then_wildcard_then_the_first() {
    let origin = Origin::good("x");
    let scene = several(&origin);
    for (name, expected) in [
        ("first.example", "first.example"),
        ("exact.b.example", "exact.b.example"),
        ("other.b.example", "*.b.example"),
        ("OTHER.B.example", "*.b.example"),
        ("b.example", "*.b.example"),
    ] {
        let names = names_shown(&scene, name).unwrap_or_else(|| panic!("{name} is shown one"));
        assert!(names[0].contains(expected), "{name}: {names:?}");
    }
    // The first is for nobody else: its client says so, and we hear of it.
    assert!(names_shown(&scene, "x.y.b.example").is_none());
    assert!(names_shown(&scene, "unknown.example").is_none());
    eventually("counted", || scene.handshakes("refused_by_client") == 2.0);
}

#[test]
fn a_host_of_another_certificate_is_misdirected() {
    let origin = Origin::good("x");
    let scene = several(&origin);
    let config = scene.client_config();
    let status = |sni: &str, host: &str| {
        let mut client = connect(scene.proxy.address(), &config, sni);
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let answer = client.response();
        (answer.status, answer.evenkeel_reason().map(str::to_owned))
    };
    for (sni, host) in [
        ("first.example", "first.example"),
        ("first.example", "First.Example.:443"),
        // The first is for all other names.
        ("first.example", "unknown.example"),
        ("x.b.example", "y.b.example"),
        ("x.b.example", "b.example:8443"),
    ] {
        assert_eq!(status(sni, host), (200, None), "{sni} {host}");
    }
    for (sni, host) in [
        ("first.example", "exact.b.example"),
        ("x.b.example", "exact.b.example"),
        ("x.b.example", "first.example"),
        ("exact.b.example", "x.b.example"),
    ] {
        let misdirected = (421, Some("misdirected".to_owned()));
        assert_eq!(status(sni, host), misdirected, "{sni} {host}");
    }
    assert_eq!(origin.request_count(), 5);
}

#[test]
fn a_renewed_certificate_is_shown_at_once_and_no_request_fails() {
    let origin = Origin::good("x");
    let scene = simple(&origin, "");
    let (address, config) = (scene.proxy.address(), scene.client_config());
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|number| {
            let (stop, config) = (stop.clone(), config.clone());
            thread::spawn(move || {
                let mut requests = 0;
                let mut client = connect(address, &config, "a.example");
                while !stop.load(Ordering::Relaxed) {
                    // Half of them on one connection, half each on a new one.
                    if number % 2 == 0 {
                        client = connect(address, &config, "a.example");
                    }
                    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
                    assert_eq!(client.response().status, 200);
                    requests += 1;
                }
                requests
            })
        })
        .collect();
    let mut kept = connect(address, &config, "a.example");
    for _ in 0..3 {
        let renewed = scene.authority.issue(&["a.example"]);
        renewed.write(scene.proxy.directory(), "site");
        let start = Instant::now();
        value_within(Duration::from_millis(1500), "it is shown", || {
            let mut client = connect(address, &scene.client_config(), "a.example");
            (shown(&mut client) == renewed.der()).then_some(())
        });
        eprintln!("shown after {:?}", start.elapsed());
    }
    kept.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(kept.response().status, 200, "connections stay");
    stop.store(true, Ordering::Relaxed);
    let counts = load
        .into_iter()
        .map(|thread| thread.join().expect("no request fails"));
    assert!(counts.sum::<u32>() > 20);
}

/// The certificate that a new client is shown.
fn current(scene: &Scene) -> rustls::pki_types::CertificateDer<'static> {
    shown(&mut scene.client())
}

#[test]
fn a_broken_pair_is_refused_and_the_one_in_use_stays() {
    let origin = Origin::good("x");
    let scene = simple(&origin, "");
    let before = current(&scene);
    let site = |ending: &str| scene.proxy.directory().join(format!("site.{ending}"));
    let renewed = scene.authority.issue(&["a.example"]);
    type Break<'a> = &'a dyn Fn();
    let breaks: [(&str, Break<'_>); 5] = [
        ("does not belong", &|| replace(&site("pem"), &renewed.cert)),
        ("holds no certificate", &|| replace(&site("pem"), "")),
        ("broken PEM", &|| {
            replace(&site("pem"), &renewed.cert[..200])
        }),
        ("holds no private key", &|| {
            replace(&site("pem"), &renewed.cert);
            replace(&site("key"), &renewed.cert);
        }),
        ("no such file", &|| {
            let _ = std::fs::remove_file(site("key"));
        }),
    ];
    for (words, damage) in breaks {
        damage();
        let answer = scene.proxy.reload();
        assert_eq!(answer.status, 422, "{words}: {}", answer.text());
        let text = answer.text();
        assert!(
            text.contains(words) && text.contains("site."),
            "{words}: {text}"
        );
        assert!(text.contains("evenkeel.toml:"), "the key is named: {text}");
        assert_eq!(current(&scene), before, "{words}: the old one stays");
    }
    let successful = "evenkeel_config_last_reload_successful";
    assert_eq!(scene.proxy.metric(successful), Some(0.0));
    // Whole again, it is taken without a word to anybody.
    renewed.write(scene.proxy.directory(), "site");
    eventually("the new one is shown", || current(&scene) == renewed.der());
    // It is in use a moment before it is said so.
    eventually("the reload was taken", || {
        scene.proxy.metric(successful) == Some(1.0)
    });
}

#[test]
fn links_to_certificates_are_followed_as_renewals_move_them() {
    // As certbot and ConfigMaps do it: a link that moves to a new directory.
    let origin = Origin::good("x");
    let config = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
        tls = { certificates = [{ cert = \"live/site.pem\", key = \"live/site.key\" }] }\n"
        .to_owned()
        + &app(&[&origin], "");
    let issue = |authority: &Authority, directory: &Path, name: &str| {
        let folder = directory.join(name);
        std::fs::create_dir(&folder).expect("a folder");
        let issued = authority.issue(&["a.example"]);
        issued.write(&folder, "site");
        issued
    };
    let link = |directory: &Path, to: &str| {
        let aside = directory.join(".link");
        std::os::unix::fs::symlink(to, &aside).expect("a link");
        std::fs::rename(&aside, directory.join("live")).expect("the link is replaced");
    };
    let scene = scene(&config, |authority, directory| {
        issue(authority, directory, "1");
        link(directory, "1");
    });
    let renewed = issue(&scene.authority, scene.proxy.directory(), "2");
    link(scene.proxy.directory(), "2");
    eventually("the new one is shown", || current(&scene) == renewed.der());
}

#[test]
fn expiry_is_shown_by_name_and_of_several_the_earliest() {
    let origin = Origin::good("x");
    let config = listener("").replace(
        "certificates = [",
        "certificates = [{ cert = \"late.pem\", key = \"late.key\" }, ",
    ) + &app(&[&origin], "");
    let scene = scene(&config, |authority, directory| {
        let until = |year| {
            move |parameters: &mut rcgen::CertificateParams| {
                parameters.not_after = rcgen::date_time_ymd(year, 1, 1);
            }
        };
        authority
            .issue_with(&["a.example"], until(2040))
            .write(directory, "late");
        authority
            .issue_with(&["a.example"], until(2035))
            .write(directory, "site");
    });
    let series = "evenkeel_tls_certificate_expiry_timestamp_seconds{name=\"a.example\"}";
    assert_eq!(scene.proxy.metric(series), Some(2_051_222_400.0));
    scene
        .proxy
        .edit(", { cert = \"site.pem\", key = \"site.key\" }", "");
    assert_eq!(scene.proxy.reload().status, 200);
    assert_eq!(scene.proxy.metric(series), Some(2_208_988_800.0));
}

#[test]
fn an_expired_certificate_is_warned_about_and_stops_no_other_change() {
    let origin = Origin::good("x");
    let config = listener("") + &app(&[&origin], "");
    let scene = scene(&config, |authority, directory| {
        let over = |parameters: &mut rcgen::CertificateParams| {
            parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
            parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
        };
        authority
            .issue_with(&["a.example"], over)
            .write(directory, "site");
    });
    scene
        .proxy
        .edit("name = \"web\"", "name = \"web\"\nvia = false");
    let answer = scene.proxy.reload();
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("has expired"), "{}", answer.text());
}

#[test]
fn an_expired_certificate_does_not_replace_a_valid_one() {
    let origin = Origin::good("x");
    let scene = simple(&origin, "");
    let before = current(&scene);
    let over = |parameters: &mut rcgen::CertificateParams| {
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
    };
    let expired = scene.authority.issue_with(&["a.example"], over);
    expired.write(scene.proxy.directory(), "site");
    let answer = scene.proxy.reload();
    assert_eq!(answer.status, 422, "{}", answer.text());
    let text = answer.text();
    assert!(
        text.contains("2021-01-01") && text.contains("site.pem"),
        "{text}"
    );
    assert_eq!(current(&scene), before, "the valid one stays");
}

#[test]
fn the_reload_says_that_certificates_changed() {
    let origin = Origin::good("x");
    let scene = simple(&origin, "");
    scene
        .authority
        .issue(&["a.example"])
        .write(scene.proxy.directory(), "site");
    scene.proxy.wait_for_generation(2);
    let last = scene.proxy.running().reload().last();
    assert!(
        last.summary.contains("listener web: certificates"),
        "{}",
        last.summary
    );
}
