//! Long: thousands of connections that are open, and others that come, over a thousand reloads, some of them mistakes.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Resource, Signal, getrlimit, setrlimit};

use crate::support::descriptors::{memory, sockets, wait_for_baseline};
use crate::support::gate::GateProcess;
use crate::support::hello::hello;
use crate::support::tcp::{self, Upstream};
use crate::support::{PATIENCE, wait_until};

/// Or as many as descriptors allow.
const CONNECTIONS: u64 = 10_000;
const RELOADS: usize = 1_000;
/// Every tenth configuration has a mistake.
const MISTAKE: usize = 10;
/// Descriptors for the pipes of the gate, for those who come meanwhile, and here for what is tested beside this.
const RESERVE: u64 = 4_000;
/// What the gate may grow by from the hundredth reload on: two copies of what it holds for all connections would be more.
const GROWTH: usize = 4 << 20;

/// Where everything is.
struct Places {
    gate: SocketAddr,
    held: SocketAddr,
    moving: [SocketAddr; 2],
}

impl Places {
    /// A listener that comes and goes beside one that stays, endpoints that move, routes that come and go.
    fn configuration(&self, round: usize) -> String {
        let Self { gate, held, moving } = self;
        let more = if round.is_multiple_of(3) { "" } else { ", { address: '127.0.0.2:0', name: more }" };
        let routes: String =
            (0..round % 5).map(|name| format!(", {{ server_names: [n{name}.test], upstream: new }}")).collect();
        format!(
            "listeners: [{{ address: '{gate}', name: kept, client_hello_timeout: 60s }}{more}]\n\
             routes: [{{ server_names: [held.test], upstream: held }}, {{ server_names: [new.test], upstream: new }}\
             {routes}]\n\
             upstreams: {{ held: {{ endpoints: ['{held}'] }}, new: {{ endpoints: ['{}'] }} }}\n\
             workers: 2\nlog: {{ access: false }}\n",
            moving[round % 2]
        )
    }
}

#[test]
#[ignore = "takes half a minute"]
fn thousands_of_connections_outlive_a_thousand_reloads() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    // The clients' and the upstream's ends are here, both of the gate's there.
    let room = limit.maximum.unwrap_or(u64::MAX).saturating_sub(RESERVE) / 2;
    let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let new = [Upstream::echo(), Upstream::echo()];
    let moving = new.each_ref().map(Upstream::address);
    let places = Places { gate: tcp::free_address(), held: upstream.local_addr().unwrap(), moving };
    let gate = GateProcess::start(&places.configuration(0));
    let at_rest = sockets(gate.pid());

    let mut held: Vec<_> = (0..CONNECTIONS.min(room)).map(|_| open(places.gate, &upstream)).collect();
    let (served, over, greeting) = (AtomicUsize::new(0), AtomicBool::new(false), hello("new.test"));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut client = tcp::connect(places.gate);
                    client.write_all(&greeting).unwrap();
                    assert_eq!(tcp::read_exactly(&mut client, greeting.len()), greeting);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let grown = reload_again_and_again(&gate, &places);
        eprintln!("{} held, {} served, {grown} bytes more", held.len(), served.load(Ordering::Relaxed));
        over.store(true, Ordering::Relaxed);
        assert!(grown < GROWTH, "{grown} bytes more");
    });
    assert!(served.load(Ordering::Relaxed) > RELOADS, "clients came all the time");
    held.iter_mut().for_each(talk);
    drop(held);
    wait_for_baseline(gate.pid(), at_rest);
}

/// Ends with the configuration that it began with. Returns the memory that the gate has more than after a tenth of them.
fn reload_again_and_again(gate: &GateProcess, places: &Places) -> usize {
    let said =
        |what: &str| gate.lines.all().iter().filter(|line| line.contains("SIGHUP") && line.contains(what)).count();
    let mut early = 0;
    for round in 1..=RELOADS {
        let is_mistake = round.is_multiple_of(MISTAKE);
        let text = places.configuration(if round == RELOADS - 1 { 0 } else { round });
        fs::write(gate.config(), if is_mistake { format!("{text}surprise: 1\n") } else { text }).unwrap();
        gate.signal(Signal::HUP);
        wait_until("the signal is answered", || said("taken over") >= round);
        if round == RELOADS / 10 {
            early = memory(gate.pid());
        }
    }
    assert_eq!(said("not taken over"), RELOADS / MISTAKE);
    memory(gate.pid()).saturating_sub(early)
}

fn open(gate: SocketAddr, upstream: &TcpListener) -> (TcpStream, TcpStream) {
    let greeting = hello("held.test");
    let mut client = tcp::connect(gate);
    client.write_all(&greeting).unwrap();
    let mut served = upstream.accept().unwrap().0;
    served.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(tcp::read_exactly(&mut served, greeting.len()), greeting);
    (client, served)
}

/// A word in either direction.
fn talk((client, served): &mut (TcpStream, TcpStream)) {
    client.write_all(b"question").unwrap();
    assert_eq!(tcp::read_exactly(served, 8), b"question");
    served.write_all(b"answer").unwrap();
    assert_eq!(tcp::read_exactly(client, 6), b"answer");
}
