//! The kernel has nothing left: accepting pauses and does not spin, complains no more than once a second, tells who waits,
//! and goes on as soon as it can.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getuid, prlimit};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::support::gate::{GateProcess, routing};
use crate::support::hello::hello;
use crate::support::tcp::{self, End, Upstream};
use crate::support::{PATIENCE, descriptors, tools, wait_for, wait_until};

/// Descriptors that the gate may take beyond those it has at rest.
const SPARE: usize = 6;

/// A gate of one worker before an upstream that sends everything back.
fn gate_before(upstream: SocketAddr) -> GateProcess {
    GateProcess::start(&configuration(upstream))
}

fn configuration(upstream: SocketAddr) -> String {
    format!("workers: 1\n{}", routing([("a.test", upstream)]))
}

/// Lets the gate have so many descriptors beyond those it has now; says what its limit was before.
fn limit_descriptors(gate: &GateProcess, spare: usize) -> Rlimit {
    let open = fs::read_dir(format!("/proc/{}/fd", gate.pid())).unwrap();
    let open: HashSet<u64> = open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    // Numbers are limited, not how many are in use; those that it was started with may be any.
    let first_too_high = (0..).filter(|number| !open.contains(number)).nth(spare);
    // The hard limit stays, so that it can be raised again.
    set_descriptors(gate, |before| Rlimit { current: first_too_high, maximum: before.maximum })
}

fn set_descriptors(gate: &GateProcess, limit: impl FnOnce(Rlimit) -> Rlimit) -> Rlimit {
    let pid = Pid::from_raw(gate.pid().cast_signed()).unwrap();
    let text = fs::read_to_string(format!("/proc/{}/limits", gate.pid())).unwrap();
    let numbers = text.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut numbers = numbers.split_whitespace().map(|number| number.parse().ok());
    let before = Rlimit { current: numbers.next().unwrap(), maximum: numbers.next().unwrap() };
    prlimit(Some(pid), Resource::Nofile, limit(before)).unwrap();
    before
}

fn complaints(gate: &GateProcess) -> usize {
    gate.lines.all().iter().filter(|line| line.contains("cannot accept connections")).count()
}

/// Connects until the gate complains that it cannot accept any more.
fn exhaust(gate: &GateProcess) -> Vec<TcpStream> {
    let mut holding = Vec::new();
    wait_until("a complaint", || {
        complaints(gate) > 0 || {
            holding.push(tcp::connect(gate.address()));
            false
        }
    });
    holding
}

/// Tries again and again, as kubectl does, until it is served.
fn wait_to_be_served(mut connect: impl FnMut() -> TcpStream) -> TcpStream {
    let greeting = hello("a.test");
    wait_for("a client is served", || {
        let mut client = connect();
        // Turned away, it may be reset while it writes.
        let _ = client.write_all(&greeting);
        let mut answer = vec![0; greeting.len()];
        std::io::Read::read_exact(&mut client, &mut answer).ok()?;
        assert_eq!(answer, greeting);
        Some(client)
    })
}

/// Waits for the line of the connection from `source`.
fn line_of(gate: &GateProcess, source: SocketAddr) -> Value {
    let source = source.to_string();
    wait_for("its line", || gate.log().into_iter().find(|line| line["source"] == source))
}

#[test]
fn running_out_of_descriptors_pauses_accepting_and_ends_when_there_are_some_again() {
    let upstream = Upstream::echo();
    let gate = gate_before(upstream.address());
    let sockets_at_rest = descriptors::sockets(gate.pid());
    limit_descriptors(&gate, SPARE);
    let begin = Instant::now();
    drop(exhaust(&gate));
    drop(wait_to_be_served(|| tcp::connect(gate.address())));
    descriptors::wait_for_baseline(gate.pid(), sockets_at_rest);
    let complaints = complaints(&gate) as u64;
    assert!(complaints <= begin.elapsed().as_secs() + 1, "{complaints} complaints");
}

