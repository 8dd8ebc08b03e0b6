use proptest::prelude::*;

use super::fixtures::{exact, host, prefix, regex, route};
use super::*;
use crate::config::model::Expected;

fn with(path: PathMatch, change: impl FnOnce(&mut Route)) -> Arc<Route> {
    let mut route = route(path);
    change(&mut route);
    Arc::new(route)
}

fn plain(path: PathMatch) -> Arc<Route> {
    Arc::new(route(path))
}

fn header(name: &str, value: &str) -> Condition {
    let expected = match value {
        "*" => Expected::Present,
        value => Expected::Value(value.into()),
    };
    Condition::Header(name.to_owned(), expected)
}

fn methods(names: &[&str]) -> Condition {
    Condition::Method(names.iter().map(|name| (*name).to_owned()).collect())
}

fn when(conditions: impl Into<Vec<Condition>>, priority: i64) -> Arc<Route> {
    with(prefix("/a"), |route| {
        route.when = conditions.into();
        route.priority = priority;
    })
}

/// As (kind, first, second), for a configuration with two listeners.
fn found(routes: &[Arc<Route>]) -> Vec<(ConflictKind, usize, usize)> {
    let conflicts = conflicts(routes, 2);
    conflicts
        .iter()
        .map(|conflict| (conflict.kind, conflict.first.0, conflict.second.0))
        .collect()
}

use ConflictKind::{Ambiguous, Unreachable};

#[test]
fn equal_routes_are_ambiguous() {
    for path in [exact("/a"), prefix("/a"), prefix("/"), regex("/a/.*")] {
        let routes = [plain(path.clone()), plain(exact("/other")), plain(path)];
        assert_eq!(found(&routes), [(Ambiguous, 0, 2)]);
    }
}

#[test]
fn whatever_decides_makes_two_routes_unambiguous() {
    let routes = [
        plain(prefix("/a")),
        plain(exact("/a")),
        plain(prefix("/a/b")),
        plain(regex("/a/[0-9]+")),
        with(prefix("/a"), |route| route.host = host("h")),
        with(prefix("/a"), |route| route.host = host("*.h")),
        with(prefix("/a"), |route| route.when = vec![header("x", "1")]),
        with(prefix("/a"), |route| route.listeners = vec![ListenerId(0)]),
        with(prefix("/a"), |route| route.listeners = vec![ListenerId(1)]),
    ];
    // The last two together take everything, but no single one hides another.
    assert_eq!(found(&routes), []);
}

#[test]
fn listeners_in_common_are_ambiguous() {
    let on = |listeners: &[usize]| {
        with(prefix("/a"), |route| {
            route.listeners = listeners.iter().copied().map(ListenerId).collect();
        })
    };
    assert_eq!(found(&[on(&[0, 1]), on(&[1])]), [(Ambiguous, 0, 1)]);
    assert_eq!(found(&[on(&[0]), on(&[1])]), []);
}

#[test]
fn different_values_of_one_key_are_disjoint() {
    let routes = [when([header("x", "1")], 0), when([header("x", "2")], 0)];
    assert_eq!(found(&routes), []);
    let routes = [when([header("x", "1")], 0), when([header("y", "2")], 0)];
    assert_eq!(found(&routes), [(Ambiguous, 0, 1)]);
    let routes = [when([header("x", "1")], 0), when([header("x", "*")], 0)];
    assert_eq!(found(&routes), [(Ambiguous, 0, 1)]);
    let routes = [when([methods(&["GET"])], 0), when([methods(&["PUT"])], 0)];
    assert_eq!(found(&routes), []);
    let routes = [
        when([methods(&["GET", "PUT"])], 0),
        when([methods(&["PUT"])], 0),
    ];
    assert_eq!(found(&routes), [(Ambiguous, 0, 1)]);
    let one = [header("x", "1"), header("y", "1")];
    let other = [header("y", "2"), header("x", "1")];
    assert_eq!(found(&[when(one, 0), when(other, 0)]), []);
}

#[test]
fn higher_priority_hides_the_same_match() {
    assert_eq!(found(&[when([], 0), when([], 1)]), [(Unreachable, 1, 0)]);
    let routes = [when([header("x", "1")], 0), when([header("x", "*")], 5)];
    assert_eq!(found(&routes), [(Unreachable, 1, 0)]);
    let routes = [when([header("x", "1")], 5), when([header("x", "*")], 0)];
    assert_eq!(found(&routes), [], "other values are left to the second");
    let routes = [
        when([methods(&["GET"])], 0),
        when([methods(&["PUT", "GET"])], 1),
    ];
    assert_eq!(found(&routes), [(Unreachable, 1, 0)]);
    let routes = [when([header("x", "1")], 0), when([], 9)];
    assert_eq!(found(&routes), [], "more conditions go before priority");
}

