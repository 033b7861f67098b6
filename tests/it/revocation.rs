//! Connections that another configuration would refuse: they stay, or close if that is said.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Signal, getuid};
use serde_json::Value;

use crate::support::gate::{Gate, GateProcess};
use crate::support::hello::{hello, hello_of};
use crate::support::tcp::{self, End, Unanswering, Upstream};
use crate::support::tls::classic;
use crate::support::{tools, wait_until};

/// A configuration of one listener with these keys, these routes to one upstream, and these lines at its top.
fn yaml(listener: &str, routes: &[&str], upstream: SocketAddr, top: &str) -> String {
    let route = |keys: &&str| format!("  - {{ {keys}, upstream: up }}\n");
    format!(
        "listeners: [{{ address: '127.0.0.1:0', name: gate, client_hello_timeout: 60s{listener} }}]\nroutes:\n{}\
         upstreams: {{ up: {{ endpoints: ['{upstream}'] }} }}\nworkers: 2\n{top}\n",
        routes.iter().map(route).collect::<String>()
    )
}

const A: &str = "name: a, server_names: [a.test]";
const B: &str = "name: b, server_names: [b.test]";
const CLOSE: &str = "on_route_change: close";

/// A client that said this, and was led to the upstream, which echoes.
fn led(gate: SocketAddr, hello: &[u8]) -> TcpStream {
    let mut client = tcp::connect(gate);
    client.write_all(hello).unwrap();
    assert_eq!(tcp::read_exactly(&mut client, hello.len()), hello);
    client
}

fn is_alive(client: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    client.write_all(b"still").is_ok() && client.read_exact(&mut back).is_ok() && &back == b"still"
}

/// The end that the log tells of.
fn end(line: &Value) -> [&str; 3] {
    ["reason", "phase", "closed_by"].map(|field| line[field].as_str().unwrap())
}

fn expect_revoked(gate: &Gate, mut client: TcpStream) {
    let source = client.local_addr().unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof));
    drop(client);
    assert_eq!(end(&gate.log.line_of(source)), ["route_changed", "relaying", "snigate"]);
}

#[test]
fn connections_of_a_route_that_is_gone_stay_or_close_as_is_said() {
    let upstream = Upstream::echo();
    let with = |routes: &[&str], top| yaml("", routes, upstream.address(), top);
    let mut gate = Gate::start(&with(&[A, B], ""));
    let address = gate.address();
    let (mut of_a, mut of_b) = (led(address, &hello("a.test")), led(address, &hello("b.test")));
    gate.reload(&with(&[B], "")).unwrap();
    assert!(is_alive(&mut of_a), "to keep them is the default");
    // What the new configuration says counts: a change of that alone is one as well.
    gate.reload(&with(&[B], CLOSE)).unwrap();
    expect_revoked(&gate, of_a);
    assert_eq!(upstream.visit(0).wait_for_end(), End::Eof);
    gate.reload(&with(&[A, &format!("{B}, on_route_change: keep, allow: [192.0.2.0/24]")], CLOSE)).unwrap();
    let of_a = led(address, &hello("a.test"));
    assert!(is_alive(&mut of_b), "its own route says so");
    gate.reload(&with(&["name: b, server_names: [z.test], on_route_change: keep"], CLOSE)).unwrap();
    expect_revoked(&gate, of_a);
    assert!(is_alive(&mut of_b));
}

#[test]
fn who_is_denied_from_now_on_closes() {
    let upstream = Upstream::echo();
    let with = |listener, route: &str| yaml(listener, &[&format!("{A}{route}"), B], upstream.address(), CLOSE);
    for (listener, route) in [("", ", deny: [127.0.0.1]"), (", deny: [127.0.0.1]", ""), ("", ", alpn: [h3]")] {
        let mut gate = Gate::start(&with("", ""));
        let hello = hello_of(classic(), "a.test", &["h2", "http/1.1"]);
        let client = led(gate.address(), &hello);
        gate.reload(&with(listener, route)).unwrap();
        expect_revoked(&gate, client);
    }
}

