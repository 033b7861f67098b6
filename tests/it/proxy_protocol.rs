//! PROXY headers: a listener that requires them believes its balancers and nobody else.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::gate::Gate;
use crate::support::hello::hello;
use crate::support::tcp::{self, End, Upstream};

/// What version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const CLIENT: &str = "203.0.113.7:40000";

/// A listener that trusts these networks, and a route that only clients of 203.0.113.0/24 may take, to `upstream`. Keys
/// of the listener are added, and come first.
fn gate_of(upstream: &Upstream, trusted: &str, more: &str) -> Gate {
    let timeout = if more.contains("client_hello_timeout") { "" } else { "client_hello_timeout: 60s, " };
    Gate::start(&format!(
        r#"
listeners: [{{ {more}{timeout}address: "127.0.0.1:0", name: gate, proxy_protocol: {{ trusted: [{trusted}] }} }}]
routes:
  - {{ server_names: [a.test], allow: [203.0.113.0/24], upstream: up }}
  - {{ server_names: [balancer.test], allow: [127.0.0.0/8], upstream: up }}
upstreams:
  up: {{ endpoints: ["{}"] }}
"#,
        upstream.address()
    ))
}

fn gate_before(upstream: &Upstream) -> Gate {
    gate_of(upstream, "127.0.0.0/8", "")
}

fn line(source: &str) -> Vec<u8> {
    let source: SocketAddr = source.parse().unwrap();
    format!("PROXY TCP4 {} 198.51.100.1 {} 443\r\n", source.ip(), source.port()).into_bytes()
}

fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

/// [`CLIENT`] in version 2, with a TLV that fills it to this length.
fn binary_of_length(length: usize) -> Vec<u8> {
    let mut block = vec![203, 0, 113, 7, 198, 51, 100, 1, 0x9c, 0x40, 1, 0xbb];
    let value = length - 16 - block.len() - 3;
    block.push(4);
    block.extend(u16::try_from(value).unwrap().to_be_bytes());
    block.resize(length - 16, 0);
    binary(0x21, 0x11, &block)
}

/// Sends these pieces, each read by itself, and reads the answer to its end.
fn answer(gate: &Gate, pieces: &[&[u8]]) -> (Vec<u8>, End) {
    let mut balancer = tcp::connect(gate.address());
    // It may have closed before the last of them.
    let _ = tcp::write_in_pieces(&mut balancer, pieces.iter().copied());
    tcp::read_to_end(&mut balancer)
}

fn end(line: &Value) -> (&str, &str, &str) {
    let text = |key: &str| line[key].as_str().unwrap();
    (text("reason"), text("phase"), text("closed_by"))
}

/// A connection of a balancer that sends this and half-closes; what reached the upstream, and what was logged.
fn passed<'a>(
    gate: &Gate,
    upstream: &Upstream,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Value, TcpStream) {
    let number = gate.log.count();
    let mut balancer = tcp::connect(gate.address());
    tcp::write_in_pieces(&mut balancer, pieces).unwrap();
    tcp::finish(&balancer);
    tcp::read_to_end(&mut balancer);
    let line = gate.log.line(number);
    assert_eq!(end(&line), ("client_closed", "relaying", "client"), "{line}");
    let visit = upstream.visit(number);
    visit.wait_for_end();
    (visit.bytes(), line, balancer)
}

#[test]
fn the_header_says_who_the_client_is_and_nothing_of_it_goes_on() {
    let upstream = Upstream::recording();
    let gate = gate_before(&upstream);
    let hello = hello("a.test");
    for header in [line(CLIENT), binary_of_length(100)] {
        let (bytes, log, balancer) = passed(&gate, &upstream, [&[&header[..], &hello].concat()[..]]);
        assert!(bytes == hello);
        assert_eq!(log["source"], CLIENT);
        assert_eq!(log["balancer"], balancer.local_addr().unwrap().to_string());
        assert_eq!(
            (log["hello_bytes"].as_u64(), log["sent"].as_u64()),
            (Some(hello.len() as u64 - 5), Some(hello.len() as u64))
        );
    }
}

