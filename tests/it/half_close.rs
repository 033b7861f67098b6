//! A FIN closes one way only, in whatever order the two come, and every byte before it arrives.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::support::gate::{Gate, routing};
use crate::support::hello::hello;
use crate::support::tcp::{self, End, Unanswering, Upstream};

fn gate_before(upstream: SocketAddr) -> Gate {
    Gate::start(&routing([("a.test", upstream)]))
}

/// Waits for the peer's FIN, then sends, then sends its own.
fn speaking_last(words: &'static [u8]) -> Upstream {
    Upstream::start(move |mut stream, visit| {
        visit.read_to_end(&mut stream);
        stream.write_all(words).unwrap();
    })
}

#[test]
fn the_upstream_speaks_on_after_the_clients_fin() {
    let upstream = speaking_last(b"late words");
    let gate = gate_before(upstream.address());
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    upstream.visit(0).wait_for_bytes(hello("a.test").len());
    tcp::finish(&client);
    assert_eq!(tcp::read_to_end(&mut client), (b"late words".to_vec(), End::Eof));
    let line = gate.log.line(0);
    assert_eq!((line["reason"].as_str(), line["closed_by"].as_str()), (Some("client_closed"), Some("client")));
    assert_eq!((line["phase"].as_str(), line["received"].as_u64()), (Some("relaying"), Some(10)));
    assert_eq!(line["sent"].as_u64(), Some(hello("a.test").len() as u64));
}

#[test]
fn the_client_speaks_on_after_the_upstreams_fin() {
    let upstream = Upstream::start(|mut stream, visit| {
        tcp::finish(&stream);
        visit.read_to_end(&mut stream);
    });
    let gate = gate_before(upstream.address());
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof));
    client.write_all(b"late words").unwrap();
    tcp::finish(&client);
    assert_eq!(upstream.visit(0).wait_for_end(), End::Eof);
    assert!(upstream.visit(0).bytes().ends_with(b"late words"));
    let line = gate.log.line(0);
    assert_eq!((line["reason"].as_str(), line["closed_by"].as_str()), (Some("upstream_closed"), Some("upstream")));
}

#[test]
fn a_fin_right_behind_the_hello_is_passed_on_behind_it() {
    let upstream = speaking_last(b"late words");
    let gate = gate_before(upstream.address());
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    tcp::finish(&client);
    assert_eq!(tcp::read_to_end(&mut client), (b"late words".to_vec(), End::Eof));
    assert_eq!(upstream.visit(0).bytes().len(), hello("a.test").len());
    assert_eq!(gate.log.line(0)["reason"], "client_closed");
}

#[test]
fn both_may_close_without_waiting_for_each_other() {
    let upstream = Upstream::start(|mut stream, visit| {
        stream.write_all(b"words").unwrap();
        tcp::finish(&stream);
        visit.read_to_end(&mut stream);
    });
    let gate = gate_before(upstream.address());
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    client.write_all(b"more").unwrap();
    tcp::finish(&client);
    assert_eq!(tcp::read_to_end(&mut client), (b"words".to_vec(), End::Eof));
    assert_eq!(upstream.visit(0).wait_for_end(), End::Eof);
    assert!(upstream.visit(0).bytes().ends_with(b"more"));
    let reason = gate.log.line(0)["reason"].clone();
    assert!(reason == "client_closed" || reason == "upstream_closed", "{reason}");
}

#[test]
fn a_peer_that_stays_silent_after_a_fin_is_given_up() {
    for closing_first in ["client", "upstream"] {
        let upstream = match closing_first {
            "client" => Upstream::silent(),
            _ => Upstream::start(|mut stream, visit| {
                tcp::finish(&stream);
                visit.read_to_end(&mut stream);
            }),
        };
        let yaml =
            routing([("a.test", upstream.address())]).replace("upstream: up0", "upstream: up0, half_close_timeout: 1s");
        let gate = Gate::start(&yaml);
        let mut client = tcp::connect(gate.address());
        client.write_all(&hello("a.test")).unwrap();
        if closing_first == "client" {
            upstream.visit(0).wait_for_bytes(hello("a.test").len());
            tcp::finish(&client);
        }
        assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof), "{closing_first} first");
        assert_eq!(upstream.visit(0).wait_for_end(), End::Eof, "{closing_first} first");
        drop(upstream);
        let line = gate.log.line(0);
        assert_eq!(
            (line["reason"].as_str(), line["closed_by"].as_str()),
            (Some("half_close_timeout"), Some("snigate"))
        );
    }
}

#[test]
fn silence_on_both_sides_ends_with_a_fin_to_both() {
    let upstream = Upstream::recording();
    let yaml = routing([("a.test", upstream.address())])
        .replace("upstream: up0", "upstream: up0, idle_timeout: 1s, allow_short_idle: true");
    let gate = Gate::start(&yaml);
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof));
    assert_eq!(upstream.visit(0).wait_for_end(), End::Eof);
    let line = gate.log.line(0);
    assert_eq!((line["reason"].as_str(), line["closed_by"].as_str()), (Some("idle_timeout"), Some("snigate")));
}

#[test]
fn stopping_closes_with_a_fin_to_both_while_bytes_still_come() {
    let (relaying, connecting) = (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), Unanswering::new());
    let routes = [("a.test", relaying.local_addr().unwrap()), ("b.test", connecting.address())];
    // Longer than this test needs to get as far as to stop.
    let yaml = routing(routes).replace("up1: {", "up1: { connect_timeout: 60s,");
    let mut gate = Gate::start(&yaml);
    // Both sides of one relay send until nobody takes any more: when it closes, unread bytes are there and more come.
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    let (mut upstream, _) = relaying.accept().unwrap();
    tcp::read_exactly(&mut upstream, hello("a.test").len());
    [&client, &upstream].into_iter().for_each(tcp::keep_little);
    tcp::pour_until_blocked(&mut [&mut client, &mut upstream]);
    // While it connects, the gate does not read what comes behind the hello.
    let mut waiting = tcp::connect(gate.address());
    tcp::write_in_pieces(&mut waiting, [&hello("b.test")[..]]).unwrap();
    waiting.write_all(b"early data").unwrap();
    let mut undecided = tcp::connect(gate.address());
    tcp::write_in_pieces(&mut undecided, [&hello("a.test")[..100]]).unwrap();
    gate.stop();
    for (stream, what) in [(&mut client, "client"), (&mut upstream, "upstream")] {
        let (bytes, end) = tcp::read_to_end(stream);
        assert!(bytes == tcp::pattern(bytes.len()), "{what}");
        assert_eq!((end, tcp::was_reset(stream)), (End::Eof, false), "{what}");
    }
    for (stream, what) in [(&mut waiting, "connecting"), (&mut undecided, "undecided")] {
        assert_eq!((tcp::read_to_end(stream), tcp::was_reset(stream)), ((Vec::new(), End::Eof), false), "{what}");
    }
    let mut ends: Vec<_> = gate.log.all().iter().map(|line| format!("{} {}", line["reason"], line["phase"])).collect();
    ends.sort();
    assert_eq!(ends, [r#""drained" "connecting""#, r#""drained" "hello""#, r#""drained" "relaying""#]);
}
