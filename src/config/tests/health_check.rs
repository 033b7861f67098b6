use std::fs;
use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;

/// A folder with `a.pem`, its key `a.key`, and `other.key`.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let certificate = CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(folder.path().join("a.pem"), certificate.pem()).unwrap();
        fs::write(folder.path().join("a.key"), key.serialize_pem()).unwrap();
        fs::write(folder.path().join("other.key"), other.serialize_pem()).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A configuration with this health check, in which `@/` stands for the folder.
    fn checked(&self, check: &str) -> String {
        let folder = format!("{}/", self.0.path().display());
        with_upstream_key(&format!("health_check: {{ {} }}", check.replace("@/", &folder)))
    }

    /// The mistakes of such a configuration, short of what is the same in all.
    fn mistakes(&self, check: &str) -> Vec<String> {
        let Err(mistakes) = Config::parse(&self.checked(check)) else { return Vec::new() };
        let folder = format!("{}/", self.0.path().display());
        let short = |mistake: &Mistake| mistake.to_string().replace(&folder, "@/");
        mistakes.iter().map(|one| short(one).replace("upstreams.u.health_check", "it")).collect()
    }
}

const PIN: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn check_of(config: &Config) -> &HealthCheck {
    config.upstreams[0].health_check.as_ref().unwrap()
}

#[test]
fn every_question_is_read_with_its_defaults() {
    let files = Files::new();
    let config = valid(&files.checked("tcp: {}"));
    let (interval, timeout) = (Duration::from_secs(5), Duration::from_secs(3));
    assert_eq!(check_of(&config), &HealthCheck { question: Question::Tcp, interval, timeout, rise: 2, fall: 2 });
    assert_eq!(check_of(&config).time_to_notice(), Duration::from_secs(13));
    assert_eq!(config.upstreams[0].on_unhealthy, Established::Keep);

    let config = valid(&files.checked("tls: {}, interval: 1s, rise: 3, fall: 1"));
    let check = check_of(&config);
    assert_eq!(check.question, Question::Tls(TlsQuestion::default()));
    assert!(!check.asks_for_proof());
    // The default gives way to a shorter interval.
    assert_eq!((check.timeout, check.rise, check.fall), (Duration::from_secs(1), 3, 1));
    assert_eq!(check.time_to_notice(), Duration::from_secs(2));

    let all = format!(
        "https: {{ path: '/readyz?verbose', statuses: [200, 403], ca_file: '@/a.pem', server_name: Kubernetes., \
         client_certificate: '@/a.pem', client_key: '@/a.key', pins: ['{PIN}'] }}"
    );
    let config = valid(&files.checked(&all));
    let Question::Https(tls, http) = &check_of(&config).question else { panic!("https") };
    assert_eq!((&*http.path, &http.statuses[..]), ("/readyz?verbose", &[200, 403][..]));
    assert_eq!(tls.authorities, Some(Authorities::File(files.path("a.pem"))));
    assert_eq!(tls.server_name.as_ref().unwrap().to_str(), "kubernetes");
    let client = ClientFiles { certificate: files.path("a.pem"), key: files.path("a.key") };
    assert_eq!((&tls.client, tls.pins[0].to_string()), (&Some(client), PIN.to_owned()));
    assert!(check_of(&config).asks_for_proof());

    let config = valid(&files.checked("https: { path: / }"));
    let Question::Https(_, http) = &check_of(&config).question else { panic!("https") };
    assert_eq!(http.statuses, [200]);
    let pinned = valid(&files.checked(&format!("tls: {{ pins: ['{PIN}'] }}")));
    assert!(check_of(&pinned).asks_for_proof());
    let by_address = valid(&files.checked("tls: { ca_file: '@/a.pem', server_name: '10.0.0.7' }"));
    assert_eq!(check_of(&by_address).tls().unwrap().server_name.as_ref().unwrap().to_str(), "10.0.0.7");
}