#[test]
fn while_there_are_no_descriptors_who_waits_is_told_and_nothing_spins() {
    let upstream = Upstream::echo();
    let gate = gate_before(upstream.address());
    let mut served = wait_to_be_served(|| tcp::connect(gate.address()));
    let before = limit_descriptors(&gate, SPARE);
    let holding = exhaust(&gate);
    let (begin, ticks) = (Instant::now(), descriptors::ticks(gate.pid()));
    for _ in 0..3 {
        // The same answer that a gate which is full gives.
        let mut waiting = tcp::connect(gate.address());
        let source = waiting.local_addr().unwrap();
        assert_eq!(tcp::read_to_end(&mut waiting), (Vec::new(), End::Eof));
        let line = line_of(&gate, source);
        assert_eq!((&line["reason"], &line["phase"]), (&Value::from("limit_global"), &Value::from("hello")));
    }
    // The kernel counts a hundred a second: a gate that spins uses nearly all of them, one that does not hardly any.
    let used = descriptors::ticks(gate.pid()) - ticks;
    assert!(Duration::from_millis(used * 10) < begin.elapsed() / 2, "{used} ticks in {:?}", begin.elapsed());
    served.write_all(b"still here").unwrap();
    assert_eq!(tcp::read_exactly(&mut served, 10), b"still here");
    // Raised again, it needs no restart.
    set_descriptors(&gate, |_| before);
    wait_to_be_served(|| tcp::connect(gate.address()));
    drop(holding);
}

#[test]
fn without_a_descriptor_for_the_upstream_the_fault_is_ours_and_passes() {
    let upstream = Upstream::echo();
    let gate = gate_before(upstream.address());
    drop(wait_to_be_served(|| tcp::connect(gate.address())));
    wait_until("its line", || gate.log().len() == 1);
    // The client's, and none for the upstream.
    let before = limit_descriptors(&gate, 1);
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof));
    let line = line_of(&gate, client.local_addr().unwrap());
    assert_eq!((&line["reason"], &line["phase"]), (&Value::from("internal"), &Value::from("connecting")));
    gate.lines.wait("why", |line| line.contains("cannot open a socket") && line.contains("Too many open files"));
    set_descriptors(&gate, |_| before);
    wait_to_be_served(|| tcp::connect(gate.address()));
}

/// A gate that hears these errors from the kernel, for `call` so often and not from the first time on.
fn gate_that_hears(call: &str, error: &str, times: &str, upstream: SocketAddr) -> Option<GateProcess> {
    tools::require("strace")?;
    // Where nobody may look at other processes it cannot be done.
    let can = Command::new("strace").args(["-D", "-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        tools::lack("strace may not trace here");
        return None;
    }
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={error}:when={times}"));
    let arguments = ["-D", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    Some(GateProcess::start_by(Command::new("strace").args(arguments), &configuration(upstream)))
}

#[test]
fn whatever_accept_is_short_of_passes() {
    for (error, said) in [
        ("ENFILE", "Too many open files in system"),
        ("ENOBUFS", "No buffer space available"),
        ("ENOMEM", "Cannot allocate memory"),
    ] {
        let upstream = Upstream::echo();
        // Six pauses, from 10 ms to 320 ms.
        let Some(gate) = gate_that_hears("accept4", error, "1..6", upstream.address()) else { return };
        wait_to_be_served(|| tcp::connect(gate.address()));
        gate.lines.wait(error, |line| line.contains("cannot accept connections") && line.contains(said));
    }
}

#[test]
fn whatever_a_connect_is_short_of_is_our_fault_and_passes() {
    for (call, error, reason) in [
        ("socket", "ENOBUFS", "internal"),
        ("socket", "ENOMEM", "internal"),
        ("socket", "ENFILE", "internal"),
        ("connect", "EADDRNOTAVAIL", "no_local_port"),
    ] {
        let upstream = Upstream::echo();
        // A worker's thread opens no other sockets; the attempts of the first client are counted in its thread.
        let Some(gate) = gate_that_hears(call, error, "1..1", upstream.address()) else { return };
        wait_to_be_served(|| tcp::connect(gate.address()));
        let line = wait_for("a line", || gate.log().into_iter().next());
        assert_eq!((&line["reason"], &line["closed_by"]), (&reason.into(), &"snigate".into()), "{call}: {error}");
    }
}

/// A network of its own with so few local ports that one can run out of them; gone when this is dropped.
struct FewPorts(Child);

const PORTS: (u16, u16) = (40_000, 40_015);

impl FewPorts {
    /// Moves this thread there. `None`, said aloud, where that cannot be done.
    fn enter() -> Option<Self> {
        if !getuid().is_root() {
            tools::lack("only root may make a network of its own");
            return None;
        }
        tools::require("unshare")?;
        tools::require("ip")?;
        // It holds the network until its input ends.
        let (first, last) = PORTS;
        let set_up = format!(
            "ip link set lo up && echo {first} {last} > /proc/sys/net/ipv4/ip_local_port_range && echo ready && exec cat"
        );
        let child = Command::new("unshare")
            .args(["--net", "sh", "-c", &set_up])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut network = Self(child.ok()?);
        let mut ready = [0; 6];
        if std::io::Read::read_exact(network.0.stdout.as_mut()?, &mut ready).is_err() {
            tools::lack("a network of its own cannot be made, or has no local ports to choose");
            return None;
        }
        let link = fs::File::open(format!("/proc/{}/ns/net", network.0.id())).unwrap();
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&link), Some(LinkNameSpaceType::Network)).unwrap();
        Some(network)
    }
}

