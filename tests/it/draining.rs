//! A gate that is told to stop takes its leave: whoever comes in the grace is served, whoever is connected may end by itself,
//! and the rest is closed with a FIN to both sides.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::process::{Signal, getuid};

use crate::support::gate::{GateProcess, routing};
use crate::support::hello::hello;
use crate::support::tcp::{self, End, Unanswering, Upstream};
use crate::support::{descriptors, wait_until};

/// Longer than any test waits.
const NEVER: &str = "1h";

/// A gate that leads a.test there, and is told to stop so.
fn gate(upstream: SocketAddr, grace: &str, spread: &str, deadline: &str) -> GateProcess {
    GateProcess::start(&yaml(&[("a.test", upstream)], grace, spread, deadline))
}

fn yaml(routes: &[(&str, SocketAddr)], grace: &str, spread: &str, deadline: &str) -> String {
    let routes = routing(routes.iter().copied());
    format!("{routes}drain: {{ grace: {grace}, spread: {spread}, deadline: {deadline} }}\n")
}

/// A client whose hello was echoed.
fn client(gate: &GateProcess) -> TcpStream {
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    tcp::read_exactly(&mut client, hello("a.test").len());
    client
}

fn is_alive(client: &mut TcpStream) -> bool {
    client.write_all(b"still").unwrap();
    tcp::read_exactly(client, 5) == b"still"
}

/// What became of so many connections, in the order of their ends.
fn reasons(gate: &GateProcess, connections: usize) -> Vec<String> {
    wait_until("a line for each", || gate.log().len() >= connections);
    gate.log().iter().map(|line| format!("{} {}", line["phase"], line["reason"]).replace('"', "")).collect()
}

fn wait_until_nobody_listens(gate: &GateProcess) {
    wait_until("nobody listens any more", || descriptors::listening(gate.pid()).is_none());
    assert_eq!(TcpStream::connect(gate.address()).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn who_comes_in_the_grace_is_served_and_a_second_signal_ends_it() {
    let upstream = Upstream::echo();
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::INT), (Signal::TERM, Signal::INT)] {
        let mut gate = gate(upstream.address(), NEVER, "0s", NEVER);
        let mut early = client(&gate);
        gate.signal(first);
        gate.lines.wait("it was told", |line| line.contains("stopping"));
        let mut late = client(&gate);
        assert!(is_alive(&mut early) && is_alive(&mut late));
        assert_eq!(gate.stop(second).code(), Some(3), "two were cut");
    }
    let mut gate = gate(upstream.address(), NEVER, "0s", NEVER);
    gate.signal(Signal::TERM);
    gate.lines.wait("it was told", |line| line.contains("stopping"));
    assert_eq!(gate.stop(Signal::TERM).code(), Some(0), "nobody was there");
}

#[test]
fn after_the_grace_a_second_signal_ends_it_too() {
    let upstream = Upstream::echo();
    for (spread, deadline, stage) in [("0s", NEVER, "nobody new"), (NEVER, NEVER, "closing what is open")] {
        let mut gate = gate(upstream.address(), "0s", spread, deadline);
        let held: Vec<_> = (0..3).map(|_| client(&gate)).collect();
        gate.signal(Signal::TERM);
        gate.lines.wait(stage, |line| line.contains(stage));
        assert_eq!(gate.stop(Signal::INT).code(), Some(3));
        drop(held);
    }
}

#[test]
fn who_is_connected_may_end_by_itself() {
    let upstream = Upstream::echo();
    let mut gate = gate(upstream.address(), "0s", "0s", NEVER);
    let mut held: Vec<_> = (0..5).map(|_| client(&gate)).collect();
    gate.signal(Signal::TERM);
    wait_until_nobody_listens(&gate);
    assert!(held.iter_mut().all(is_alive));
    let told = gate.lines.wait("who is waited for", |line| line.contains("draining: "));
    for part in [r#"draining: 5 of `a.test`""#, r#""connections":5"#, r#""oldest":""#] {
        assert!(told.contains(part), "{told}");
    }
    drop(held);
    assert_eq!(gate.wait().code(), Some(0), "{:?}", gate.lines.all());
    assert_eq!(reasons(&gate, 5), ["relaying client_closed"; 5]);
}