#[test]
fn however_it_is_cut_the_answer_is_the_same() {
    let upstream = Upstream::recording();
    let gate = gate_before(&upstream);
    let hello = hello("a.test");
    for header in [line(CLIENT), binary_of_length(60)] {
        let whole = [&header[..], &hello, b"and more"].concat();
        let (at, half) = (header.len(), hello.len() / 2);
        for cuts in [&[at][..], &[1, at + 1], &[at - 1, at + half], &[at, at + half], &[5, at, at + hello.len()]] {
            let mut pieces = Vec::new();
            let mut rest = &whole[..];
            for (index, cut) in cuts.iter().enumerate() {
                let before = if index == 0 { 0 } else { cuts[index - 1] };
                let (piece, behind) = rest.split_at(cut - before);
                pieces.push(piece);
                rest = behind;
            }
            pieces.push(rest);
            let (bytes, log, _) = passed(&gate, &upstream, pieces);
            assert!(bytes == whole[at..], "{cuts:?}");
            assert_eq!(log["source"], CLIENT);
        }
        let (bytes, ..) = passed(&gate, &upstream, whole.iter().map(std::slice::from_ref));
        assert!(bytes == whole[at..]);
    }
}

#[test]
fn headers_may_be_long_but_not_longer() {
    let upstream = Upstream::recording();
    let gate = gate_before(&upstream);
    let hello = hello("a.test");
    let (bytes, ..) = passed(&gate, &upstream, [&[&binary_of_length(4096)[..], &hello].concat()[..]]);
    assert!(bytes == hello);
    // Refused by its length, before so much has come.
    assert_eq!(answer(&gate, &[&binary_of_length(4097)[..16]]), (Vec::new(), End::Eof));
    assert_eq!(end(&gate.log.line(1)), ("proxy_header_invalid", "proxy_header", "snigate"));
    assert_eq!(upstream.visits().len(), 1);
}

#[test]
fn lists_judge_the_source_of_the_header() {
    let upstream = Upstream::recording();
    let gate = gate_of(&upstream, "127.0.0.1", "deny: [203.0.113.66, 127.0.0.0/8], ");
    let denied = |number: usize, source: &str, phase: &str| {
        let log = gate.log.line(number);
        assert_eq!(end(&log), ("source_denied", phase, "snigate"), "{log}");
        assert_eq!(log["source"], source);
        log
    };
    // By the route, by the listener before its hello is read, and by the listener since it speaks for itself.
    answer(&gate, &[&line("192.0.2.1:5"), &hello("a.test")]);
    assert!(denied(0, "192.0.2.1:5", "hello")["hello_bytes"].is_u64());
    answer(&gate, &[&[&line("203.0.113.66:5")[..], &hello("a.test")].concat()]);
    assert!(denied(1, "203.0.113.66:5", "hello")["hello_bytes"].is_null());
    let mut balancer = tcp::connect(gate.address());
    balancer.write_all(b"PROXY UNKNOWN\r\n").unwrap();
    tcp::read_to_end(&mut balancer);
    denied(2, &balancer.local_addr().unwrap().to_string(), "hello");
    assert!(upstream.visits().is_empty());
    // The balancer's own address is in nobody's way.
    let header = b"PROXY TCP6 ::ffff:203.0.113.7 ::ffff:198.51.100.1 40000 443\r\n";
    answer(&gate, &[header, &hello("b.test")]);
    let log = gate.log.line(3);
    assert_eq!((end(&log).0, &log["source"]), ("unknown_server_name", &CLIENT.into()));
}

#[test]
fn balancers_that_speak_for_themselves_are_their_own_source() {
    let upstream = Upstream::recording();
    let gate = gate_before(&upstream);
    let hello = hello("balancer.test");
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 203.0.113.7 198.51.100.1 40000 443\r\n".to_vec(),
        binary(0x20, 0, &[]),
        // A LOCAL header may have an address, and it means nothing.
        binary(0x20, 0x11, &binary_of_length(60)[16..]),
        // UNSPEC, UDP, UNIX.
        binary(0x21, 0, &[]),
        binary(0x21, 0x12, &binary_of_length(60)[16..]),
        binary(0x21, 0x31, &[b'/'; 216]),
    ] {
        let (bytes, log, balancer) = passed(&gate, &upstream, [&[&header[..], &hello].concat()[..]]);
        assert!(bytes == hello);
        let own = Value::from(balancer.local_addr().unwrap().to_string());
        assert_eq!((&log["source"], &log["balancer"]), (&own, &own));
    }
}

