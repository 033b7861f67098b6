//! Faults between machines: cables that are cut, packets that vanish, resets by the hundred, narrow ways, both families.
//! Client, gate and two upstreams are hosts of their own; in the end the gate holds what it held at first.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::gate::GateProcess;
use crate::support::hello::{hello, hello_of};
use crate::support::hosts::{Cable, Network};
use crate::support::tcp::{self, End, Visit};
use crate::support::tls::post_quantum;
use crate::support::{PATIENCE, descriptors, wait_for, wait_long_for, wait_until};

const NAME: &str = "a.test";
const FIRST: Cable = Cable::ToUpstream(0);
const SECOND: Cable = Cable::ToUpstream(1);

/// One route to one upstream of these endpoints, with these keys.
fn route_to(endpoints: &[SocketAddr], keys: &str) -> String {
    route(NAME, "up", endpoints, keys, "")
}

/// A route and its upstream, to follow `before`.
fn route(name: &str, upstream: &str, endpoints: &[SocketAddr], keys: &str, before: &str) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    let (routes, upstreams) = before.split_once("upstreams:\n").unwrap_or(("routes:\n", ""));
    format!(
        "{routes}  - {{ server_names: [{name}], upstream: {upstream} }}\n\
         upstreams:\n{upstreams}  {upstream}: {{ endpoints: [{}]{keys} }}\n",
        endpoints.join(", ")
    )
}

/// Sends everything back, and holds on until its client ends.
fn echo(mut stream: TcpStream, visit: &Visit) {
    let mut scratch = [0; 16 * 1024];
    loop {
        match stream.read(&mut scratch) {
            Ok(0) => return visit.note_end(End::Eof),
            Ok(read) => {
                visit.note(&scratch[..read]);
                let _ = stream.write_all(&scratch[..read]);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return visit.note_end(End::Reset),
            // A host that was cut off waits for long.
            Err(_) => {}
        }
    }
}

/// A client of the gate that has its route and an answer from its upstream.
fn established(network: &Network, name: &str, ipv6: bool) -> TcpStream {
    let mut client = network.client.connect(Cable::ToClient.near(ipv6));
    client.write_all(&hello(name)).unwrap();
    tcp::read_exactly(&mut client, hello(name).len());
    client
}

/// Waits for the line of this client.
fn line_of(gate: &GateProcess, source: SocketAddr) -> Value {
    wait_for("the client's line", || {
        gate.log().into_iter().find(|line| line["source"].as_str() == Some(&source.to_string()))
    })
}

fn end(line: &Value) -> (&str, &str, &str) {
    let text = |key: &str| line[key].as_str().unwrap();
    (text("reason"), text("phase"), text("closed_by"))
}

/// Sends `bytes` with a FIN while it reads what comes, to its end: little enough at a time that this has a middle.
fn exchange(stream: &TcpStream, bytes: &[u8], progress: &AtomicUsize) -> Vec<u8> {
    let (mut received, mut scratch) = (Vec::new(), vec![0; 64 * 1024]);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = stream;
            stream.write_all(bytes).unwrap();
            tcp::finish(stream);
        });
        let mut stream = stream;
        loop {
            let read = stream.read(&mut scratch).unwrap();
            if read == 0 {
                return;
            }
            received.extend_from_slice(&scratch[..read]);
            progress.store(received.len(), Ordering::Relaxed);
            thread::sleep(Duration::from_millis(1));
        }
    });
    received
}

#[test]
fn a_stream_goes_on_where_it_was_when_a_cable_is_back() {
    const MUCH: usize = 64 * 1024 * 1024;
    /// So often in a row, a millisecond apart, nothing has arrived.
    const LOOKS: usize = 100;
    let Some(network) = Network::set_up() else { return };
    let gate = network.start_gate(&route_to(&[FIRST.far(false)], ""));
    let at_rest = descriptors::sockets(gate.pid());
    let progress: Arc<[AtomicUsize; 2]> = Arc::default();
    let arrived = {
        let progress = Arc::clone(&progress);
        move || progress.each_ref().map(|side| side.load(Ordering::Relaxed))
    };
    let of_upstream = Arc::clone(&progress);
    let upstream = network.upstreams[0].serve(move |stream, visit| {
        visit.note(&exchange(&stream, &tcp::pattern(MUCH), &of_upstream[1]));
        visit.note_end(End::Eof);
    });
    let client = network.client.connect(Cable::ToClient.near(false));
    let sent = [hello(NAME), tcp::pattern(MUCH)].concat();
    thread::scope(|scope| {
        let received = scope.spawn(|| exchange(&client, &sent, &progress[0]));
        for cable in [Cable::ToClient, FIRST, Cable::ToClient, FIRST] {
            let before = arrived();
            wait_until("bytes move both ways", || arrived().iter().zip(before).all(|(now, before)| *now > before));
            network.cut(cable);
            let (mut last, mut looks) = (arrived(), 0);
            wait_until("nothing arrives any more", || {
                looks = if arrived() == last { looks + 1 } else { 0 };
                last = arrived();
                looks == LOOKS
            });
            assert!(last.iter().all(|amount| *amount < MUCH), "cut in the middle: {last:?}");
            network.mend(cable);
        }
        assert!(received.join().unwrap() == tcp::pattern(MUCH), "the client got other bytes");
    });
    assert_eq!(upstream.visit(0).wait_for_end(), End::Eof);
    assert!(upstream.visit(0).bytes() == sent, "the upstream got other bytes");
    assert!(line_of(&gate, client.local_addr().unwrap())["spliced"].as_u64() > Some(0));
    descriptors::wait_for_baseline(gate.pid(), at_rest);
}

