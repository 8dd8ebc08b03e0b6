//! The order of routes by example, and against a linear scan.

use proptest::prelude::*;

use super::*;
use crate::config::model::{Condition, Expected};
use crate::config::routes::fixtures::{self, exact, prefix, regex};
use crate::message::Known;

/// A look-up on listener 0 without query and fields.
fn find(routes: &[Arc<Route>], host: &str, path: &str) -> Option<usize> {
    find_on(routes, 0, host, path)
}

fn find_on(routes: &[Arc<Route>], listener: usize, host: &str, path: &str) -> Option<usize> {
    let query = Query {
        listener: ListenerId(listener),
        host: (!host.is_empty()).then_some(host.as_bytes()),
        path: path.as_bytes(),
        query: None,
        method: &Method::Get,
        fields: &Fields::new(),
    };
    Router::from_routes(routes)
        .find(&query, &mut NoTrace)
        .map(|id| id.0)
}

fn routes(paths: impl IntoIterator<Item = PathMatch>) -> Vec<Arc<Route>> {
    paths
        .into_iter()
        .map(|path| Arc::new(fixtures::route(path)))
        .collect()
}

fn with(path: PathMatch, change: impl FnOnce(&mut Route)) -> Arc<Route> {
    let mut route = fixtures::route(path);
    change(&mut route);
    Arc::new(route)
}

fn on_host(pattern: &str, path: PathMatch) -> Arc<Route> {
    with(path, |route| route.host = fixtures::host(pattern))
}

#[test]
fn prefix_matches_whole_segments() {
    let routes = routes([prefix("/api")]);
    for path in ["/api", "/api/", "/api/x", "/api/x/y"] {
        assert_eq!(find(&routes, "", path), Some(0), "{path}");
    }
    for path in ["/apix", "/ap", "/", "/API", "/x/api", "*", "/api%2Fx"] {
        assert_eq!(find(&routes, "", path), None, "{path}");
    }
}

#[test]
fn root_prefix_takes_everything() {
    let routes = routes([prefix("/")]);
    for path in ["/", "/a", "/a/b/", "*"] {
        assert_eq!(find(&routes, "", path), Some(0), "{path}");
    }
}

#[test]
fn exact_path_goes_before_prefixes_and_regexes() {
    let routes = routes([prefix("/a/b"), regex("/a/b"), exact("/a/b"), exact("/a/b/")]);
    assert_eq!(find(&routes, "", "/a/b"), Some(2));
    assert_eq!(find(&routes, "", "/a/b/"), Some(3));
    assert_eq!(find(&routes, "", "/a/b/c"), Some(0));
}

#[test]
fn longest_prefix_wins() {
    let routes = routes([prefix("/"), prefix("/a"), prefix("/a/b/c"), prefix("/a/b")]);
    assert_eq!(find(&routes, "", "/a/b/c/d"), Some(2));
    assert_eq!(find(&routes, "", "/a/b/cd"), Some(3));
    assert_eq!(find(&routes, "", "/a/x"), Some(1));
    assert_eq!(find(&routes, "", "/x"), Some(0));
}

#[test]
fn regex_ranks_by_its_literal_prefix() {
    let routes = routes([
        prefix("/users"),
        regex("/users/[0-9]+"),
        prefix("/users/7"),
        regex(".*[.]png"),
    ]);
    assert_eq!(
        find(&routes, "", "/users/12"),
        Some(1),
        "regex before prefix"
    );
    assert_eq!(
        find(&routes, "", "/users/7"),
        Some(2),
        "longer prefix before regex"
    );
    assert_eq!(
        find(&routes, "", "/users/x.png"),
        Some(0),
        "shorter literal prefix"
    );
    assert_eq!(find(&routes, "", "/x.png"), Some(3));
    assert_eq!(find(&routes, "", "/x.png/y"), None, "fully anchored");
}

#[test]
fn most_specific_host_wins_and_hides_no_other() {
    let routes = [
        on_host("", prefix("/")),
        on_host("*.example.org", prefix("/")),
        on_host("*.eu.example.org", prefix("/eu")),
        on_host("api.eu.example.org", prefix("/api")),
    ];
    let host = "api.eu.example.org";
    assert_eq!(find(&routes, host, "/api"), Some(3));
    assert_eq!(find(&routes, host, "/eu"), Some(2));
    assert_eq!(find(&routes, host, "/x"), Some(1));
    assert_eq!(
        find(&routes, "a.b.example.org", "/x"),
        Some(1),
        "several labels"
    );
    assert_eq!(
        find(&routes, "example.org", "/x"),
        Some(0),
        "at least one label"
    );
    assert_eq!(
        find(&routes, ".example.org", "/x"),
        Some(0),
        "an empty one is none"
    );
    assert_eq!(find(&routes, "xexample.org", "/x"), Some(0));
    assert_eq!(find(&routes, "", "/x"), Some(0), "no Host at all");
}