#[test]
fn who_is_led_elsewhere_from_now_on_stays() {
    let upstream = Upstream::echo();
    let with = |route: &str| yaml("", &[route], upstream.address(), CLOSE);
    let mut gate = Gate::start(&with(&format!("{A}, alpn: [h2]")));
    let mut client = led(gate.address(), &hello_of(classic(), "a.test", &["x", "h2"]));
    for route in ["name: other, server_names: ['*.test']", "server_names: ['*'], alpn: [x]", A] {
        gate.reload(&with(route)).unwrap();
        assert!(is_alive(&mut client), "{route}");
    }
    // Another endpoint for the same route is no reason either.
    let moved = Upstream::echo();
    gate.reload(&yaml("", &[A], moved.address(), CLOSE)).unwrap();
    led(gate.address(), &hello("a.test"));
    assert_eq!(moved.visits().len(), 1);
    // One that goes shows that it was decided on the others.
    let witness = led(gate.address(), &hello("a.test"));
    gate.reload(&yaml("", &["server_names: [a.test], alpn: [h2]"], moved.address(), CLOSE)).unwrap();
    expect_revoked(&gate, witness);
    assert!(is_alive(&mut client));
}

#[test]
fn a_listener_that_moves_keeps_its_connections_and_one_that_goes_does_not() {
    let upstream = Upstream::echo();
    let with = |listeners: &str| {
        format!(
            "listeners: [{listeners}]\nroutes: [{{ {A}, upstream: up }}]\n{CLOSE}\n\
             upstreams: {{ up: {{ endpoints: ['{}'] }} }}",
            upstream.address()
        )
    };
    let (stays, moves) = ("{ address: '127.0.0.2:0', name: stays }", "{ address: '127.0.0.1:0', name: moves }");
    let mut gate = Gate::start(&with(&format!("{stays}, {moves}")));
    let mut client = led(gate.address_of("moves"), &hello("a.test"));
    gate.reload(&with(&format!("{stays}, {}", moves.replace(".1:", ".3:")))).unwrap();
    let witness = led(gate.address_of("moves"), &hello("a.test"));
    assert!(is_alive(&mut client));
    gate.reload(&with(stays)).unwrap();
    expect_revoked(&gate, client);
    expect_revoked(&gate, witness);
}

#[test]
fn whoever_is_not_decided_on_yet_is_judged_by_what_is_in_force_then() {
    let upstream = Upstream::echo();
    let with = |listener, routes: &[&str], top| yaml(listener, routes, upstream.address(), top);
    let (first, hello) = (with("", &[A], ""), hello("a.test"));
    for (now, reason) in [
        (with("", &[B], ""), "unknown_server_name"),
        (with("", &[B], CLOSE), "unknown_server_name"),
        (with(", deny: [127.0.0.1]", &[A], ""), "source_denied"),
        // Its listener is gone, so that nothing but what was in force when it came can lead it anywhere.
        (with("", &[A], CLOSE).replace("127.0.0.1:0', name: gate", "127.0.0.2:0', name: other"), "route_changed"),
    ] {
        let mut gate = Gate::start(&first);
        let mut client = tcp::connect(gate.address());
        client.write_all(&hello[..9]).unwrap();
        assert!(tcp::wait_until_read(&client));
        gate.reload(&now).unwrap();
        client.write_all(&hello[9..]).unwrap();
        tcp::read_to_end(&mut client);
        let source = client.local_addr().unwrap();
        drop(client);
        assert_eq!(gate.log.line_of(source)["reason"], reason, "{now}");
    }
    assert_eq!(upstream.visits().len(), 0);
}

#[test]
fn who_is_taken_still_is_led_by_what_is_in_force_when_it_has_spoken() {
    let (old, new, hello) = (Upstream::echo(), Upstream::echo(), hello("a.test"));
    let mut gate = Gate::start(&yaml("", &[A], old.address(), ""));
    let mut clients = [(); 2].map(|()| tcp::connect(gate.address()));
    for client in &mut clients {
        client.write_all(&hello[..9]).unwrap();
        assert!(tcp::wait_until_read(client));
    }
    gate.reload(&yaml("", &[B, A], new.address(), CLOSE)).unwrap();
    clients[0].write_all(&hello[9..]).unwrap();
    assert_eq!(tcp::read_exactly(&mut clients[0], hello.len()), hello);
    // Where the listener is gone and nothing is said, those who had come are served as before.
    let gone = yaml("", &[A], old.address(), "").replace("127.0.0.1:0', name: gate", "127.0.0.2:0', name: other");
    gate.reload(&gone).unwrap();
    clients[1].write_all(&hello[9..]).unwrap();
    assert_eq!(tcp::read_exactly(&mut clients[1], hello.len()), hello);
    assert_eq!(old.visits().len() + new.visits().len(), 2);
}