#[test]
fn strangers_are_not_even_heard() {
    let upstream = Upstream::recording();
    let gate = gate_of(&upstream, "192.0.2.0/24", "");
    for (number, bytes) in
        [&b""[..], &[&line(CLIENT)[..], &hello("a.test")].concat(), &hello("balancer.test")].iter().enumerate()
    {
        let mut stranger = tcp::connect(gate.address());
        stranger.write_all(bytes).unwrap();
        assert_eq!(tcp::read_to_end(&mut stranger), (Vec::new(), End::Eof));
        let log = gate.log.line(number);
        assert_eq!(end(&log), ("proxy_source_untrusted", "proxy_header", "snigate"));
        let own = stranger.local_addr().unwrap().to_string();
        assert_eq!((&log["source"], &log["balancer"]), (&own.into(), &Value::Null));
        assert!(log["hint"].as_str().unwrap().contains("proxy_protocol.trusted"));
    }
    assert!(upstream.visits().is_empty());
}

#[test]
fn nothing_else_passes_for_a_header() {
    let upstream = Upstream::recording();
    for (reject, expected) in [("alert", End::Eof), ("close", End::Eof), ("reset", End::Reset)] {
        let gate = gate_of(&upstream, "127.0.0.1", &format!("reject: {reject}, "));
        let mut damaged = binary_of_length(60);
        damaged[12] = 0x31;
        for (number, bytes) in [
            hello("balancer.test"),
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.7\r\n".to_vec(),
            vec![b'P'; 200],
            damaged,
            binary(0x22, 0x11, &binary_of_length(60)[16..]),
            binary(0x21, 0x11, &binary_of_length(60)[16..][..11]),
        ]
        .into_iter()
        .enumerate()
        {
            // No alert: it was not a client that spoke.
            let (answer, end_seen) = answer(&gate, &[&[&bytes[..], &hello("balancer.test")].concat()]);
            assert_eq!((answer, end_seen), (Vec::new(), expected), "{}", bytes.escape_ascii());
            let log = gate.log.line(number);
            assert_eq!(end(&log), ("proxy_header_invalid", "proxy_header", "snigate"));
            assert!(log["hint"].as_str().unwrap().contains("PROXY header"));
        }
    }
    assert!(upstream.visits().is_empty());
}

#[test]
fn a_second_header_is_no_hello() {
    let upstream = Upstream::recording();
    let gate = gate_before(&upstream);
    let mut number = 0;
    for first in [line(CLIENT), binary_of_length(60)] {
        for second in [line("203.0.113.8:1"), binary_of_length(60)] {
            answer(&gate, &[&[&first[..], &second, &hello("a.test")].concat()]);
            let log = gate.log.line(number);
            assert_eq!((end(&log), &log["source"]), (("not_tls", "hello", "snigate"), &CLIENT.into()));
            number += 1;
        }
    }
    assert!(upstream.visits().is_empty());
}