#[test]
fn both_families_meet_over_cables_of_1280_bytes() {
    const MUCH: usize = 2 * 1024 * 1024;
    let Some(network) = Network::set_up() else { return };
    for cable in [Cable::ToClient, FIRST, SECOND] {
        network.narrow(cable, 1280);
    }
    let routes = route("four.test", "four", &[FIRST.far(false)], "", "");
    let gate = network.start_gate(&route("six.test", "six", &[SECOND.far(true)], "", &routes));
    let at_rest = descriptors::sockets(gate.pid());
    let script = |stream: TcpStream, visit: &Visit| {
        visit.note(&exchange(&stream, &tcp::pattern(MUCH), &AtomicUsize::default()));
        visit.note_end(End::Eof);
    };
    let upstreams = network.upstreams.each_ref().map(|host| host.serve(script));
    for (index, (ipv6, name)) in
        [(false, "four.test"), (false, "six.test"), (true, "four.test"), (true, "six.test")].into_iter().enumerate()
    {
        let client = network.client.connect(Cable::ToClient.near(ipv6));
        let greeting = hello_of(post_quantum(), name, &[]);
        assert!(greeting.len() > 1280, "the hello needs more than one packet");
        let sent = [greeting, tcp::pattern(MUCH)].concat();
        assert!(exchange(&client, &sent, &AtomicUsize::default()) == tcp::pattern(MUCH), "{name} over IPv6: {ipv6}");
        let visit = upstreams[usize::from(name == "six.test")].visit(index / 2);
        assert_eq!(visit.wait_for_end(), End::Eof);
        assert!(visit.bytes() == sent, "{name} over IPv6: {ipv6}");
        let line = line_of(&gate, client.local_addr().unwrap());
        assert_eq!(line["listener"], if ipv6 { "ipv6" } else { "ipv4" });
    }
    descriptors::wait_for_baseline(gate.pid(), at_rest);
}

/// A name, the reason that it is to have, and what brings it about between the gate and the first upstream.
type DeadWay = (&'static str, &'static str, fn(&Network));

#[test]
fn an_endpoint_behind_a_dead_way_costs_an_attempt_and_says_how_it_was_dead() {
    let Some(network) = Network::set_up() else { return };
    let [first, second] = [FIRST.far(false), SECOND.far(false)];
    let two = format!("[\"{first}\", {{ address: \"{second}\", backup: true }}]");
    let gate = network.start_gate(&format!(
        "routes: [{{ server_names: [both.test], upstream: both }}, {{ server_names: [a.test], upstream: one }}]\n\
         upstreams:\n  both: {{ endpoints: {two}, connect_timeout: 1s }}\n  \
         one: {{ endpoints: [\"{first}\"], connect_timeout: 1s }}\n"
    ));
    let at_rest = descriptors::sockets(gate.pid());
    let _upstreams = network.upstreams.each_ref().map(|host| host.serve(echo));
    let ways: [DeadWay; 4] = [
        ("cut", "connect_timeout", |network| network.cut(FIRST)),
        ("black hole", "connect_timeout", |network| network.upstreams[0].on_arrival("drop")),
        ("unreachable", "connect_failed", |network| {
            network.upstreams[0].on_arrival("reject with icmpx type host-unreachable");
        }),
        ("refused", "connect_refused", |network| network.upstreams[0].on_arrival("reject with tcp reset")),
    ];
    for (way, reason, break_it) in ways {
        break_it(&network);
        let client = established(&network, "both.test", false);
        tcp::finish(&client);
        let line = line_of(&gate, client.local_addr().unwrap());
        assert_eq!(line["endpoint"].as_str(), Some(&*second.to_string()), "{way}: the other one serves");
        let mut client = network.client.connect(Cable::ToClient.near(false));
        client.write_all(&hello(NAME)).unwrap();
        assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof), "{way}: a plain close");
        assert_eq!(end(&line_of(&gate, client.local_addr().unwrap())), (reason, "connecting", "upstream"), "{way}");

        network.mend(FIRST);
        network.upstreams[0].clear_filter();
        // A cable that was just put in may take a second to carry.
        wait_until("it serves again", || {
            let mut client = network.client.connect(Cable::ToClient.near(false));
            client.write_all(&hello(NAME)).unwrap();
            client.read_exact(&mut [0; 1]).is_ok()
        });
    }
    descriptors::wait_for_baseline(gate.pid(), at_rest);
}

