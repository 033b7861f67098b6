//! How much there may be of everything: who comes beyond is told so by a plain close, with a reason, and nobody who is
//! served notices.

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use serde_json::Value;

use crate::support::gate::{Gate, GateProcess};
use crate::support::hello::hello;
use crate::support::tcp::{self, End, Upstream};
use crate::support::{descriptors, wait_for, wait_until};

/// A gate with two routes, `a.test` and `b.test`, before an upstream that sends everything back.
struct Stage {
    gate: Gate,
    address: SocketAddr,
    _upstream: Upstream,
}

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn configuration(upstream: SocketAddr, listen: &str, limits: &str, of_route: &str) -> String {
    format!(
        "
listeners: [{{ address: \"{listen}\", client_hello_timeout: 60s, max_client_hello: 64KiB }}]
routes:
  - {{ name: a, server_names: [a.test], upstream: up, limits: {{ {of_route} }} }}
  - {{ name: b, server_names: [b.test], upstream: up }}
upstreams: {{ up: {{ endpoints: [\"{upstream}\"] }} }}
{limits}
"
    )
}

impl Stage {
    fn set(limits: &str, of_route: &str) -> Self {
        Self::listening("127.0.0.1:0", limits, of_route)
    }

    fn listening(listen: &str, limits: &str, of_route: &str) -> Self {
        let upstream = Upstream::echo();
        let gate = Gate::start(&configuration(upstream.address(), listen, limits, of_route));
        Self { address: (HERE, gate.address().port()).into(), gate, _upstream: upstream }
    }

    fn connect(&self, source: Ipv4Addr) -> TcpStream {
        tcp::connect_from(source, self.address)
    }

    /// A connection that is being relayed; `None` when it was refused instead.
    fn relayed(&self, source: Ipv4Addr, name: &str) -> Option<TcpStream> {
        relay(self.connect(source), name)
    }

    /// The reason that was logged for a client that was refused without a byte.
    fn refused(&self, mut client: TcpStream) -> String {
        let source = client.local_addr().unwrap();
        assert_eq!(tcp::read_to_end(&mut client).0, b"", "a plain close");
        drop(client);
        let line = self.gate.log.line_of(source);
        assert_eq!(line["closed_by"], "snigate");
        line["reason"].as_str().unwrap().to_owned()
    }

    /// A client that asks for a name and is refused.
    fn refused_asking(&self, source: Ipv4Addr, name: &str) -> String {
        let mut client = self.connect(source);
        // It may be reset while it writes.
        let _ = client.write_all(&hello(name));
        self.refused(client)
    }
}

/// Asks for `name`, and is answered by an upstream that sends everything back.
fn relay(mut client: TcpStream, name: &str) -> Option<TcpStream> {
    let greeting = hello(name);
    client.write_all(&greeting).ok()?;
    let mut answer = vec![0; greeting.len()];
    match client.read_exact(&mut answer) {
        Ok(()) => {
            assert_eq!(answer, greeting);
            Some(client)
        }
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => None,
        Err(error) => panic!("{error}"),
    }
}

fn talk(client: &mut TcpStream) {
    client.write_all(b"still here").unwrap();
    assert_eq!(tcp::read_exactly(client, 10), b"still here");
}

fn is_open(client: &TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let open = matches!(client.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    client.set_nonblocking(false).unwrap();
    open
}

#[test]
fn beyond_the_limit_of_connections_new_ones_are_refused_and_old_ones_stay() {
    for workers in [1, 2] {
        let stage = Stage::set(&format!("workers: {workers}\nlimits: {{ max_connections: 4 }}"), "");
        let mut held: Vec<_> = (0..4).map(|_| stage.relayed(HERE, "a.test").unwrap()).collect();
        for _ in 0..3 {
            assert_eq!(stage.refused_asking(HERE, "a.test"), "limit_global");
            assert_eq!(stage.refused(stage.connect(ELSEWHERE)), "limit_global");
        }
        held.iter_mut().for_each(talk);
        // A place that becomes free is somebody's again.
        held.pop();
        held.push(wait_for("a place", || stage.relayed(HERE, "b.test")));
        held.iter_mut().for_each(talk);
    }
}

#[test]
fn who_comes_while_a_place_becomes_free_is_served() {
    let stage = Stage::set("workers: 1\nlimits: { max_connections: 1 }", "");
    let held = stage.relayed(HERE, "a.test").unwrap();
    let waiting = stage.connect(HERE);
    drop(held);
    // On a machine that sleeps for a second in between it is refused: then the next one has the place.
    let served = relay(waiting, "a.test").or_else(|| stage.relayed(HERE, "a.test"));
    talk(&mut served.unwrap());
}

#[test]
fn silent_clients_do_not_keep_others_out_of_the_last_place() {
    let stage = Stage::set("workers: 1\nlimits: { max_connections: 4 }", "");
    let mut held = stage.relayed(HERE, "a.test").unwrap();
    let silent: Vec<_> = (0..3).map(|_| stage.connect(HERE)).collect();
    let mut served = stage.relayed(HERE, "a.test").unwrap();
    assert_eq!(stage.refused(silent.into_iter().next().unwrap()), "limit_undecided");
    talk(&mut held);
    talk(&mut served);
}

#[test]
fn silent_clients_of_another_worker_do_not_either() {
    // Which worker has the silent one, and which the next, is chance.
    for _ in 0..8 {
        let stage = Stage::set("workers: 2\nlimits: { max_connections: 4 }", "");
        let mut held: Vec<_> = (0..3).map(|_| stage.relayed(HERE, "a.test").unwrap()).collect();
        let mut silent = stage.connect(HERE);
        tcp::write_in_pieces(&mut silent, [&hello("a.test")[..9]]).unwrap();
        held.push(stage.relayed(HERE, "a.test").unwrap());
        assert_eq!(stage.refused(silent), "limit_undecided");
        held.iter_mut().for_each(talk);
    }
}

#[test]
fn of_too_many_undecided_clients_the_oldest_goes() {
    let stage = Stage::set("workers: 1\nlimits: { undecided: 5 }", "");
    let mut held = stage.relayed(HERE, "a.test").unwrap();
    let mut clients: Vec<_> = (0..5)
        .map(|_| {
            let mut client = stage.connect(HERE);
            tcp::write_in_pieces(&mut client, [&hello("a.test")[..40]]).unwrap();
            client
        })
        .collect();
    for _ in 0..3 {
        clients.push(stage.connect(HERE));
        assert_eq!(stage.refused(clients.remove(0)), "limit_undecided");
    }
    assert!(clients.iter().all(is_open));
    // Who has waited for long and then asks is served.
    clients[0].write_all(&hello("a.test")[40..]).unwrap();
    tcp::read_exactly(&mut clients[0], hello("a.test").len());
    talk(&mut clients[0]);
    talk(&mut held);
}

#[test]
fn one_source_sheds_its_own_and_nobody_else_s() {
    let stage = Stage::set("workers: 1\nlimits: { undecided_per_source: 3 }", "");
    let other = stage.connect(ELSEWHERE);
    let mut clients: Vec<_> = (0..3).map(|_| stage.connect(HERE)).collect();
    for _ in 0..3 {
        clients.push(stage.connect(HERE));
        assert_eq!(stage.refused(clients.remove(0)), "limit_undecided");
    }
    assert!(clients.iter().all(is_open) && is_open(&other));
    assert!(stage.relayed(ELSEWHERE, "a.test").is_some());
}

#[test]
fn a_refused_client_that_lingers_has_its_place_still() {
    let upstream = Upstream::recording();
    let yaml = configuration(upstream.address(), "127.0.0.1:0", "workers: 1\nlimits: { undecided: 3 }", "");
    let gate = GateProcess::start(&yaml);
    let at_rest = descriptors::sockets(gate.pid());
    let mut most = 0;
    let _held: Vec<_> = (0..20)
        .map(|_| {
            let mut client = tcp::connect(gate.address());
            client.write_all(&hello("unknown.test")).unwrap();
            // The alert, and then it stays.
            assert_eq!(tcp::read_exactly(&mut client, 7)[0], 21);
            most = most.max(descriptors::sockets(gate.pid()));
            client
        })
        .collect();
    assert!(most <= at_rest + 3, "{most} sockets, {at_rest} at rest");
    wait_until("a line for each", || gate.log().len() == 20);
    assert!(gate.log().iter().all(|line| line["reason"] == "unknown_server_name"));
}

#[test]
fn hellos_that_never_end_take_no_more_memory_than_there_is_for_them() {
    let stage = Stage::set("workers: 1\nlimits: { relay_memory: 1MiB }", "");
    // A hello of 60,000 bytes that lacks its last ones, as the records of it.
    let mut message = vec![1, 0, 0xea, 0x60, 3, 3];
    message.resize(4 + 0xea60, 0);
    let record = |part: &[u8]| [&[22, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
    let bomb: Vec<u8> = message[..message.len() - 10].chunks(16_000).flat_map(record).collect();
    let mut bombs = Vec::new();
    for _ in 0..20 {
        let mut client = stage.connect(HERE);
        tcp::write_in_pieces(&mut client, [&bomb[..]]).unwrap();
        bombs.push(client);
    }
    // The last one shed may not be closed yet.
    let open = || bombs.iter().filter(|client| is_open(client)).count();
    wait_until("there is room for those that are left", || open() * bomb.len() <= 1 << 20);
    assert!(open() >= 8, "{} are open", open());
    let reasons: HashSet<String> = stage.gate.log.all().iter().map(|line| line["reason"].to_string()).collect();
    assert_eq!(reasons, HashSet::from(["\"limit_undecided\"".to_owned()]));
    assert!(stage.relayed(HERE, "a.test").is_some());
}

#[test]
fn hellos_count_with_the_room_that_is_made_for_them() {
    let stage = Stage::set("workers: 1\nlimits: { relay_memory: 1MiB }", "");
    // The third piece is small, and doubles what the first two take.
    const PIECES: [usize; 3] = [16_000, 16_000, 1_000];
    let mut message = vec![1, 0, 0xea, 0x60, 3, 3];
    message.resize(PIECES.iter().sum(), 0);
    let record = |part: &[u8]| [&[22, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
    let records: Vec<_> = [&message[..16_000], &message[16_000..32_000], &message[32_000..]].map(record).into();
    let bombs: Vec<_> = (0..40)
        .map(|_| {
            let mut client = stage.connect(HERE);
            tcp::write_in_pieces(&mut client, records.iter().map(Vec::as_slice)).unwrap();
            client
        })
        .collect();
    let open = || bombs.iter().filter(|client| is_open(client)).count();
    wait_until("there is room for those that are left", || open() * 64_000 <= 1 << 20);
    assert!(open() >= 8, "{} are open", open());
}

#[test]
fn a_source_has_no_more_connections_than_it_may_in_either_family_s_form() {
    // IPv4 clients of a dual-stack socket come as ::ffff:127.0.0.1.
    let stage = Stage::listening("[::]:0", "workers: 1\nlimits: { per_source: 2 }", "");
    let mut held = [stage.relayed(HERE, "a.test").unwrap(), stage.relayed(HERE, "b.test").unwrap()];
    assert_eq!(stage.refused_asking(HERE, "a.test"), "limit_source");
    assert!(stage.relayed(ELSEWHERE, "a.test").is_some());
    held.iter_mut().for_each(talk);
    let [gone, _kept] = held;
    drop(gone);
    assert!(wait_for("a place", || stage.relayed(HERE, "a.test")).peer_addr().is_ok());
}

#[test]
fn a_source_brings_no_more_new_connections_than_it_may() {
    let stage = Stage::set("limits: { rate_per_source: 3/h }", "");
    let mut held: Vec<_> = (0..3).map(|_| stage.relayed(HERE, "a.test").unwrap()).collect();
    assert_eq!(stage.refused_asking(HERE, "a.test"), "rate_source");
    assert_eq!(stage.refused(stage.connect(HERE)), "rate_source");
    assert!(stage.relayed(ELSEWHERE, "a.test").is_some());
    held.iter_mut().for_each(talk);
}

#[test]
fn a_route_that_is_full_leaves_room_for_another() {
    let stage = Stage::set("", "connections: 2, per_source: 1");
    let mut held = [stage.relayed(HERE, "a.test").unwrap(), stage.relayed(HERE, "b.test").unwrap()];
    assert_eq!(stage.refused_asking(HERE, "a.test"), "limit_source");
    let other = stage.relayed(ELSEWHERE, "a.test").unwrap();
    let mut client = stage.connect(Ipv4Addr::new(127, 0, 0, 3));
    client.write_all(&hello("a.test")).unwrap();
    let source = client.local_addr().unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof));
    let line = stage.gate.log.line_of(source);
    assert_eq!((&line["reason"], &line["route"]), (&Value::from("limit_route"), &Value::from("a")));
    assert!(stage.relayed(HERE, "b.test").is_some());
    held.iter_mut().for_each(talk);
    drop(other);
    assert!(wait_for("a place", || stage.relayed(ELSEWHERE, "a.test")).peer_addr().is_ok());
}

#[test]
fn a_route_takes_no_more_new_connections_than_it_may() {
    let stage = Stage::set("", "rate: 2/h");
    let _held = [stage.relayed(HERE, "a.test").unwrap(), stage.relayed(ELSEWHERE, "a.test").unwrap()];
    assert_eq!(stage.refused_asking(HERE, "a.test"), "rate_route");
    assert!(stage.relayed(HERE, "b.test").is_some());
}

#[test]
fn what_does_not_fit_into_the_limit_of_open_files_is_refused_at_start() {
    let refusing = tcp::Refusing::new();
    let configuration = |limits| configuration(refusing.address(), "127.0.0.1:0", limits, "");
    let run = GateProcess::run(&configuration("workers: 1\nlimits: { max_connections: 1000000 }"));
    assert_eq!(run.status.code(), Some(1));
    let told = run.stderr.lines().last().unwrap();
    assert!(
        told.starts_with(
            "snigate: limits.max_connections: 1000000 is more than fits: 1000000 connections × 2 + 1 workers"
        ),
        "{told}"
    );
    let gate = GateProcess::start(&configuration("workers: 1\nlimits: { max_connections: 100 }"));
    let told = gate.lines.wait("the limits", |line| line.contains("max_connections"));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["max_connections"], 100);
    assert!(told["open_files"].as_str().unwrap().starts_with("100 connections × 2 + "), "{told}");
    assert!(told["memory"].as_str().unwrap().contains("32 MiB of relays"), "{told}");
}

#[test]
fn a_thousand_routes_with_limits_of_their_own_stay_within_the_memory_that_is_told() {
    let refusing = tcp::Refusing::new();
    let yaml = configuration(refusing.address(), "127.0.0.1:0", "workers: 1\nlimits: { max_connections: 8000 }", "");
    let route = |number| {
        format!(
            "  - {{ server_names: [n{number}.test], upstream: up, limits: {{ per_source: 10, connections: 8000 }} }}\n"
        )
    };
    let routes: String = (0..1000).map(route).collect();
    let gate = GateProcess::start(&yaml.replace("upstreams:", &format!("{routes}upstreams:")));
    let told: Value = serde_json::from_str(&gate.lines.wait("the limits", |line| line.contains("memory"))).unwrap();
    let told = told["memory"].as_str().unwrap();
    let (_, all) = told.rsplit_once(" = ").unwrap();
    let most: usize = all.strip_suffix(" MiB").unwrap().parse().unwrap();
    // Nobody is connected yet: what is held then is what is there for them, and the program.
    let (connections, _) = told.split_once("8000 connections × 12 KiB").expect("the part that they will take");
    assert!(connections.starts_with("32 MiB of relays + 32 MiB of hellos"), "{told}");
    let used = descriptors::memory(gate.pid()) + (64 << 20) + 8000 * (12 << 10);
    assert!(used <= most << 20, "{used}, {told}");
}

#[test]
fn a_flood_beyond_every_limit_leaves_a_line_for_each_and_nothing_else() {
    const MOST: usize = 20;
    let upstream = Upstream::echo();
    let limits = format!(
        "workers: 2\nlimits: {{ max_connections: {MOST}, undecided: 12, undecided_per_source: 8, per_source: 15 }}"
    );
    let gate = GateProcess::start(&configuration(upstream.address(), "127.0.0.1:0", &limits, "connections: 6"));
    let at_rest = descriptors::sockets(gate.pid());
    let greeting = hello("a.test");
    let (rounds, clients) = (5, 60);
    for _ in 0..rounds {
        let flood = (0..clients).map(|number| {
            let source = Ipv4Addr::new(127, 0, 0, 1 + number % 4);
            let mut client = tcp::connect_from(source, gate.address());
            // All of a hello, a part of it, or nothing. It may be reset while it writes.
            let _ = client.write_all(&greeting[..[greeting.len(), 40, 0][usize::from(number % 3)]]);
            client
        });
        let flood: Vec<_> = flood.collect();
        let open = descriptors::sockets(gate.pid()) - at_rest;
        // Either worker may have one more in hand, for which it looks for a seat.
        assert!(open <= 2 * MOST + 2, "{open} sockets");
        drop(flood);
    }
    wait_until("a line for each", || gate.log().len() == rounds * usize::from(clients));
    descriptors::wait_for_baseline(gate.pid(), at_rest);
    let mut client = tcp::connect(gate.address());
    client.write_all(&greeting).unwrap();
    assert_eq!(tcp::read_exactly(&mut client, greeting.len()), greeting);
}

#[test]
fn who_is_denied_is_counted_all_the_same() {
    for (keys, reason) in [
        ("deny: [127.0.0.2]", "source_denied"),
        ("proxy_protocol: { trusted: [192.0.2.0/24] }", "proxy_source_untrusted"),
    ] {
        let upstream = Upstream::echo();
        let yaml = configuration(upstream.address(), "127.0.0.1:0", "limits: { rate_per_source: 1/h }", "");
        let gate = Gate::start(&yaml.replace("max_client_hello", &format!("{keys}, max_client_hello")));
        let stage = Stage { address: gate.address(), gate, _upstream: upstream };
        assert_eq!(stage.refused(stage.connect(ELSEWHERE)), reason);
        assert_eq!(stage.refused(stage.connect(ELSEWHERE)), "rate_source");
    }
}