impl Drop for FewPorts {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn without_a_local_port_the_fault_is_ours_and_passes_with_the_first_that_ends() {
    // The thread's network ends with it.
    thread::spawn(|| {
        let Some(_network) = FewPorts::enter() else { return };
        let upstream = Upstream::serve(TcpListener::bind((Ipv4Addr::LOCALHOST, 6443)).unwrap(), echo);
        let yaml = configuration(upstream.address()).replace("127.0.0.1:0", "127.0.0.1:7443");
        let gate = GateProcess::start(&yaml);
        // Each address has ports of its own.
        let client = |number: u8| tcp::connect_from(Ipv4Addr::new(127, 0, 0, 2 + number), gate.address());
        let ports = u8::try_from(PORTS.1 - PORTS.0 + 1).unwrap();
        let mut held: Vec<_> = (0..ports).map(|number| wait_to_be_served(|| client(number))).collect();

        for number in 0..5 {
            let mut refused = client(50 + number);
            refused.write_all(&hello("a.test")).unwrap();
            assert_eq!(tcp::read_to_end(&mut refused), (Vec::new(), End::Eof));
            let line = line_of(&gate, refused.local_addr().unwrap());
            assert_eq!((&line["reason"], &line["closed_by"]), (&"no_local_port".into(), &"snigate".into()));
        }
        held.pop();
        held.push(wait_to_be_served(|| client(100)));
        for client in &mut held {
            client.write_all(b"still here").unwrap();
            assert_eq!(tcp::read_exactly(client, 10), b"still here");
        }
    })
    .join()
    .unwrap();
}

#[test]
fn every_source_address_has_all_ports_towards_every_endpoint() {
    thread::spawn(|| {
        let Some(_network) = FewPorts::enter() else { return };
        let endpoints =
            [6443, 6444].map(|port| Upstream::serve(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap(), echo));
        let yaml = "
listeners: [{ address: '127.0.0.1:7443', client_hello_timeout: 60s }]
routes: [{ server_names: [a.test], upstream: up }]
upstreams:
  up:
    endpoints: ['127.0.0.1:6443', '127.0.0.1:6444']
    balance: round_robin
    source_addresses: [127.0.0.8, 127.0.0.9]
workers: 1
user: nobody
sandbox_ports: true";
        let gate = GateProcess::start(yaml);
        let client = |number: u8| tcp::connect_from(Ipv4Addr::new(127, 0, 1, 1 + number), gate.address());
        let ports = u8::try_from(PORTS.1 - PORTS.0 + 1).unwrap();
        let _held: Vec<_> = (0..4 * ports).map(|number| wait_to_be_served(|| client(number))).collect();
        for endpoint in &endpoints {
            let mut from: Vec<_> = endpoint.visits().iter().map(|visit| visit.peer.ip()).collect();
            from.sort();
            let expected = ["127.0.0.8", "127.0.0.9"].map(|text| vec![text.parse::<IpAddr>().unwrap(); ports.into()]);
            assert_eq!(from, expected.concat());
        }
        let mut refused = client(200);
        refused.write_all(&hello("a.test")).unwrap();
        assert_eq!(tcp::read_to_end(&mut refused), (Vec::new(), End::Eof));
        assert_eq!(line_of(&gate, refused.local_addr().unwrap())["reason"], "no_local_port");
    })
    .join()
    .unwrap();
}

/// As [`Upstream::echo`].
fn echo(mut stream: TcpStream, visit: &tcp::Visit) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sent = 0;
    while visit.read(&mut stream, sent + 1) == End::Open {
        let bytes = visit.bytes();
        if stream.write_all(&bytes[sent..]).is_err() {
            return;
        }
        sent = bytes.len();
    }
}