#[test]
fn an_upstream_that_vanishes_with_bytes_in_flight_is_given_up_within_its_user_timeout() {
    let Some(network) = Network::set_up() else { return };
    let routes = route("cut.test", "cut", &[FIRST.far(false)], ", user_timeout: 2s", "");
    let gate = network.start_gate(&route("hole.test", "hole", &[SECOND.far(true)], ", user_timeout: 2s", &routes));
    let at_rest = descriptors::sockets(gate.pid());
    let _upstreams = network.upstreams.each_ref().map(|host| host.serve(echo));
    let mut clients = [("cut.test", false), ("hole.test", true)].map(|(name, ipv6)| established(&network, name, ipv6));
    // So long may it take until a connection has proved to last, and has its user timeout: nothing outside tells.
    thread::sleep(Duration::from_secs(3));
    network.cut(FIRST);
    network.upstreams[1].on_arrival("drop");
    for client in &mut clients {
        client.write_all(b"more").unwrap();
    }
    // The kernel's own limit is a quarter of an hour.
    for client in &mut clients {
        assert_eq!(tcp::read_to_end(client), (Vec::new(), End::Reset));
        let line = line_of(&gate, client.local_addr().unwrap());
        assert_eq!(end(&line), ("peer_timeout", "relaying", "upstream"));
    }
    descriptors::wait_for_baseline(gate.pid(), at_rest);
}

#[test]
fn a_client_that_vanishes_with_an_answer_in_flight_is_given_up_by_the_kernel() {
    let Some(network) = Network::set_up() else { return };
    // Of the gate's kernel, which by default tries for a quarter of an hour.
    network.gate.sysctl("ipv4/tcp_retries2", "3");
    let gate = network.start_gate(&route_to(&[FIRST.far(false)], ""));
    let at_rest = descriptors::sockets(gate.pid());
    let (vanished, answer_now) = mpsc::channel::<()>();
    let answer_now = Mutex::new(answer_now);
    let upstream = network.upstreams[0].serve(move |mut stream, visit| {
        visit.read(&mut stream, hello(NAME).len());
        let _ = answer_now.lock().unwrap().recv();
        stream.write_all(&tcp::pattern(64 * 1024)).unwrap();
        visit.read_to_end(&mut stream);
    });
    let mut client = network.client.connect(Cable::ToClient.near(true));
    client.write_all(&hello(NAME)).unwrap();
    upstream.visit(0).wait_for_bytes(hello(NAME).len());
    network.client.on_arrival("drop");
    drop(vanished);
    assert_eq!(upstream.visit(0).wait_for_end(), End::Reset);
    assert_eq!(end(&line_of(&gate, client.local_addr().unwrap())), ("peer_timeout", "relaying", "client"));
    descriptors::wait_for_baseline(gate.pid(), at_rest);
}

/// Connections that a storm hits at once.
const MANY: usize = 300;

#[test]
fn a_storm_of_resets_from_an_upstream_ends_its_connections_and_no_other() {
    let Some(network) = Network::set_up() else { return };
    let routes = route_to(&[FIRST.far(false)], "");
    let gate = network.start_gate(&route("calm.test", "calm", &[SECOND.far(false)], "", &routes));
    let at_rest = descriptors::sockets(gate.pid());
    let _upstreams = network.upstreams.each_ref().map(|host| host.serve(echo));
    let mut calm = established(&network, "calm.test", false);
    for turn in 0..2 {
        let mut clients: Vec<_> = (0..MANY).map(|index| established(&network, NAME, index % 2 == 0)).collect();
        network.upstreams[0].on_arrival("reject with tcp reset");
        clients.iter_mut().for_each(|client| client.write_all(b"more").unwrap());
        for client in &mut clients {
            assert_eq!(tcp::read_to_end(client), (Vec::new(), End::Reset));
        }
        wait_until("all have their lines", || gate.log().len() == (1 + turn) * MANY);
        for line in gate.log().iter().skip(turn * MANY) {
            assert_eq!(end(line), ("upstream_reset", "relaying", "upstream"));
        }
        network.upstreams[0].clear_filter();
        calm.write_all(b"calm").unwrap();
        assert_eq!(tcp::read_exactly(&mut calm, 4), b"calm");
    }
    drop(calm);
    descriptors::wait_for_baseline(gate.pid(), at_rest);
}

