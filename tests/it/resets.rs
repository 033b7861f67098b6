//! A reset passes through as a reset, after what was sent before it; and it is named by the side it came from.

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener};

use serde_json::Value;

use crate::support::gate::{Gate, routing};
use crate::support::hello::hello;
use crate::support::tcp::{self, End, Unanswering, Upstream};
use crate::support::{wait_for, wait_until};

fn end(line: &Value) -> (&str, &str, &str) {
    let text = |key: &str| line[key].as_str().unwrap();
    (text("reason"), text("phase"), text("closed_by"))
}

#[test]
fn a_client_that_resets_while_it_sends_its_hello_reaches_nobody() {
    let upstream = Upstream::recording();
    let gate = Gate::start(&routing([("a.test", upstream.address())]));
    let mut client = tcp::connect(gate.address());
    tcp::write_in_pieces(&mut client, [&hello("a.test")[..100]]).unwrap();
    tcp::reset(client);
    assert_eq!(end(&gate.log.line(0)), ("client_reset", "hello", "client"));
    assert!(upstream.visits().is_empty());
}

#[test]
fn a_client_that_resets_while_we_connect_ends_the_attempt() {
    let upstream = Unanswering::new();
    let gate = Gate::start(&routing([("a.test", upstream.address())]));
    let mut client = tcp::connect(gate.address());
    tcp::write_in_pieces(&mut client, [&hello("a.test")[..]]).unwrap();
    tcp::reset(client);
    assert_eq!(end(&gate.log.line(0)), ("client_reset", "connecting", "client"));
}

#[test]
fn a_clients_reset_reaches_the_upstream() {
    let upstream = Upstream::recording();
    let gate = Gate::start(&routing([("a.test", upstream.address())]));
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    upstream.visit(0).wait_for_bytes(hello("a.test").len());
    tcp::reset(client);
    assert_eq!(upstream.visit(0).wait_for_end(), End::Reset);
    assert_eq!(end(&gate.log.line(0)), ("client_reset", "relaying", "client"));
}

#[test]
fn what_a_client_sent_before_its_reset_arrives() {
    let upstream = Upstream::recording();
    let gate = Gate::start(&routing([("a.test", upstream.address())]));
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    upstream.visit(0).wait_for_bytes(1);
    tcp::write_in_pieces(&mut client, [&b"last words"[..]]).unwrap();
    tcp::reset(client);
    assert_eq!(upstream.visit(0).wait_for_end(), End::Reset);
    assert!(upstream.visit(0).bytes().ends_with(b"last words"));
}

#[test]
fn an_upstreams_reset_reaches_the_client() {
    let upstream = Upstream::resetting(hello("a.test").len());
    let gate = Gate::start(&routing([("a.test", upstream.address())]));
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Reset));
    assert_eq!(end(&gate.log.line(0)), ("upstream_reset", "relaying", "upstream"));
}

#[test]
fn an_answer_arrives_though_the_upstream_closed_with_our_bytes_unread() {
    let upstream = Upstream::answering(hello("a.test").len(), "the answer");
    let gate = Gate::start(&routing([("a.test", upstream.address())]));
    for round in 0..20 {
        let mut client = tcp::connect(gate.address());
        let mut bytes = hello("a.test");
        bytes.extend_from_slice(b"and bytes that nobody reads");
        client.write_all(&bytes).unwrap();
        assert_eq!(tcp::read_to_end(&mut client), (b"the answer".to_vec(), End::Reset), "round {round}");
        assert_eq!(end(&gate.log.line(round)), ("upstream_reset", "relaying", "upstream"));
    }
}

#[test]
fn a_large_answer_arrives_whole_before_the_reset_that_follows_it() {
    let answer: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let expected = answer.clone();
    let upstream = Upstream::start(move |mut stream, visit| {
        visit.read(&mut stream, 1);
        stream.write_all(&answer).unwrap();
        tcp::wait_until_read(&stream);
    });
    let gate = Gate::start(&routing([("a.test", upstream.address())]));
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    let (bytes, how) = tcp::read_to_end(&mut client);
    assert!(bytes == expected, "{} of {} bytes", bytes.len(), expected.len());
    assert_eq!(how, End::Reset);
}

