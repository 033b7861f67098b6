//! The admin server: whom it answers what, and that nobody holds it up.

use crate::support::gate::{GateProcess, routing};
use crate::support::hello::hello;
use crate::support::http::{ask, get, get_with, request};
use crate::support::tcp::{self, Upstream};
use crate::support::{PATIENCE, tools, wait_until};
use rustix::process::{Signal, getuid};
use serde_json::{Value, json};
use snigate::config::Config;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

const LOCAL: &str = "admin: { address: \"127.0.0.1:0\" }\n";

/// A gate with these keys, and one route to the upstream.
fn gate(upstream: &Upstream, keys: &str) -> GateProcess {
    GateProcess::start(&format!("{keys}{}", routing([("a.test", upstream.address())])))
}

/// A client whose bytes flow.
fn client(gate: &GateProcess) -> TcpStream {
    let mut client = tcp::connect(gate.address());
    let hello = hello("a.test");
    client.write_all(&hello).unwrap();
    assert_eq!(tcp::read_exactly(&mut client, hello.len()), hello);
    client
}

#[test]
fn health_and_metrics_are_answered_on_loopback() {
    let upstream = Upstream::echo();
    let gate = gate(&upstream, LOCAL);
    for (path, body) in [("/livez", "alive\n"), ("/readyz", "ready\n")] {
        let answer = get(&gate, path);
        assert_eq!((answer.status, answer.body.as_str()), (200, body));
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    assert_eq!(get(&gate, "/metrics").header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(get(&gate, "/nothing").status, 404);
    let mut stream = tcp::connect(gate.admin());
    let refused = ask(&mut stream, &request("POST", "/metrics", gate.admin(), "Content-Length: 0\r\n"));
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
    let mut stream = tcp::connect(gate.admin());
    let head = ask(&mut stream, &request("HEAD", "/readyz", gate.admin(), ""));
    assert_eq!((head.status, head.header("content-length"), head.body.as_str()), (200, Some("6"), ""));
}

#[test]
fn a_gate_at_its_limit_is_not_ready_and_says_why() {
    let upstream = Upstream::echo();
    let gate = gate(&upstream, &format!("{LOCAL}limits: {{ max_connections: 2 }}\n"));
    let first = client(&gate);
    assert_eq!(get(&gate, "/readyz").status, 200);
    let second = client(&gate);
    let answer = get(&gate, "/readyz");
    assert_eq!((answer.status, answer.body.as_str()), (503, "not ready: at its limit: 2 of 2 connections are open\n"));
    assert_eq!(get(&gate, "/livez").status, 200);
    drop((first, second));
    wait_until("there is room again", || get(&gate, "/readyz").status == 200);
}

#[test]
fn a_gate_that_stops_is_not_ready_and_lives() {
    let upstream = Upstream::echo();
    let gate = gate(&upstream, &format!("{LOCAL}drain: {{ grace: 60s, spread: 1s, deadline: 90s }}\n"));
    let _held = client(&gate);
    gate.signal(Signal::TERM);
    wait_until("it is not ready", || get(&gate, "/readyz").status == 503);
    assert_eq!(get(&gate, "/readyz").body, "not ready: stopping\n");
    assert_eq!((get(&gate, "/livez").status, get(&gate, "/metrics").status), (200, 200));
    drop(client(&gate));
}

#[test]
fn pages_of_others_get_nothing_by_a_name_that_leads_here() {
    let upstream = Upstream::echo();
    let gate = gate(&upstream, "admin: { address: \"127.0.0.1:0\", hosts: [gate.test] }\n");
    let port = gate.admin().port();
    let status = |path: &str, host: &str, more: &str| {
        ask(&mut tcp::connect(gate.admin()), &request("GET", path, host, more)).status
    };
    for (host, expected) in [
        (format!("127.0.0.1:{port}"), 200),
        (format!("localhost:{port}"), 200),
        ("gate.test".to_owned(), 200),
        (format!("evil.test:{port}"), 421),
        ("10.0.0.1".to_owned(), 421),
    ] {
        assert_eq!(status("/metrics", &host, ""), expected, "{host}");
        assert_eq!(status("/api/v1/none", &host, ""), if expected == 200 { 404 } else { expected }, "{host}");
        assert_eq!(status("/readyz", &host, ""), 200, "balancers ask by any name");
    }
    assert_eq!(status("/metrics", "gate.test", "Origin: http://evil.test\r\n"), 403);
    assert_eq!(status("/metrics", "gate.test", "Origin: http://gate.test\r\n"), 200);
    assert_eq!(status("/metrics", "gate.test", "Host: evil.test\r\n"), 400, "two hosts");
}

#[test]
fn whoever_comes_from_elsewhere_needs_the_token_but_for_health() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "0123456789abcdef\n").unwrap();
    let upstream = Upstream::echo();
    let keys = format!("admin: {{ address: \"0.0.0.0:0\", token_file: {} }}\n", file.display());
    let gate = gate(&upstream, &keys);
    let address = ([127, 0, 0, 1], gate.admin().port()).into();
    let status =
        |path: &str, token: &str| get_with(address, path, &format!("Authorization: Bearer {token}\r\n")).status;
    for path in ["/livez", "/readyz"] {
        assert_eq!(get_with(address, path, "").status, 200);
    }
    let refused = get_with(address, "/metrics", "");
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!((status("/metrics", "0123456789abcdef"), status("/metrics", "0123456789abcdee")), (200, 401));
    assert_eq!((status("/nothing", "0123456789abcdef"), status("/nothing", "")), (404, 401));
    fs::write(&file, "fedcba9876543210").unwrap();
    assert_eq!((status("/metrics", "0123456789abcdef"), status("/metrics", "fedcba9876543210")), (401, 200));

    let Some(curl) = tools::require("curl") else { return };
    let url = format!("http://{address}/metrics");
    let run = tools::run(Command::new(curl).args(["-sf", "--oauth2-bearer", "fedcba9876543210", &url]), "");
    assert!(run.status.success() && run.stdout.contains("snigate_build_info"), "{run:?}");
}

