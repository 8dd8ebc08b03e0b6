//! One upstream `app` behind one route, and what `/status` says about its servers.

use serde_json::Value;

use super::{Origin, Proxy};

/// A route for everything to `app` over these origins, each with its entry of the `servers` table
/// (`"3"`, `"{ backup = true }"`). `more` begins with keys of the upstream; tables may follow.
pub fn app_with(servers: &[(&Origin, &str)], more: &str) -> String {
    let entries: Vec<String> = servers
        .iter()
        .map(|(origin, entry)| format!("\"{}\" = {entry}", origin.address()))
        .collect();
    let entries = entries.join(", ");
    format!(
        "[upstream.app]\nservers = {{ {entries} }}\n{more}\n\
         [[route]]\nprefix = \"/\"\nupstream = \"app\"\n"
    )
}

/// The same with equal weights.
pub fn app(origins: &[&Origin], more: &str) -> String {
    let servers: Vec<_> = origins.iter().map(|origin| (*origin, "1")).collect();
    app_with(&servers, more)
}

/// Every policy, as keys of the upstream; `hash` by this key.
pub fn balances(hash_by: &str) -> [String; 6] {
    [
        "random",
        "round-robin",
        "smooth-weighted",
        "least-requests",
        "peak-ewma",
        "hash",
    ]
    .map(|policy| match policy {
        "hash" => format!("balance = \"hash\"\nhash = {{ by = \"{hash_by}\" }}\n"),
        _ => format!("balance = \"{policy}\"\n"),
    })
}

/// As many workers as that, for a test whose subject is not how workers share.
pub const ONE_WORKER: &str = "[process]\nworkers = 1\n";

impl Proxy {
    /// `/status` of upstream `app`.
    pub fn app_status(&self) -> Value {
        let mut status = self.status();
        let upstreams = status["upstreams"].as_array_mut().expect("a list");
        let found = upstreams.iter_mut().find(|entry| entry["name"] == "app");
        found.expect("the upstream is there").take()
    }

    /// `/status` of one server of upstream `app`.
    pub fn server_status(&self, origin: &Origin) -> Value {
        let mut upstream = self.app_status();
        let servers = upstream["servers"].as_array_mut().expect("a list");
        let address = origin.address().to_string();
        let found = servers
            .iter_mut()
            .find(|entry| entry["address"] == address.as_str());
        found.expect("the server is there").take()
    }

    /// `closed`, `open` or `half-open`.
    pub fn breaker_state(&self, origin: &Origin) -> String {
        let server = self.server_status(origin);
        let state = server["breaker"]["state"].as_str();
        state.expect("a word").to_owned()
    }

    /// Sets an override of one server of `app`.
    #[track_caller]
    pub fn put_server(&self, origin: &Origin, body: &str) {
        let path = format!("/upstreams/app/servers/{}", origin.address());
        let answer = self.admin("PUT", &path, body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Takes it back.
    #[track_caller]
    pub fn delete_server(&self, origin: &Origin) {
        let path = format!("/upstreams/app/servers/{}", origin.address());
        let answer = self.admin("DELETE", &path, "");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// The bodies of that many GETs in a row, each on a connection of its own, joined.
    #[track_caller]
    pub fn bodies(&self, requests: usize) -> String {
        let answer = |_| {
            let answer = self.get("/");
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.text()
        };
        (0..requests).map(answer).collect()
    }
}

/// How often `name` stands in what [`Proxy::bodies`] gave.
pub fn count(bodies: &str, name: &str) -> usize {
    bodies.matches(name).count()
}
