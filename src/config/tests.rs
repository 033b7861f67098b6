mod admin;
mod drain;
mod health_check;
mod limits;
mod proxy_protocol;

use proptest::prelude::*;

use super::*;

const LISTENERS: &str = "listeners: [{ address: ':6443', name: kube }]\n";
const ROUTES: &str = "routes: [{ server_names: [a.example], upstream: u }]\n";
const UPSTREAMS: &str =
    "upstreams: { u: { endpoints: ['10.0.0.7:6443'] }, kubernetes: { endpoints: ['10.0.0.8:6443'] } }\n";

fn with_listeners(listeners: &str) -> String {
    format!("listeners: [{listeners}]\n{ROUTES}{UPSTREAMS}")
}

fn with_routes(routes: &str) -> String {
    format!("{LISTENERS}routes: [{routes}]\n{UPSTREAMS}")
}

fn with_upstreams(upstreams: &str) -> String {
    format!("{LISTENERS}{ROUTES}upstreams: {upstreams}\n")
}

fn with_listener_key(key: &str) -> String {
    with_listeners(&format!("{{ address: ':6443', name: kube, {key} }}"))
}

fn with_route_key(key: &str) -> String {
    with_routes(&format!("{{ server_names: [a.example], upstream: u, {key} }}"))
}

fn with_upstream_key(key: &str) -> String {
    with_upstreams(&format!("{{ u: {{ endpoints: ['10.0.0.7:6443'], {key} }} }}"))
}

fn with_endpoints(endpoints: &str) -> String {
    with_upstreams(&format!("{{ u: {{ endpoints: [{endpoints}] }} }}"))
}

fn with_top(key: &str) -> String {
    format!("{LISTENERS}{ROUTES}{UPSTREAMS}{key}\n")
}

fn valid(text: &str) -> Config {
    Config::parse(text).unwrap_or_else(|mistakes| panic!("{text}\n{mistakes}"))
}

/// Each text with all the mistakes it must bring, in order.
fn assert_mistakes<T: AsRef<str>>(cases: &[(T, &[&str])]) {
    for (text, expected) in cases {
        let text = text.as_ref();
        let found: Vec<String> = match Config::parse(text) {
            Ok(_) => Vec::new(),
            Err(mistakes) => mistakes.iter().map(Mistake::to_string).collect(),
        };
        assert_eq!(&found, expected, "\n{text}");
    }
}

#[test]
fn syntax_errors_have_a_line_and_say_what_to_quote() {
    assert_mistakes(&[
        ("", &["the configuration is empty: it needs `listeners`, `routes` and `upstreams`"]),
        ("- a\n", &["expected `key: value` lines, found a list"]),
        (
            "a:\n\t- b\n",
            &["line 2, column 1: found character that cannot start any token, while scanning for the next token"],
        ),
        ("a:\n  b: c: d\n", &["line 2, column 7: mapping values are not allowed in this context"]),
        ("a: 1\n---\nb: 2\n", &["deserializing from YAML containing more than one document is not supported"]),
        ("? [a]\n: b\n", &["line 1, column 3: invalid type: sequence, expected a string"]),
        (
            "routes:\n  - server_names: [a.example, *.kube.example.com]\n",
            &["line 2, column 32: an unquoted `*` is a YAML alias; if a pattern is meant, quote it: \
                   \"*.kube.example.com\""],
        ),
        (
            "routes:\n  - server_names:\n      - *kube.example.com # all\n",
            &["line 3, column 14: an unquoted `*` is a YAML alias; if a pattern is meant, quote it: \
                   \"*kube.example.com\""],
        ),
        ("a: *\n", &["line 1, column 5: an unquoted `*` is a YAML alias; if a pattern is meant, quote it: \"*\""]),
        (
            "a: *all\n",
            &["line 1, column 4: an unquoted `*` is a YAML alias; if a pattern is meant, quote it: \"*all\""],
        ),
        ("a: [::1]:80\n", &["line 1, column 5: an address that begins with `:` or `[` needs quotes here"]),
        ("a: { address: :6443 }\n", &["line 1, column 15: an address that begins with `:` or `[` needs quotes here"]),
    ]);
}

#[test]
fn text_that_grows_when_read_is_refused() {
    let nested = format!("routes: {}{}\n", "[".repeat(1_000), "]".repeat(1_000));
    let aliases: String = (1..30).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}, *a{0}]\n", n - 1)).collect();
    let repeated = format!("a0: &a0 [x]\n{aliases}");
    for (text, told) in [(nested, "recursion limit exceeded"), (repeated, "repetition limit exceeded")] {
        let mistakes = Config::parse(&text).unwrap_err().to_string();
        assert!(mistakes.contains(told), "{mistakes}");
    }
}

#[test]
fn suggestions_are_near() {
    for (word, expected) in [
        ("kubernets", Some("kubernetes")),
        ("Kubernetes", Some("kubernetes")),
        ("kub", Some("kube")),
        ("ube", Some("kube")),
        ("kbue", Some("kube")),
        ("v", None),
        ("kubernetes-build", None),
        ("", None),
    ] {
        assert_eq!(mistakes::nearest(word, ["u", "kubernetes", "kube"]), expected, "{word}");
    }
    let many: Vec<String> = (10..40).map(|number| format!("upstream-{number}")).collect();
    let told = suggestion("other", many.iter().map(String::as_str));
    assert!(told.starts_with("known here: `upstream-10`, ") && told.ends_with("`upstream-25` and 14 more"), "{told}");
}

