//! Upstreams that are told, by a PROXY header, whose connection they get.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};

use snigate::config::{Config, HealthCheck};
use snigate::proxy_protocol::{Details, Ends, Version, read};
use snigate::upstream::probe::{ProbeFailure, Prober, Report};

use crate::support::certs::Authority;
use crate::support::gate::{Gate, routing};
use crate::support::hello::{hello, hello_of};
use crate::support::tcp::{self, End, Refusing, Unanswering, Upstream};
use crate::support::tls::{self, Client, Service, Talk, classic};
use crate::support::{PATIENCE, tools, wait_until};

/// A gate whose upstream has these endpoints and expects this version.
fn gate_before(endpoints: &[SocketAddr], version: &str, listener: &str) -> Gate {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    Gate::start(&format!(
        r#"
listeners: [{{ {listener}, client_hello_timeout: 60s }}]
routes: [{{ server_names: [a.test], no_server_name: true, upstream: up }}]
upstreams: {{ up: {{ proxy_protocol: {version}, endpoints: [{}] }} }}
"#,
        endpoints.join(", ")
    ))
}

const LOOPBACK: &str = "address: '127.0.0.1:0'";

type Tlvs<'a> = Vec<(u8, &'a [u8])>;

/// What a header of version 2 says: its addresses and its TLVs, and what stands behind it.
fn take_apart(bytes: &[u8]) -> (Ends, Tlvs<'_>, &[u8]) {
    let (signature, rest) = bytes.split_at(12);
    assert_eq!(signature, b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!(rest[0], 0x21);
    let (block, behind) = rest[4..].split_at(usize::from(u16::from_be_bytes([rest[2], rest[3]])));
    let (addresses, mut tlvs) = block.split_at(if rest[1] == 0x11 { 12 } else { 36 });
    let (ips, ports) = addresses.split_at(addresses.len() - 4);
    let ip = |octets: &[u8]| match (rest[1], octets.len()) {
        (0x11, 4) => IpAddr::from(<[u8; 4]>::try_from(octets).unwrap()),
        (0x21, 16) => IpAddr::from(<[u8; 16]>::try_from(octets).unwrap()),
        other => panic!("{other:?}"),
    };
    let (source, destination) = ips.split_at(ips.len() / 2);
    let mut found = Vec::new();
    while let [kind, high, low, rest @ ..] = tlvs {
        let (value, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        found.push((*kind, value));
        tlvs = rest;
    }
    assert_eq!(tlvs, b"");
    let end = |octets, at: usize| SocketAddr::new(ip(octets), u16::from_be_bytes([ports[at], ports[at + 1]]));
    (Ends { source: end(source, 0), destination: end(destination, 2) }, found, behind)
}

/// What reaches `upstream` of a client that sends `bytes` and half-closes.
fn delivered(gate: &Gate, upstream: &Upstream, bytes: &[u8]) -> (Vec<u8>, SocketAddr) {
    let number = upstream.visits().len();
    let mut client = tcp::connect(gate.address());
    client.write_all(bytes).unwrap();
    tcp::finish(&client);
    tcp::read_to_end(&mut client);
    let visit = upstream.visit(number);
    visit.wait_for_end();
    (visit.bytes(), client.local_addr().unwrap())
}

#[test]
fn a_line_stands_before_the_hello() {
    let upstream = Upstream::recording();
    let gate = gate_before(&[upstream.address()], "v1", LOOPBACK);
    let hello = hello("a.test");
    let (bytes, client) = delivered(&gate, &upstream, &hello);
    let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", client.port(), gate.address().port());
    assert!(bytes == [line.as_bytes(), &hello].concat(), "{}", bytes.escape_ascii());
    let log = gate.log.line(0);
    assert_eq!(
        (log["sent"].as_u64(), log["hello_bytes"].as_u64()),
        (Some(bytes.len() as u64), Some(hello.len() as u64 - 5))
    );
}

#[test]
fn the_binary_header_tells_name_protocol_and_id() {
    let upstream = Upstream::recording();
    let gate = gate_before(&[upstream.address()], "v2", LOOPBACK);
    let offering = hello_of(classic(), "A.test", &["h2", "http/1.1"]);
    for (number, (hello, expected)) in
        [(offering, &[(1, &b"h2"[..]), (2, b"a.test")][..]), (hello("127.0.0.1"), &[])].into_iter().enumerate()
    {
        let (bytes, client) = delivered(&gate, &upstream, &hello);
        let (ends, tlvs, behind) = take_apart(&bytes);
        assert_eq!(ends, Ends { source: client, destination: gate.address() });
        let log = gate.log.line(number);
        let id = (5, log["id"].as_str().unwrap().as_bytes());
        assert_eq!(tlvs, [expected, &[id]].concat());
        assert!(behind == hello);
    }
}

/// An upstream that says how much its first read of a connection took, and reads on to the end.
fn telling_first_reads(listener: TcpListener) -> (Upstream, Receiver<usize>) {
    let (reads, read) = channel();
    let upstream = Upstream::serve(listener, move |mut stream, visit| {
        let mut bytes = vec![0; 64 * 1024];
        let count = stream.read(&mut bytes).unwrap();
        visit.note(&bytes[..count]);
        if visit.read_to_end(&mut stream) == End::Eof && count > 0 {
            reads.send(count).unwrap();
        }
    });
    (upstream, read)
}

#[test]
fn header_and_hello_go_out_at_once() {
    let (upstream, read) = telling_first_reads(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    for version in ["v1", "v2"] {
        let gate = gate_before(&[upstream.address()], version, LOOPBACK);
        delivered(&gate, &upstream, &hello("a.test"));
        let log = gate.log.line(0);
        assert_eq!(log["sent"].as_u64().unwrap(), read.recv_timeout(PATIENCE).unwrap() as u64);
        assert!(log["sent"].as_u64().unwrap() > hello("a.test").len() as u64);
    }
}

#[test]
fn header_and_hello_go_out_at_once_after_a_connect_that_took_its_time() {
    let unanswering = Unanswering::new();
    let yaml = routing([("a.test", unanswering.address())]);
    let gate = Gate::start(&yaml.replace("up0: {", "up0: { proxy_protocol: v1, connect_timeout: 30s,"));
    let (others, mut client) = (unanswering.asking(), tcp::connect(gate.address()));
    let hello = hello("a.test");
    client.write_all(&hello).unwrap();
    tcp::finish(&client);
    wait_until("the gate connects", || unanswering.asking() > others);
    let (upstream, read) = telling_first_reads(unanswering.open());
    tcp::read_to_end(&mut client);
    let header = Version::V1.header(
        &Ends { source: client.local_addr().unwrap(), destination: gate.address() },
        &Details { authority: None, alpn: None, unique_id: "" },
    );
    assert_eq!(read.recv_timeout(PATIENCE).unwrap(), header.len() + hello.len());
    let whole = [header, hello].concat();
    assert!(upstream.visits().iter().any(|visit| visit.bytes() == whole));
}

#[test]
fn every_endpoint_that_is_tried_gets_its_header() {
    let (refusing, upstream) = (Refusing::new(), Upstream::recording());
    let gate = gate_before(&[refusing.address(), upstream.address()], "v1", LOOPBACK);
    // One of two is asked first, and so is the refusing one sooner or later.
    let hello = hello("a.test");
    for _ in 0..4 {
        let (bytes, client) = delivered(&gate, &upstream, &hello);
        let header = read(&bytes).unwrap().unwrap();
        assert_eq!(header.ends, Some(Ends { source: client, destination: gate.address() }));
        assert!(bytes[header.length..] == hello);
    }
}

#[test]
fn what_a_balancer_said_is_said_again() {
    let upstream = Upstream::recording();
    let hello = hello("a.test");
    let trusting = format!("{LOOPBACK}, proxy_protocol: {{ trusted: [127.0.0.1] }}");
    for version in ["v1", "v2"] {
        let gate = gate_before(&[upstream.address()], version, &trusting);
        let ends = |source: &str, destination: &str| {
            Some(Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
        };
        for (words, expected) in [
            ("TCP4 192.0.2.1 192.0.2.2 5 443", ends("192.0.2.1:5", "192.0.2.2:443")),
            ("TCP6 2001:db8::1 2001:db8::2 5 443", ends("[2001:db8::1]:5", "[2001:db8::2]:443")),
            ("TCP6 ::ffff:192.0.2.1 2001:db8::2 5 443", ends("192.0.2.1:5", "[2001:db8::2]:443")),
            ("UNKNOWN", None),
        ] {
            let first = [format!("PROXY {words}\r\n").as_bytes(), &hello].concat();
            let (bytes, balancer) = delivered(&gate, &upstream, &first);
            let header = read(&bytes).unwrap().unwrap();
            // Who speaks for itself is a client like others.
            let own = Ends { source: balancer, destination: gate.address() };
            assert_eq!(header.ends, Some(expected.unwrap_or(own)), "{words}");
            assert!(bytes[header.length..] == hello);
        }
    }
}

#[test]
fn addresses_are_told_in_their_own_family() {
    let upstream = Upstream::recording();
    let gate = gate_before(&[upstream.address()], "v1", "address: ':0'");
    let port = gate.address().port();
    let mut addresses = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => addresses.push(Ipv6Addr::LOCALHOST.into()),
        Err(_) => tools::skip("this host has no IPv6"),
    }
    for (number, address) in addresses.into_iter().enumerate() {
        let mut client = tcp::connect((address, port).into());
        client.write_all(&hello("a.test")).unwrap();
        tcp::finish(&client);
        tcp::read_to_end(&mut client);
        let visit = upstream.visit(number);
        visit.wait_for_end();
        let header = read(&visit.bytes()).unwrap().unwrap();
        let ends = Ends { source: client.local_addr().unwrap(), destination: (address, port).into() };
        assert_eq!(header.ends, Some(ends));
    }
}

fn check(text: &str) -> HealthCheck {
    let yaml = routing([("a.test", "127.0.0.1:1".parse().unwrap())]);
    let yaml = yaml.replace("up0: {", &format!("up0: {{ health_check: {{ timeout: 5s, {text} }},"));
    let config = Config::parse(&yaml).unwrap_or_else(|mistakes| panic!("{mistakes}\n{yaml}"));
    config.upstreams[0].health_check.clone().unwrap()
}

async fn ask(text: &str, version: Option<Version>, address: SocketAddr) -> Report {
    Prober::new(&check(text), version, &[]).endpoint(address).run().await
}

#[tokio::test]
async fn a_probe_says_that_it_is_our_own() {
    let upstream = Upstream::recording();
    for (number, (version, header)) in
        [(Version::V1, &b"PROXY UNKNOWN\r\n"[..]), (Version::V2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")]
            .into_iter()
            .enumerate()
    {
        let report = ask("tcp: {}", Some(version), upstream.address()).await;
        assert!(report.outcome.is_ok(), "{report:?}");
        upstream.visit(number).wait_for_end();
        assert_eq!(upstream.visit(number).bytes().escape_ascii().to_string(), header.escape_ascii().to_string());
    }
}

#[tokio::test]
async fn probes_pass_where_a_header_is_required() {
    let authority = Authority::new();
    let identity = authority.server(&["a.test"]);
    let talk = Talk::Script(vec!["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned()]);
    let server = Service { talk, ..Service::echo(&identity) }.start();
    let yaml = routing([("a.test", server.address())]);
    let requiring = Gate::start(&yaml.replace("name: gate", "name: gate, proxy_protocol: { trusted: [127.0.0.1] }"));
    let plain = Gate::start(&yaml);
    let asked = format!("ca_file: '{}', server_name: a.test", authority.file().display());
    for text in [format!("tls: {{ {asked} }}"), format!("https: {{ path: /, {asked} }}")] {
        for version in [Version::V1, Version::V2] {
            let report = ask(&text, Some(version), requiring.address()).await;
            assert!(report.outcome.is_ok(), "{report:?}");
            let report = ask(&text, Some(version), plain.address()).await;
            let Err(why @ ProbeFailure::Handshake { .. }) = report.outcome else { panic!("{report:?}") };
            assert!(why.to_string().ends_with("does it expect a PROXY header, as `proxy_protocol` says?"), "{why}");
        }
        assert!(ask(&text, None, plain.address()).await.outcome.is_ok());
        let report = ask(&text, None, requiring.address()).await;
        let Err(why @ ProbeFailure::Handshake { .. }) = report.outcome else { panic!("{report:?}") };
        assert!(!why.to_string().contains("PROXY"), "{why}");
    }
}

#[test]
fn who_expects_a_header_is_well_by_probes_that_bring_one() {
    let authority = Authority::new();
    let server = Service::echo(&authority.server(&["a.test"])).start();
    let yaml = routing([("a.test", server.address())]);
    let requiring = Gate::start(&yaml.replace("name: gate", "name: gate, proxy_protocol: { trusted: [127.0.0.1] }"));
    let asked = format!("ca_file: '{}', server_name: a.test", authority.file().display());
    let keys = format!("up0: {{ proxy_protocol: v2, health_check: {{ timeout: 5s, tls: {{ {asked} }} }},");
    // Who cannot be asked for proof gets nobody.
    let gate = Gate::start(&routing([("a.test", requiring.address())]).replace("up0: {", &keys));
    let client = Client::trusting(&authority).config();
    tls::connect(&client, "a.test", gate.address()).unwrap().close().unwrap();
}
