//! `snigate check --probe`, as a shell sees it.

use std::fs;
use std::process::Command;

use crate::support::certs::Authority;
use crate::support::gate::{Gate, routing};
use crate::support::tcp::{Refusing, Upstream};
use crate::support::tls::{Service, Talk};
use crate::support::tools::{self, Run};

const ROUTES: &str = "
listeners: [{ address: ':6443' }]
routes:
  - { server_names: [a.test], upstream: first }
  - { server_names: [b.test], upstream: second }
upstreams:
";

/// Runs `check` with these upstreams, believing `authority` as the system's.
fn check(authority: &Authority, upstreams: &str, arguments: &[&str]) -> Run {
    let file = authority.folder().join("snigate.yaml");
    fs::write(&file, format!("{ROUTES}{upstreams}")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_snigate"));
    command.args(["check", "--config"]).arg(file).args(arguments).env("SSL_CERT_FILE", authority.file());
    tools::run(&mut command, "")
}

/// The table's lines, every run of two and more spaces one bar, and each word of `replaced` by another.
fn table(run: &Run, replaced: &[(&str, &str)]) -> Vec<String> {
    let text = run.stdout.split("\n\n").nth(1).unwrap_or_else(|| panic!("no table\n{}{}", run.stdout, run.stderr));
    let columns =
        |line: &str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join("|");
    let replace = |line: String| replaced.iter().fold(line, |line, (from, to)| line.replace(from, to));
    text.lines().map(columns).map(replace).collect()
}

const HEADER: &str = "UPSTREAM|ENDPOINT|ADDRESS|REACHABLE|CERTIFICATE FOR|ISSUER|EXPIRES|VERDICT";

#[test]
fn a_table_says_who_answered() {
    let authority = Authority::new();
    let identity = authority.server(&["a.test", "kubernetes", "x1.test", "x2.test", "x3.test", "10.0.0.1"]);
    let talk = Talk::Script(vec!["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(); 2]);
    let server = Service { talk, ..Service::echo(&identity) }.start();
    let second = authority.server(&["b.test"]);
    let second = Service::echo(&second).start();
    let (one, two) = (server.address().to_string(), second.address().to_string());
    let upstreams = format!(
        "  first: {{ endpoints: ['{one}'], health_check: {{ timeout: 5s, https: {{ path: /readyz, system_roots: true, \
         server_name: kubernetes }} }} }}\n  second: {{ endpoints: ['{two}'], connect_timeout: 9s }}\n"
    );
    let run = check(&authority, &upstreams, &["--probe"]);
    assert_eq!(run.status.code(), Some(0), "{}{}", run.stdout, run.stderr);
    assert!(
        run.stdout.starts_with(&format!("{}: ok, 1 listener, ", authority.folder().join("snigate.yaml").display()))
    );
    let notice = "\nfirst: an endpoint that goes is noticed within 15s (2 × 5s + 5s); a kube-apiserver needs a \
                  --shutdown-delay-duration above 15s\n";
    assert!(run.stdout.contains(notice), "{}", run.stdout);
    assert_eq!(
        table(&run, &[(&one, "ONE"), (&two, "TWO")]),
        [
            HEADER,
            "first|ONE|ONE|yes|a.test, kubernetes, x1.test, x2.test and 2 more|CN=snigate test authority|4096-01-01|ok",
            "second|TWO|TWO|yes|b.test|CN=snigate test authority|4096-01-01|ok, not verified",
        ]
    );
    assert_eq!(run.stderr, "");
    // Without a check the name that its clients ask for is sent.
    assert_eq!(second.facts(0).server_name.as_deref(), Some("b.test"));

    let quiet = check(&authority, &upstreams, &[]);
    assert!(quiet.status.success() && quiet.stdout.contains(notice) && !quiet.stdout.contains("VERDICT"));
    assert_eq!(server.handshakes() + second.handshakes(), 2, "nobody is asked without --probe");
}

#[test]
fn whatever_is_not_well_fails_and_says_why() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (identity, expired) = (other.server(&["a.test"]), authority.expired(&["a.test"]));
    let unknown = Service::echo(&identity).start();
    let old = Service::echo(&expired).start();
    let (plain, refusing) = (Upstream::answering(1, "220 mail.test ESMTP\r\n"), Refusing::new());
    let [unknown, old, plain, dead] =
        [unknown.address(), old.address(), plain.address(), refusing.address()].map(|address| address.to_string());
    let upstreams = format!(
        "  first: {{ endpoints: ['{unknown}', '{old}', '{plain}', '{dead}', 'nowhere.invalid:1'], health_check: \
         {{ interval: 1m, timeout: 30s, tls: {{ ca_file: '{}', server_name: a.test }} }} }}\n  \
         second: {{ endpoints: ['{old}'], connect_timeout: 9s }}\n",
        authority.file().display()
    );
    let run = check(&authority, &upstreams, &["--probe"]);
    assert_eq!(run.status.code(), Some(1), "{}{}", run.stdout, run.stderr);
    let names = [(&*unknown, "UNKNOWN"), (&*old, "OLD"), (&*plain, "PLAIN"), (&*dead, "DEAD")];
    let rows = table(&run, &names);
    let issuer = "CN=snigate test authority";
    let refused = |address, day, why| {
        format!("first|{address}|{address}|yes|a.test|{issuer}|{day}|not who it should be: the certificate {why}")
    };
    assert_eq!(rows[0], HEADER);
    assert_eq!(rows[1], refused("UNKNOWN", "4096-01-01", "is signed by nobody who is believed"));
    assert_eq!(rows[2], refused("OLD", "2020-01-01", "has expired"));
    assert_eq!(rows[3], "first|PLAIN|PLAIN|yes|-|-|-|no TLS handshake: what answers there is no TLS");
    assert!(rows[4].starts_with("first|DEAD|DEAD|no|-|-|-|cannot connect: Connection refused"), "{}", rows[4]);
    assert!(rows[5].starts_with("first|nowhere.invalid:1|-|no|-|-|-|cannot be resolved: "), "{}", rows[5]);
    assert_eq!(rows[6], format!("second|OLD|OLD|yes|a.test|{issuer}|2020-01-01|ok, not verified"));
    for (upstream, warning) in [
        ("first", "has expired, on 2020-01-01\n"),
        ("second", "covers no name of its routes: clients will refuse it\n"),
        ("second", "also covers a.test, which another route leads elsewhere"),
    ] {
        let warning = format!("warning: upstreams.{upstream}: {old}: the certificate {warning}");
        assert!(run.stderr.contains(&warning), "{warning}\n{}", run.stderr);
    }
}

#[test]
fn a_probe_and_a_print_do_not_go_together() {
    let authority = Authority::new();
    let run = check(&authority, "  first: { endpoints: ['127.0.0.1:1'] }\n", &["--probe", "--print"]);
    assert_eq!(run.status.code(), Some(2), "{}", run.stderr);
}

#[test]
fn endpoints_get_the_header_that_they_expect() {
    let authority = Authority::new();
    let identity = authority.server(&["a.test"]);
    let server = Service::echo(&identity).start();
    let yaml = routing([("a.test", server.address())]);
    let gate = Gate::start(&yaml.replace("name: gate", "name: gate, proxy_protocol: { trusted: [127.0.0.1] }"));
    let probed = |version: &str| {
        let first = format!("  first: {{ proxy_protocol: {version}, endpoints: ['{}'] }}\n", gate.address());
        check(&authority, &format!("{first}  second: {{ endpoints: ['{}'] }}\n", server.address()), &["--probe"])
    };
    for (version, code) in [("none", 1), ("v1", 0), ("v2", 0)] {
        let run = probed(version);
        assert_eq!(run.status.code(), Some(code), "{version}: {}{}", run.stdout, run.stderr);
    }
}
