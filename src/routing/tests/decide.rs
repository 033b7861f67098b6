use super::super::{Decision, Refusal, RouteTable};
use super::{alpn, ip, route, sni, table};
use crate::hello::alert::AlertDescription;
use crate::outcome::Reason;

/// The name of the route that wins, or the label of the refusal.
fn answer(table: &RouteTable, name: &str, protocols: &str, source: &str) -> String {
    match table.decide(&sni(name), &alpn(protocols), ip(source)) {
        Decision::Route(route) => route.name.to_string(),
        Decision::Refuse(refusal) => refusal.reason().label().to_owned(),
    }
}

fn check(table: &RouteTable, cases: &[(&str, &str, &str, &str)]) {
    for (name, protocols, source, expected) in cases {
        assert_eq!(answer(table, name, protocols, source), *expected, "{name} [{protocols}] {source}");
    }
}

#[test]
fn the_best_pattern_wins() {
    let table = table([
        route("any", "*"),
        route("com", "*.com"),
        route("example", "*.example.com"),
        route("api", "*.api.example.com"),
        route("exact", "www.example.com example.com"),
        route("other", "example.net"),
    ]);
    for (name, expected) in [
        ("www.example.com", "exact"),
        ("WWW.Example.Com.", "exact"),
        ("example.com", "exact"),
        ("a.example.com", "example"),
        ("a.b.example.com", "example"),
        ("a.www.example.com", "example"),
        ("api.example.com", "example"),
        ("v1.api.example.com", "api"),
        ("a.v1.api.example.com", "api"),
        ("xapi.example.com", "example"),
        ("notexample.com", "com"),
        ("com", "any"),
        ("example.net", "other"),
        ("www.example.net", "any"),
        ("localhost", "any"),
    ] {
        assert_eq!(answer(&table, name, "", "192.0.2.1"), expected, "{name}");
    }
}

#[test]
fn the_order_of_routes_never_decides() {
    let drafts = || {
        vec![
            route("any", "*"),
            route("wildcard", "*.example.com"),
            route("exact", "a.example.com"),
            route("office", "a.example.com").sources("+203.0.113.0/24"),
            route("h2", "a.example.com").alpn("h2"),
        ]
    };
    for turn in 0..drafts().len() {
        let mut turned = drafts();
        turned.rotate_left(turn);
        let table = table(turned);
        check(
            &table,
            &[
                ("a.example.com", "h2", "203.0.113.1", "office"),
                ("a.example.com", "h2", "192.0.2.1", "h2"),
                ("a.example.com", "", "192.0.2.1", "exact"),
                ("b.example.com", "h2", "203.0.113.1", "wildcard"),
                ("b.example.net", "h2", "203.0.113.1", "any"),
            ],
        );
    }
}

#[test]
fn nothing_wider_than_the_best_pattern_is_tried() {
    let table = table([
        route("any", "*"),
        route("wildcard", "*.example.com").alpn("h2"),
        route("exact", "a.example.com").sources("+10.0.0.0/8"),
    ]);
    check(
        &table,
        &[
            ("a.example.com", "h2", "192.0.2.1", "source_denied"),
            ("a.example.com", "h2", "10.0.0.1", "exact"),
            ("b.example.com", "http/1.1", "10.0.0.1", "alpn_denied"),
            ("b.example.com", "h2", "10.0.0.1", "wildcard"),
            ("example.com", "", "10.0.0.1", "any"),
        ],
    );
}

#[test]
fn clients_without_a_name_need_a_route_that_says_so() {
    let names_only = table([route("any", "*"), route("exact", "example.com")]);
    let with_nameless = table([route("any", "*"), route("bare", "-"), route("both", "kube.example.com -").alpn("h2")]);
    check(
        &names_only,
        &[
            ("-", "", "192.0.2.1", "no_server_name"),
            ("not a name", "", "192.0.2.1", "server_name_invalid"),
            ("127.1", "", "192.0.2.1", "server_name_invalid"),
        ],
    );
    check(
        &with_nameless,
        &[
            ("-", "", "192.0.2.1", "bare"),
            ("-", "h2", "192.0.2.1", "both"),
            ("kube.example.com", "h2", "192.0.2.1", "both"),
            ("kube.example.com", "", "192.0.2.1", "alpn_denied"),
            ("x.example.com", "h2", "192.0.2.1", "any"),
            ("not a name", "h2", "192.0.2.1", "server_name_invalid"),
        ],
    );
}

#[test]
fn an_empty_table_refuses_everybody() {
    check(
        &table([]),
        &[
            ("example.com", "", "192.0.2.1", "unknown_server_name"),
            ("-", "", "192.0.2.1", "no_server_name"),
            ("a b", "", "192.0.2.1", "server_name_invalid"),
        ],
    );
}

