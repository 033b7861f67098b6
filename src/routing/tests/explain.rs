use super::super::{Refusal, RouteTable};
use super::{alpn, ip, route, sni, table};

fn gate() -> RouteTable {
    table([
        route("office", "kube.example.com").sources("+203.0.113.0/24 -203.0.113.128/25").alpn("h2 http/1.1"),
        route("old", "kube.example.com").sources("+203.0.113.0/24 -203.0.113.0/24"),
        route("web", "kube.example.com").alpn("http/1.1"),
        route("rest", "kube.example.com -").sources("-198.51.100.0/24"),
        route("wide", "*.example.com").sources("+10.0.0.0/8 -10.0.0.0/16 +10.0.0.0/12").alpn("h2"),
        route("wider", "*.com"),
        route("all", "* kuba.example.org"),
    ])
}

fn check(table: &RouteTable, (name, protocols, source): (&str, &str, &str), expected: &str) {
    let explanation = table.explain(&sni(name), &alpn(protocols), ip(source));
    assert_eq!(explanation.to_string(), expected, "{name} [{protocols}] {source}");
}

#[test]
fn a_route_is_explained_with_all_that_were_asked() {
    check(
        &gate(),
        ("KUBE.example.com", "h2 http/1.1", "203.0.113.7"),
        "server name kube.example.com, from 203.0.113.7, offering h2, http/1.1\n\
         patterns that match, best first:\n\
         \x20 kube.example.com: wins, the exact name\n\
         \x20 *.example.com: not tried\n\
         \x20 *.com: not tried\n\
         \x20 *: not tried\n\
         routes of kube.example.com:\n\
         \x20 office: admits the source by allow 203.0.113.0/24, takes h2\n\
         \x20 old: refuses the source by deny 203.0.113.0/24, which wins over the same allow\n\
         \x20 web: admits the source without allow, takes http/1.1\n\
         \x20 rest: admits the source without allow, takes any protocol\n\
         decision: route office, for its longer allow prefix",
    );
    check(
        &gate(),
        ("kube.example.com", "http/1.1", "::ffff:203.0.113.200"),
        "server name kube.example.com, from 203.0.113.200, offering http/1.1\n\
         patterns that match, best first:\n\
         \x20 kube.example.com: wins, the exact name\n\
         \x20 *.example.com: not tried\n\
         \x20 *.com: not tried\n\
         \x20 *: not tried\n\
         routes of kube.example.com:\n\
         \x20 office: refuses the source by deny 203.0.113.128/25, which wins over the shorter allow 203.0.113.0/24\n\
         \x20 old: refuses the source by deny 203.0.113.0/24, which wins over the same allow\n\
         \x20 web: admits the source without allow, takes http/1.1\n\
         \x20 rest: admits the source without allow, takes any protocol\n\
         decision: route web, which names the protocol",
    );
    check(
        &gate(),
        ("-", "", "2001:db8::1"),
        "no server name, from 2001:db8::1, offering no protocol\n\
         routes for clients without a server name:\n\
         \x20 rest: admits the source without allow, takes any protocol\n\
         decision: route rest",
    );
    check(
        &table([route("a", "a.example").alpn("h2"), route("b", "a.example").alpn("http/1.1 h3")]),
        ("a.example", "h3 h2", "192.0.2.1"),
        "server name a.example, from 192.0.2.1, offering h3, h2\n\
         patterns that match, best first:\n\
         \x20 a.example: wins, the exact name\n\
         routes of a.example:\n\
         \x20 a: admits the source without allow, takes h2\n\
         \x20 b: admits the source without allow, takes h3\n\
         decision: route b, for the protocol that the client prefers",
    );
    check(
        &table([route("a", "*.example").sources("+192.0.2.0/24"), route("b", "*.example").sources("+10.0.0.0/8")]),
        ("a.example", "", "192.0.2.1"),
        "server name a.example, from 192.0.2.1, offering no protocol\n\
         patterns that match, best first:\n\
         \x20 *.example: wins, the wildcard with most labels\n\
         routes of *.example:\n\
         \x20 a: admits the source by allow 192.0.2.0/24, takes any protocol\n\
         \x20 b: refuses the source, which no network of its allow holds\n\
         decision: route a, the only one that does not refuse",
    );
}

