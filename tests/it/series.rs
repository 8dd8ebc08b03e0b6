//! Every series of an upstream moves when its subject does.

use std::thread;

use super::support::{Origin, Proxy, app, app_with, eventually};

fn of_server(proxy: &Proxy, family: &str, origin: &Origin, more: &str) -> Option<f64> {
    let server = origin.address();
    let labels = format!("upstream=\"app\",server=\"{server}\"{more}");
    proxy.metric(&format!("evenkeel_upstream_{family}{{{labels}}}"))
}

#[test]
fn requests_in_flight_latency_and_connections_follow_the_traffic() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let origin = Origin::scripted(move |connection| {
        while connection.request().is_some() {
            if released.lock().expect("no panic").recv().is_err() {
                return;
            }
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = Proxy::start(&app(&[&origin], ""));
    let value = |family: &str, more: &str| of_server(&proxy, family, &origin, more);
    assert_eq!(value("server_weight", ""), Some(1.0));
    assert_eq!(value("server_healthy", ""), Some(1.0));
    assert_eq!(value("breaker_state", ""), Some(0.0));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| proxy.get("/").status);
        eventually("it is at the server", || origin.request_count() == 1);
        assert_eq!(value("requests_in_flight", ""), Some(1.0));
        assert_eq!(value("connections_active", ""), Some(1.0));
        release.send(()).expect("the origin waits");
        assert_eq!(waiting.join().expect("no panic"), 200);
    });
    eventually("it is over", || {
        value("requests_in_flight", "") == Some(0.0)
    });
    assert_eq!(value("connections_active", ""), Some(0.0));
    assert_eq!(value("connections_idle", ""), Some(1.0));
    assert_eq!(value("requests_total", ",code=\"200\""), Some(1.0));
    assert_eq!(value("connects_total", ",result=\"ok\""), Some(1.0));
    assert!(value("server_latency_seconds", "").is_some_and(|seconds| seconds > 0.0));
    let histogram = "evenkeel_upstream_request_duration_seconds_count{upstream=\"app\"}";
    assert_eq!(proxy.metric(histogram), Some(1.0));
    let requests =
        "evenkeel_requests_total{listener=\"web\",route=\"/\",method=\"GET\",code=\"200\"}";
    assert_eq!(proxy.metric(requests), Some(1.0), "{}", proxy.metrics());
}

#[test]
fn weights_follow_overrides_and_refusals_are_counted() {
    let (origin, refusing) = (Origin::good("good"), Origin::good("never"));
    let servers = [(&origin, "3"), (&refusing, "1")];
    let proxy = Proxy::start(&app_with(
        &servers,
        "[upstream.app.breaker]\nmode = \"off\"\n",
    ));
    refusing.stop();
    proxy.put_server(&origin, r#"{"weight": 7}"#);
    assert_eq!(of_server(&proxy, "server_weight", &origin, ""), Some(7.0));
    proxy.bodies(16);
    let refused = of_server(&proxy, "connects_total", &refusing, ",result=\"refused\"");
    assert_eq!(refused, Some(2.0));
    let attempts = of_server(
        &proxy,
        "requests_total",
        &refusing,
        ",code=\"connect_refused\"",
    );
    assert_eq!(attempts, Some(2.0));
}

#[test]
fn a_removed_server_leaves_no_series() {
    let (stays, leaves) = (Origin::good("stays"), Origin::good("leaves"));
    let proxy = Proxy::start(&app(&[&stays, &leaves], ""));
    proxy.bodies(4);
    let name = leaves.address().to_string();
    assert!(proxy.metrics().contains(&name));
    proxy.reconfigure(&app(&[&stays], ""));
    eventually("its series are gone", || !proxy.metrics().contains(&name));
    let kept = of_server(&proxy, "requests_total", &stays, ",code=\"200\"");
    assert_eq!(kept, Some(2.0), "the other's go on");
}