#[test]
fn host_goes_before_path() {
    let routes = [on_host("", exact("/a/b")), on_host("h", prefix("/"))];
    assert_eq!(find(&routes, "h", "/a/b"), Some(1));
}

#[test]
fn naming_the_listener_goes_before_everything() {
    let routes = [
        on_host("h", exact("/a")),
        with(prefix("/"), |route| route.listeners = vec![ListenerId(1)]),
    ];
    assert_eq!(find_on(&routes, 0, "h", "/a"), Some(0));
    assert_eq!(find_on(&routes, 1, "h", "/a"), Some(1));
    assert_eq!(find_on(&routes, 7, "h", "/a"), Some(0));
}

#[test]
fn more_conditions_go_before_higher_priority() {
    let get = || Condition::Method(vec!["GET".to_owned()]);
    let routes = [
        with(prefix("/"), |route| route.priority = 9),
        with(prefix("/"), |route| route.when = vec![get()]),
        with(prefix("/"), |route| {
            route.when = vec![get()];
            route.priority = 1;
        }),
        with(prefix("/"), |route| {
            route.when = vec![get(), Condition::Query("v".into(), Expected::Present)];
        }),
    ];
    assert_eq!(find(&routes, "", "/"), Some(2));
}

#[test]
fn trace_says_why_each_other_route_lost() {
    let routes = [
        on_host("other", prefix("/")),
        with(prefix("/a"), |route| route.listeners = vec![ListenerId(3)]),
        on_host("h", prefix("/b")),
        with(prefix("/a"), |route| {
            route.host = fixtures::host("h");
            route.when = vec![
                Condition::Method(vec!["GET".to_owned()]),
                Condition::Header("x-beta".into(), Expected::Present),
            ];
        }),
        on_host("h", prefix("/a")),
        on_host("h", prefix("/")),
        on_host("", exact("/a/b")),
    ];
    let query = Query {
        listener: ListenerId(0),
        host: Some(b"h"),
        path: b"/a/b",
        query: None,
        method: &Method::Get,
        fields: &Fields::new(),
    };
    let mut trace = Vec::new();
    let found = Router::from_routes(&routes).find(&query, &mut trace);
    let outranked = |rank| Outcome::Outranked {
        by: RouteId(4),
        rank,
    };
    assert_eq!(found, Some(RouteId(4)));
    assert_eq!(
        trace
            .iter()
            .map(|(_, outcome)| *outcome)
            .collect::<Vec<_>>(),
        [
            Outcome::OtherHost,
            Outcome::OtherListener,
            Outcome::OtherPath,
            Outcome::Condition(1),
            Outcome::Chosen,
            outranked(Rank::Path),
            outranked(Rank::Host),
        ]
    );
}

/// The contract as a sort key of those that match, computed from text alone.
fn naive_key(
    route: &Route,
    query: &Query<'_>,
) -> Option<impl Ord + Copy + std::fmt::Debug + use<>> {
    let named = route.listeners.contains(&query.listener);
    if !named && !route.listeners.is_empty() {
        return None;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let host = match (&route.host, query.host.map(text)) {
        (None, _) => 0,
        (Some(HostPattern::Exact(name)), Some(host)) if *name == host => usize::MAX,
        (Some(HostPattern::Wildcard(suffix)), Some(host)) => {
            let dotted = format!(".{suffix}");
            if !host.ends_with(&dotted) || host.len() == dotted.len() {
                return None;
            }
            dotted.len()
        }
        _ => return None,
    };
    let path = text(query.path);
    let place = match &route.path {
        PathMatch::Exact(exact) => (*exact == path).then_some((usize::MAX, 0)),
        PathMatch::Prefix(prefix) => {
            (prefix.is_empty() || path == *prefix || path.starts_with(&format!("{prefix}/")))
                .then_some((prefix.len(), 0))
        }
        PathMatch::Regex(regex) => regex
            .regex
            .is_match(path.as_bytes())
            .then_some((regex.literal_prefix.len(), 1)),
    }?;
    for condition in &route.when {
        let holds = match condition {
            Condition::Method(methods) => methods.iter().any(|name| name == query.method.as_str()),
            Condition::Header(name, Expected::Present) => query.fields.get_text(name).is_some(),
            Condition::Header(name, Expected::Value(value)) => {
                query.fields.get_text(name) == Some(value.text.as_bytes())
            }
            Condition::Query(name, _) => query
                .query
                .is_some_and(|query| text(query).split('&').any(|key| key == name)),
            Condition::Cookie(..) => false,
        };
        if !holds {
            return None;
        }
    }
    Some((named, host, place, route.when.len(), route.priority))
}

fn a_route() -> impl Strategy<Value = Arc<Route>> {
    let segments = || prop::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 0..4);
    let path = prop_oneof![
        3 => segments().prop_map(|parts| exact(&format!("/{}", parts.join("/")))),
        1 => segments().prop_map(|parts| exact(&format!("/{}/", parts.join("/")).replace("//", "/"))),
        6 => segments().prop_map(|parts| prefix(&format!("/{}", parts.join("/")))),
        1 => prop::sample::select(vec![
            ".*", "/a.*", "/a/.*", "/a/b?", "/a/?b", "/a|/b", "/(a|b)/.+", "/a/b/[ab]+", "(?i)/A/.*",
            "/a/*b", "/[a-b]", "/a/b",
        ]).prop_map(regex),
    ];
    let host = prop::sample::select(vec!["", "", "h", "x.h", "*.h", "*.x.h", "*.y.x.h"]);
    let condition = prop::sample::select(vec![
        vec![],
        vec![],
        vec![Condition::Method(vec!["GET".into()])],
        vec![Condition::Method(vec!["POST".into(), "PUT".into()])],
        vec![Condition::Header(
            "x-beta".into(),
            Expected::Value("1".into()),
        )],
        vec![Condition::Header("accept".into(), Expected::Present)],
        vec![
            Condition::Method(vec!["GET".into()]),
            Condition::Query("v".into(), Expected::Present),
        ],
    ]);
    let listeners = prop::collection::vec((0..3usize).prop_map(ListenerId), 0..2);
    (path, host, condition, listeners, -1..2i64).prop_map(
        |(path, host, when, listeners, priority)| {
            with(path, |route| {
                route.host = fixtures::host(host);
                route.when = when;
                route.listeners = listeners;
                route.priority = priority;
            })
        },
    )
}