#[test]
fn keys_are_known_and_given_once() {
    assert_mistakes(&[
        ("{}".into(), &["listeners: is missing", "routes: is missing", "upstreams: is missing"]),
        (
            with_top("routes: []\nlog: { format: json, format: text }"),
            &["routes: is given twice: keep one of them", "log.format: is given twice: keep one of them"],
        ),
        (with_top("worker: 2"), &["worker: unknown key; did you mean `workers`?"]),
        (
            with_top("metrics: { address: '127.0.0.1:9901' }"),
            &[
                "metrics: unknown key; known here: `listeners`, `routes`, `upstreams`, `on_route_change`, `limits`, `drain`, `dns`, `admin`, `log`, `workers`, `user`, `sandbox`, `sandbox_ports`, `upgrade_socket`",
            ],
        ),
        (
            with_top("log: !color { format: json }"),
            &["log: has a YAML tag, `!color`, which means nothing here: leave it out"],
        ),
        (
            with_top("7: x"),
            &[
                "7: unknown key; known here: `listeners`, `routes`, `upstreams`, `on_route_change`, `limits`, `drain`, `dns`, `admin`, `log`, `workers`, `user`, `sandbox`, `sandbox_ports`, `upgrade_socket`",
            ],
        ),
        (
            with_top("'a.b': x"),
            &[
                r#"["a.b"]: unknown key; known here: `listeners`, `routes`, `upstreams`, `on_route_change`, `limits`, `drain`, `dns`, `admin`, `log`, `workers`, `user`, `sandbox`, `sandbox_ports`, `upgrade_socket`"#,
            ],
        ),
        (
            with_listener_key("reject_with: close"),
            &["listeners[0].reject_with: unknown key; known here: `address`, `name`, \
            `v6_only`, `reject`, `client_hello_timeout`, `max_client_hello`, \
               `proxy_protocol`, `allow`, `deny`"],
        ),
        (with_route_key("idle-timeout: 1h"), &["routes[0].idle-timeout: unknown key; did you mean `idle_timeout`?"]),
        (with_route_key("idleTimeout: 1h"), &["routes[0].idleTimeout: unknown key; did you mean `idle_timeout`?"]),
        // A misspelt needed key is one mistake, not two.
        (
            with_routes("{ server_names: [a.example], upstrem: u }"),
            &["routes[0].upstrem: unknown key; did you mean `upstream`?"],
        ),
        (
            with_upstream_key("sticky: true"),
            &["upstreams.u.sticky: unknown key; known here: `endpoints`, `balance`, `slow_start`, `connect_timeout`, \
                   `attempts`, `max_connecting`, `user_timeout`, `source_addresses`, `proxy_protocol`, \
                   `on_removed`, `health_check`, `on_unhealthy`"],
        ),
        (
            with_endpoints("{ adress: 'a:1' }"),
            &["upstreams.u.endpoints[0].adress: unknown key; did you mean `address`?"],
        ),
    ]);
}

#[test]
fn wrong_types_say_what_was_expected() {
    assert_mistakes(&[
        (format!("listeners: 5\n{ROUTES}{UPSTREAMS}"), &["listeners: expected a list, found the number 5"][..]),
        (with_listeners(""), &["listeners: is an empty list: nobody could connect"]),
        (with_listeners("':6443'"), &["listeners[0]: expected `key: value` lines, found the text \":6443\""]),
        (with_routes(""), &["routes: is an empty list: every client would be refused"]),
        (with_upstreams("{}"), &["upstreams: has no entry"]),
        (with_upstreams("[]"), &["upstreams: expected `name:` entries, found a list"]),
        (
            with_upstreams("{ u: }"),
            &["upstreams.u: expected `key: value` lines, found nothing (leave the key out, or give it a value)"],
        ),
        (with_endpoints(""), &["upstreams.u.endpoints: is an empty list: connections need somewhere to go"]),
        (with_endpoints("5"), &["upstreams.u.endpoints[0]: expected `key: value` lines, found the number 5"]),
        (
            with_listener_key("v6_only: yes"),
            &["listeners[0].v6_only: expected `true` or `false`, found the text \"yes\""],
        ),
        (
            with_route_key("allow_short_idle: 1"),
            &["routes[0].allow_short_idle: expected `true` or `false`, found the number 1"],
        ),
        (with_route_key("alpn: h2"), &["routes[0].alpn: expected a list, found the text \"h2\""]),
        (with_route_key("alpn: [2]"), &["routes[0].alpn[0]: expected text, found the number 2: put it in quotes"]),
        (
            with_route_key("allow: "),
            &["routes[0].allow: expected a list, found nothing (leave the key out, or give it a value)"],
        ),
        (with_route_key("listeners: { kube: 1 }"), &["routes[0].listeners: expected a list, found `key: value` lines"]),
        (with_top("log: json"), &["log: expected `key: value` lines, found the text \"json\""]),
        (with_top("log: { format: jsn }"), &["log.format: unknown value \"jsn\"; did you mean `json`?"]),
        (with_top("log: { level: INFO }"), &["log.level: unknown value \"INFO\"; did you mean `info`?"]),
        (
            with_listener_key("reject: drop"),
            &["listeners[0].reject: unknown value \"drop\"; known here: `alert`, `close`, `reset`"],
        ),
        (with_top("workers: 0"), &["workers: expected a whole number from 1 to 1024, found the number 0"]),
        (with_top("workers: two"), &["workers: expected a whole number from 1 to 1024, found the text \"two\""]),
        (
            with_upstream_key("attempts: 11"),
            &["upstreams.u.attempts: expected a whole number from 1 to 10, found the number 11"],
        ),
        (
            with_upstream_key("max_connecting: 0"),
            &["upstreams.u.max_connecting: expected a whole number from 1 to 65536, found the number 0"],
        ),
        (
            with_upstream_key("balance: leastconn"),
            &["upstreams.u.balance: unknown value \"leastconn\"; known here: `least_connections`, `round_robin`, \
                   `random`, `source_hash`"],
        ),
        (
            with_upstream_key("balance: roundrobin"),
            &["upstreams.u.balance: unknown value \"roundrobin\"; did you mean `round_robin`?"],
        ),
        (
            with_endpoints("{ address: 'a:1', weight: 1.5 }"),
            &["upstreams.u.endpoints[0].weight: expected a whole number from 1 to 256, found the number 1.5"],
        ),
    ]);
}