#[test]
fn a_token_that_is_none_is_a_mistake_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let keys = format!("admin: {{ address: \"0.0.0.0:0\", token_file: {} }}\n", file.display());
    let yaml = format!("{keys}{}", routing([("a.test", ([127, 0, 0, 1], 1).into())]));
    let run = GateProcess::run(&yaml);
    assert_eq!(run.status.code(), Some(78));
    assert!(run.stderr.contains("cannot be read"), "{}", run.stderr);
    fs::write(&file, "short").unwrap();
    let run = GateProcess::run(&yaml);
    assert_eq!(run.status.code(), Some(78));
    assert!(run.stderr.contains("write one with `openssl rand -hex 32`"), "{}", run.stderr);
}

#[test]
fn an_address_that_is_taken_is_told_with_its_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let yaml = routing([("a.test", ([127, 0, 0, 1], 1).into())]);
    let run = GateProcess::run(&format!("admin: {{ address: '{}' }}\n{yaml}", taken.local_addr().unwrap()));
    assert_eq!(run.status.code(), Some(1));
    assert!(run.stderr.contains("(another process listens there: `ss -tlnp`"), "{}", run.stderr);
}

#[test]
fn a_local_socket_answers_its_owner_in_the_sandbox_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let upstream = Upstream::echo();
    let user = if getuid().is_root() { "user: nobody\n" } else { "" };
    let keys = format!("admin: {{ address: 'unix:{}' }}\nsandbox: require\n{user}", path.display());
    let ready = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        ask(&mut stream, &request("GET", "/metrics", "whatever.test", "")).status
    };
    // A second one finds the file of the first.
    for _ in 0..2 {
        let gate = gate(&upstream, &keys);
        assert_eq!(ready(), 200);
        let socket = fs::metadata(&path).unwrap();
        assert_eq!((socket.mode() & 0o777, socket.uid()), (0o600, getuid().as_raw()));
        drop(client(&gate));
    }
    assert!(path.exists());
}

#[test]
fn slow_and_silent_ones_keep_nobody_out() {
    let upstream = Upstream::echo();
    let gate = gate(&upstream, LOCAL);
    let mut slow: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = tcp::connect(gate.admin());
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ").unwrap();
            stream
        })
        .collect();
    assert_eq!(get(&gate, "/readyz").status, 200);
    // There is room for 32: the oldest gave way.
    let oldest = &mut slow[0];
    oldest.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(oldest.read(&mut [0]).unwrap_or(0), 0);
    // The youngest may still finish.
    let youngest = slow.last_mut().unwrap();
    let answer = ask(youngest, &format!("{}\r\nConnection: close\r\n\r\n", gate.admin()));
    assert_eq!(answer.status, 200);
}