#[test]
fn naming_every_listener_hides_what_names_none() {
    let all = |path, pattern: &str| {
        with(path, |route| {
            route.listeners = vec![ListenerId(0), ListenerId(1)];
            route.host = host(pattern);
        })
    };
    let below = with(exact("/a/b"), |route| {
        route.host = host("x.example.org");
        route.when = vec![header("x", "1")];
    });
    let hidden = [(Unreachable, 0, 1)];
    assert_eq!(found(&[all(prefix("/"), ""), below.clone()]), hidden);
    let wildcard = all(prefix("/a"), "*.example.org");
    assert_eq!(found(&[wildcard, below.clone()]), hidden);
    assert_eq!(found(&[all(prefix("/a/b/c"), ""), below.clone()]), []);
    assert_eq!(found(&[all(prefix("/a"), "*.x.example.org"), below]), []);
    let routes = [all(prefix("/a"), ""), plain(regex("/a/[0-9]+"))];
    assert_eq!(found(&routes), hidden);
    let one_of_two = with(prefix("/"), |route| route.listeners = vec![ListenerId(0)]);
    assert_eq!(found(&[one_of_two, plain(prefix("/"))]), []);
}

#[test]
fn regexes_of_one_rank_that_share_a_path_are_ambiguous() {
    let routes = [
        plain(regex("/a/[0-9]+")),
        plain(regex("/a/[a-z]+")),
        plain(regex("/a/b/.*")),
        plain(regex("/a/[0-9a-f]+")),
        with(regex("/a/[0-9]{2}"), |route| route.priority = 1),
    ];
    let found = conflicts(&routes, 1);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].first.0, found[0].second.0), (0, 3));
    assert_eq!(found[0].example.as_deref(), Some("/a/0"));
}

#[test]
fn literal_prefix_is_certain_and_whole_segments() {
    for (source, expected) in [
        ("/users/[0-9]+", "/users"),
        ("/users/[0-9]+/x", "/users"),
        ("/a/b.*", "/a"),
        ("/a/b", "/a"),
        ("/a/", "/a"),
        ("/a", ""),
        (".*", ""),
        ("/(a|b)/.*", ""),
        (r"/v1\.0/x", ""),
        ("/a/?b", ""),
        ("/a/*b", ""),
        ("/a/b/?", "/a"),
        ("/a/x|/b/y", ""),
        ("/a/x|/a/y", "/a"),
        ("(?i)/a/b", ""),
        ("^/a/b$", ""),
        ("/a/{0}b", ""),
        ("/é/a+", "/é"),
    ] {
        assert_eq!(literal_prefix(source), expected, "{source}");
    }
}

#[test]
fn ten_thousand_routes_take_no_quadratic_time() {
    let started = std::time::Instant::now();
    let by_header = |i: usize| when([header("x-tenant", &i.to_string())], 0);
    let by_path = |i: usize| plain(prefix(&format!("/p{i}")));
    let equal = |_| plain(prefix("/same"));
    for make in [&by_header as &dyn Fn(usize) -> Arc<Route>, &by_path, &equal] {
        let routes: Vec<_> = (0..10_000).map(make).collect();
        let found = conflicts(&routes, 1).len();
        assert!(
            found == 0 || found == 9_999,
            "each later one is named once: {found}"
        );
    }
    let taken = started.elapsed();
    assert!(taken.as_secs() < 5, "30,000 routes took {taken:?}");
}

fn a_route() -> impl Strategy<Value = Arc<Route>> {
    let path = prop::sample::select(vec!["", "/a", "/a/b"]);
    let condition = prop::sample::select(vec![
        vec![],
        vec![methods(&["GET"])],
        vec![methods(&["GET", "PUT"])],
        vec![header("x", "1")],
        vec![header("x", "2")],
        vec![header("x", "*")],
        vec![header("x", "1"), header("y", "1")],
        vec![header("y", "*"), header("x", "1")],
    ]);
    let listeners = prop::sample::subsequence(vec![ListenerId(0), ListenerId(1)], 0..=2);
    let pattern = prop::sample::select(vec!["", "h.o", "*.o"]);
    (path, condition, listeners, pattern, 0..2i64).prop_map(
        |(path, when, listeners, pattern, priority)| {
            with(PathMatch::Prefix(path.to_owned()), |route| {
                route.when = when;
                route.listeners = listeners;
                route.host = host(pattern);
                route.priority = priority;
            })
        },
    )
}

proptest! {
    #[test]
    fn pairs_are_found_whatever_surrounds_them(
        routes in prop::collection::vec(a_route(), 0..12),
    ) {
        let found = conflicts(&routes, 2);
        for second in 0..routes.len() {
            let same = |first: &Route| {
                first.host == routes[second].host
                    && matches!((&first.path, &routes[second].path),
                        (PathMatch::Prefix(one), PathMatch::Prefix(other)) if one == other)
            };
            let expected = routes[..second].iter().any(|first| {
                same(first) && ambiguous(first, &routes[second])
            });
            let named = found.iter().any(|conflict| {
                conflict.kind == Ambiguous && conflict.second.0 == second
            });
            prop_assert_eq!(named, expected);
            let hidden = routes
                .iter()
                .any(|first| same(first) && hides(first, &routes[second]));
            let named = found.iter().any(|conflict| {
                conflict.kind == Unreachable && conflict.second.0 == second
            });
            prop_assert!(named || !hidden);
        }
    }
}
