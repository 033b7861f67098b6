//! `openssl s_client` through the gate.

use crate::support::certs::Authority;
use crate::support::gate::{Gate, routing};
use crate::support::tls::{Service, TlsServer};
use crate::support::tools::{self, Run};
use rustls::ProtocolVersion;
use std::path::Path;
use std::process::Command;

fn s_client(openssl: &Path, authority: &Authority, gate: &Gate, name: &str, further: &[&str]) -> Run {
    let mut command = Command::new(openssl);
    command.args(["s_client", "-quiet", "-verify_return_error", "-servername", name, "-verify_hostname", name]);
    command.arg("-connect").arg(gate.address().to_string()).arg("-CAfile").arg(authority.file()).args(further);
    tools::run(&mut command, "GET / HTTP/1.1\r\n\r\n")
}

fn start(authority: &Authority) -> (Gate, TlsServer) {
    let server = Service::http(&authority.server(&["here.test"]), "this is here").start();
    (Gate::start(&routing([("here.test", server.address())])), server)
}

#[test]
fn a_hello_over_several_records() {
    let Some(openssl) = tools::require("openssl") else { return };
    let authority = Authority::new();
    let (gate, server) = start(&authority);
    // Many protocols make the hello longer than one record of 512 bytes.
    let protocols = (0..100).map(|number| format!("protocol-{number}")).collect::<Vec<_>>().join(",");
    for (index, (version, expected)) in
        [("-tls1_2", ProtocolVersion::TLSv1_2), ("-tls1_3", ProtocolVersion::TLSv1_3)].into_iter().enumerate()
    {
        let further = [version, "-max_send_frag", "512", "-alpn", &protocols];
        let run = s_client(&openssl, &authority, &gate, "here.test", &further);
        assert!(run.status.success(), "{run:?}");
        assert!(run.stdout.ends_with("this is here"), "{run:?}");
        assert_eq!(server.facts(index).version, expected);
        assert_eq!(server.facts(index).server_name.as_deref(), Some("here.test"));
        let line = gate.log.line(index);
        assert!(line["hello_records"].as_u64().unwrap() >= 3, "{line}");
        assert_eq!(line["upstream"], "up0", "{line}");
    }
}

#[test]
fn a_refused_name_is_told_by_its_alert() {
    let Some(openssl) = tools::require("openssl") else { return };
    let authority = Authority::new();
    let (gate, server) = start(&authority);
    // TLS 1.0 too: its hello must get an alert in a record of its own version.
    let old = ["-tls1", "-cipher", "ALL:@SECLEVEL=0"];
    for (index, further) in [&old[..], &["-tls1_2"], &["-tls1_3"]].into_iter().enumerate() {
        let run = s_client(&openssl, &authority, &gate, "there.test", further);
        assert!(!run.status.success(), "{further:?}: {run:?}");
        if run.stderr.contains("no protocols available") {
            tools::skip("this openssl does not speak TLS 1.0");
            continue;
        }
        assert!(run.stderr.contains("unrecognized name"), "{further:?}: {run:?}");
        assert!(run.stderr.contains("SSL alert number 112"), "{further:?}: {run:?}");
        let line = gate.log.line(index);
        assert_eq!(line["reason"], "unknown_server_name", "{line}");
        assert_eq!(line["server_name"], "there.test", "{line}");
    }
    assert!(server.upstream.visits().is_empty());
}

#[test]
fn a_refused_protocol_is_told_by_its_alert() {
    let Some(openssl) = tools::require("openssl") else { return };
    let authority = Authority::new();
    let server = Service::http(&authority.server(&["here.test"]), "this is here").start();
    let yaml = routing([("here.test", server.address())]).replace("upstream: up0", "alpn: [h2], upstream: up0");
    let gate = Gate::start(&yaml);
    for (index, version) in ["-tls1_2", "-tls1_3"].into_iter().enumerate() {
        let run = s_client(&openssl, &authority, &gate, "here.test", &[version, "-alpn", "http/1.1"]);
        assert!(!run.status.success(), "{version}: {run:?}");
        assert!(run.stderr.contains("no application protocol"), "{version}: {run:?}");
        assert!(run.stderr.contains("SSL alert number 120"), "{version}: {run:?}");
        assert_eq!(gate.log.line(index)["reason"], "alpn_denied");
    }
    assert!(server.upstream.visits().is_empty());
}

#[test]
fn no_name_is_told_by_the_same_alert() {
    let Some(openssl) = tools::require("openssl") else { return };
    let authority = Authority::new();
    let (gate, server) = start(&authority);
    let mut command = Command::new(&openssl);
    command.args(["s_client", "-quiet", "-noservername", "-connect"]).arg(gate.address().to_string());
    let run = tools::run(&mut command, "");
    assert!(run.stderr.contains("SSL alert number 112"), "{run:?}");
    assert_eq!(gate.log.line(0)["reason"], "no_server_name");

    // OpenSSL sends an address as a name if told to, which counts as no name.
    let run = s_client(&openssl, &authority, &gate, "127.0.0.1", &[]);
    assert!(run.stderr.contains("SSL alert number 112"), "{run:?}");
    assert_eq!(gate.log.line(1)["reason"], "no_server_name");
    assert!(server.upstream.visits().is_empty());
}
