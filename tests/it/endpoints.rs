//! Endpoints that go away while clients come, and storms of clients.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::{io, thread};

use crate::support::dns::{A, DnsServer, Record, Reply};
use crate::support::gate::{Gate, routing};
use crate::support::hello::hello;
use crate::support::tcp::{self, End, Unanswering, Upstream};
use crate::support::wait_until;

const CLIENTS: usize = 4;
/// Connections that must go well after an endpoint has gone: some dozens of its turns.
const AFTER: usize = 400;

/// One connection that is echoed and closed.
fn visit(gate: &Gate, hello: &[u8]) -> io::Result<()> {
    let mut client = tcp::connect(gate.address());
    client.write_all(hello)?;
    client.read_exact(&mut vec![0; hello.len()])
}

#[test]
fn no_client_is_lost_when_one_of_three_endpoints_goes_away() {
    let hello = hello("a.test");
    for balance in ["least_connections", "round_robin", "random", "source_hash"] {
        let mut endpoints: Vec<_> = (0..3).map(|_| Upstream::echo()).collect();
        let addresses = endpoints.iter().map(|endpoint| format!("\"{}\"", endpoint.address())).collect::<Vec<_>>();
        let gate = Gate::start(&format!(
            "
            workers: 2
            listeners: [{{ address: '127.0.0.1:0', client_hello_timeout: 60s }}]
            routes: [{{ server_names: [a.test], upstream: up }}]
            upstreams: {{ up: {{ endpoints: [{}], balance: {balance} }} }}",
            addresses.join(", ")
        ));
        let (before, after, gone) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    while after.load(Ordering::Relaxed) < AFTER {
                        // What is under way while the endpoint goes may be lost with it.
                        let must_succeed = gone.load(Ordering::Acquire);
                        match visit(&gate, &hello) {
                            Err(error) if must_succeed => panic!("{balance}: {error}"),
                            _ if must_succeed => after.fetch_add(1, Ordering::Relaxed),
                            _ => before.fetch_add(1, Ordering::Relaxed),
                        };
                    }
                });
            }
            wait_until("clients come", || before.load(Ordering::Relaxed) > 50);
            let leaving = endpoints.remove(0).address();
            wait_until("nobody listens there any more", || TcpStream::connect(leaving).is_err());
            gone.store(true, Ordering::Release);
        });
    }
}

#[test]
fn a_storm_of_clients_is_told_at_once_that_there_is_no_turn_for_them() {
    let unanswering = Unanswering::new();
    let yaml = routing([("a.test", unanswering.address())]);
    let gate = Gate::start(&yaml.replace("up0: {", "up0: { connect_timeout: 1m, max_connecting: 1,"));
    let connect = || {
        let mut client = tcp::connect(gate.address());
        client.write_all(&hello("a.test")).unwrap();
        client
    };
    // One connects and one waits for its turn: of the others there is room for nobody.
    let mut clients: Vec<_> = (0..3).map(|_| connect()).collect();
    let line = gate.log.line(0);
    assert_eq!((&line["reason"], &line["phase"]), (&"upstream_busy".into(), &"connecting".into()), "{line}");
    let refused = clients.iter().position(|client| client.local_addr().unwrap().to_string() == line["source"]).unwrap();
    assert_eq!(tcp::read_to_end(&mut clients.remove(refused)), (Vec::new(), End::Eof), "kubectl tries again");
    assert_eq!(gate.log.count(), 1);
}

#[test]
fn connections_to_an_address_that_its_name_no_longer_leads_to_close_if_they_are_to() {
    let (dns, upstream) = (DnsServer::start(), Upstream::echo());
    let port = upstream.address().port();
    let lead_to = |address: [u8; 4]| {
        dns.set("api.example.", A, Reply::Records(1, vec![Record::Address(address.into())]));
    };
    for (on_removed, reason) in [("keep", "client_closed"), ("close", "endpoint_removed")] {
        lead_to([127, 0, 0, 1]);
        let gate = Gate::start(&format!(
            "
            listeners: [{{ address: '127.0.0.1:0', client_hello_timeout: 60s }}]
            routes: [{{ server_names: [a.test], upstream: up }}]
            upstreams: {{ up: {{ endpoints: ['api.example.:{port}'], on_removed: {on_removed} }} }}
            dns: {{ servers: ['{}'] }}",
            dns.address()
        ));
        let hello = hello("a.test");
        let mut client = tcp::connect(gate.address());
        client.write_all(&hello).unwrap();
        tcp::read_exactly(&mut client, hello.len());

        lead_to([127, 0, 0, 2]);
        // New clients learn of it, and where nobody listens they are told so.
        wait_until("the name leads elsewhere", || visit(&gate, &hello).is_err());
        if on_removed == "keep" {
            client.write_all(b"still here").unwrap();
            assert_eq!(tcp::read_exactly(&mut client, 10), b"still here");
            tcp::finish(&client);
        }
        assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof));
        let line = gate.log.line_of(client.local_addr().unwrap());
        assert_eq!(line["reason"], reason, "{line}");
    }
}

#[test]
fn a_failed_connect_has_the_name_looked_up_again() {
    let (dns, upstream) = (DnsServer::start(), Upstream::echo());
    let port = upstream.address().port();
    // The answers hold for longer than the test has patience.
    let lead_to = |address: [u8; 4]| {
        dns.set("api.example.", A, Reply::Records(60, vec![Record::Address(address.into())]));
    };
    lead_to([127, 0, 0, 2]);
    let gate = Gate::start(&format!(
        "
        listeners: [{{ address: '127.0.0.1:0', client_hello_timeout: 60s }}]
        routes: [{{ server_names: [a.test], upstream: up }}]
        upstreams: {{ up: {{ endpoints: ['api.example.:{port}'] }} }}
        dns: {{ servers: ['{}'] }}",
        dns.address()
    ));
    let hello = hello("a.test");
    assert!(visit(&gate, &hello).is_err(), "nobody listens there");
    lead_to([127, 0, 0, 1]);
    wait_until("the failures lead to another look", || visit(&gate, &hello).is_ok());
}
