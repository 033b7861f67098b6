//! Who is not served: the right reason, the right answer to the client, and not a byte to any upstream.

use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::gate::{Gate, routing};
use crate::support::hello::{hello, hello_of};
use crate::support::tcp::{self, End, Refusing, Unanswering, Upstream};
use crate::support::tls::classic;

/// An alert as it goes over the wire: record type 21, version, length 2, level fatal, description.
fn alert(minor: u8, description: u8) -> Vec<u8> {
    vec![21, 3, minor, 0, 2, 2, description]
}

const DECODE_ERROR: u8 = 50;
const UNRECOGNIZED_NAME: u8 = 112;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// One listener with the routes of these tests before `upstream`; `more` is added to the listener.
fn gate_before(upstream: &Upstream, more: &str) -> Gate {
    Gate::start(&format!(
        r#"
listeners: [{{ address: "127.0.0.1:0", name: gate{more} }}]
routes:
  - {{ server_names: [a.test], upstream: up }}
  - {{ server_names: [elsewhere.test], allow: [192.0.2.0/24], upstream: up }}
  - {{ server_names: [h2.test], alpn: [h2], upstream: up }}
upstreams:
  up: {{ endpoints: ["{}"] }}
"#,
        upstream.address()
    ))
}

/// As much as a client may have under way behind its hello: more than one read, less than what the gate reads of it.
const BEHIND: usize = 48 * 1024;

/// Sends `bytes` and much more behind them, and reads the answer to its end. The end is a reset also if that came behind
/// a FIN: to an unlucky client it would be all.
fn answer_while_sending(gate: &Gate, bytes: &[u8]) -> (Vec<u8>, End) {
    let mut client = tcp::connect(gate.address());
    client.write_all(&[bytes, &vec![23; BEHIND]].concat()).unwrap();
    let (answer, end) = tcp::read_to_end(&mut client);
    // It has closed already if it was reset.
    let _ = client.shutdown(Shutdown::Write);
    gate.log.line_of(client.local_addr().unwrap());
    (answer, if tcp::was_reset(&client) { End::Reset } else { end })
}

/// Sends `bytes` to a gate and reads its answer to the end.
fn answer(gate: &Gate, bytes: &[u8]) -> (Vec<u8>, End) {
    let mut client = tcp::connect(gate.address());
    client.write_all(bytes).unwrap();
    tcp::read_to_end(&mut client)
}

fn end(line: &Value) -> (&str, &str, &str) {
    let text = |key: &str| line[key].as_str().unwrap();
    (text("reason"), text("phase"), text("closed_by"))
}

/// What no retry can mend, each with its reason and its alert.
fn final_refusals() -> Vec<(Vec<u8>, &'static str, u8)> {
    let mut broken = hello("a.test");
    let last = broken.len() - 1;
    broken[5] = 2; // a ServerHello
    let mut too_large = vec![22, 3, 1, 0x40, 0, 1, 0, 0x80, 0, 3, 3];
    too_large.resize(200, 0);
    let mut invalid = hello("a.test");
    let place = invalid.windows(6).position(|window| window == b"a.test").unwrap();
    invalid[place] = b'\n';
    let mut cut = hello("a.test");
    cut[4] -= 1; // the record ends one byte early, and the next is no record
    cut[last] = 0xff;
    vec![
        (hello("unknown.test"), "unknown_server_name", UNRECOGNIZED_NAME),
        (hello("127.0.0.1"), "no_server_name", UNRECOGNIZED_NAME),
        (invalid, "server_name_invalid", UNRECOGNIZED_NAME),
        (hello("elsewhere.test"), "source_denied", UNRECOGNIZED_NAME),
        (hello_of(classic(), "h2.test", &["http/1.1"]), "alpn_denied", NO_APPLICATION_PROTOCOL),
        (broken, "hello_malformed", DECODE_ERROR),
        (cut, "hello_malformed", DECODE_ERROR),
        (too_large, "hello_too_large", DECODE_ERROR),
    ]
}