/// Listener, host, path, query, method, fields.
type ARequest = (usize, Option<String>, String, bool, Method, Fields);

fn a_request() -> impl Strategy<Value = ARequest> {
    let host = prop::sample::select(vec!["", "h", "x.h", "y.x.h", "z.y.x.h", "o", ".h"]);
    let path = prop_oneof![
        1 => Just("*".to_owned()),
        12 => prop::collection::vec(prop::sample::select(vec!["/", "a", "b", "/a", "/b"]), 0..6)
            .prop_map(|parts| format!("/{}", parts.concat())),
    ];
    let method = prop::sample::select(vec![Method::Get, Method::Post, Method::Delete]);
    (0..4usize, host, path, any::<bool>(), method, 0..3u8).prop_map(
        |(listener, host, path, query, method, beta)| {
            let mut fields = Fields::new();
            match beta {
                0 => {}
                1 => fields.append_text("X-Beta", b"1"),
                _ => fields.append(Known::Accept, b"*/*"),
            }
            let host = (!host.is_empty()).then(|| host.to_owned());
            (listener, host, path, query, method, fields)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn agrees_with_a_linear_scan(
        routes in prop::collection::vec(a_route(), 0..24),
        requests in prop::collection::vec(a_request(), 1..12),
    ) {
        let router = Router::from_routes(&routes);
        for (listener, host, path, has_query, method, fields) in &requests {
            let query = Query {
                listener: ListenerId(*listener),
                host: host.as_deref().map(str::as_bytes),
                path: path.as_bytes(),
                query: has_query.then_some(b"v"),
                method,
                fields,
            };
            let best = routes.iter().filter_map(|route| naive_key(route, &query)).max();
            let mut trace = Vec::new();
            let found = router.find(&query, &mut trace);
            let found_key = found.map(|id| naive_key(&routes[id.0], &query));
            prop_assert_eq!(found_key, best.map(Some), "{:?} {}", query.host, path);
            prop_assert_eq!(found, router.find(&query, &mut NoTrace));
            for (id, outcome) in trace {
                let matches = naive_key(&routes[id.0], &query).is_some();
                let said = matches!(outcome, Outcome::Chosen | Outcome::Outranked { .. });
                prop_assert_eq!(matches, said, "the trace of {:?} is {:?}", id, outcome);
                prop_assert_eq!(outcome == Outcome::Chosen, found == Some(id));
            }
        }
    }

    #[test]
    fn order_in_the_file_never_matters(
        routes in prop::collection::vec(a_route(), 0..16),
        request in a_request(),
    ) {
        let (listener, host, path, has_query, method, fields) = &request;
        let query = Query {
            listener: ListenerId(*listener),
            host: host.as_deref().map(str::as_bytes),
            path: path.as_bytes(),
            query: has_query.then_some(b"v"),
            method,
            fields,
        };
        let reversed: Vec<_> = routes.iter().rev().cloned().collect();
        let key = |routes: &[Arc<Route>]| {
            Router::from_routes(routes)
                .find(&query, &mut NoTrace)
                .map(|id| naive_key(&routes[id.0], &query))
        };
        prop_assert_eq!(key(&routes), key(&reversed));
    }
}