#[test]
fn a_storm_of_resets_from_clients_reaches_their_upstreams() {
    let Some(network) = Network::set_up() else { return };
    let gate = network.start_gate(&route_to(&[FIRST.far(false)], ""));
    let at_rest = descriptors::sockets(gate.pid());
    let upstream = network.upstreams[0].serve(|mut stream, visit| {
        visit.read_to_end(&mut stream);
    });
    let clients: Vec<_> = (0..MANY)
        .map(|index| {
            let mut client = network.client.connect(Cable::ToClient.near(index % 2 == 0));
            client.write_all(&hello(NAME)).unwrap();
            upstream.visit(index).wait_for_bytes(hello(NAME).len());
            client
        })
        .collect();
    // What acknowledges the next bytes is answered by a reset.
    network.client.on_arrival("reject with tcp reset");
    for mut client in &clients {
        client.write_all(b"more").unwrap();
    }
    for index in 0..MANY {
        assert_eq!(upstream.visit(index).wait_for_end(), End::Reset);
    }
    wait_until("all have their lines", || gate.log().len() == MANY);
    for line in gate.log() {
        assert_eq!(end(&line), ("client_reset", "relaying", "client"));
    }
    descriptors::wait_for_baseline(gate.pid(), at_rest);
}

/// Longer than the gate asks after an idle peer: every 5 s from 15 s on, three times.
const UPSTREAM_BUDGET: Duration = Duration::from_secs(30);
/// Every 10 s from 60 s on, six times.
const CLIENT_BUDGET: Duration = Duration::from_secs(120);

#[test]
fn an_idle_upstream_that_vanished_is_found_within_its_keepalive_budget() {
    let Some(network) = Network::set_up() else { return };
    // With a user timeout the kernel counts no unanswered questions, so that has to be seen to.
    let routes = route("two-minutes.test", "two-minutes", &[FIRST.far(false)], "", "");
    let gate = network.start_gate(&route("off.test", "off", &[SECOND.far(false)], ", user_timeout: 0s", &routes));
    let at_rest = descriptors::sockets(gate.pid());
    let _upstreams = network.upstreams.each_ref().map(|host| host.serve(echo));
    let mut clients = ["two-minutes.test", "off.test"].map(|name| established(&network, name, false));
    network.cut(FIRST);
    network.upstreams[1].on_arrival("drop");
    for client in &mut clients {
        client.set_read_timeout(Some(UPSTREAM_BUDGET + PATIENCE)).unwrap();
        assert_eq!(tcp::read_to_end(client), (Vec::new(), End::Reset));
        assert_eq!(end(&line_of(&gate, client.local_addr().unwrap())), ("peer_timeout", "relaying", "upstream"));
    }
    descriptors::wait_for_baseline(gate.pid(), at_rest);
}

#[test]
#[ignore = "takes two minutes"]
fn an_idle_client_that_vanished_is_found_within_its_keepalive_budget() {
    let Some(network) = Network::set_up() else { return };
    let gate = network.start_gate(&route_to(&[FIRST.far(false)], ""));
    let at_rest = descriptors::sockets(gate.pid());
    let upstream = network.upstreams[0].serve(|mut stream, visit| {
        stream.set_read_timeout(Some(CLIENT_BUDGET + PATIENCE)).unwrap();
        visit.read_to_end(&mut stream);
    });
    let mut client = network.client.connect(Cable::ToClient.near(false));
    client.write_all(&hello(NAME)).unwrap();
    upstream.visit(0).wait_for_bytes(hello(NAME).len());
    network.cut(Cable::ToClient);
    let end_seen = || Some(upstream.visit(0).end()).filter(|end| *end != End::Open);
    assert_eq!(wait_long_for(CLIENT_BUDGET + PATIENCE, "the upstream hears of it", end_seen), End::Reset);
    assert_eq!(end(&line_of(&gate, client.local_addr().unwrap())), ("peer_timeout", "relaying", "client"));
    descriptors::wait_for_baseline(gate.pid(), at_rest);
}
