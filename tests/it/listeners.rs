//! Sockets, addresses and who serves a connection.

use std::net::{SocketAddr, TcpStream};

use evenkeel::app::StartError;

use crate::support::{Client, Origin, Proxy, eventually};

fn routed(origin: &Origin) -> String {
    format!(
        "[upstream.users]\nservers = [\"{}\"]\n[[route]]\nprefix = \"/\"\nupstream = \"users\"\n",
        origin.address()
    )
}

#[test]
fn a_second_start_on_the_same_address_fails_with_exit_code_3() {
    let origin = Origin::good("ok");
    let first = Proxy::start(&routed(&origin));
    let listener = format!("[[listener]]\naddress = \"{}\"\n", first.address());
    let error = match Proxy::try_start(&format!("{listener}{}", routed(&origin))) {
        Ok(_) => panic!("two proxies share a port"),
        Err(error) => error,
    };
    assert_eq!(error.exit_code(), 3);
    let StartError::Refused(rejection) = error else {
        panic!("refused for its listener");
    };
    assert!(rejection.summary().contains(&first.address().to_string()));
    assert_eq!(first.get("/").status, 200, "the first one goes on");
}

#[test]
fn several_listeners_serve_with_routes_of_their_own() {
    let (one, two) = (Origin::good("one"), Origin::good("two"));
    let proxy = Proxy::start(&format!(
        "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"b\"\naddress = \"[::1]:0\"\n\
         [upstream.one]\nservers = [\"{}\"]\n[upstream.two]\nservers = [\"{}\"]\n\
         [[route]]\nprefix = \"/\"\nupstream = \"one\"\n\
         [[route]]\nname = \"b\"\nlistener = [\"b\"]\nprefix = \"/\"\nupstream = \"two\"\n",
        one.address(),
        two.address()
    ));
    assert_eq!(Client::connect(proxy.listener("a")).get("/").text(), "one");
    assert_eq!(Client::connect(proxy.listener("b")).get("/").text(), "two");
}

#[test]
fn an_ipv4_client_of_a_dual_stack_listener_is_an_ipv4_client() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&format!(
        "[[listener]]\naddress = \"[::]:0\"\n{}",
        routed(&origin)
    ));
    let address = SocketAddr::from(([127, 0, 0, 1], proxy.address().port()));
    assert_eq!(Client::connect(address).get("/").status, 200);
    assert_eq!(
        origin.last().header("x-forwarded-for").as_deref(),
        Some("127.0.0.1")
    );
}

#[test]
fn connections_spread_evenly_over_the_workers() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&routed(&origin));
    let mut clients: Vec<_> = (0..16).map(|_| proxy.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
    let active = "evenkeel_connections_active{listener=\"web\"}";
    assert_eq!(proxy.metric(active), Some(16.0));
    drop(clients);
    eventually("all are counted out again", || {
        proxy.metric(active) == Some(0.0)
    });
    let total = "evenkeel_connections_total{listener=\"web\"}";
    assert_eq!(proxy.metric(total), Some(16.0));
}

#[test]
fn a_burst_of_connections_is_served_whole() {
    let origin = Origin::good("ok");
    let proxy = Proxy::start(&routed(&origin));
    let streams: Vec<_> = (0..300)
        .map(|_| TcpStream::connect(proxy.address()).expect("connects"))
        .collect();
    let total = "evenkeel_connections_total{listener=\"web\"}";
    eventually("all are accepted", || proxy.metric(total) == Some(300.0));
    drop(streams);
}
