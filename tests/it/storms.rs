//! Changes of every kind in quick succession, under traffic that must not notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::support::{Client, Origin, Proxy, balances, eventually};

/// What one round of the storm makes of the upstream: each setting with a rhythm of its own, so
/// that they meet in ever new ways.
fn configuration(round: usize, origins: &[Origin]) -> String {
    let pick = |choices: &[&str]| choices[round % choices.len()].to_owned();
    let name = pick(&["users", "users", "users", "renamed"]);
    let servers: Vec<_> = origins
        .iter()
        .enumerate()
        .filter(|(index, _)| !(round + index).is_multiple_of(origins.len()))
        .map(|(index, origin)| format!("\"{}\" = {}", origin.address(), 1 + (round + index) % 5))
        .collect();
    let mut balances = balances("path").to_vec();
    // Wants equal weights.
    balances.retain(|balance| !balance.contains("round-robin"));
    let balance = &balances[round % balances.len()];
    let tables = [
        pick(&["", "[upstream.NAME.health]\npath = \"/healthz\"\n"]),
        pick(&["", "[upstream.NAME.breaker]\nmode = \"watch\"\n", ""]),
        pick(&["[upstream.NAME.timeout]\nfirst-byte = \"9s\"\n", ""]),
        pick(&["", "", "[upstream.NAME.connections]\nmax-idle = 1\n"]),
    ];
    let extra = pick(&[
        "",
        "[[listener]]\nname = \"more\"\naddress = \"127.0.0.2:0\"\n",
    ]);
    format!(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\nbacklog = {}\n{extra}\
         [upstream.NAME]\nservers = {{ {} }}\n{balance}max-requests = {}\n{}\
         [[route]]\nname = \"route-{}\"\nprefix = \"/\"\nupstream = \"NAME\"\n",
        100 + round % 3,
        servers.join(", "),
        10 + round % 7,
        tables.concat(),
        round % 3,
    )
    .replace("NAME", &name)
}

/// One client on one connection until told to stop; the failure that ended it, if any.
fn insist(address: std::net::SocketAddr, posts: bool, stop: &AtomicBool) -> Result<u64, String> {
    let mut client = Client::connect(address);
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let request: &[u8] = if posts {
            b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello"
        } else {
            b"GET /x HTTP/1.1\r\nHost: test\r\n\r\n"
        };
        let answer = client
            .try_send(request)
            .and_then(|()| client.try_response())
            .map_err(|error| format!("after {done} requests: {error}"))?;
        if answer.status != 200 || answer.header("connection").is_some() {
            return Err(format!("{} {}", answer.status, answer.text()));
        }
        done += 1;
    }
    Ok(done)
}

#[test]
fn no_change_of_settings_is_noticed_by_those_who_are_connected() {
    let origins: Vec<_> = (0..4).map(|_| Origin::good("ok")).collect();
    let proxy = Proxy::start(&configuration(1, &origins));
    let stop = AtomicBool::new(false);
    let address = proxy.address();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|index| {
                scope.spawn({
                    let stop = &stop;
                    move || insist(address, index % 2 == 1, stop)
                })
            })
            .collect();
        for round in 2..=120 {
            if round % 10 == 0 {
                proxy.write("[[route]]\nprefix = 3\n");
                assert_eq!(proxy.reload().status, 422, "round {round}");
            } else {
                proxy.reconfigure(&configuration(round, &origins));
            }
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let done = client.join().expect("no panic").expect("no failure");
            assert!(done > 0, "every client was served");
        }
    });
    eventually("all requests have ended", || {
        proxy.metric("evenkeel_requests_in_flight{listener=\"web\"}") == Some(0.0)
    });
}