#[test]
fn a_header_that_ends_early_is_told_from_none() {
    let upstream = Upstream::recording();
    let gate = gate_before(&upstream);
    let whole = line(CLIENT);
    for (number, (bytes, reason, phase)) in [
        (&b""[..], "no_bytes", "proxy_header"),
        (&whole[..whole.len() - 1], "proxy_header_invalid", "proxy_header"),
        (&binary_of_length(60)[..59], "proxy_header_invalid", "proxy_header"),
        (&whole, "no_bytes", "hello"),
        (&[&whole[..], &hello("a.test")[..50]].concat(), "hello_incomplete", "hello"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut balancer = tcp::connect(gate.address());
        balancer.write_all(bytes).unwrap();
        tcp::finish(&balancer);
        assert_eq!(tcp::read_to_end(&mut balancer), (Vec::new(), End::Eof));
        assert_eq!(end(&gate.log.line(number)), (reason, phase, "client"));
    }
    assert!(upstream.visits().is_empty());
}

#[test]
fn header_and_hello_have_one_deadline_that_no_byte_extends() {
    let upstream = Upstream::recording();
    // What is sent at once must be read by then, on a busy machine too.
    let deadline = Duration::from_secs(2);
    let gate = gate_of(&upstream, "127.0.0.1", "client_hello_timeout: 2s, max_client_hello: 64KiB, ");
    let header = line(CLIENT);
    let mut silent: Vec<_> = [
        (&b""[..], "no_bytes", "proxy_header"),
        (&header[..1], "proxy_header_timeout", "proxy_header"),
        (&header, "no_bytes", "hello"),
        (&[&header[..], b"\x16"].concat(), "hello_timeout", "hello"),
    ]
    .map(|(bytes, reason, phase)| {
        let mut balancer = tcp::connect(gate.address());
        balancer.write_all(bytes).unwrap();
        (balancer, reason, phase)
    })
    .into();
    for (balancer, ..) in &mut silent {
        assert_eq!(tcp::read_to_end(balancer), (Vec::new(), End::Eof));
    }
    gate.log.line(3);
    for (balancer, reason, phase) in silent {
        let address = Value::from(balancer.local_addr().unwrap().to_string());
        let its_own = |line: &Value| [&line["source"], &line["balancer"]].contains(&&address);
        let log = gate.log.all().into_iter().find(its_own).unwrap();
        assert_eq!(end(&log), (reason, phase, "snigate"));
    }

    // Byte by byte. The hello lasts for longer than the deadline, on every machine.
    let mut message = vec![1, 0, 0xea, 0x60, 3, 3];
    message.resize(4 + 0xea60, 0);
    let record = |part: &[u8]| [&[22, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
    let slow: Vec<u8> = message.chunks(16_000).flat_map(record).collect();
    let never_whole = &binary_of_length(4096)[..4095];
    for (number, at_once, bytes, reason) in
        [(4, &b""[..], never_whole, "proxy_header_timeout"), (5, &header, &slow, "hello_timeout")]
    {
        let (begin, most) = (Instant::now(), 10 * deadline);
        let mut balancer = tcp::connect(gate.address());
        balancer.write_all(at_once).unwrap();
        let supply = bytes.iter().map(std::slice::from_ref);
        let supply = supply.take_while(|_| gate.log.count() <= number && begin.elapsed() < most);
        let _ = tcp::write_in_pieces(&mut balancer, supply);
        let log = gate.log.line(number);
        assert_eq!(end(&log).0, reason, "{log}");
        let took = Duration::from_secs_f64(log["duration_ms"].as_f64().unwrap() / 1e3);
        assert!(deadline <= took && took < most, "{took:?}");
    }
    assert!(upstream.visits().is_empty());
}

#[test]
fn clients_of_one_balancer_are_spread_by_their_own_source() {
    let upstreams = [Upstream::recording(), Upstream::recording()];
    let [one, two] = upstreams.each_ref().map(Upstream::address);
    let gate = Gate::start(&format!(
        r#"
listeners: [{{ address: "127.0.0.1:0", client_hello_timeout: 60s, proxy_protocol: {{ trusted: ["127.0.0.1"] }} }}]
routes: [{{ server_names: [a.test], upstream: up }}]
upstreams: {{ up: {{ balance: source_hash, endpoints: ["{one}", "{two}"] }} }}
"#
    ));
    let mut chosen = Vec::new();
    for round in 0..40 {
        let source = SocketAddr::from((Ipv4Addr::new(203, 0, 113, round % 20), 1000 + u16::from(round)));
        let mut balancer = tcp::connect(gate.address());
        balancer.write_all(&[&line(&source.to_string())[..], &hello("a.test")].concat()).unwrap();
        tcp::finish(&balancer);
        tcp::read_to_end(&mut balancer);
        chosen.push(gate.log.line_of(source)["endpoint"].clone());
    }
    assert_eq!(chosen[..20], chosen[20..], "a client finds its endpoint again");
    assert!(chosen.contains(&one.to_string().into()) && chosen.contains(&two.to_string().into()));
}

#[test]
fn without_the_key_no_header_is_guessed() {
    let upstream = Upstream::recording();
    let gate = Gate::start(&crate::support::gate::routing([("a.test", upstream.address())]));
    for (number, header) in [line(CLIENT), binary_of_length(60)].into_iter().enumerate() {
        answer(&gate, &[&[&header[..], &hello("a.test")].concat()]);
        let log = gate.log.line(number);
        assert_eq!((end(&log), &log["balancer"]), (("not_tls", "hello", "snigate"), &Value::Null));
        assert!(log["hint"].as_str().unwrap().contains("proxy_protocol"));
    }
    assert!(upstream.visits().is_empty());
}
