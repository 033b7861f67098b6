//! Where the gate listens: both families on one port, or only one, and never where somebody listens already.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use crate::support::gate::{Gate, GateProcess, routing};
use crate::support::hello::hello;
use crate::support::tcp::{self, End, Upstream};
use crate::support::{tools, wait_for};

fn upstream() -> Upstream {
    Upstream::answering(hello("a.test").len(), "answer")
}

/// A listener on every address, before routes that tell clients of one IPv4 network from the others.
fn everywhere(upstream: &Upstream, more: &str) -> Gate {
    Gate::start(&format!(
        r#"
listeners: [{{ address: ":0", name: gate, client_hello_timeout: 60s{more} }}]
routes:
  - {{ server_names: [a.test], allow: [127.0.0.0/8], upstream: up }}
  - {{ server_names: [b.test], allow: [10.0.0.0/8, "::/0"], upstream: up }}
upstreams:
  up: {{ endpoints: ["{}"] }}
"#,
        upstream.address()
    ))
}

fn has_ipv6() -> bool {
    let has = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has {
        tools::skip("this host has no IPv6");
    }
    has
}

#[test]
fn a_client_over_ipv4_is_known_by_its_own_address() {
    let upstream = upstream();
    let gate = everywhere(&upstream, "");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, gate.address().port()));
    for (name, answer, reason) in [("a.test", "answer".len(), "upstream_closed"), ("b.test", 7, "source_denied")] {
        let mut client = tcp::connect(address);
        client.write_all(&hello(name)).unwrap();
        let source = client.local_addr().unwrap();
        let (bytes, end) = tcp::read_to_end(&mut client);
        assert_eq!((bytes.len(), end), (answer, End::Eof));
        tcp::finish(&client);
        let line = gate.log.line_of(source);
        assert_eq!(line["reason"], reason, "{line}");
    }
    assert_eq!(upstream.visits().len(), 1);
}

#[test]
fn the_same_port_serves_ipv6() {
    if !has_ipv6() {
        return;
    }
    let upstream = upstream();
    let gate = everywhere(&upstream, "");
    let mut client = tcp::connect((Ipv6Addr::LOCALHOST, gate.address().port()).into());
    client.write_all(&hello("b.test")).unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (b"answer".to_vec(), End::Eof));
    tcp::finish(&client);
    assert_eq!(gate.log.line(0)["source"], client.local_addr().unwrap().to_string());
}

#[test]
fn v6_only_leaves_ipv4_to_others() {
    if !has_ipv6() {
        return;
    }
    let upstream = upstream();
    let (gate, other) = wait_for("a port whose IPv4 half is free", || {
        let gate = everywhere(&upstream, ", v6_only: true");
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, gate.address().port())).ok()?;
        Some((gate, other))
    });
    let client = TcpStream::connect(other.local_addr().unwrap()).unwrap();
    assert_eq!(other.accept().unwrap().1, client.local_addr().unwrap());
    let mut client = tcp::connect((Ipv6Addr::LOCALHOST, gate.address().port()).into());
    client.write_all(&hello("b.test")).unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (b"answer".to_vec(), End::Eof));
}

#[test]
fn a_second_gate_on_the_same_port_does_not_start() {
    let upstream = upstream();
    let yaml = routing([("a.test", upstream.address())]);
    let gate = Gate::start(&yaml);
    let address = gate.address().to_string();
    let run = GateProcess::run(&yaml.replace("127.0.0.1:0", &address));
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    let told = format!("listener gate: cannot listen on {address} (another process listens there");
    assert!(run.stderr.contains(&told) && run.stderr.contains("Address already in use"), "{run:?}");
    assert_eq!(run.stdout, "");
    // Nor did it take clients of the first.
    for _ in 0..10 {
        let mut client = tcp::connect(gate.address());
        client.write_all(&hello("a.test")).unwrap();
        assert_eq!(tcp::read_to_end(&mut client), (b"answer".to_vec(), End::Eof));
    }
}
