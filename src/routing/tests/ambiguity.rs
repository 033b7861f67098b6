use std::sync::Arc;

use super::super::RouteTable;
use super::{Draft, route};

/// What is wrong with these routes, in words.
fn ambiguities(drafts: impl IntoIterator<Item = Draft>) -> Vec<String> {
    let routes = drafts.into_iter().map(|draft| Arc::new(draft.route));
    RouteTable::new(routes).err().into_iter().flatten().map(|ambiguity| ambiguity.to_string()).collect()
}

#[test]
fn routes_that_one_client_could_match_equally_are_reported() {
    const NAME: &str = "kube.example.com";
    let unqualified = "kube.example.com from 0.0.0.0/0 with any protocol";
    for (first, second, expected) in [
        (route("a", NAME), route("b", NAME), unqualified),
        (route("a", NAME), route("b", "x.example.com Kube.Example.COM."), unqualified),
        (route("a", "*.example.com"), route("b", "*.example.com"), "*.example.com from 0.0.0.0/0 with any protocol"),
        (route("a", "*"), route("b", "*"), "* from 0.0.0.0/0 with any protocol"),
        (route("a", "-"), route("b", "x.example -"), "clients without a server name from 0.0.0.0/0 with any protocol"),
        (
            route("a", NAME).alpn("h2"),
            route("b", NAME).alpn("http/1.1 h2"),
            "kube.example.com from 0.0.0.0/0 with protocol h2",
        ),
        (
            route("a", NAME).sources("+10.0.0.0/8"),
            route("b", NAME).sources("+10.0.0.0/8 +192.0.2.0/24"),
            "kube.example.com from 10.0.0.0/8 with any protocol",
        ),
        // Host bits do not make another network, nor does the IPv4-mapped form.
        (
            route("a", NAME).sources("+10.1.2.3/8"),
            route("b", NAME).sources("+::ffff:10.9.9.9/104"),
            "kube.example.com from 10.0.0.0/8 with any protocol",
        ),
        // What one of them denies is no longer shared; the rest is.
        (
            route("a", NAME).sources("+10.0.0.0/8 -10.0.0.0/9"),
            route("b", NAME).sources("+10.0.0.0/8"),
            "kube.example.com from 10.128.0.0/9 with any protocol",
        ),
        (
            route("a", NAME).sources("-0.0.0.0/1"),
            route("b", NAME).sources("-128.0.0.0/1"),
            "kube.example.com from ::/0 with any protocol",
        ),
        (
            route("a", NAME).sources("+2001:db8::/32 -2001:db8::/128"),
            route("b", NAME).sources("+2001:db8::/32"),
            "kube.example.com from 2001:db8::1/128 with any protocol",
        ),
        // One address is enough, and either end of a network counts.
        (
            route("a", NAME).sources("+10.0.0.1/32"),
            route("b", NAME).sources("+10.0.0.0/31 +10.0.0.1/32"),
            "kube.example.com from 10.0.0.1/32 with any protocol",
        ),
        (
            route("a", NAME).sources("+10.0.0.0/30 -10.0.0.0/31"),
            route("b", NAME).sources("+10.0.0.0/30 -10.0.0.3/32"),
            "kube.example.com from 10.0.0.2/32 with any protocol",
        ),
        // Two networks that lie side by side.
        (
            route("a", NAME).sources("+10.0.0.0/9 +10.128.0.0/9").alpn("h2 http/1.1"),
            route("b", NAME).sources("+10.128.0.0/9").alpn("http/1.1"),
            "kube.example.com from 10.128.0.0/9 with protocol http/1.1",
        ),
    ] {
        assert_eq!(ambiguities([first, second]), [format!("routes `a` and `b` match equally: {expected}")]);
    }
}

#[test]
fn routes_that_no_client_matches_equally_are_fine() {
    const NAME: &str = "kube.example.com";
    for (first, second) in [
        (route("a", NAME), route("b", "*.example.com")),
        (route("a", "*.example.com"), route("b", "*")),
        (route("a", "*"), route("b", "-")),
        (route("a", "example.com"), route("b", "*.example.com")),
        // One longer prefix, one protocol more, no common address or protocol.
        (route("a", NAME), route("b", NAME).sources("+0.0.0.0/0 +::/0")),
        (route("a", NAME).sources("+10.0.0.0/8"), route("b", NAME).sources("+10.0.0.0/9")),
        (route("a", NAME).sources("+10.0.0.0/9"), route("b", NAME).sources("+10.128.0.0/9")),
        (route("a", NAME).sources("+0.0.0.0/0"), route("b", NAME).sources("+::/0")),
        (route("a", NAME), route("b", NAME).alpn("h2")),
        (route("a", NAME).alpn("http/1.1"), route("b", NAME).alpn("h2")),
        (route("a", NAME).sources("+10.0.0.0/8").alpn("h2"), route("b", NAME).sources("+10.0.0.0/8").alpn("http/1.1")),
        // The deny of one is the allow of the other.
        (route("a", NAME).sources("+10.0.0.0/8 -10.0.0.0/9"), route("b", NAME).sources("+10.0.0.0/8 -10.128.0.0/9")),
        (route("a", NAME).sources("-10.0.0.0/8"), route("b", NAME).sources("+10.0.0.0/8")),
        // One of them admits nobody.
        (route("a", NAME).sources("+"), route("b", NAME).sources("+10.0.0.0/8")),
        (route("a", NAME).sources("-0.0.0.0/0 -::/0"), route("b", NAME)),
        // The same prefix is shared only where a longer one of either decides.
        (route("a", NAME).sources("+10.0.0.0/8 +10.0.0.0/9"), route("b", NAME).sources("+10.0.0.0/8 +10.128.0.0/9")),
    ] {
        assert_eq!(ambiguities([first, second]), Vec::<String>::new());
    }
}

#[test]
fn a_route_is_never_ambiguous_with_itself() {
    let twice = route("a", "example.com EXAMPLE.com * * - *.x *.x").alpn("h2 h2").sources("+10.0.0.0/8 +10.1.0.0/8");
    assert_eq!(ambiguities([twice]), Vec::<String>::new());
}

#[test]
fn all_are_reported_once_in_a_fixed_order() {
    let found = ambiguities([
        route("a", "x.example y.example").alpn("h2 http/1.1"),
        route("b", "y.example x.example").alpn("http/1.1 h2"),
        route("c", "-"),
        route("d", "-"),
        route("e", "-"),
        route("f", "z.example"),
    ]);
    assert_eq!(
        found,
        [
            "routes `a` and `b` match equally: x.example from 0.0.0.0/0 with protocol h2",
            "routes `a` and `b` match equally: y.example from 0.0.0.0/0 with protocol h2",
            "routes `c` and `d` match equally: clients without a server name from 0.0.0.0/0 with any protocol",
            "routes `c` and `e` match equally: clients without a server name from 0.0.0.0/0 with any protocol",
        ]
    );
}