#[test]
fn durations_and_sizes_carry_units() {
    assert_mistakes(&[
        (
            with_route_key("idle_timeout: 300"),
            &["routes[0].idle_timeout: needs a unit: write `300s` if seconds are meant"][..],
        ),
        (
            with_route_key("idle_timeout: soon"),
            &["routes[0].idle_timeout: \"soon\" is no duration: write a number and a unit, such as `500ms`, `5s`, \
                   `2m` or `24h`"],
        ),
        (
            with_route_key("idle_timeout: true"),
            &["routes[0].idle_timeout: expected a duration such as `5s`, found `true`"],
        ),
        (with_route_key("idle_timeout: 1y"), &["routes[0].idle_timeout: \"1y\" is not within 10ms to 720h"]),
        (
            with_route_key("idle_timeout: 5M"),
            &["routes[0].idle_timeout: \"5M\" is not within 10ms to 720h; `M` means months, `m` minutes"],
        ),
        (
            with_route_key("half_close_timeout: 1ms"),
            &["routes[0].half_close_timeout: \"1ms\" is not within 10ms to 720h"],
        ),
        (
            with_listener_key("client_hello_timeout: 0"),
            &["listeners[0].client_hello_timeout: \"0\" is not within 10ms to 1m"],
        ),
        (with_upstream_key("connect_timeout: 2m"), &["upstreams.u.connect_timeout: \"2m\" is not within 10ms to 1m"]),
        (
            with_upstream_key("user_timeout: 25h"),
            &["upstreams.u.user_timeout: \"25h\" is not within 10ms to 24h (0 turns it off)"],
        ),
        (
            with_upstream_key("slow_start: 2h"),
            &["upstreams.u.slow_start: \"2h\" is not within 10ms to 1h (0 turns it off)"],
        ),
        (
            with_upstream_key("source_addresses: [10.0.0.8, '10.0.0.9:0', '::', '::ffff:10.0.0.8']"),
            &[
                "upstreams.u.source_addresses[1]: \"10.0.0.9:0\" is no address to connect from: write an IP address of this \
                 host, such as `10.0.0.8`, without a port",
                "upstreams.u.source_addresses[2]: \"::\" is no address to connect from: write an IP address of this host, \
                 such as `10.0.0.8`, without a port",
                "upstreams.u.source_addresses[3]: `10.0.0.8` is listed twice",
            ],
        ),
        (
            with_upstream_key("source_addresses: []"),
            &["upstreams.u.source_addresses: is an empty list: leave it out for the address that the kernel chooses"],
        ),
        (
            with_upstream_key("user_timeout: -1"),
            &["upstreams.u.user_timeout: expected a duration such as `5s`, found the number -1"],
        ),
        (
            with_listener_key("max_client_hello: 16384"),
            &["listeners[0].max_client_hello: needs a unit: write `16384B` if bytes are meant"],
        ),
        (
            with_listener_key("max_client_hello: 16KB"),
            &["listeners[0].max_client_hello: \"16KB\" is no size: write a number and B, KiB or MiB, such as `16KiB`"],
        ),
        (
            with_listener_key("max_client_hello: 1MiB"),
            &["listeners[0].max_client_hello: 1MiB is not within 512B to 64KiB"],
        ),
        (
            with_listener_key("max_client_hello: 511B"),
            &["listeners[0].max_client_hello: 511B is not within 512B to 64KiB"],
        ),
        (
            with_route_key("idle_timeout: 30s"),
            &["routes[0].idle_timeout: 30s would cut connections that only wait for a moment: raise it to 60s at \
                   least, or \
               write `allow_short_idle: true` if it is meant"],
        ),
    ]);
}

#[test]
fn addresses_and_networks_are_exact() {
    let no_listen = |text: &str| {
        format!(
            "listeners[0].address: \"{text}\" is no address to listen on: write `:6443` for every address, or an IP \
               address \
             and a port, such as `10.0.0.1:6443` or `[2001:db8::1]:6443`"
        )
    };
    for wrong in ["6443", "localhost:6443", "10.0.0.1", "::1:6443", "*:6443", ":65536", ":+1", "[fe80::1%eth0]:6443"] {
        assert_mistakes(&[(with_listeners(&format!("{{ address: '{wrong}' }}")), &[&*no_listen(wrong)])]);
    }
    let brackets = |text: &str| {
        format!(
            "upstreams.u.endpoints[0]: \"{text}\" needs brackets around its IPv6 address, as in `[2001:db8::1]:6443`"
        )
    };
    for wrong in ["::1", "::1:6443", "2001:db8:1:2:3:4:5:6:6443"] {
        assert_mistakes(&[(with_endpoints(&format!("'{wrong}'")), &[&*brackets(wrong)])]);
    }
    assert_mistakes(&[
        (
            with_listeners("{ address: 6443 }"),
            &["listeners[0].address: a port alone is not enough: write `\":6443\"` for every address"][..],
        ),
        (
            with_listeners("{ address: '[::ffff:10.0.0.1]:6443' }"),
            &["listeners[0].address: \"[::ffff:10.0.0.1]:6443\" is an IPv4 address in its IPv6 form: write it as IPv4"],
        ),
        (
            with_listeners("{ address: '0.0.0.0:6443', v6_only: true }"),
            &["listeners[0].v6_only: is for IPv6 addresses, and `0.0.0.0:6443` is none: leave it out"],
        ),
        (with_endpoints("a"), &["upstreams.u.endpoints[0]: \"a\" has no port: write `a:6443`"]),
        (with_endpoints("'a:0'"), &["upstreams.u.endpoints[0]: \"a:0\" does not end in a port from 1 to 65535"]),
        (with_endpoints("'a:+1'"), &["upstreams.u.endpoints[0]: \"a:+1\" does not end in a port from 1 to 65535"]),
        (with_endpoints("'[::1]'"), &["upstreams.u.endpoints[0]: \"[::1]\" does not end in a port from 1 to 65535"]),
        (with_endpoints("'https://a:1'"), &["upstreams.u.endpoints[0]: \"https://a:1\" is a URL: write `host:port`"]),
        (
            with_endpoints("'[a]:1'"),
            &["upstreams.u.endpoints[0]: \"[a]:1\" is no endpoint: its host has brackets, but no IPv6 address in them"],
        ),
        (
            with_endpoints("'0.0.0.0:1'"),
            &["upstreams.u.endpoints[0]: \"0.0.0.0:1\" is no endpoint: its host is no address that one can connect to"],
        ),
        (
            with_endpoints("'127.1:1'"),
            &["upstreams.u.endpoints[0]: \"127.1:1\" is no endpoint: its host ends in a numeric label, so that it \
                   could be \
               read as an address"],
        ),
        (with_endpoints("':1'"), &["upstreams.u.endpoints[0]: \":1\" is no endpoint: its host is empty"]),
        (
            with_endpoints("'a:1', { address: 'A:1' }"),
            &["upstreams.u.endpoints[1]: `a:1` is listed twice; `weight` gives it a larger share"],
        ),
        (
            with_listener_key("allow: [10.0.0.1/8]"),
            &["listeners[0].allow[0]: \"10.0.0.1/8\" has address bits behind its prefix: write `10.0.0.0/8`, or \
                   `10.0.0.1` for \
               that host alone"],
        ),
        (
            with_route_key("deny: [10.0.0.0/33, office]"),
            &[
                "routes[0].deny[0]: \"10.0.0.0/33\" is no network: write `203.0.113.0/24`, `2001:db8::/32` or a \
                   single address",
                "routes[0].deny[1]: \"office\" is no network: write `203.0.113.0/24`, `2001:db8::/32` or a single \
                   address",
            ],
        ),
        (with_route_key("allow: [10.0.0.1, 10.0.0.1/32]"), &["routes[0].allow[1]: `10.0.0.1/32` is listed twice"]),
        (
            with_route_key("allow: []"),
            &["routes[0].allow: is an empty list: nobody is allowed; leave the key out to allow every source"],
        ),
    ]);
}