#[test]
fn what_no_retry_can_mend_is_told_by_an_alert_that_arrives() {
    let upstream = Upstream::recording();
    let gate = gate_before(&upstream, "");
    for (index, (bytes, reason, description)) in final_refusals().into_iter().enumerate() {
        // Unread, what follows the hello would turn our close into a reset that eats the alert.
        assert_eq!(answer_while_sending(&gate, &bytes), (alert(3, description), End::Eof), "{reason}");
        assert_eq!(end(&gate.log.line(index)), (reason, "hello", "snigate"));
    }
    assert!(upstream.visits().is_empty());
}

#[test]
fn an_old_client_gets_its_alert_in_an_old_record() {
    let upstream = Upstream::recording();
    let gate = gate_before(&upstream, "");
    let mut bytes = hello("unknown.test");
    bytes[9..11].copy_from_slice(&[3, 1]);
    assert_eq!(answer(&gate, &bytes), (alert(1, UNRECOGNIZED_NAME), End::Eof));
}

#[test]
fn a_listener_may_close_or_reset_instead() {
    let upstream = Upstream::recording();
    for (reject, expected) in [("close", End::Eof), ("reset", End::Reset)] {
        let gate = gate_before(&upstream, &format!(", reject: {reject}"));
        for (index, (bytes, reason, _)) in final_refusals().into_iter().enumerate() {
            let answer = match expected {
                // What it sends may find the reset there already.
                End::Reset => answer(&gate, &bytes),
                _ => answer_while_sending(&gate, &bytes),
            };
            assert_eq!(answer, (Vec::new(), expected), "{reason} by {reject}");
            assert_eq!(end(&gate.log.line(index)), (reason, "hello", "snigate"));
        }
    }
    assert!(upstream.visits().is_empty());
}

#[test]
fn a_source_that_the_listener_denies_is_not_even_heard() {
    let upstream = Upstream::recording();
    let gate = gate_before(&upstream, ", deny: [127.0.0.0/8]");
    assert_eq!(answer(&gate, b""), (Vec::new(), End::Eof));
    assert_eq!(answer_while_sending(&gate, &hello("a.test")), (Vec::new(), End::Eof));
    let line = gate.log.line(1);
    assert_eq!((end(&line), &line["hello_bytes"]), (("source_denied", "hello", "snigate"), &Value::Null));
}

#[test]
fn who_speaks_no_tls_gets_no_alert() {
    let upstream = Upstream::recording();
    let gate = gate_before(&upstream, "");
    assert_eq!(answer(&gate, b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"), (Vec::new(), End::Eof));
    let line = gate.log.line(0);
    assert_eq!(end(&line), ("not_tls", "hello", "snigate"));
    assert!(line["hint"].as_str().unwrap().contains("https://"));
    assert_eq!(answer_while_sending(&gate, b"GET / HTTP/1.1\r\n"), (Vec::new(), End::Eof));
    assert!(upstream.visits().is_empty());
}

#[test]
fn no_server_name_comes_with_its_remedy() {
    let upstream = Upstream::recording();
    let gate = gate_before(&upstream, "");
    answer(&gate, &hello("127.0.0.1"));
    assert!(gate.log.line(0)["hint"].as_str().unwrap().contains("tls-server-name"));
}

#[test]
fn a_client_that_closes_early_is_told_apart_by_what_it_sent() {
    let upstream = Upstream::recording();
    let gate = gate_before(&upstream, "");
    for (index, (bytes, reason)) in
        [(&b""[..], "no_bytes"), (&hello("a.test")[..50], "hello_incomplete")].iter().enumerate()
    {
        let mut client = tcp::connect(gate.address());
        client.write_all(bytes).unwrap();
        tcp::finish(&client);
        assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof));
        assert_eq!(end(&gate.log.line(index)), (*reason, "hello", "client"));
    }
    assert!(upstream.visits().is_empty());
}

