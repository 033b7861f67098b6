//! SIGTERM and SIGINT end the gate: nobody new gets in, everybody else is told by a FIN, and the log is complete. These
//! gates take no time for it; `draining` has those that do.

use crate::support::gate::{GateProcess, routing};
use crate::support::hello::hello;
use crate::support::tcp::{self, End, Upstream};
use crate::support::wait_until;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;

#[test]
fn a_signal_ends_every_connection_and_then_the_process() {
    for signal in [Signal::TERM, Signal::INT] {
        let upstream = Upstream::echo();
        let mut gate = GateProcess::start(&routing([("a.test", upstream.address())]));
        let mut relayed = tcp::connect(gate.address());
        relayed.write_all(&hello("a.test")).unwrap();
        tcp::read_exactly(&mut relayed, hello("a.test").len());
        let mut undecided = tcp::connect(gate.address());
        tcp::write_in_pieces(&mut undecided, [&hello("a.test")[..20]]).unwrap();

        // A client whose bytes have just moved counts as cut, and on a slow machine that may be a while ago.
        assert!(matches!(gate.stop(signal).code(), Some(0 | 3)), "{:?}", gate.lines.all());
        assert_eq!(tcp::read_to_end(&mut relayed), (Vec::new(), End::Eof));
        assert_eq!(tcp::read_to_end(&mut undecided), (Vec::new(), End::Eof));
        assert_eq!(upstream.visit(0).wait_for_end(), End::Eof);
        assert_eq!(TcpStream::connect(gate.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);

        wait_until("a line for either", || gate.log().len() == 2);
        let ends: BTreeSet<String> =
            gate.log().iter().map(|line| format!("{} {}", line["phase"], line["reason"])).collect();
        assert_eq!(ends, ["\"hello\" \"drained\"", "\"relaying\" \"drained\""].map(str::to_owned).into());
    }
}

#[test]
fn a_second_signal_does_not_wait_for_peers_that_do_not_close() {
    let upstream = Upstream::silent();
    let mut gate = GateProcess::start_unread(&routing([("a.test", upstream.address())]));
    // Its access log is stuck, too: these lines are more than a pipe holds.
    for _ in 0..400 {
        let mut client = tcp::connect(gate.address());
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        tcp::finish(&client);
        tcp::read_to_end(&mut client);
    }
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    upstream.visit(0).wait_for_bytes(hello("a.test").len());
    gate.signal(Signal::TERM);
    // Our FIN is there, and nobody answers it: the gate waits, for the peers first and then for its log.
    assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof));
    assert_eq!(gate.stop(Signal::TERM).code(), Some(3), "{:?}", gate.lines.all());
    let stopped = |line: &String| line.contains(r#""message":"stopped""#);
    assert!(!gate.lines.all().iter().any(stopped), "it waited all the same");
}
