//! A client names a host; it never chooses an address. Its own address decides who it is, in whatever form it comes.

use crate::support::certs::Authority;
use crate::support::gate::{Gate, routing};
use crate::support::hello::hello;
use crate::support::tcp::{self, Upstream};
use crate::support::tls;
use crate::support::wait_for;
use std::io::Write;
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

#[test]
fn one_address_among_thousands_of_networks_is_found_in_either_form() {
    const NETWORKS: u32 = 5000;
    let others =
        |network: u32| (0..NETWORKS).map(move |number| format!("{}/29", Ipv4Addr::from(network + (number << 3))));
    let list = |networks: Vec<String>| networks.join(", ");
    let denied = list(others(0x0a00_0000).chain(["127.0.0.2".to_owned()]).collect());
    let allowed = list(others(0x0b00_0000).chain(["127.0.0.0/30".to_owned()]).collect());
    let upstream = Upstream::recording();
    // On the first listener IPv4 clients come as ::ffff:127.0.0.1 and the like.
    let yaml = format!(
        "
listeners:
  - {{ name: dual, address: \"[::]:0\", deny: [{denied}] }}
  - {{ name: v4, address: \"127.0.0.1:0\", deny: [{denied}] }}
routes: [{{ server_names: [a.test], upstream: up, allow: [{allowed}] }}]
upstreams: {{ up: {{ endpoints: [\"{}\"] }} }}
",
        upstream.address()
    );
    let gate = Gate::start(&yaml);
    for listener in ["dual", "v4"] {
        let address = (Ipv4Addr::LOCALHOST, gate.address_of(listener).port()).into();
        for (last, reason) in [(1, "client_closed"), (2, "source_denied"), (3, "client_closed"), (4, "source_denied")] {
            let mut client = tcp::connect_from(Ipv4Addr::new(127, 0, 0, last), address);
            client.write_all(&hello("a.test")).unwrap();
            tcp::finish(&client);
            tcp::read_to_end(&mut client);
            let line = gate.log.line_of(client.local_addr().unwrap());
            assert_eq!((line["reason"].as_str(), line["listener"].as_str()), (Some(reason), Some(listener)), "{last}");
        }
    }
}