#[test]
fn who_is_still_connecting_closes_too() {
    let unanswering = Unanswering::new();
    let with = |routes: &[&str]| {
        yaml("", routes, unanswering.address(), CLOSE).replace("up: {", "up: { connect_timeout: 60s,")
    };
    let mut gate = Gate::start(&with(&[A, B]));
    let (mut client, before) = (tcp::connect(gate.address()), unanswering.asking());
    client.write_all(&hello("a.test")).unwrap();
    wait_until("it connects", || unanswering.asking() > before);
    gate.reload(&with(&[B])).unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof));
    let source = client.local_addr().unwrap();
    drop(client);
    assert_eq!(end(&gate.log.line_of(source)), ["route_changed", "connecting", "snigate"]);
}

/// How often routes come and go while clients do.
const CHANGES: usize = 60;

#[test]
fn in_a_storm_nobody_is_left_on_a_route_that_is_gone_and_nobody_else_is_closed() {
    let upstream = Upstream::echo();
    let with = |routes: &[&str]| yaml("", routes, upstream.address(), CLOSE);
    let mut gate = Gate::start(&with(&[A, B]));
    let (address, over) = (gate.address(), AtomicBool::new(false));
    let (admitted, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut held: Vec<_> = (0..50).map(|_| led(address, &hello("b.test"))).collect();
    let fleeting = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let (hello, mut clients) = (hello("a.test"), Vec::new());
                    while !over.load(Ordering::Relaxed) {
                        let mut client = tcp::connect(address);
                        client.write_all(&hello).unwrap();
                        // Refused as long as its route is not there; whatever it hears then is an end.
                        if client.read_exact(&mut vec![0; hello.len()]).is_ok() {
                            clients.push(client);
                            admitted.fetch_add(1, Ordering::Relaxed);
                        } else {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        // As many as one test may have open.
                        if clients.len() > 200 {
                            clients.remove(0);
                        }
                    }
                    clients
                })
            })
            .collect();
        for change in 0..CHANGES {
            gate.reload(&with(if change.is_multiple_of(2) { &[B] } else { &[A, B] })).unwrap();
        }
        gate.reload(&with(&[A, B])).unwrap();
        let before = admitted.load(Ordering::Relaxed);
        wait_until("some are led", || admitted.load(Ordering::Relaxed) > before + 10);
        gate.reload(&with(&[B])).unwrap();
        let before = refused.load(Ordering::Relaxed);
        wait_until("all are refused", || refused.load(Ordering::Relaxed) > before + 10);
        over.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(!fleeting.is_empty());
    for mut client in fleeting {
        assert_eq!(tcp::read_to_end(&mut client).1, End::Eof, "nobody stays there");
    }
    assert!(held.iter_mut().all(is_alive));
    assert!(gate.log.all().iter().all(|line| line["route"] != "b"));
}

#[test]
fn in_the_sandbox_and_without_a_log_too() {
    let upstream = Upstream::echo();
    let who = if getuid().is_root() { "user: nobody\nsandbox: require" } else { "sandbox: auto" };
    let top = format!("{who}\nlog: {{ access: false }}");
    let with = |routes: &[&str], more: &str| yaml("", routes, upstream.address(), &format!("{top}\n{more}"));
    let gate = GateProcess::start(&with(&[A, B], ""));
    let (mut of_a, mut of_b) = (led(gate.address(), &hello("a.test")), led(gate.address(), &hello("b.test")));
    fs::write(gate.config(), with(&[B], CLOSE)).unwrap();
    gate.signal(Signal::HUP);
    assert_eq!(tcp::read_to_end(&mut of_a), (Vec::new(), End::Eof));
    assert!(is_alive(&mut of_b));
    let told = gate.lines.wait("what became of connections", |line| line.contains("they close within 5s"));
    assert!(told.contains("\"connections\":1"), "{told}");
    if !getuid().is_root() {
        tools::skip("only root can become nobody");
    }
}