#[test]
fn mistakes_have_their_remedy() {
    let files = Files::new();
    let one_of = "give it one of `tcp: {}`, `tls: {…}` and `https: {…}`";
    let pin = "is no pin: write `sha256:` and the 64 hexadecimal digits of `openssl x509 -pubkey -noout -in \
               CERTIFICATE | openssl pkey -pubin -outform der | openssl dgst -sha256`";
    for (check, expected) in [
        ("", &[format!("it: does not say what to ask: {one_of}")][..]),
        ("tcp: {}, tls: {}", &[format!("it: asks more than one question: {one_of}")]),
        ("tcp: { port: 1 }", &["it.tcp.port: unknown key; there is none".to_owned()]),
        ("https: {}", &["it.https.path: is missing".to_owned()]),
        (
            "https: { path: readyz }",
            &["it.https.path: \"readyz\" is no path: write one as it stands in a request, such as `/readyz`".to_owned()],
        ),
        (
            "https: { path: \"/a b\\r\\n\", statuses: [] }",
            &[
                "it.https.path: \"/a b\\r\\n\" is no path: write one as it stands in a request, such as `/readyz`"
                    .to_owned(),
                "it.https.statuses: is an empty list: name a status, or leave the key out for 200".to_owned(),
            ],
        ),
        (
            "https: { path: /, statuses: [100, 200, 200] }",
            &[
                "it.https.statuses[0]: expected an HTTP status from 200 to 599, found the number 100".to_owned(),
                "it.https.statuses[2]: `200` is listed twice".to_owned(),
            ],
        ),
        ("tls: { ca_file: '@/a.pem' }", &["it.tls.server_name: is missing".to_owned()]),
        (
            "tls: { ca_file: a.pem, server_name: a.test }",
            &["it.tls.ca_file: \"a.pem\" is no absolute path: it would depend on the folder that snigate is started in"
                .to_owned()],
        ),
        (
            "tls: { ca_file: '@/none.pem', server_name: a.test }",
            &["it.tls.ca_file: @/none.pem does not exist".to_owned()],
        ),
        (
            "tls: { ca_file: '@/a.key', server_name: '*.a.test' }",
            &[
                "it.tls.ca_file: @/a.key has no certificate in PEM form".to_owned(),
                "it.tls.server_name: \"*.a.test\" has a character other than letters, digits, '-' and '_' (write an IDN \
                 in its xn-- form)"
                    .to_owned(),
            ],
        ),
        (
            "tls: { ca_file: '@/a.pem', system_roots: true, server_name: a.test }",
            &["it.tls.system_roots: is one way to say whom to trust, and `ca_file` is another: keep one of them"
                .to_owned()],
        ),
        (
            "tls: { client_certificate: '@/a.pem' }",
            &["it.tls.client_certificate: needs its `client_key` beside it".to_owned()],
        ),
        ("tls: { client_key: '@/a.key' }", &["it.tls.client_key: needs its `client_certificate` beside it".to_owned()]),
        (
            "tls: { client_certificate: '@/a.pem', client_key: '@/other.key' }",
            &["it.tls.client_key: @/other.key is not the key of @/a.pem".to_owned()],
        ),
        ("tls: { pins: ['sha256:00'] }", &[format!("it.tls.pins[0]: \"sha256:00\" {pin}")]),
        (
            "tcp: {}, interval: 2s, timeout: 3s",
            &["it.timeout: 3s is longer than the interval of 2s: one probe ends before the next".to_owned()],
        ),
        ("tcp: {}, interval: 10ms", &["it.interval: \"10ms\" is not within 100ms to 1h".to_owned()]),
        ("tcp: {}, fall: 0", &["it.fall: expected a whole number from 1 to 100, found the number 0".to_owned()]),
    ] {
        assert_eq!(files.mistakes(check), expected, "{check}");
    }
    assert_mistakes(&[(
        with_upstream_key("on_unhealthy: cut"),
        &["upstreams.u.on_unhealthy: unknown value \"cut\"; known here: `keep`, `close`"],
    )]);
}

#[test]
fn checks_that_prove_or_do_nothing_are_warned_of() {
    let files = Files::new();
    let warned = |text: &str| {
        let warnings = valid(text).warnings;
        warnings.iter().any(|warning| warning.path.starts_with("upstreams.u.health_check"))
    };
    assert!(warned(&files.checked("tls: { server_name: a.test }")));
    assert!(warned(&files.checked("https: { path: / }")));
    assert!(!warned(&files.checked("tcp: {}")));
    assert!(!warned(&files.checked("tls: { ca_file: '@/a.pem', server_name: a.test }")));
    assert!(!warned(&files.checked(&format!("tls: {{ pins: ['{PIN}'] }}"))));
    let idle = valid(&with_upstream_key("on_unhealthy: close")).warnings;
    assert_eq!(
        idle.iter().map(Warning::to_string).collect::<Vec<_>>(),
        ["upstreams.u.on_unhealthy: has nothing to act on without a `health_check`"]
    );
}

#[test]
fn every_check_prints_back() {
    let files = Files::new();
    assert_prints_back(&files.checked("tcp: {}, interval: 700ms, timeout: 50ms, rise: 1, fall: 9"));
    assert_prints_back(&files.checked("tls: {}"));
    assert_prints_back(&files.checked(&format!("tls: {{ pins: ['{PIN}'] }}")));
    assert_prints_back(&files.checked(
        "https: { path: '/\"', ca_file: '@/a.pem', server_name: '2001:db8::1', statuses: [204, 200], \
         client_certificate: '@/a.pem', client_key: '@/a.key' }",
    ));
    assert_prints_back(&with_upstream_key("on_unhealthy: close"));
}

#[test]
fn the_check_of_the_example_is_right() {
    let files = Files::new();
    let example = include_str!("../../../deploy/snigate.example.yaml");
    // As it stands there, every comment that is a key made one, with the files of this test.
    let (before, rest) = example.split_once("    # health_check:").unwrap();
    let (check, after) = rest.split_once("    on_unhealthy").unwrap();
    let keys = check.lines().filter_map(|line| {
        let (line, text) = (line.replacen("    # ", "    ", 1), line.trim_start_matches([' ', '#']));
        let (key, _) = text.split_once(':')?;
        let is_key = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let indent = line.len() - line.trim_start().len();
        // Either of two ways to name authorities.
        (is_key && key != "system_roots").then(|| format!("{}{text}\n", " ".repeat(indent)))
    });
    let mut check: String = keys.collect();
    for (named, file) in [("kubernetes-ca.pem", "a.pem"), ("probe.pem", "a.pem"), ("probe.key", "a.key")] {
        check = check.replace(&format!("/etc/snigate/{named}"), files.path(file).to_str().unwrap());
    }
    let text = format!("{before}    health_check:\n{check}    on_unhealthy{after}");
    let config = valid(&text);
    let printed = config.to_string();
    for key in ["path", "statuses", "ca_file", "server_name", "client_certificate", "client_key", "pins"] {
        assert!(printed.contains(&format!("\n        {key}: ")), "{key} is not in the example\n{printed}");
    }
    let check = check_of(&config);
    assert_eq!((check.rise, check.fall, check.time_to_notice()), (2, 2, Duration::from_secs(13)));
}
