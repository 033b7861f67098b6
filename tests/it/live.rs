//! Connections that are open: what is shown of them, and how one is closed.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use snigate::observe::live::{Row, State};

use crate::support::gate::{Gate, routing};
use crate::support::hello::{hello, hello_of};
use crate::support::tcp::{self, End, Unanswering, Upstream};
use crate::support::tls::classic;
use crate::support::{wait_for, wait_until};

/// What is shown of this client, once it stands so.
fn row(gate: &Gate, client: &TcpStream, state: State) -> Row {
    let source = client.local_addr().unwrap();
    wait_for(&format!("{state:?}"), || gate.live().into_iter().find(|row| row.source == source && row.state == state))
}

#[test]
fn every_state_is_shown_with_what_is_known_then() {
    let (upstream, unanswering) = (Upstream::echo(), Unanswering::new());
    let gate = Gate::start(
        &routing([("a.test", upstream.address()), ("b.test", unanswering.address())])
            .replace("up1: {", "up1: { connect_timeout: 60s,"),
    );
    let hello = hello_of(classic(), "a.test", &["h2", "http/1.1"]);
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello[..20]).unwrap();
    let shown = row(&gate, &client, State::Undecided);
    assert_eq!((&*shown.listener, shown.server_name, shown.route), ("gate", None, None));

    client.write_all(&hello[20..]).unwrap();
    tcp::read_exactly(&mut client, hello.len());
    let shown = wait_for("the bytes are counted", || {
        Some(row(&gate, &client, State::Relaying)).filter(|row| row.received == hello.len() as u64)
    });
    assert_eq!((shown.server_name.as_deref(), shown.alpn.as_deref()), (Some("a.test"), Some("h2,http/1.1")));
    assert_eq!((shown.route.as_deref(), shown.upstream.as_deref()), (Some("a.test"), Some("up0")));
    assert_eq!((shown.endpoint, shown.sent, shown.spliced), (Some(upstream.address()), hello.len() as u64, 0));
    assert!(shown.ja4.is_some_and(|ja4| ja4.starts_with("t13d")) && shown.balancer.is_none());

    let mut other = tcp::connect(gate.address());
    other.write_all(&hello_of(classic(), "b.test", &[])).unwrap();
    let connecting = row(&gate, &other, State::Connecting);
    assert_eq!((connecting.route.as_deref(), connecting.endpoint), (Some("b.test"), None));
    assert_ne!(connecting.id, shown.id);

    // The echo answers a FIN by its own; an upstream that does not leaves the connection half-closed.
    tcp::finish(&client);
    assert_eq!(tcp::read_to_end(&mut client).1, End::Eof);
    let line = gate.log.line_of(client.local_addr().unwrap());
    assert_eq!((line["id"].as_str(), line["ja4"].is_string()), (Some(&*shown.id), true), "both are called the same");
    wait_until("who has ended is not shown", || gate.live().iter().all(|row| row.id != shown.id));
}

#[test]
fn one_side_s_end_is_shown_until_the_other_s() {
    let upstream = Upstream::silent();
    let gate = Gate::start(&routing([("a.test", upstream.address())]));
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    row(&gate, &client, State::Relaying);
    tcp::finish(&client);
    let shown = row(&gate, &client, State::HalfClosed);
    assert!(gate.close(&shown.id));
    assert_eq!(tcp::read_to_end(&mut client).1, End::Eof);
    let line = gate.log.line_of(client.local_addr().unwrap());
    assert_eq!([&line["reason"], &line["closed_by"]], ["closed_by_admin", "snigate"]);
}

#[test]
fn hundreds_are_shown_each_once_and_any_of_them_closes_alone() {
    const CLIENTS: usize = 600;
    let upstream = Upstream::echo();
    let gate = Gate::start(&format!("workers: 2\n{}", routing([("a.test", upstream.address())])));
    let hello = hello("a.test");
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut client = tcp::connect(gate.address());
            // Undecided ones are closed the same way.
            let said = if number.is_multiple_of(3) { &hello[..7] } else { &hello[..] };
            client.write_all(said).unwrap();
            client
        })
        .collect();
    let rows = wait_for("all of them", || Some(gate.live()).filter(|rows| rows.len() == CLIENTS));
    assert_eq!(rows.iter().map(|row| &row.id).collect::<HashSet<_>>().len(), CLIENTS);
    for chosen in [0, 100, 301, CLIENTS - 1] {
        let source = clients[chosen].local_addr().unwrap();
        let id = &rows.iter().find(|row| row.source == source).unwrap().id;
        assert!(gate.close(id));
        assert_eq!(tcp::read_to_end(&mut clients[chosen]).1, End::Eof);
        wait_until("it is gone", || !gate.close(id));
        assert_eq!(gate.log.line_of(source)["reason"], "closed_by_admin");
    }
    assert!(!gate.close("nobody") && !gate.close(""));
    assert_eq!(gate.live().len(), CLIENTS - 4);
    let mut other = clients.swap_remove(1);
    assert_eq!(tcp::read_exactly(&mut other, hello.len()), hello);
    other.write_all(b"still").unwrap();
    other.read_exact(&mut [0; 5]).unwrap();
}
