//! Upgrades while clients of every kind ask: nothing is lost, nobody is refused.

use std::fs;
use std::time::Duration;

use super::load::Load;
use super::service::{Service, replace};
use crate::support::tls::Authority;
use crate::support::{Client, Origin, eventually};

/// Every kind of listener.
struct Everything {
    service: Service,
    load: Load,
    origin: Origin,
}

fn everything(process: &str) -> Everything {
    let origin = Origin::good("ok");
    let files = tempfile::tempdir().expect("a directory").keep();
    let authority = Authority::new();
    authority.issue(&["a.example"]).write(&files, "site");
    let files = files.display();
    let config = format!(
        "[process]\n{process}\n\
         [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"local\"\naddress = \"unix:{files}/web.sock\"\n\
         [[listener]]\nname = \"secure\"\naddress = \"127.0.0.2:0\"\n\
         tls = {{ certificates = [{{ cert = \"{files}/site.pem\", key = \"{files}/site.key\" }}] }}\n\
         [access-log]\npath = \"{files}/access.log\"\nformat = \"json\"\n\
         [upstream.app]\nservers = [\"{}\"]\n[[route]]\nprefix = \"/\"\nupstream = \"app\"\n",
        origin.address()
    );
    let service = Service::start(&config);
    let (web, secure) = (service.listener("web"), service.listener("secure"));
    let mut load = Load::new();
    load.kept(web);
    load.kept(web);
    load.fresh(web);
    load.h2(web);
    load.unix(format!("{files}/web.sock").into());
    load.tls(secure, authority.client().build());
    Everything {
        service,
        load,
        origin,
    }
}

#[test]
fn twenty_in_a_row_lose_nothing_and_leave_nothing_behind() {
    rounds(20);
}

#[test]
#[ignore = "takes its time: the figure of HOSTILE.md"]
fn a_hundred_in_a_row_lose_nothing_and_leave_nothing_behind() {
    rounds(100);
}

fn rounds(count: usize) {
    let Everything {
        mut service,
        load,
        origin: _origin,
    } = everything("workers = 2\ndrain-timeout = \"20s\"");
    let mut old = vec![service.upgrade()];
    let (descriptors, environment) = (service.descriptors(), service.environment());
    for round in 1..count {
        let before = load.served();
        eventually("clients are served", || load.served() > before + 20);
        // Also what replaced a file that was replaced.
        if round % 3 == 0 {
            replace(&service.binary());
        }
        old.push(service.upgrade());
    }
    let served = load.end();
    assert!(served > 20 * count, "{served}");
    for pid in old {
        assert_eq!(service.exit_code(pid), Some(0), "{}", service.log());
    }
    assert_eq!(
        service.said("stopped with requests"),
        0,
        "{}",
        service.log()
    );
    assert_eq!(service.environment(), environment);
    // Of kept connections to the server there may be more than there were.
    eventually("no descriptor is left over by every upgrade", || {
        service.descriptors() < descriptors + count - 1
    });
    println!("{served} requests over {count} upgrades, none failed");
}

#[test]
fn any_number_of_workers_takes_the_sockets_of_any_other() {
    let Everything {
        mut service,
        load,
        origin: _origin,
    } = everything("workers = 1\ndrain-timeout = \"20s\"");
    let path = service.status()["config_file"]
        .as_str()
        .expect("a path")
        .to_owned();
    let mut before = "workers = 1".to_owned();
    for workers in [4, 2, 5, 1, 3] {
        let text = fs::read_to_string(&path).expect("reads");
        let next = format!("workers = {workers}");
        fs::write(&path, text.replace(&before, &next)).expect("writes");
        before = next;
        service.upgrade();
        assert_eq!(service.status()["workers"], workers);
        // Every socket of the port has somebody who accepts, or one of these waits for ever.
        let address = service.listener("web");
        for _ in 0..40 {
            assert_eq!(Client::connect(address).get("/").status, 200);
        }
    }
    load.end();
}

#[test]
fn the_access_log_has_a_line_for_every_request_of_either_process() {
    let Everything {
        mut service,
        load,
        origin: _origin,
    } = everything("workers = 2\ndrain-timeout = \"20s\"");
    let text = fs::read_to_string(service.config()).expect("reads");
    let log = text
        .split("path = \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let log = log.expect("a path").to_owned();
    for _ in 0..3 {
        let before = load.served();
        eventually("clients are served", || load.served() > before + 50);
        let old = service.upgrade();
        assert_eq!(service.exit_code(old), Some(0));
    }
    let served = load.end();
    let lines = || {
        let text = fs::read_to_string(&log).expect("reads");
        let lines = text.lines().map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("whole lines only");
        });
        lines.count()
    };
    crate::support::value_within(Duration::from_secs(10), "every line is written", || {
        (lines() >= served).then_some(())
    });
    assert_eq!(lines(), served);
}