#[test]
fn services_and_dns_servers_are_exact() {
    let endpoints = |endpoint: &str| with_endpoints(&format!("{{ {endpoint} }}"));
    let server = |text: &str| {
        format!(
            "dns.servers[0]: \"{text}\" is no address of a DNS server: write an IP address (a name would have to be \
             resolved itself) and its port, such as `10.0.0.2:53` or `[2001:db8::1]:53`"
        )
    };
    let wrong = ["dns.example:53", "10.0.0.2:0", "10.0.0.2:", "0.0.0.0", "::1:x", ""];
    let servers = wrong.map(|text| (with_top(&format!("dns: {{ servers: ['{text}'] }}")), server(text)));
    for (text, told) in &servers {
        assert_mistakes(&[(text, &[told.as_str()])]);
    }
    assert_mistakes(&[
        (
            endpoints("srv: '_api._tcp.example:53'"),
            &["upstreams.u.endpoints[0].srv: \"_api._tcp.example:53\" has a port, which SRV records say themselves: \
               write `_api._tcp.example`"][..],
        ),
        (
            endpoints("srv: 10.0.0.7"),
            &["upstreams.u.endpoints[0].srv: \"10.0.0.7\" is an IP address: write `address` for it, with a port"],
        ),
        (
            endpoints("srv: _api..example"),
            &["upstreams.u.endpoints[0].srv: \"_api..example\" is no name of SRV records: it has an empty label"],
        ),
        (
            endpoints("srv: _api._tcp.example, address: 'a:1', weight: 2"),
            &[
                "upstreams.u.endpoints[0].address: does not go with `srv`: make two endpoints of the two",
                "upstreams.u.endpoints[0].weight: does not go with `srv`: SRV records have weights",
            ],
        ),
        (endpoints("backup: true"), &["upstreams.u.endpoints[0].address: is missing"]),
        (
            with_endpoints("{ srv: _api._tcp.example }, { srv: _API._tcp.example, backup: true }"),
            &["upstreams.u.endpoints[1]: `_api._tcp.example` is listed twice"],
        ),
        (
            with_upstream_key("on_removed: clos"),
            &["upstreams.u.on_removed: unknown value \"clos\"; did you mean `close`?"],
        ),
        (
            with_route_key("on_route_change: cut"),
            &["routes[0].on_route_change: unknown value \"cut\"; known here: `keep`, `close`"],
        ),
        (with_top("on_route_change: [keep]"), &["on_route_change: expected text, found a list"]),
        (
            with_top("dns: { servers: [] }"),
            &["dns.servers: is an empty list: name one, or leave the key out for those of /etc/resolv.conf"],
        ),
        (with_top("dns: { servers: [10.0.0.2, '10.0.0.2:53'] }"), &["dns.servers[1]: `10.0.0.2:53` is listed twice"]),
        (with_top("dns: { server: 10.0.0.2 }"), &["dns.server: unknown key; did you mean `servers`?"]),
    ]);
}

