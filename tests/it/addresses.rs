//! A client names a host; it never chooses an address.

use crate::support::certs::Authority;
use crate::support::gate::{Gate, routing};
use crate::support::tcp::Upstream;
use crate::support::tls;
use crate::support::wait_for;
use std::net::{Ipv4Addr, TcpListener};

/// Two listeners with one port number: on what `localhost` means, and on another address.
fn neighbours() -> (TcpListener, TcpListener) {
    wait_for("a port that is free on two addresses", || {
        let localhost = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let other = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), localhost.local_addr().ok()?.port())).ok()?;
        Some((localhost, other))
    })
}

#[test]
fn a_name_that_resolves_elsewhere_still_goes_to_the_upstream_of_its_route() {
    let (localhost, configured) = neighbours();
    let (bait, upstream) = (Upstream::serve(localhost, |_, _| {}), Upstream::serve(configured, |_, _| {}));
    // Whoever looked the name up would end at the bait: the port is the same.
    let gate = Gate::start(&routing([("*", upstream.address())]));
    let client = tls::Client::trusting(&Authority::new()).config();
    assert!(tls::connect(&client, "localhost", gate.address()).is_err(), "nobody speaks TLS here");
    let line = gate.log.line(0);
    assert_eq!(line["server_name"], "localhost", "{line}");
    assert_eq!((upstream.visits().len(), bait.visits().len()), (1, 0), "{line}");
}