/// An upstream that was heard as far as its kernel was, then resets; the client reads only after that. When both upload,
/// the gate learns of the reset by a write that fails.
fn what_was_acknowledged_arrives(client_uploads_too: bool) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let gate = Gate::start(&routing([("a.test", listener.local_addr().unwrap())]));
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    let (mut upstream, _) = listener.accept().unwrap();
    tcp::read_exactly(&mut upstream, hello("a.test").len());
    let poured = match client_uploads_too {
        true => tcp::pour_until_blocked(&mut [&mut upstream, &mut client])[0],
        false => tcp::pour_until_blocked(&mut [&mut upstream])[0],
    };
    // At least these; of the rest, what is not yet under way is lost with the upstream's own queue.
    let acknowledged = poured - tcp::unacknowledged(&upstream);
    tcp::reset(upstream);
    let (bytes, how) = tcp::read_to_end(&mut client);
    assert!(bytes.len() >= acknowledged, "{} of {acknowledged} bytes", bytes.len());
    assert!(bytes == tcp::pattern(bytes.len()));
    assert_eq!(how, End::Reset);
    let line = gate.log.line(0);
    assert_eq!(end(&line), ("upstream_reset", "relaying", "upstream"));
    assert_eq!(line["received"], bytes.len());
}

#[test]
fn what_an_upstream_had_sent_arrives_though_the_client_was_not_reading() {
    what_was_acknowledged_arrives(false);
}

#[test]
fn what_an_upstream_had_sent_arrives_though_our_write_to_it_fails() {
    what_was_acknowledged_arrives(true);
}

#[test]
fn a_reset_after_a_fin_is_seen_though_the_other_side_is_silent() {
    let upstream = Upstream::start(|mut stream, visit| {
        visit.read_to_end(&mut stream);
        // The FIN is read; now only a reset can come.
        wait_until("the reset behind the FIN", || stream.take_error().unwrap().is_some());
        visit.note_end(End::Reset);
    });
    let gate = Gate::start(&routing([("a.test", upstream.address())]));
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    tcp::finish(&client);
    assert_eq!(upstream.visit(0).wait_for_end(), End::Eof);
    tcp::reset(client);
    wait_until("the upstream is reset", || upstream.visit(0).end() == End::Reset);
    // A side that resets after its FIN had closed, not just half-closed: the FIN names the end.
    assert_eq!(end(&gate.log.line(0)), ("client_closed", "relaying", "client"));
}

#[test]
fn an_upstream_that_closed_and_resets_what_comes_late_has_closed() {
    let upstream = Upstream::start(|mut stream, visit| {
        visit.read(&mut stream, hello("a.test").len());
        stream.write_all(b"goodbye").unwrap();
    });
    let gate = Gate::start(&routing([("a.test", upstream.address())]));
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (b"goodbye".to_vec(), End::Eof));
    // As TLS clients do: a last alert into a connection that the server has closed already.
    client.write_all(b"close_notify").unwrap();
    assert_eq!(end(&gate.log.line(0)), ("upstream_closed", "relaying", "upstream"));
}

#[test]
fn an_upstream_that_stops_reading_for_too_long_is_given_up() {
    let upstream = Upstream::unreading();
    let yaml = routing([("a.test", upstream.address())]).replace("up0: {", "up0: { user_timeout: 500ms,");
    let gate = Gate::start(&yaml);
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    let bytes = vec![0; 1024 * 1024];
    let error = wait_for("the client is told", || client.write_all(&bytes).err());
    // Not a broken pipe, which is a reset behind a FIN.
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(end(&gate.log.line(0)), ("peer_timeout", "relaying", "upstream"));
}
