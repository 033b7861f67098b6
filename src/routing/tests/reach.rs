use super::super::RouteTable;
use super::{route, sources, table};

fn unreached(table: &RouteTable, listener: &str) -> Vec<String> {
    table.unreached(&sources(listener)).iter().map(ToString::to_string).collect()
}

#[test]
fn routes_out_of_reach_are_named_with_the_cause() {
    const NAME: &str = "kube.example.com";
    let taken = |names: &str| {
        format!("route `a` is never reached for {NAME}: what it admits goes to {names} by longer `allow` prefixes")
    };
    let nobody = format!("route `a` is never reached for {NAME}: its `allow` and `deny` admit no source");
    for (drafts, expected) in [
        (vec![route("a", NAME).sources("+")], nobody.clone()),
        (vec![route("a", NAME).sources("-0.0.0.0/0 -::/0")], nobody.clone()),
        (vec![route("a", NAME).sources("+10.0.0.0/8 -10.0.0.0/9 -10.128.0.0/9"), route("b", NAME)], nobody),
        (vec![route("a", NAME), route("b", NAME).sources("+0.0.0.0/0 +::/0")], taken("`b`")),
        (vec![route("a", NAME).alpn("h2"), route("b", NAME).sources("+0.0.0.0/0 +::/0")], taken("`b`")),
        (
            vec![
                route("a", NAME).sources("+10.0.0.0/8"),
                route("b", NAME).sources("+10.0.0.0/9"),
                route("c", NAME).sources("+10.128.0.0/9"),
                route("d", NAME),
            ],
            taken("`b`, `c`"),
        ),
        (
            vec![
                route("a", NAME).sources("+10.0.0.0/8").alpn("h2 http/1.1"),
                route("b", NAME).sources("+10.0.0.0/9 +10.128.0.0/9").alpn("h2"),
                route("c", NAME).sources("+10.0.0.0/9 +10.128.0.0/9").alpn("http/1.1"),
            ],
            taken("`b`, `c`"),
        ),
    ] {
        assert_eq!(unreached(&table(drafts), ""), [expected]);
    }
}

#[test]
fn routes_that_some_client_reaches_are_not_named() {
    const NAME: &str = "kube.example.com";
    for drafts in [
        vec![route("a", NAME)],
        vec![route("a", NAME), route("b", "*.example.com"), route("c", "*"), route("d", "-")],
        // IPv6 is left, or one address.
        vec![route("a", NAME), route("b", NAME).sources("+0.0.0.0/0")],
        vec![route("a", NAME), route("b", NAME).sources("+0.0.0.0/0 +::/0 -255.255.255.255/32")],
        vec![route("a", NAME), route("b", NAME).sources("+0.0.0.0/0 +::/0 -::/128")],
        vec![route("a", NAME).sources("+10.0.0.0/8 -10.0.0.1/32")],
        // Protocols are left: none at all, or the one that nobody else takes.
        vec![route("a", NAME), route("b", NAME).sources("+0.0.0.0/0 +::/0").alpn("h2")],
        vec![route("a", NAME).alpn("h2 http/1.1"), route("b", NAME).sources("+0.0.0.0/0 +::/0").alpn("h2")],
        vec![route("a", NAME), route("b", NAME).alpn("h2"), route("c", NAME).alpn("http/1.1")],
        // Where one of the more specific routes ends, the other has not begun.
        vec![
            route("a", NAME).sources("+10.0.0.0/8"),
            route("b", NAME).sources("+10.0.0.0/9"),
            route("c", NAME).sources("+10.192.0.0/10"),
        ],
    ] {
        assert_eq!(unreached(&table(drafts), ""), Vec::<String>::new());
    }
}

#[test]
fn the_listener_s_sources_count() {
    let table = table([
        route("in", "kube.example.com").sources("+10.1.0.0/16"),
        route("out", "kube.example.com -").sources("+192.0.2.0/24"),
        route("rest", "kube.example.com"),
        route("wide", "*.example.com"),
    ]);
    assert_eq!(unreached(&table, ""), Vec::<String>::new());
    let refused =
        |claim: &str| format!("route `out` is never reached for {claim}: the listener refuses every source it admits");
    let out = [refused("kube.example.com"), refused("clients without a server name")];
    assert_eq!(unreached(&table, "+10.0.0.0/8"), out);
    let [first, second, third] = &unreached(&table, "+10.1.2.0/24")[..] else { panic!("three are out of reach") };
    assert_eq!([first, second], [&out[0], &out[1]]);
    assert_eq!(
        third,
        "route `rest` is never reached for kube.example.com: \
         what it admits goes to `in` by longer `allow` prefixes"
    );
    // One shared address is enough, at either end.
    for end in ["10.1.0.0/32", "10.1.255.255/32"] {
        let at_the_end = unreached(&table, &format!("+{end} +192.0.2.0/32 +192.0.2.255/32 +198.51.100.1/32"));
        assert_eq!(at_the_end, Vec::<String>::new(), "{end}");
    }
}