#[test]
fn a_hello_has_one_deadline_that_no_byte_extends() {
    let upstream = Upstream::recording();
    let deadline = Duration::from_millis(500);
    let gate = gate_before(&upstream, ", client_hello_timeout: 500ms, max_client_hello: 64KiB");
    let mut silent = tcp::connect(gate.address());
    assert_eq!(tcp::read_to_end(&mut silent), (Vec::new(), End::Eof));
    assert_eq!(end(&gate.log.line(0)), ("no_bytes", "hello", "snigate"));

    let (begin, most) = (Instant::now(), 10 * deadline);
    let mut slow = tcp::connect(gate.address());
    // Byte by byte it lasts for longer than the deadline, on every machine.
    let mut message = vec![1, 0, 0xea, 0x60, 3, 3];
    message.resize(4 + 0xea60, 0);
    let record = |part: &[u8]| [&[22, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
    let bytes: Vec<u8> = message.chunks(16_000).flat_map(record).collect();
    let supply = bytes.iter().map(std::slice::from_ref).take_while(|_| gate.log.count() < 2 && begin.elapsed() < most);
    let _ = tcp::write_in_pieces(&mut slow, supply);
    let line = gate.log.line(1);
    assert_eq!(end(&line), ("hello_timeout", "hello", "snigate"));
    let took = Duration::from_secs_f64(line["duration_ms"].as_f64().unwrap() / 1e3);
    assert!(deadline <= took && took < most, "{took:?}");
    assert!(upstream.visits().is_empty());
}

#[test]
fn an_upstream_that_refuses_is_a_plain_close() {
    let refusing = Refusing::new();
    let gate = Gate::start(&routing([("a.test", refusing.address())]));
    assert_eq!(answer(&gate, &hello("a.test")), (Vec::new(), End::Eof));
    let line = gate.log.line(0);
    assert_eq!(end(&line), ("connect_refused", "connecting", "upstream"));
    assert_eq!((line["route"].as_str(), line["upstream"].as_str()), (Some("a.test"), Some("up0")));
}

#[test]
fn an_upstream_that_does_not_answer_is_a_plain_close() {
    let unanswering = Unanswering::new();
    let yaml = routing([("a.test", unanswering.address())]).replace("up0: {", "up0: { connect_timeout: 200ms,");
    let gate = Gate::start(&yaml);
    assert_eq!(answer(&gate, &hello("a.test")), (Vec::new(), End::Eof));
    assert_eq!(end(&gate.log.line(0)), ("connect_timeout", "connecting", "upstream"));
}

#[test]
fn bytes_that_come_while_we_connect_do_not_turn_the_close_into_a_reset() {
    let unanswering = Unanswering::new();
    let yaml = routing([("a.test", unanswering.address())]).replace("up0: {", "up0: { connect_timeout: 1s,");
    let gate = Gate::start(&yaml);
    let mut client = tcp::connect(gate.address());
    tcp::write_in_pieces(&mut client, [&hello("a.test")[..]]).unwrap();
    client.write_all(b"early data").unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof));
    tcp::finish(&client);
    assert_eq!(end(&gate.log.line(0)), ("connect_timeout", "connecting", "upstream"));
    assert!(!tcp::was_reset(&client));
}

#[test]
fn an_address_that_nobody_can_connect_to_is_a_plain_close() {
    // The kernel refuses TCP to the broadcast address by itself.
    let broadcast = (Ipv4Addr::BROADCAST, 6443).into();
    let gate = Gate::start(&routing([("a.test", broadcast)]));
    assert_eq!(answer(&gate, &hello("a.test")), (Vec::new(), End::Eof));
    assert_eq!(end(&gate.log.line(0)), ("connect_failed", "connecting", "upstream"));
}

