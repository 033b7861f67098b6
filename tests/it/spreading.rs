//! Connections spread over an upstream's endpoints, and over the workers, by how many each has open.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use crate::support::gate::Gate;
use crate::support::hello::hello;
use crate::support::tcp::{self, Upstream};

/// A gate before two endpoints; its workers share the counts.
fn gate_before(endpoints: [SocketAddr; 2]) -> Gate {
    let [one, two] = endpoints;
    Gate::start(&format!(
        r#"
workers: 2
listeners: [{{ address: "127.0.0.1:0", client_hello_timeout: 60s }}]
routes: [{{ server_names: [a.test], upstream: up }}]
upstreams: {{ up: {{ endpoints: ["{one}", "{two}"] }} }}
"#
    ))
}

/// A connection that is being relayed.
fn relayed(gate: &Gate) -> TcpStream {
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    tcp::read_exactly(&mut client, hello("a.test").len());
    client
}

#[test]
fn long_connections_are_shared_out_evenly() {
    let endpoints = [Upstream::echo(), Upstream::echo()];
    let gate = gate_before(endpoints.each_ref().map(Upstream::address));
    let _held: Vec<_> = (0..10).map(|_| relayed(&gate)).collect();
    assert_eq!(endpoints.map(|endpoint| endpoint.visits().len()), [5, 5]);
}

#[test]
fn an_endpoint_is_taken_for_as_long_as_its_connection_lives() {
    let endpoints = [Upstream::echo(), Upstream::echo()];
    let gate = gate_before(endpoints.each_ref().map(Upstream::address));
    let held = relayed(&gate);
    let [one, two] = &endpoints;
    let (busy, free) = if one.visits().is_empty() { (two, one) } else { (one, two) };
    // Taking turns would bring every other one to the busy endpoint.
    for round in 0..6 {
        let client = relayed(&gate);
        assert_eq!((busy.visits().len(), free.visits().len()), (1, round + 1));
        tcp::finish(&client);
        gate.log.line(round);
    }
    // Once it is let go, ties bring it its turn again.
    drop(held);
    gate.log.line(6);
    let _both = [relayed(&gate), relayed(&gate)];
    assert_eq!(busy.visits().len(), 2);
}

#[test]
fn few_long_connections_are_shared_out_over_the_workers() {
    // The kernel alone deals them out so evenly every other time.
    for _ in 0..8 {
        let endpoints = [Upstream::echo(), Upstream::echo()];
        let gate = gate_before(endpoints.each_ref().map(Upstream::address));
        let held: Vec<_> = (0..20).map(|_| relayed(&gate)).collect();
        drop(held);
        let mut served = [0_usize; 2];
        for line in (0..20).map(|index| gate.log.line(index)) {
            let id = line["id"].as_str().unwrap();
            served[id.split('-').nth(1).unwrap().parse::<usize>().unwrap()] += 1;
        }
        assert!(served[0].abs_diff(served[1]) <= 2, "{served:?}");
    }
}