#[test]
fn an_answer_that_is_waited_for_arrives_and_a_client_that_has_yet_to_say_where_gets_there() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut gate = gate(upstream.local_addr().unwrap(), "0s", "0s", NEVER);
    let hello = hello("a.test");
    let mut asking = tcp::connect(gate.address());
    asking.write_all(&hello).unwrap();
    tcp::finish(&asking);
    let (mut answering, _) = upstream.accept().unwrap();
    assert_eq!(tcp::read_to_end(&mut answering), (hello.clone(), End::Eof));
    let mut undecided = tcp::connect(gate.address());
    tcp::write_in_pieces(&mut undecided, [&hello[..20]]).unwrap();

    gate.signal(Signal::TERM);
    wait_until_nobody_listens(&gate);
    undecided.write_all(&hello[20..]).unwrap();
    tcp::finish(&undecided);
    let (mut late, _) = upstream.accept().unwrap();
    assert_eq!(tcp::read_to_end(&mut late), (hello, End::Eof));
    for (stream, client) in [(&mut answering, &mut asking), (&mut late, &mut undecided)] {
        stream.write_all(b"answer").unwrap();
        tcp::finish(stream);
        assert_eq!(tcp::read_to_end(client), (b"answer".to_vec(), End::Eof));
    }
    assert_eq!(gate.wait().code(), Some(0), "{:?}", gate.lines.all());
    assert_eq!(reasons(&gate, 2), ["relaying client_closed"; 2]);
}

#[test]
fn who_is_silent_to_the_end_is_told_by_a_fin_and_not_cut() {
    let (upstream, connecting, thinking) = (Upstream::echo(), Unanswering::new(), Upstream::silent());
    let routes = [("a.test", upstream.address()), ("b.test", connecting.address()), ("c.test", thinking.address())];
    // Time enough for everybody to be silent when it is over.
    let yaml = yaml(&routes, "0s", "1s", "5s").replace("up1: {", "up1: { connect_timeout: 60s,");
    let mut gate = GateProcess::start(&yaml);
    let mut silent = client(&gate);
    let mut half_closed = tcp::connect(gate.address());
    half_closed.write_all(&hello("c.test")).unwrap();
    tcp::finish(&half_closed);
    assert_eq!(thinking.visit(0).wait_for_end(), End::Eof);
    let mut undecided = tcp::connect(gate.address());
    tcp::write_in_pieces(&mut undecided, [&hello("a.test")[..100]]).unwrap();
    let mut waiting = tcp::connect(gate.address());
    tcp::write_in_pieces(&mut waiting, [&hello("b.test")[..]]).unwrap();
    waiting.write_all(b"early data").unwrap();
    gate.signal(Signal::TERM);
    let streams = [(&mut silent, "silent"), (&mut undecided, "undecided"), (&mut waiting, "connecting")];
    for (stream, what) in streams.into_iter().chain([(&mut half_closed, "half-closed")]) {
        assert_eq!((tcp::read_to_end(stream), tcp::was_reset(stream)), ((Vec::new(), End::Eof), false), "{what}");
    }
    drop((silent, half_closed, undecided, waiting));
    assert_eq!(gate.wait().code(), Some(0), "{:?}", gate.lines.all());
    assert_eq!(upstream.visit(0).wait_for_end(), End::Eof);
    let mut ends = reasons(&gate, 4);
    ends.sort();
    let expected = ["connecting drained", "hello drained", "relaying drained", "relaying drained"];
    assert_eq!(ends, expected);
}

