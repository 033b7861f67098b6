//! The access log as an operator meets it: one line a connection, on standard output, in either form.

use std::collections::HashSet;
use std::io::Write;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::gate::{GateProcess, routing};
use crate::support::hello::{hello, hello_of};
use crate::support::tcp::{self, Upstream};
use crate::support::tls::classic;
use crate::support::wait_until;

/// A connection that says `bytes` and is answered by the upstream's FIN.
fn connect(gate: &GateProcess, bytes: &[u8]) {
    let mut client = tcp::connect(gate.address());
    client.write_all(bytes).unwrap();
    tcp::read_to_end(&mut client);
}

#[test]
fn every_connection_leaves_one_line_with_an_id_of_its_own() {
    let upstream = Upstream::answering(hello("a.test").len(), "answer");
    let gate = GateProcess::start(&format!("workers: 2\n{}", routing([("a.test", upstream.address())])));
    for _ in 0..20 {
        connect(&gate, &hello("a.test"));
        connect(&gate, &hello("unknown.test"));
        connect(&gate, b"GET / HTTP/1.0\r\n\r\n");
    }
    wait_until("a line for each", || gate.log().len() >= 60);
    let lines = gate.log();
    assert_eq!(lines.len(), 60);
    let ids: HashSet<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 60);
    let count = |reason: &str| lines.iter().filter(|line| line["reason"] == reason).count();
    assert_eq!((count("upstream_closed"), count("unknown_server_name"), count("not_tls")), (20, 20, 20));
}

#[test]
fn ids_do_not_come_again_after_a_restart() {
    let upstream = Upstream::answering(hello("a.test").len(), "answer");
    let yaml = format!("workers: 2\n{}", routing([("a.test", upstream.address())]));
    let mut ids = HashSet::new();
    for run in 1..=3 {
        let mut gate = GateProcess::start(&yaml);
        (0..10).for_each(|_| connect(&gate, &hello("a.test")));
        assert_eq!(gate.stop(Signal::TERM).code(), Some(0));
        wait_until("a line for each", || gate.log().len() == 10);
        ids.extend(gate.log().iter().map(|line| line["id"].as_str().unwrap().to_owned()));
        assert_eq!(ids.len(), run * 10);
    }
}

#[test]
fn a_line_says_what_was_heard_where_it_went_and_how_it_ended() {
    let bytes = hello_of(classic(), "A.test", &["h2", "http/1.1"]);
    let upstream = Upstream::answering(bytes.len(), "answer");
    let gate = GateProcess::start(&routing([("a.test", upstream.address())]));
    connect(&gate, &bytes);
    wait_until("a line", || !gate.log().is_empty());
    let line = gate.log().remove(0);
    let visit = upstream.visit(0);
    for (field, expected) in [
        ("listener", Value::from("gate")),
        ("server_name", "a.test".into()),
        ("alpn", "h2,http/1.1".into()),
        ("ech", false.into()),
        ("hello_bytes", (bytes.len() - 5).into()),
        ("hello_records", 1.into()),
        ("route", "a.test".into()),
        ("upstream", "up0".into()),
        ("endpoint", upstream.address().to_string().into()),
        ("local_port", visit.peer.port().into()),
        ("sent", bytes.len().into()),
        ("received", 6.into()),
        ("phase", "relaying".into()),
        ("reason", "upstream_closed".into()),
        ("closed_by", "upstream".into()),
    ] {
        assert_eq!(line[field], expected, "{field}");
    }
    assert!(line["ja4"].as_str().unwrap().starts_with("t13d"), "{line}");
    assert!(line["duration_ms"].as_f64() >= line["connect_ms"].as_f64(), "{line}");
    let time = line["time"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.len() == "2026-01-02T03:04:05.678Z".len(), "{time}");
}

#[test]
fn the_text_form_says_the_same_and_switching_it_off_says_nothing() {
    let upstream = Upstream::answering(hello("a.test").len(), "answer");
    let yaml = routing([("a.test", upstream.address())]);
    let gate = GateProcess::start(&format!("log: {{ format: text }}\n{yaml}"));
    connect(&gate, &hello("a.test"));
    let line = gate.lines.wait("its line", |line| line.contains("reason=upstream_closed"));
    let endpoint = format!(" route=a.test upstream=up0 endpoint={} ", upstream.address());
    assert!(line.starts_with("time=") && line.contains(&endpoint), "{line}");

    let gate = GateProcess::start(&format!("log: {{ access: false, level: debug }}\n{yaml}"));
    connect(&gate, &hello("a.test"));
    // The program's own log hears of it at debug; that is the line after which the access log's would have come.
    gate.lines.wait("its end", |line| line.contains("connection ended"));
    assert_eq!(gate.log(), Vec::<Value>::new());
}