#[test]
fn the_longest_allow_prefix_wins_among_the_routes_of_a_pattern() {
    let table = table([
        route("all", "kube.example.com"),
        route("every", "kube.example.com").sources("+0.0.0.0/0"),
        route("ten", "kube.example.com").sources("+10.0.0.0/8 -10.9.0.0/16"),
        route("site", "kube.example.com").sources("+10.1.0.0/16 +2001:db8::/32"),
        route("host", "kube.example.com").sources("+10.1.2.3/32"),
    ]);
    for (source, expected) in [
        ("10.1.2.3", "host"),
        ("::ffff:10.1.2.3", "host"),
        ("10.1.2.4", "site"),
        ("10.2.0.1", "ten"),
        ("10.9.0.1", "every"),
        ("192.0.2.1", "every"),
        ("2001:db8::1", "site"),
        ("2001:db9::1", "all"),
    ] {
        assert_eq!(answer(&table, "kube.example.com", "", source), expected, "{source}");
    }
}

#[test]
fn the_client_s_first_listed_protocol_wins_among_equal_sources() {
    let table = table([
        route("rest", "kube.example.com"),
        route("one", "kube.example.com").alpn("http/1.1 http/1.0"),
        route("two", "kube.example.com").alpn("h2"),
    ]);
    for (offered, expected) in [
        ("h2 http/1.1", "two"),
        ("http/1.1 h2", "one"),
        ("h3 http/1.0 h2", "one"),
        ("h3", "rest"),
        ("", "rest"),
        ("H2", "rest"),
    ] {
        assert_eq!(answer(&table, "kube.example.com", offered, "192.0.2.1"), expected, "{offered}");
    }
}

#[test]
fn the_source_is_compared_before_the_protocol() {
    let table = table([
        route("preferred", "kube.example.com").alpn("h2"),
        route("office", "kube.example.com").sources("+203.0.113.0/24").alpn("http/1.1"),
    ]);
    check(
        &table,
        &[
            ("kube.example.com", "h2 http/1.1", "203.0.113.9", "office"),
            // A route that refuses is no candidate, however specific.
            ("kube.example.com", "h2", "203.0.113.9", "preferred"),
            ("kube.example.com", "h2 http/1.1", "192.0.2.1", "preferred"),
            ("kube.example.com", "http/1.1", "192.0.2.1", "alpn_denied"),
        ],
    );
}

#[test]
fn the_source_is_refused_before_the_protocol() {
    let table = table([
        route("office", "kube.example.com").sources("+203.0.113.0/24").alpn("h2"),
        route("lab", "kube.example.com").sources("+198.51.100.0/24 -198.51.100.128/25").alpn("h2"),
    ]);
    check(
        &table,
        &[
            ("kube.example.com", "http/1.1", "192.0.2.1", "source_denied"),
            ("kube.example.com", "h2", "192.0.2.1", "source_denied"),
            ("kube.example.com", "h2", "198.51.100.200", "source_denied"),
            ("kube.example.com", "http/1.1", "198.51.100.1", "alpn_denied"),
            ("kube.example.com", "", "203.0.113.1", "alpn_denied"),
            ("kube.example.com", "h2", "203.0.113.1", "office"),
        ],
    );
}

#[test]
fn names_of_many_labels_are_found() {
    let deep = vec!["a"; 126].join(".");
    let wildcards = table([route("deep", &format!("*.{deep}")), route("shallow", "*.a")]);
    check(
        &wildcards,
        &[
            (&format!("a.{deep}"), "", "192.0.2.1", "deep"),
            (&deep, "", "192.0.2.1", "shallow"),
            ("a", "", "192.0.2.1", "unknown_server_name"),
        ],
    );
}

#[test]
fn each_refusal_has_its_reason_and_its_alert() {
    for (refusal, reason, alert) in [
        (Refusal::NoServerName, Reason::NoServerName, AlertDescription::UnrecognizedName),
        (Refusal::ServerNameInvalid, Reason::ServerNameInvalid, AlertDescription::UnrecognizedName),
        (Refusal::UnknownServerName, Reason::UnknownServerName, AlertDescription::UnrecognizedName),
        (Refusal::SourceDenied, Reason::SourceDenied, AlertDescription::UnrecognizedName),
        (Refusal::AlpnDenied, Reason::AlpnDenied, AlertDescription::NoApplicationProtocol),
    ] {
        assert_eq!(refusal.reason(), reason);
        assert_eq!(refusal.alert(), alert);
    }
}

#[test]
fn the_routes_that_are_asked_are_those_of_the_best_pattern() {
    let table = table([
        route("any", "*"),
        route("inside", "www.example.com").sources("+10.0.0.0/8"),
        route("outside", "www.example.com"),
        route("bare", "-"),
    ]);
    for (name, expected) in
        [("www.example.com", &["inside", "outside"][..]), ("example.com", &["any"]), ("-", &["bare"]), ("no name", &[])]
    {
        let asked: Vec<&str> = table.routes_of(&sni(name)).iter().map(|route| &*route.name).collect();
        assert_eq!(asked, expected, "{name}");
    }
    assert!(RouteTable::default().routes_of(&sni("-")).is_empty());
}