#[test]
fn names_are_usable() {
    let name = |wrong: &str| with_listener(&format!("name: {wrong}"));
    assert_mistakes(&[
        (
            name("'a b'"),
            &["listeners[0].name: \"a b\" is no usable name: write 1 to 255 visible ASCII characters, without spaces"]
                [..],
        ),
        (
            name("''"),
            &["listeners[0].name: \"\" is no usable name: write 1 to 255 visible ASCII characters, without spaces"],
        ),
        (
            with_upstreams("{ u: { endpoints: ['a:1'] }, \"x\\n\": { endpoints: ['a:1'] } }"),
            &[r#"upstreams["x\n"]: "x\n" is no usable name: write 1 to 255 visible ASCII characters, without spaces"#],
        ),
        (
            with_routes(
                "{ server_names: [10.0.0.1, 'a b', '*.', bücher.example, A.example, a.example.], upstream: u }",
            ),
            &[
                "routes[0].server_names[0]: \"10.0.0.1\" is an IP address; clients that connect by address send no \
                   name, so \
                 use `no_server_name: true`",
                "routes[0].server_names[1]: \"a b\" has a character other than letters, digits, '-' and '_' (write \
                   an IDN in \
                 its xn-- form)",
                "routes[0].server_names[2]: \"*.\" is empty",
                "routes[0].server_names[3]: \"bücher.example\" has a character other than letters, digits, '-' and \
                   '_' (write \
                 an IDN in its xn-- form)",
                "routes[0].server_names[5]: `a.example` is listed twice",
            ],
        ),
        (
            with_route_key("alpn: [h2, '', h2]"),
            &["routes[0].alpn[1]: \"\" is not 1 to 255 bytes long", "routes[0].alpn[2]: `h2` is listed twice"],
        ),
        (
            with_route_key("alpn: []"),
            &["routes[0].alpn: is an empty list: name a protocol, or leave the key out for any"],
        ),
        (
            with_routes("{ server_names: [], upstream: u }"),
            &["routes[0].server_names: is an empty list: name one, or leave the key out and write `no_server_name: \
                   true`"],
        ),
        (
            with_routes("{ upstream: u }, { upstream: u, no_server_name: false }"),
            &[
                "routes[0]: takes no client: give it `server_names`, or `no_server_name: true`, or both",
                "routes[1]: takes no client: give it `server_names`, or `no_server_name: true`, or both",
            ],
        ),
        // What is wrong already needs no second mistake.
        (
            with_routes("{ upstream: u, no_server_name: 1 }"),
            &["routes[0].no_server_name: expected `true` or `false`, found the number 1"],
        ),
    ]);
}

#[test]
fn references_lead_somewhere() {
    assert_mistakes(&[
        (
            with_routes("{ server_names: [a.example], upstream: kuberntes }"),
            &["routes[0].upstream: no upstream is called `kuberntes`; did you mean `kubernetes`?"][..],
        ),
        (
            with_routes("{ server_names: [a.example], upstream: other }"),
            &["routes[0].upstream: no upstream is called `other`; known here: `u`, `kubernetes`"],
        ),
        (
            with_route_key("listeners: [kub]"),
            &["routes[0].listeners: no listener is called `kub`; did you mean `kube`?"],
        ),
        (
            with_route_key("listeners: [kube, kube, other]"),
            &[
                "routes[0].listeners[1]: `kube` is listed twice",
                "routes[0].listeners: no listener is called `other`; known here: `kube`",
            ],
        ),
        (
            with_route_key("listeners: []"),
            &["routes[0].listeners: is an empty list: name a listener, or leave the key out for all of them"],
        ),
        // Without its wrong protocol the second route would seem to take what the first one takes.
        (
            with_routes(
                "{ name: x, server_names: [a.example], upstream: u }, \
                 { name: y, server_names: [a.example], upstream: u, alpn: [''] }",
            ),
            &["routes[1].alpn[0]: \"\" is not 1 to 255 bytes long"],
        ),
        // What leads nowhere is compared with other routes all the same.
        (
            with_routes(
                "{ name: x, server_names: [a.example], upstream: u }, { name: y, server_names: [a.example], upstream: v }",
            ),
            &[
                "routes[1].upstream: no upstream is called `v`; known here: `u`, `kubernetes`",
                "routes[1]: routes `x` and `y` match equally: a.example from 0.0.0.0/0 with any protocol: set them apart by \
                 `allow`, `alpn` or `listeners`",
            ],
        ),
        // A wrong upstream is there all the same, and a wrong listener may be the one that is meant.
        (
            "listeners: [{ address: 1 }]\nroutes: [{ server_names: [a.example], upstream: u, listeners: [x] \
               }]\nupstreams: \
             { u: }\n"
                .into(),
            &[
                "listeners[0].address: a port alone is not enough: write `\":1\"` for every address",
                "upstreams.u: expected `key: value` lines, found nothing (leave the key out, or give it a value)",
            ],
        ),
    ]);
}

#[test]
fn after_a_hundred_mistakes_nothing_is_searched_for() {
    let routes: String = (0..300).map(|n| format!("{{ server_names: [a{n}.example], upstream: v{n} }}, ")).collect();
    let mistakes = Config::parse(&with_routes(&routes)).unwrap_err();
    assert_eq!(mistakes.count(), 300);
    let last = mistakes.iter().last().unwrap().to_string();
    assert_eq!(last, "routes[299].upstream: no upstream is called `v299`; look at the mistakes before this one");
}

#[test]
fn nothing_is_there_twice() {
    assert_mistakes(&[
        (
            with_listeners(
                "{ address: ':6443', name: a }, { address: '10.0.0.1:6443', name: b }, { address: ':1', name: a }",
            ),
            &["listeners[2]: is the second listener called `a`, after listeners[0]: give one of them another \
               `name`"][..],
        ),
        (
            with_listeners("{ address: ':6443', name: a }, { address: '[::]:6443', name: b }"),
            &["listeners[1].address: `:6443` is taken by listeners[0] already"],
        ),
        (
            with_listeners("{ address: '0.0.0.0:6443', name: a }, { address: ':6443', name: b }"),
            &["listeners[1].address: `0.0.0.0:6443` and `:6443` both take every IPv4 address: write `v6_only: \
                   true` in \
               listeners[1], or leave `0.0.0.0:6443` out"],
        ),
        (
            with_routes("{ server_names: [a.example], upstream: u }, { server_names: [a.example], upstream: u }"),
            &[
                "routes[1]: is the second route called `a.example`, after routes[0]: give one of them another `name`",
                "routes[1]: routes `a.example` and `a.example` match equally: a.example from 0.0.0.0/0 with any \
                   protocol: set \
                 them apart by `allow`, `alpn` or `listeners`",
            ],
        ),
        (
            with_routes(
                "{ name: x, server_names: ['*.example', b.example], upstream: u, allow: [10.0.0.0/8], alpn: [h2] }, \
                 { name: y, server_names: [b.example, '*.example'], upstream: u, allow: [10.0.0.0/8], \
                 alpn: [http/1.1, h2] }",
            ),
            &["routes[1]: routes `x` and `y` match equally: b.example from 10.0.0.0/8 with protocol h2: set them \
                   apart by \
               `allow`, `alpn` or `listeners`"],
        ),
    ]);
    for fine in [
        "{ address: ':6443', v6_only: true }, { address: '0.0.0.0:6443' }",
        "{ address: ':6443' }, { address: '127.0.0.1:6443' }",
        "{ address: ':0', name: a }, { address: ':0', name: b }, { address: '0.0.0.0:0' }",
    ] {
        valid(&with_listeners(fine));
    }
}

#[test]
fn all_mistakes_come_at_once() {
    let text = "
listeners:
  - address: ':6443'
    client_hello_timeout: 5
    rejct: close
routes:
  - server_names: [a.example, a b]
    upstream: kubernets
    idle_timeout: 1s
    allow: [nowhere]
  - no_server_name: true
upstreams:
  kubernetes:
    endpoints: [apiserver, '10.0.0.7:6443']
    attempts: 0
log: { format: xml }
";
    assert_mistakes(&[(
        text,
        &[
            "listeners[0].client_hello_timeout: needs a unit: write `5s` if seconds are meant",
            "listeners[0].rejct: unknown key; did you mean `reject`?",
            "routes[0].server_names[1]: \"a b\" has a character other than letters, digits, '-' and '_' (write an \
               IDN in its \
             xn-- form)",
            "routes[0].allow[0]: \"nowhere\" is no network: write `203.0.113.0/24`, `2001:db8::/32` or a single \
               address",
            "routes[1].upstream: is missing",
            "upstreams.kubernetes.endpoints[0]: \"apiserver\" has no port: write `apiserver:6443`",
            "upstreams.kubernetes.attempts: expected a whole number from 1 to 10, found the number 0",
            "log.format: unknown value \"xml\"; known here: `json`, `text`",
            "routes[0].idle_timeout: 1s would cut connections that only wait for a moment: raise it to 60s at least, \
               or write \
             `allow_short_idle: true` if it is meant",
            "routes[0].upstream: no upstream is called `kubernets`; did you mean `kubernetes`?",
        ],
    )]);
}

fn with_listener(key: &str) -> String {
    with_listeners(&format!("{{ address: ':6443', {key} }}"))
}

#[test]
fn defaults_are_those_of_the_design() {
    let config = valid(&format!("listeners: [{{ address: ':6443' }}]\n{ROUTES}{UPSTREAMS}"));
    let listener = &config.listeners[0];
    assert_eq!(&*listener.name, ":6443");
    assert_eq!(listener.address.socket_addr(), "[::]:6443".parse().unwrap());
    assert!(!listener.v6_only);
    assert_eq!(listener.reject, Reject::Alert);
    assert_eq!(listener.client_hello_timeout, Duration::from_secs(5));
    assert_eq!(listener.max_client_hello, 16_384);
    assert!(listener.sources.admits([203, 0, 113, 9].into()));
    let route = &config.routes[0];
    assert_eq!(&*route.name, "a.example");
    assert!(!route.no_server_name && route.listeners.is_none() && route.alpn.is_empty() && !route.allow_short_idle);
    assert_eq!(route.idle_timeout, Duration::from_hours(24));
    assert_eq!(route.half_close_timeout, Duration::from_secs(60));
    assert!(route.sources.admits([203, 0, 113, 9].into()));
    let upstream = &config.upstreams[route.upstream.0];
    assert_eq!(&*upstream.name, "u");
    assert_eq!((upstream.connect_timeout, upstream.attempts.get()), (Duration::from_secs(3), 3));
    assert_eq!(upstream.user_timeout, Duration::from_secs(120));
    assert_eq!((upstream.balance, upstream.slow_start), (Balance::LeastConnections, Duration::from_secs(30)));
    assert_eq!(upstream.max_connecting.get(), 256);
    assert_eq!(upstream.on_removed, Established::Keep);
    assert_eq!((config.on_route_change, config.routes[0].on_route_change), (Established::Keep, None));
    assert_eq!(config.dns, Dns { servers: Vec::new() });
    let address = EndpointAddress::Ip(([10, 0, 0, 7], 6443).into());
    assert_eq!(upstream.endpoints, [Endpoint { address, weight: 1, backup: false }]);
    assert_eq!(config.log, Log { format: LogFormat::Json, level: tracing::Level::INFO, access: true });
    assert_eq!(Some(config.workers), std::thread::available_parallelism().ok());
    assert_eq!(config.power, Power { user: None, sandbox: Sandbox::Auto, sandbox_ports: false });
    assert_eq!(config.warnings.len(), 1, "only of the unused upstream: {:?}", config.warnings);
}

#[test]
fn values_mean_what_they_say() {
    let config = valid(
        "
listeners:
  - { address: '[::1]:0', name: one, reject: reset, client_hello_timeout: 1m, max_client_hello: 64 KiB, deny: [] }
  - { address: '0.0.0.0:443', reject: close, max_client_hello: 600B, allow: [10.0.0.0/8], deny: ['10.0.0.1'] }
routes:
  - { no_server_name: true, upstream: b, listeners: [one], alpn: [h2, http/1.1], idle_timeout: 1m 30s }
  - { server_names: ['*.A.example.', '*'], upstream: a, half_close_timeout: 1.5s, on_route_change: keep }
upstreams:
  a: { endpoints: ['[2001:db8::1]:1', { address: 'Host.example.:2', weight: 256, backup: true }], user_timeout: 0 }
  b:
    endpoints: [host:3, { srv: _Api._tcp.Example., backup: true }, { srv: api.service.consul }]
    attempts: 1
    connect_timeout: 10ms
    balance: random
    slow_start: 0
    max_connecting: 9
    source_addresses: ['2001:DB8::8', 10.0.0.8]
    on_removed: close
on_route_change: close
dns: { servers: ['10.0.0.2:8600', 10.0.0.3, '[2001:db8::1]:53', '2001:db8::2'] }
log: { format: text, level: debug, access: false }
workers: 7
user: 65534:65533
sandbox: require
upgrade_socket: /run/snigate/upgrade.sock
",
    );
    let [one, other] = &config.listeners[..] else { panic!("two listeners") };
    assert_eq!((one.reject, other.reject), (Reject::Reset, Reject::Close));
    assert_eq!((one.max_client_hello, other.max_client_hello), (65_536, 600));
    assert_eq!(&*other.name, "0.0.0.0:443");
    assert!(other.sources.admits([10, 0, 0, 2].into()) && !other.sources.admits([10, 0, 0, 1].into()));
    let [nameless, wide] = &config.routes[..] else { panic!("two routes") };
    assert_eq!((&*nameless.name, &*wide.name), ("no_server_name", "*.a.example"));
    assert_eq!((nameless.upstream.0, wide.upstream.0), (1, 0));
    assert_eq!(nameless.idle_timeout, Duration::from_secs(90));
    assert_eq!(wide.half_close_timeout, Duration::from_millis(1500));
    let addresses: Vec<String> = config.upstreams[0].endpoints.iter().map(|one| one.address.to_string()).collect();
    assert_eq!(addresses, ["[2001:db8::1]:1", "host.example.:2"]);
    assert_eq!(config.upstreams[0].user_timeout, Duration::ZERO);
    let b = &config.upstreams[1];
    assert_eq!((b.balance, b.slow_start, b.max_connecting.get()), (Balance::Random, Duration::ZERO, 9));
    let sources: Vec<String> = b.source_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(sources, ["2001:db8::8", "10.0.0.8"]);
    let [_, backup, consul] = &config.upstreams[1].endpoints[..] else { panic!("three endpoints") };
    assert_eq!(backup.address, EndpointAddress::Service("_api._tcp.example.".into()));
    assert_eq!((backup.backup, consul.backup), (true, false));
    assert_eq!(config.upstreams[1].on_removed, Established::Close);
    assert_eq!((wide.on_route_change, nameless.on_route_change), (Some(Established::Keep), None));
    assert_eq!(config.on_route_change, Established::Close);
    let servers: Vec<String> = config.dns.servers.iter().map(SocketAddr::to_string).collect();
    assert_eq!(servers, ["10.0.0.2:8600", "10.0.0.3:53", "[2001:db8::1]:53", "[2001:db8::2]:53"]);
    assert_eq!(config.log, Log { format: LogFormat::Text, level: tracing::Level::DEBUG, access: false });
    assert_eq!(config.workers.get(), 7);
    let user = Some(User::Numbers(65_534, 65_533));
    assert_eq!(config.power, Power { user, sandbox: Sandbox::Require, sandbox_ports: false });
    assert_eq!(config.upgrade_socket.as_deref(), Some(Path::new("/run/snigate/upgrade.sock")));
    // Each listener has its own table.
    let nobody = crate::hello::Sni::Absent;
    let h2 = ["h2".parse().unwrap()];
    let decide = |listener: &Listener| match listener.table.decide(&nobody, &h2, [10, 0, 0, 2].into()) {
        crate::routing::Decision::Route(route) => Some(route.name.to_string()),
        crate::routing::Decision::Refuse(_) => None,
    };
    assert_eq!((decide(one).as_deref(), decide(other)), (Some("no_server_name"), None));
}

#[test]
fn warnings_name_what_is_hardly_meant() {
    let text = "
listeners:
  - { address: ':6443', name: kube }
  - { address: '127.0.0.1:7443', name: idle, v6_only: false }
routes:
  - { name: any, server_names: ['*'], upstream: u, listeners: [kube], idle_timeout: 10m }
  - { name: b, server_names: [b.example], upstream: u, listeners: [kube], idle_timeout: 10s, allow_short_idle: true }
  - { name: nobody, server_names: [a.example], upstream: u, listeners: [kube], allow: [10.0.0.0/8], deny: [10.0.0.0/8] }
upstreams:
  u: { endpoints: ['127.0.0.1:6443', 'localhost:7443', '10.0.0.1:6443', '[::1]:7443'], attempts: 4 }
  spare: { endpoints: ['10.0.0.1:6443'], connect_timeout: 10s }
";
    let warnings: Vec<String> = valid(text).warnings.iter().map(Warning::to_string).collect();
    assert_eq!(
        warnings,
        [
            "listeners[1]: no route uses it: every client is refused there",
            "routes[0].server_names: `*` takes every name that no other route has, also names that are none of yours",
            "routes[0].idle_timeout: 10m without a byte cuts `kubectl logs -f` of a container that logs nothing for \
               so long",
            "routes[2]: route `nobody` is never reached for a.example: its `allow` and `deny` admit no source",
            "upstreams.u.endpoints[0]: `127.0.0.1:6443` is our own listener `kube`: connections would go in circles",
            "upstreams.u.endpoints[1]: `localhost:7443` is our own listener `idle`: connections would go in circles",
            "upstreams.u.connect_timeout: connecting may take 12s (4 attempts of 3s), but clients give up after 10s \
               (Go's handshake timeout), so \
             attempts end after 9s",
            "upstreams.spare: no route uses it",
            "upstreams.spare.connect_timeout: connecting may take 10s (1 attempt of 10s), but clients give up after \
               10s (Go's handshake \
             timeout), so attempts end after 9s",
        ]
    );
}

#[test]
fn a_route_that_one_listener_reaches_is_not_shadowed() {
    let text = "
listeners: [{ address: ':1', name: inside, allow: [10.0.0.0/8] }, { address: ':2', name: outside }]
routes:
  - { name: office, server_names: [a.example], upstream: u, allow: [10.0.0.0/8] }
  - { name: rest, server_names: [a.example], upstream: u }
upstreams: { u: { endpoints: ['10.0.0.7:6443'] } }
";
    assert_eq!(valid(text).warnings, []);
    let alone = text.replace(", { address: ':2', name: outside }", "");
    let warnings: Vec<String> = valid(&alone).warnings.iter().map(Warning::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("routes[1]: route `rest` is never reached for a.example: "), "{warnings:?}");
}

#[test]
fn an_upgrade_socket_has_a_path_that_fits() {
    let long = format!("/{}", "a".repeat(94));
    assert_eq!(valid(&with_top(&format!("upgrade_socket: {long}"))).upgrade_socket, Some(long.clone().into()));
    assert_eq!(valid(&with_top("")).upgrade_socket, None);
    assert_mistakes(&[
        (
            with_top("upgrade_socket: upgrade.sock"),
            &[
                "upgrade_socket: \"upgrade.sock\" is no absolute path: it would depend on the folder that snigate is started in",
            ][..],
        ),
        (with_top("upgrade_socket: /"), &["upgrade_socket: / names no file"]),
        (
            with_top(&format!("upgrade_socket: {long}a")),
            &["upgrade_socket: has 96 bytes, and the path of a socket has 95 at most"],
        ),
    ]);
}

#[test]
fn users_and_ports_of_the_sandbox_are_known() {
    for name in ["nobody", "www-data", "_snigate", "a.b$", "7up"] {
        assert_eq!(valid(&with_top(&format!("user: '{name}'"))).power.user, Some(User::Name(name.into())));
    }
    let long = "user: aaaaaaaaaabbbbbbbbbbccccccccccddd";
    assert_mistakes(&[
        (with_top("user: 1000"), &["user: lacks the group: write `1000:1000` if that is its number too"]),
        (
            with_top("user: '1000'"),
            &["user: \"1000\" lacks the group: write the numbers of both, such as `65534:65534`"],
        ),
        (
            with_top("user: 'nobody:nogroup'"),
            &["user: \"nobody:nogroup\" is no user: write a name, or the numbers of user and group, such as \
               `65534:65534`"],
        ),
        (
            with_top("user: '4294967295:1'"),
            &["user: \"4294967295:1\" is no user: write a name, or the numbers of user and group, such as \
               `65534:65534`"],
        ),
        (with_top("user: a b"), &["user: \"a b\" is no name of a user: write one such as `nobody`"]),
        (with_top("user: '-a'"), &["user: \"-a\" is no name of a user: write one such as `nobody`"]),
        (
            with_top(long),
            &["user: \"aaaaaaaaaabbbbbbbbbbccccccccccddd\" is no name of a user: write one such as `nobody`"],
        ),
        (with_top("sandbox: on"), &["sandbox: unknown value \"on\"; known here: `auto`, `off`, `require`"]),
        (with_top("sandbox_ports: [1]"), &["sandbox_ports: expected `true` or `false`, found a list"]),
        (
            with_top("sandbox: off\nsandbox_ports: true"),
            &["sandbox_ports: is a part of the sandbox, and that is off: keep one of the two keys"],
        ),
        (
            with_endpoints("srv: _api._tcp.example") + "sandbox_ports: true\n",
            &["sandbox_ports: SRV records of `_api._tcp.example` bring ports that are not known yet: leave \
               `sandbox_ports` out, or give that endpoint an `address`"],
        ),
        (
            with_listeners("{ address: ':0' }") + "sandbox_ports: true\n",
            &["sandbox_ports: port 0 of `:0` stands for one that is not known yet: leave `sandbox_ports` out, or \
               choose a port"],
        ),
    ]);
}

fn assert_prints_back(text: &str) {
    let printed = valid(text).to_string();
    let again = valid(&printed);
    assert_eq!(again.to_string(), printed);
    assert_eq!(format!("{:?}", valid(text)), format!("{again:?}"));
}

#[test]
fn the_effective_configuration_parses_back_to_itself() {
    assert_prints_back(&with_top(""));
    assert_prints_back(&with_top("log: { level: trace, format: text, access: false }\nworkers: 3"));
    assert_prints_back(&with_route_key(
        "alpn: [h2, 'ü\"\\', \"\\0\\x7f\\u2028\"], allow: [10.0.0.0/8, '::/0'], deny: [10.0.0.1], listeners: [kube]",
    ));
    assert_prints_back(&with_route_key(
        "allow_short_idle: true, idle_timeout: 10500us, half_close_timeout: 90s, name: '#\"\\'",
    ));
    assert_prints_back(&with_routes("{ no_server_name: true, upstream: u }"));
    assert_prints_back(&with_listeners("{ address: ':6443', v6_only: true, max_client_hello: 1000B, reject: reset }"));
    for (balance, _) in upstream::BALANCE {
        assert_prints_back(&with_upstream_key(&format!("balance: {balance}, slow_start: 90s, max_connecting: 7")));
    }
    assert_prints_back(&with_upstream_key("slow_start: 0"));
    assert_prints_back(&with_upstream_key("source_addresses: [10.0.0.8, '2001:db8::8']"));
    assert_prints_back(&with_upstreams(
        "{ u: { endpoints: [{ address: '[::1]:1', weight: 3, backup: true }, a.example.:2], user_timeout: 0 }, \
           'null': { endpoints: [a:1, { srv: _api._tcp.example, backup: true }], on_removed: close } }",
    ));
    assert_prints_back(&with_top("dns: { servers: ['[::1]:8600', 10.0.0.2] }"));
    assert_prints_back(&with_top("dns: {}"));
    assert_prints_back(&with_top("user: nobody\nsandbox_ports: true"));
    assert_prints_back(&with_top("on_route_change: close"));
    assert_prints_back(&with_route_key("on_route_change: keep"));
    assert_prints_back(&with_top("user: '0:0'\nsandbox: off"));
}

#[test]
fn the_example_is_complete_and_right() {
    let text = include_str!("../../deploy/snigate.example.yaml");
    let config = valid(text);
    assert_eq!(config.warnings, []);
    // Every key that is printed, which is every key there is, stands in the example, in force or in a comment.
    for line in config.to_string().lines() {
        let Some((key, _)) = line.trim_start_matches([' ', '-', '#', '{']).split_once(':') else { continue };
        assert!(key.starts_with('"') || text.contains(&format!("{key}:")), "{key} is not in the example");
    }
    assert_prints_back(text);
}

#[test]
fn an_unreadable_file_is_told_by_its_path() {
    let error = Config::load(Path::new("/nonexistent/snigate.yaml")).unwrap_err();
    assert!(error.to_string().starts_with("cannot read the configuration /nonexistent/snigate.yaml: "), "{error}");
}

/// Text that is nearly a configuration: lines of one, cut, doubled, reordered and with a few letters changed.
fn nearly_valid() -> impl Strategy<Value = String> {
    let lines: Vec<&str> = include_str!("../../deploy/snigate.example.yaml").lines().collect();
    let line = (0..lines.len(), any::<prop::sample::Index>(), proptest::option::of(any::<char>()));
    proptest::collection::vec(line, 0..60).prop_map(move |picks| {
        let mutated = picks.into_iter().map(|(line, at, letter)| {
            let mut text: Vec<char> = lines[line].chars().collect();
            if let Some(letter) = letter.filter(|_| !text.is_empty()) {
                let at = at.index(text.len());
                text[at] = letter;
            }
            text.into_iter().collect::<String>()
        });
        mutated.collect::<Vec<_>>().join("\n")
    })
}

/// The example with values replaced by others.
fn odd_values() -> impl Strategy<Value = String> {
    let words =
        ["", "0", "-1", "1e400", "true", "null", "~", "[]", "{}", "[[]]", "'*'", "&a x", "*a", "!t x", "0x7f", "5s"];
    let value = prop_oneof![proptest::sample::select(words.to_vec()).prop_map(str::to_owned), "\\PC{0,12}"];
    let lines = include_str!("../../deploy/snigate.example.yaml").lines().collect::<Vec<_>>();
    (proptest::collection::vec((0..lines.len(), value), 1..6)).prop_map(move |replaced| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        for (line, value) in replaced {
            if let Some((key, _)) = lines[line].clone().split_once(':') {
                lines[line] = format!("{key}: {value}");
            }
        }
        lines.join("\n")
    })
}

proptest! {
    #[test]
    fn no_text_panics(text in prop_oneof!["\\PC{0,200}", ".{0,200}", nearly_valid(), odd_values()]) {
        // What is accepted also prints, and parses back.
        if let Ok(config) = Config::parse(&text) {
            let printed = config.to_string();
            prop_assert_eq!(Config::parse(&printed).map(|again| again.to_string()), Ok(printed));
        }
    }
}