#[test]
fn a_head_without_end_is_refused() {
    let upstream = Upstream::echo();
    let gate = gate(&upstream, LOCAL);
    let mut stream = tcp::connect(gate.admin());
    let answer = ask(&mut stream, &request("GET", "/metrics", gate.admin(), &format!("X: {}\r\n", "x".repeat(20_000))));
    assert_eq!(answer.status, 431);
    let mut stream = tcp::connect(gate.admin());
    stream.write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(get(&gate, "/livez").status, 200);
}

/// What the API answers.
fn api(gate: &GateProcess, path: &str) -> Value {
    let answer = get(gate, &format!("/api/v1/{path}"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    serde_json::from_str(&answer.body).unwrap()
}

#[test]
fn the_api_tells_what_the_gate_knows() {
    let upstream = Upstream::echo();
    let gate = gate(&upstream, LOCAL);
    let held = client(&gate);
    wait_until("the tick shows it", || api(&gate, "status")["connections"]["by_state"]["relaying"] == 1);
    let status = api(&gate, "status");
    assert_eq!((&status["ready"], &status["stage"], &status["objections"]), (&json!(true), &json!("open"), &json!([])));
    assert_eq!((&status["connections"]["open"], &status["version"]), (&json!(1), &json!(env!("CARGO_PKG_VERSION"))));
    let routes = &api(&gate, "routes")["routes"];
    assert_eq!(
        (&routes[0]["name"], &routes[0]["open"], &routes[0]["ended"]),
        (&json!("a.test"), &json!(1), &json!({}))
    );
    assert_eq!(routes[0]["server_names"], json!(["a.test"]));
    let endpoint = &api(&gate, "upstreams")["upstreams"][0]["endpoints"][0];
    assert_eq!(endpoint["address"], json!(upstream.address().to_string()));
    assert_eq!((&endpoint["state"], &endpoint["open"], &endpoint["connects"]), (&json!("up"), &json!(1), &json!(1)));
    drop(held);
    wait_until("its end is counted", || api(&gate, "routes")["routes"][0]["ended"] == json!({ "client_closed": 1 }));

    let config = get(&gate, "/api/v1/config");
    assert_eq!(config.header("content-type"), Some("application/yaml"));
    assert_eq!(Config::parse(&config.body).unwrap().to_string(), config.body);
    for (path, status) in [("none", 404), ("", 404), ("reload", 405), ("explain?source=x", 400)] {
        assert_eq!(get(&gate, &format!("/api/v1/{path}")).status, status, "{path}");
    }
}

#[test]
fn the_api_explains_as_the_command_does() {
    let upstream = Upstream::echo();
    let gate = gate(&upstream, LOCAL);
    for (query, decision) in [
        ("server_name=a.test&source=203.0.113.7&alpn=h2", "decision: route a.test"),
        ("server_name=b.test", "unknown_server_name"),
        ("server_name=%ff", "server_name_invalid"),
        ("listener=gate", "no_server_name"),
    ] {
        let explained = &api(&gate, &format!("explain?{query}"))["explanations"];
        assert_eq!(explained[0]["listeners"], json!(["gate"]));
        assert!(explained[0]["explanation"].as_str().unwrap().contains(decision), "{query}: {explained}");
    }
    let wrong = get(&gate, "/api/v1/explain?listener=kube");
    assert!(wrong.status == 400 && wrong.body.contains("no listener is called `kube`"), "{wrong:?}");
}

#[test]
fn the_api_reloads_and_says_what_came_of_it() {
    let upstream = Upstream::echo();
    let gate = gate(&upstream, LOCAL);
    let reload = |headers: &str| {
        let headers = format!("Content-Length: 0\r\n{headers}");
        let mut stream = tcp::connect(gate.admin());
        ask(&mut stream, &request("POST", "/api/v1/reload", gate.admin(), &headers))
    };
    fs::write(gate.config(), format!("{LOCAL}{}", routing([("b.test", upstream.address())]))).unwrap();
    assert_eq!(reload("Origin: http://evil.test\r\n").status, 403);
    let answer = reload("");
    assert!(answer.status == 200 && answer.body.contains("1 route added (`b.test`)"), "{answer:?}");
    assert_eq!(api(&gate, "routes")["routes"][0]["name"], json!("b.test"));
    fs::write(gate.config(), "listeners: []").unwrap();
    let answer = reload("");
    assert!(answer.status == 422 && answer.body.contains("listeners: is an empty list"), "{answer:?}");
    let config = &api(&gate, "status")["config"];
    assert!(config["mistakes"].as_array().is_some_and(|mistakes| !mistakes.is_empty()), "{config}");
    assert!(config["reloads"]["refused"].as_u64() >= Some(1), "{config}");
}
