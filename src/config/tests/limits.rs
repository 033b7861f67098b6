//! `limits`, in all and of a route.

use super::*;
use crate::routing::{Rate, RouteLimits};

fn rate(text: &str) -> Option<Rate> {
    Some(text.parse().unwrap())
}

#[test]
fn limits_have_their_defaults() {
    let config = valid(&with_top(""));
    assert_eq!(config.routes[0].limits, RouteLimits::default());
    let limits = config.limits;
    assert_eq!(limits, Limits::default());
    assert_eq!((limits.max_connections, limits.per_source, limits.rate_per_source), (None, None, None));
    assert_eq!((limits.undecided.get(), limits.undecided_per_source.get()), (4096, 512));
    assert_eq!(limits.relay_memory, 32 * 1024 * 1024);
    assert_eq!(valid(&with_top("limits: {}")).limits, limits);
    assert_eq!(valid(&with_route_key("limits: {}")).routes[0].limits, RouteLimits::default());
}

#[test]
fn limits_mean_what_they_say() {
    let text = with_top(
        "limits: { max_connections: 8000, undecided: 100, undecided_per_source: 10, per_source: 50, \
         rate_per_source: 20/s, relay_memory: 8MiB }",
    );
    let limits = valid(&text).limits;
    assert_eq!(limits.max_connections.map(NonZeroUsize::get), Some(8000));
    assert_eq!((limits.undecided.get(), limits.undecided_per_source.get()), (100, 10));
    assert_eq!(limits.per_source.map(NonZeroUsize::get), Some(50));
    assert_eq!((limits.rate_per_source, limits.relay_memory), (rate("20/s"), 8 << 20));
    assert_prints_back(&text);

    let text = with_route_key("limits: { connections: 300, per_source: 30, rate: 600/m }");
    let config = valid(&text);
    let limits = &config.routes[0].limits;
    assert_eq!([limits.connections, limits.per_source].map(|limit| limit.unwrap().get()), [300, 30]);
    assert_eq!(limits.rate, rate("600/m"));
    assert_prints_back(&text);
    assert_prints_back(&with_route_key("limits: { rate: 5/h }"));
}

#[test]
fn limits_that_are_none_are_mistakes() {
    assert_mistakes(&[
        (
            with_top("limits: { max_conns: 5 }"),
            &["limits.max_conns: unknown key; known here: `max_connections`, `undecided`, `undecided_per_source`, \
               `per_source`, `rate_per_source`, `relay_memory`"][..],
        ),
        (
            with_top("limits: { max_connections: 0, undecided: 100000, rate_per_source: 20 }"),
            &[
                "limits.max_connections: expected a whole number from 1 to 1000000, found the number 0",
                "limits.undecided: expected a whole number from 1 to 65536, found the number 100000",
                "limits.rate_per_source: expected text, found the number 20: put it in quotes",
            ],
        ),
        (
            with_top("limits: { rate_per_source: 20/d }"),
            &["limits.rate_per_source: \"20/d\" is no rate: write a whole number from 1 to 1000000 and a time, such \
               as `50/s`, `600/m` or `1000/h`"],
        ),
        (with_top("limits: { relay_memory: 100KiB }"), &["limits.relay_memory: 100KiB is not within 1MiB to 1024MiB"]),
        (
            with_route_key("limits: { conections: 5, rate: fast }"),
            &[
                "routes[0].limits.rate: \"fast\" is no rate: write a whole number from 1 to 1000000 and a time, such \
                 as `50/s`, `600/m` or `1000/h`",
                "routes[0].limits.conections: unknown key; did you mean `connections`?",
            ],
        ),
        (with_route_key("limits: 5"), &["routes[0].limits: expected `key: value` lines, found the number 5"]),
    ]);
}

#[test]
fn a_limit_that_another_one_covers_is_warned_of() {
    let warned = |limits: &str| -> Vec<String> {
        let config = valid(&format!("{LISTENERS}{ROUTES}upstreams: {{ u: {{ endpoints: [a:1] }} }}\n{limits}"));
        config.warnings.iter().map(Warning::to_string).collect()
    };
    assert_eq!(warned("limits: { undecided: 100 }"), [""; 0]);
    assert_eq!(
        warned("limits: { undecided: 100, undecided_per_source: 200, max_connections: 1000, per_source: 1000 }"),
        [
            "limits.undecided_per_source: 200 is no limit beside `undecided: 100`: one source can have all of them",
            "limits.per_source: 1000 is no limit beside `max_connections: 1000`: one source can have all of them",
        ]
    );
    let route = with_routes("{ server_names: [a.example], upstream: u, limits: { connections: 5, per_source: 9 } }");
    let route = route.replace(", kubernetes: { endpoints: ['10.0.0.8:6443'] }", "");
    let warnings: Vec<String> = valid(&route).warnings.iter().map(Warning::to_string).collect();
    assert_eq!(
        warnings,
        ["routes[0].limits.per_source: 9 is no limit beside `connections: 5`: one source can have all of them"]
    );
}
