use super::*;

#[test]
fn trusted_proxies_are_read() {
    let config = valid(&with_listener_key("proxy_protocol: { trusted: [10.0.0.0/8, '2001:db8::5'] }"));
    let trusted = &config.listeners[0].proxy_protocol.as_ref().unwrap().sources;
    for (source, is_trusted) in [
        ("10.1.2.3", true),
        ("::ffff:10.1.2.3", true),
        ("2001:db8::5", true),
        ("2001:db8::6", false),
        ("192.0.2.1", false),
    ] {
        assert_eq!(trusted.admits(source.parse().unwrap()), is_trusted, "{source}");
    }
    assert!(valid(&with_top("")).listeners[0].proxy_protocol.is_none());
    assert_eq!(config.warnings, valid(&with_top("")).warnings);
    assert_prints_back(&with_listener_key("proxy_protocol: { trusted: [10.0.0.0/8, '2001:db8::5'] }"));
}

#[test]
fn whom_to_trust_must_be_said() {
    let of = |key: &str| with_listener_key(&format!("proxy_protocol: {key}"));
    assert_mistakes(&[
        (of("{}"), &["listeners[0].proxy_protocol.trusted: is missing"][..]),
        (
            of("{ trusted: [] }"),
            &[
                "listeners[0].proxy_protocol.trusted: is an empty list: nobody could connect; name the proxies, or leave \
               `proxy_protocol` out",
            ],
        ),
        (
            of("{ trusted: [10.0.0.1/8] }"),
            &["listeners[0].proxy_protocol.trusted[0]: \"10.0.0.1/8\" has address bits behind its prefix: write \
               `10.0.0.0/8`, or `10.0.0.1` for that host alone"],
        ),
        (
            of("{ trusted: [10.0.0.1, 10.0.0.1/32] }"),
            &["listeners[0].proxy_protocol.trusted[1]: `10.0.0.1/32` is listed twice"],
        ),
        (of("{ trust: [10.0.0.1] }"), &["listeners[0].proxy_protocol.trust: unknown key; did you mean `trusted`?"]),
        // As others have it.
        (
            of("true"),
            &["listeners[0].proxy_protocol: expected whom to trust, such as `{ trusted: [10.0.0.0/8] }`, found `true`"],
        ),
        (
            of("v2"),
            &[
                "listeners[0].proxy_protocol: expected whom to trust, such as `{ trusted: [10.0.0.0/8] }`, found the text \
               \"v2\"",
            ],
        ),
    ]);
}

#[test]
fn trusting_everybody_is_warned_of() {
    for everybody in ["0.0.0.0/0", "'::/0'"] {
        let config = valid(&with_listener_key(&format!("proxy_protocol: {{ trusted: [10.0.0.1, {everybody}] }}")));
        let warning = &config.warnings[0];
        assert_eq!(warning.path, "listeners[0].proxy_protocol.trusted");
        assert!(warning.message.starts_with("everybody is believed"), "{warning}");
    }
}

#[test]
fn an_upstream_says_which_version_it_expects() {
    for (word, version) in ANNOUNCED_WORDS {
        let text = with_upstream_key(&format!("proxy_protocol: {word}"));
        assert_eq!(valid(&text).upstreams[0].proxy_protocol, version);
        assert_prints_back(&text);
    }
    assert_eq!(valid(&with_top("")).upstreams[0].proxy_protocol, None);
    assert_mistakes(&[(
        with_upstream_key("proxy_protocol: v3"),
        &["upstreams.u.proxy_protocol: unknown value \"v3\"; did you mean `v1`?"],
    )]);
}

const ANNOUNCED_WORDS: [(&str, Option<Version>); 3] =
    [("none", None), ("v1", Some(Version::V1)), ("v2", Some(Version::V2))];

#[test]
fn a_kube_apiserver_that_is_told_is_warned_of() {
    let warned = |endpoint: &str, keys: &str| {
        let upstream = format!("{{ u: {{ endpoints: ['{endpoint}'], {keys} }} }}");
        let config = valid(&with_upstreams(&upstream));
        let mut warnings = config.warnings.into_iter().filter(|warning| warning.path == "upstreams.u.proxy_protocol");
        warnings.next().map(|warning| warning.message)
    };
    let readyz = "health_check: { https: { path: '/readyz?verbose' } }";
    let by_path = warned("10.0.0.7:443", &format!("proxy_protocol: v2, {readyz}")).unwrap();
    assert!(by_path.starts_with("it is asked for /readyz?verbose, as a kube-apiserver does, and"), "{by_path}");
    for endpoint in ["10.0.0.7:6443", "api.example:6443"] {
        let by_port = warned(endpoint, "proxy_protocol: v1").unwrap();
        assert!(by_port.starts_with("it listens on 6443, as a kube-apiserver does, and"), "{by_port}");
    }
    for (endpoint, keys) in [
        ("10.0.0.7:443", "proxy_protocol: v2"),
        ("10.0.0.7:6443", readyz),
        // A probe shows by itself whether the header is understood.
        ("10.0.0.7:6443", "proxy_protocol: v2, health_check: { tls: {} }"),
        ("10.0.0.7:6443", "proxy_protocol: v2, health_check: { https: { path: /status } }"),
    ] {
        assert_eq!(warned(endpoint, keys), None, "{endpoint} {keys}");
    }
}