#[test]
fn a_refusal_names_the_qualifier() {
    check(
        &gate(),
        ("a.example.com", "h2", "10.0.9.9"),
        "server name a.example.com, from 10.0.9.9, offering h2\n\
         patterns that match, best first:\n\
         \x20 *.example.com: wins, the wildcard with most labels\n\
         \x20 *.com: not tried\n\
         \x20 *: not tried\n\
         routes of *.example.com:\n\
         \x20 wide: refuses the source by deny 10.0.0.0/16, which wins over the shorter allow 10.0.0.0/12\n\
         decision: refused, source_denied; wider patterns are not tried",
    );
    check(
        &gate(),
        ("a.example.com", "", "10.1.0.1"),
        "server name a.example.com, from 10.1.0.1, offering no protocol\n\
         patterns that match, best first:\n\
         \x20 *.example.com: wins, the wildcard with most labels\n\
         \x20 *.com: not tried\n\
         \x20 *: not tried\n\
         routes of *.example.com:\n\
         \x20 wide: refuses, as it takes only h2\n\
         decision: refused, alpn_denied; wider patterns are not tried",
    );
    check(
        &gate(),
        ("-", "h2", "198.51.100.1"),
        "no server name, from 198.51.100.1, offering h2\n\
         routes for clients without a server name:\n\
         \x20 rest: refuses the source by deny 198.51.100.0/24\n\
         decision: refused, source_denied",
    );
}

#[test]
fn a_name_that_nothing_matches_is_told_what_was_looked_for() {
    let table = table([
        route("a", "kube.example.com kubelet.example.com cube.example.com qube.example.com *.example.org"),
        route("b", "*.apps.example.com"),
    ]);
    check(
        &table,
        ("kuba.example.com", "", "192.0.2.1"),
        "server name kuba.example.com, from 192.0.2.1, offering no protocol\n\
         no pattern matches; looked for kuba.example.com, *.example.com, *.com and *\n\
         \x20 there is kube.example.com, which looks similar\n\
         \x20 there is cube.example.com, which looks similar\n\
         \x20 there is qube.example.com, which looks similar\n\
         decision: refused, unknown_server_name",
    );
    check(
        &table,
        ("example.org", "", "192.0.2.1"),
        "server name example.org, from 192.0.2.1, offering no protocol\n\
         no pattern matches; looked for example.org, *.org and *\n\
         \x20 there is *.example.org, which takes names below example.org and not example.org itself\n\
         decision: refused, unknown_server_name",
    );
    check(
        &table,
        ("shop.app.example.com", "", "192.0.2.1"),
        "server name shop.app.example.com, from 192.0.2.1, offering no protocol\n\
         no pattern matches; looked for shop.app.example.com, *.app.example.com, *.example.com, *.com and *\n\
         \x20 there is *.apps.example.com, which looks similar\n\
         decision: refused, unknown_server_name",
    );
    check(
        &table,
        ("localhost", "", "192.0.2.1"),
        "server name localhost, from 192.0.2.1, offering no protocol\n\
         no pattern matches; looked for localhost and *\n\
         decision: refused, unknown_server_name",
    );
}

#[test]
fn clients_that_send_no_or_no_valid_name_are_told_so() {
    let table = table([route("a", "* kube.example.com")]);
    check(
        &table,
        ("-", "", "192.0.2.1"),
        "no server name, from 192.0.2.1, offering no protocol\n\
         no route takes clients without a server name\n\
         decision: refused, no_server_name; \
         remedy: tls-server-name in the kubeconfig, or no_server_name: true in a route",
    );
    check(
        &table,
        ("a b\n", "", "192.0.2.1"),
        "server name `a b\\n`, which is no host name, from 192.0.2.1, offering no protocol\n\
         decision: refused, server_name_invalid",
    );
}

#[test]
fn the_decision_itself_can_be_had() {
    let route = |name| gate().explain(&sni(name), &[], ip("192.0.2.1")).decision().map(|route| route.name.clone());
    assert_eq!(route("kube.example.com").as_deref(), Ok("rest"));
    assert_eq!(route("a.example.com").as_deref(), Err(&Refusal::SourceDenied));
}