#[test]
fn a_name_without_an_address_is_a_plain_close() {
    let refusing = Refusing::new();
    // `.invalid` has no address anywhere (RFC 6761), whether or not a resolver can be asked.
    let yaml = routing([("a.test", refusing.address())])
        .replace(&refusing.address().to_string(), "nowhere.invalid:6443")
        .replace("up0: {", "up0: { connect_timeout: 1s,");
    let gate = Gate::start(&yaml);
    assert_eq!(answer(&gate, &hello("a.test")), (Vec::new(), End::Eof));
    assert_eq!(end(&gate.log.line(0)), ("dns_unresolved", "connecting", "upstream"));
}

#[test]
fn another_endpoint_takes_over_while_nothing_was_sent() {
    let (refusing, unanswering, upstream) = (Refusing::new(), Unanswering::new(), Upstream::recording());
    let yaml = format!(
        r#"
listeners: [{{ address: "127.0.0.1:0" }}]
routes: [{{ server_names: [a.test], upstream: up }}]
upstreams:
  up:
    connect_timeout: 200ms
    endpoints: ["{}", "{}", {{ address: "localhost:{}", backup: true }}]
"#,
        refusing.address(),
        unanswering.address(),
        upstream.address().port()
    );
    let gate = Gate::start(&yaml);
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    upstream.visit(0).wait_for_bytes(hello("a.test").len());
    tcp::finish(&client);
    tcp::read_to_end(&mut client);
    let line = gate.log.line(0);
    assert_eq!(line["endpoint"], upstream.address().to_string());
    assert!(line["connect_ms"].as_f64().unwrap() >= 200.0, "{line}");
}

#[test]
fn no_more_endpoints_are_tried_than_allowed() {
    let (one, two, upstream) = (Refusing::new(), Refusing::new(), Upstream::recording());
    let yaml = format!(
        r#"
listeners: [{{ address: "127.0.0.1:0" }}]
routes: [{{ server_names: [a.test], upstream: up }}]
upstreams:
  up: {{ attempts: 2, endpoints: ["{}", "{}", {{ address: "{}", backup: true }}] }}
"#,
        one.address(),
        two.address(),
        upstream.address()
    );
    let gate = Gate::start(&yaml);
    assert_eq!(answer(&gate, &hello("a.test")), (Vec::new(), End::Eof));
    assert_eq!(end(&gate.log.line(0)), ("connect_refused", "connecting", "upstream"));
    assert!(upstream.visits().is_empty());
}

#[test]
fn names_cannot_forge_log_lines() {
    let upstream = Upstream::recording();
    let gate = gate_before(&upstream, "");
    let mut bytes = hello("aaaaaaaaaaaaaaaaaaaaaaaaaaaaa.test");
    let forged = b"\"}\n{\"reason\":\"forged\xff\x1b[31m\"}";
    let place = bytes.windows(10).position(|window| window == b"aaaaaaaaaa").unwrap();
    bytes[place..place + forged.len()].copy_from_slice(forged);
    assert_eq!(answer(&gate, &bytes), (alert(3, UNRECOGNIZED_NAME), End::Eof));
    let line = gate.log.line(0);
    assert_eq!(line["reason"], "server_name_invalid");
    let name = line["server_name"].as_str().unwrap();
    assert!(name.is_ascii() && !name.contains(|c: char| c.is_ascii_control()), "{name:?}");
    assert!(name.contains(r"forged\xff\x1b"), "{name}");
    assert_eq!(gate.log.all().len(), 1);
}

#[test]
fn a_kept_connection_is_untouched_by_all_this() {
    let upstream = Upstream::echo();
    let gate = gate_before(&upstream, "");
    let mut kept: TcpStream = tcp::connect(gate.address());
    let bytes = hello("a.test");
    kept.write_all(&bytes).unwrap();
    assert_eq!(tcp::read_exactly(&mut kept, bytes.len()), bytes);
    for (bytes, reason, _) in final_refusals() {
        assert_ne!(answer(&gate, &bytes).0, bytes, "{reason}");
    }
    kept.write_all(b"still here").unwrap();
    assert_eq!(tcp::read_exactly(&mut kept, 10), b"still here");
}