#[test]
fn whose_bytes_are_under_way_goes_last_and_is_cut() {
    let upstream = Upstream::echo();
    let stuck = TcpListener::bind("127.0.0.1:0").unwrap();
    let routes = [("a.test", upstream.address()), ("b.test", stuck.local_addr().unwrap())];
    let mut gate = GateProcess::start(&format!("{}workers: 1\n", yaml(&routes, "0s", "1s", "4s")));
    let mut bulk = tcp::connect(gate.address());
    bulk.write_all(&hello("b.test")).unwrap();
    let (mut reader, _) = stuck.accept().unwrap();
    tcp::read_exactly(&mut reader, hello("b.test").len());
    [&bulk, &reader].into_iter().for_each(tcp::keep_little);
    tcp::pour_until_blocked(&mut [&mut bulk, &mut reader]);
    let mut silent = client(&gate);
    let silent_source = silent.local_addr().unwrap().to_string();
    gate.signal(Signal::TERM);
    assert_eq!(tcp::read_to_end(&mut silent), (Vec::new(), End::Eof));
    drop(silent);
    // Both sides hear of it by a FIN behind what they had not read yet.
    for (stream, what) in [(&mut bulk, "client"), (&mut reader, "upstream")] {
        let (bytes, end) = tcp::read_to_end(stream);
        assert!(bytes == tcp::pattern(bytes.len()), "{what}");
        assert_eq!((end, tcp::was_reset(stream)), (End::Eof, false), "{what}");
    }
    assert_eq!(gate.wait().code(), Some(3), "{:?}", gate.lines.all());
    gate.lines.wait("that it was cut", |line| line.contains(r#""cut":1"#));
    assert_eq!(reasons(&gate, 2), ["relaying drained"; 2]);
    assert_eq!(gate.log()[0]["source"], *silent_source);
}

#[test]
fn nobody_who_waits_to_be_accepted_is_lost() {
    /// As many as fit into a backlog anywhere.
    const CLIENTS: usize = 100;
    let upstream = Upstream::echo();
    let mut gate = gate(upstream.address(), "0s", "0s", NEVER);
    gate.signal(Signal::STOP);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| tcp::connect(gate.address())).collect();
    let hello = hello("a.test");
    for client in &mut clients {
        client.write_all(&hello).unwrap();
    }
    gate.signal(Signal::TERM);
    gate.signal(Signal::CONT);
    for client in &mut clients {
        assert_eq!(tcp::read_exactly(client, hello.len()), hello);
    }
    wait_until_nobody_listens(&gate);
    drop(clients);
    assert_eq!(gate.wait().code(), Some(0));
    assert_eq!(reasons(&gate, CLIENTS), ["relaying client_closed"; CLIENTS]);
}

#[test]
fn nobody_is_waited_for_who_is_not_there_and_another_drain_may_be_configured() {
    let upstream = Upstream::echo();
    let mut gate = gate(upstream.address(), NEVER, "0s", NEVER);
    fs::write(gate.config(), yaml(&[("a.test", upstream.address())], "10ms", "0s", NEVER)).unwrap();
    gate.signal(Signal::HUP);
    gate.lines.wait("it is taken over", |line| line.contains("`drain` changed"));
    assert_eq!(gate.stop(Signal::TERM).code(), Some(0));
    gate.lines.wait("its last word", |line| line.contains(r#""message":"stopped""#));
}

#[test]
fn the_first_process_of_a_container_hears_signals() {
    let upstream = Upstream::echo();
    let sandbox = if getuid().is_root() { "user: nobody\nsandbox: require\n" } else { "" };
    let yaml = |deadline| format!("{}{sandbox}", yaml(&[("a.test", upstream.address())], "0s", "0s", deadline));
    for signal in [Signal::TERM, Signal::INT] {
        let Some(mut gate) = GateProcess::start_as_first(&yaml(NEVER)) else { return };
        let mut held = client(&gate);
        fs::write(gate.config(), yaml("2h")).unwrap();
        gate.signal(Signal::HUP);
        gate.lines.wait("it is taken over", |line| line.contains("`drain` changed"));
        gate.signal(signal);
        wait_until_nobody_listens(&gate);
        assert!(is_alive(&mut held));
        drop(held);
        assert_eq!(gate.wait().code(), Some(0), "{:?}", gate.lines.all());
    }
    let Some(mut gate) = GateProcess::start_as_first(&yaml(NEVER)) else { return };
    let _held = client(&gate);
    gate.signal(Signal::TERM);
    wait_until_nobody_listens(&gate);
    assert_eq!(gate.stop(Signal::TERM).code(), Some(3));
}
