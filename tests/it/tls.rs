//! Real TLS through the gate: rustls on both ends, which agree on everything as if there were nothing between.

use crate::support::certs::Authority;
use crate::support::gate::{Gate, routing};
use crate::support::tcp::{self, End, Upstream};
use crate::support::tls::{self, Client, Service, Session, TlsServer};
use rustls::{AlertDescription, NamedGroup, ProtocolVersion, SupportedProtocolVersion};
use std::io::Write;
use std::thread;

const VERSIONS: [(&[&SupportedProtocolVersion], ProtocolVersion); 2] =
    [(tls::TLS12, ProtocolVersion::TLSv1_2), (tls::TLS13, ProtocolVersion::TLSv1_3)];

/// Ends the session and says that the upstream got every byte, the hello first, and that the log has it all.
fn close_and_compare(gate: &Gate, session: Session, server: &TlsServer, connection: usize, upstream: &str) {
    let (source, hello) = (session.local_address(), session.hello.clone());
    session.close().unwrap();
    let visit = server.upstream.visit(connection);
    assert_eq!(visit.wait_for_end(), End::Eof);
    assert!(visit.bytes().starts_with(&hello), "the hello is not what was sent");
    let line = gate.log.line_of(source);
    assert_eq!(line["upstream"], upstream, "{line}");
    assert_eq!(line["endpoint"], server.address().to_string(), "{line}");
    assert_eq!(line["local_port"], visit.peer.port(), "{line}");
    assert_eq!(line["sent"], visit.len(), "{line}");
    assert_eq!(line["hello_records"], 1, "{line}");
    assert_eq!(line["hello_bytes"], hello.len() - 5, "{line}");
    assert_eq!(line["reason"], "client_closed", "{line}");
    assert_eq!(line["phase"], "relaying", "{line}");
}

#[test]
fn every_name_reaches_its_own_server() {
    let authority = Authority::new();
    let exact = authority.server(&["exact.test"]);
    let wild = authority.server(&["*.wild.test", "*.deep.wild.test"]);
    let inner = authority.server(&["inner.wild.test"]);
    let servers = [&exact, &wild, &inner].map(|identity| Service::echo(identity).start());
    let gate = Gate::start(&routing(
        ["exact.test", "*.wild.test", "inner.wild.test"].into_iter().zip(servers.each_ref().map(TlsServer::address)),
    ));
    for (versions, version) in VERSIONS {
        let config = Client { versions, ..Client::trusting(&authority) }.config();
        for (name, index) in [
            ("exact.test", 0),
            ("any.wild.test", 1),
            ("a.deep.wild.test", 1),
            ("inner.wild.test", 2),
            ("EXACT.test", 0),
        ] {
            let (server, identity) = (&servers[index], [&exact, &wild, &inner][index]);
            let connection = server.handshakes();
            let mut session = tls::connect(&config, name, gate.address()).unwrap();
            assert_eq!(session.certificate(), identity.certificate, "{name}");
            assert_eq!(session.echo(&[1; 100_000]).unwrap(), [1; 100_000]);
            let facts = server.facts(connection);
            assert_eq!(facts.version, version);
            assert!(facts.server_name.unwrap().eq_ignore_ascii_case(name));
            close_and_compare(&gate, session, server, connection, &format!("up{index}"));
        }
    }
}

#[test]
fn an_unknown_name_is_told_so_and_reaches_nobody() {
    let authority = Authority::new();
    let server = Service::echo(&authority.server(&["here.test"])).start();
    let gate = Gate::start(&routing([("here.test", server.address()), ("*.wild.test", server.address())]));
    for (versions, _) in VERSIONS {
        for (name, sni, reason) in [
            ("there.test", true, "unknown_server_name"),
            ("wild.test", true, "unknown_server_name"),
            ("not.here.test", true, "unknown_server_name"),
            ("here.test", false, "no_server_name"),
        ] {
            let config = Client { versions, sni, ..Client::trusting(&authority) }.config();
            let stream = tcp::connect(gate.address());
            let source = stream.local_addr().unwrap();
            let error = tls::connect_sending(&config, name, stream, |stream, hello| stream.write_all(hello))
                .map(|_| ())
                .unwrap_err();
            assert_eq!(tls::alert(&error), Some(AlertDescription::UnrecognisedName), "{name}: {error}");
            let line = gate.log.line_of(source);
            assert_eq!(line["reason"], reason, "{line}");
            assert_eq!(line["closed_by"], "snigate", "{line}");
        }
    }
    assert!(server.upstream.visits().is_empty());
}

#[test]
fn a_route_for_clients_without_a_name() {
    let authority = Authority::new();
    let named = Service::echo(&authority.server(&["named.test"])).start();
    let identity = authority.server(&["127.0.0.1", "by-address.test"]);
    let nameless = Service::echo(&identity).start();
    let gate = Gate::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\" }}]
routes:
  - {{ server_names: [named.test], upstream: named }}
  - {{ name: nameless, no_server_name: true, upstream: nameless }}
upstreams:
  named: {{ endpoints: [\"{}\"] }}
  nameless: {{ endpoints: [\"{}\"] }}
",
        named.address(),
        nameless.address()
    ));
    let config = Client::trusting(&authority).config();
    // rustls sends no name for an address, as RFC 6066 wants it.
    let mut session = tls::connect(&config, "127.0.0.1", gate.address()).unwrap();
    assert_eq!(session.certificate(), identity.certificate);
    assert_eq!(session.echo(b"by address").unwrap(), b"by address");
    assert_eq!(nameless.facts(0).server_name, None);
    close_and_compare(&gate, session, &nameless, 0, "nameless");
    assert!(named.upstream.visits().is_empty());
}

#[test]
fn each_listener_has_the_routes_that_name_it() {
    let authority = Authority::new();
    let identity = authority.server(&["here.test"]);
    let (inside, outside) = (Service::echo(&identity).start(), Service::echo(&identity).start());
    let gate = Gate::start(&format!(
        "listeners:
  - {{ address: \"127.0.0.1:0\", name: inside }}
  - {{ address: \"127.0.0.1:0\", name: outside }}
  - {{ address: \"127.0.0.1:0\", name: neither }}
routes:
  - {{ name: in, server_names: [here.test], listeners: [inside], upstream: inside }}
  - {{ name: out, server_names: [here.test], listeners: [outside], upstream: outside }}
  - {{ server_names: [elsewhere.test], upstream: outside }}
upstreams:
  inside: {{ endpoints: [\"{}\"] }}
  outside: {{ endpoints: [\"{}\"] }}
",
        inside.address(),
        outside.address()
    ));
    let config = Client::trusting(&authority).config();
    for (listener, server) in [("inside", &inside), ("outside", &outside)] {
        let mut session = tls::connect(&config, "here.test", gate.address_of(listener)).unwrap();
        assert_eq!(session.echo(b"which one?").unwrap(), b"which one?");
        assert_eq!(server.handshakes(), 1);
        close_and_compare(&gate, session, server, 0, listener);
    }
    let error = tls::connect(&config, "here.test", gate.address_of("neither")).map(|_| ()).unwrap_err();
    assert_eq!(tls::alert(&error), Some(AlertDescription::UnrecognisedName));
    assert_eq!((inside.handshakes(), outside.handshakes()), (1, 1));
}

#[test]
fn the_upstream_sees_the_clients_certificate() {
    let authority = Authority::new();
    let identity = authority.server(&["here.test"]);
    let user = authority.client("jane", "system:masters");
    for (versions, version) in VERSIONS {
        let server = Service { clients: Some(authority.roots()), ..Service::echo(&identity) }.start();
        let gate = Gate::start(&routing([("here.test", server.address())]));
        let config = Client { versions, identity: Some(&user), ..Client::trusting(&authority) }.config();
        let mut session = tls::connect(&config, "here.test", gate.address()).unwrap();
        assert_eq!(session.echo(b"it is me").unwrap(), b"it is me");
        assert_eq!(server.facts(0).version, version);
        assert_eq!(server.facts(0).client_certificate.as_ref(), Some(&user.certificate));
        close_and_compare(&gate, session, &server, 0, "up0");
    }
}

#[test]
fn sessions_are_resumed() {
    let authority = Authority::new();
    let identity = authority.server(&["here.test"]);
    for (versions, _) in VERSIONS {
        let server = Service::echo(&identity).start();
        let gate = Gate::start(&routing([("here.test", server.address())]));
        let config = Client { versions, ..Client::trusting(&authority) }.config();
        for connection in 0..3 {
            let mut session = tls::connect(&config, "here.test", gate.address()).unwrap();
            assert_eq!(session.echo(b"again").unwrap(), b"again");
            close_and_compare(&gate, session, &server, connection, "up0");
            assert_eq!(server.facts(connection).resumed, connection > 0);
        }
    }
}

#[test]
fn a_post_quantum_hello_comes_in_two_segments() {
    let authority = Authority::new();
    let identity = authority.server(&["here.test"]);
    let server = Service { provider: tls::post_quantum(), ..Service::echo(&identity) }.start();
    let gate = Gate::start(&routing([("here.test", server.address())]));
    let config = Client { provider: tls::post_quantum(), ..Client::trusting(&authority) }.config();
    // The usual segment on the Internet, inside the record header, and between header and first byte.
    for (connection, cut) in [1400, 3, 5, 6].into_iter().enumerate() {
        let stream = tcp::connect(gate.address());
        let mut session = tls::connect_sending(&config, "here.test", stream, |stream, hello| {
            assert!(hello.len() > 1400, "{} bytes", hello.len());
            tcp::write_in_pieces(stream, [&hello[..cut], &hello[cut..]])
        })
        .unwrap();
        assert_eq!(session.echo(b"beyond quantum").unwrap(), b"beyond quantum");
        assert_eq!(server.facts(connection).group, Some(NamedGroup::X25519MLKEM768));
        close_and_compare(&gate, session, &server, connection, "up0");
    }
}

#[test]
fn a_hello_of_fifteen_kibibytes() {
    let authority = Authority::new();
    let identity = authority.server(&["here.test"]);
    let server = Service { alpn: &["wanted"], ..Service::echo(&identity) }.start();
    let gate = Gate::start(&routing([("here.test", server.address())]));
    let unknown = (0..58_u8).map(|number| vec![b'a' + number % 26; 255]);
    let alpn: Vec<Vec<u8>> = unknown.chain([b"wanted".to_vec()]).collect();
    let config = Client { alpn, ..Client::trusting(&authority) }.config();
    for connection in 0..2 {
        let stream = tcp::connect(gate.address());
        let mut session = tls::connect_sending(&config, "here.test", stream, |stream, hello| {
            assert!((14_900..15_400).contains(&hello.len()), "{} bytes", hello.len());
            if connection == 0 { stream.write_all(hello) } else { tcp::write_in_pieces(stream, hello.chunks(1400)) }
        })
        .unwrap();
        assert_eq!(session.echo(b"long hello").unwrap(), b"long hello");
        assert_eq!(server.facts(connection).alpn.as_deref(), Some("wanted"));
        close_and_compare(&gate, session, &server, connection, "up0");
    }
}

#[test]
fn a_client_without_the_routes_protocols_is_told_so() {
    let authority = Authority::new();
    let identity = authority.server(&["here.test"]);
    let server = Service { alpn: &["http/1.1", "h2"], ..Service::echo(&identity) }.start();
    let gate = Gate::start(&format!(
        "listeners: [{{ address: \"127.0.0.1:0\" }}]
routes: [{{ server_names: [here.test], alpn: [h2], upstream: two }}]
upstreams: {{ two: {{ endpoints: [\"{}\"] }} }}
",
        server.address()
    ));
    for (alpn, accepted) in
        [(vec!["h2"], true), (vec!["http/1.1", "h2"], true), (vec!["http/1.1"], false), (vec![], false)]
    {
        let alpn = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let config = Client { alpn, ..Client::trusting(&authority) }.config();
        let answer = tls::connect(&config, "here.test", gate.address()).map(Session::close);
        let alert = answer.as_ref().err().and_then(tls::alert);
        assert_eq!(alert, (!accepted).then_some(AlertDescription::NoApplicationProtocol));
        assert_eq!(answer.is_ok(), accepted);
    }
    assert_eq!(server.upstream.visits().len(), 2);
}

#[test]
fn many_sessions_at_once_keep_apart() {
    let authority = Authority::new();
    let identities = ["a.test", "b.test", "c.test", "d.test"].map(|name| authority.server(&[name]));
    let servers = identities.each_ref().map(|identity| Service::echo(identity).start());
    let names = ["a.test", "b.test", "c.test", "d.test"];
    let gate = Gate::start(&routing(names.into_iter().zip(servers.each_ref().map(TlsServer::address))));
    thread::scope(|scope| {
        for client in 0..32_u8 {
            let (authority, gate, index) = (&authority, &gate, usize::from(client) % names.len());
            let certificate = &identities[index].certificate;
            scope.spawn(move || {
                let config = Client::trusting(authority).config();
                let mut session = tls::connect(&config, names[index], gate.address()).unwrap();
                assert_eq!(&session.certificate(), certificate);
                let own = vec![client; 300_000];
                assert_eq!(session.echo(&own).unwrap(), own);
                session.close().unwrap();
            });
        }
    });
    assert!(servers.iter().all(|server| server.handshakes() == 8));
    gate.log.line(31);
    assert_eq!(gate.log.count(), 32);
}

#[test]
fn a_failed_handshake_is_the_servers_to_tell() {
    let authority = Authority::new();
    let identity = authority.server(&["other.test"]);
    // The server insists on a client certificate, and its alert must come through as it is.
    let server = Service { clients: Some(authority.roots()), ..Service::echo(&identity) }.start();
    let plain = Upstream::answering(1, "HTTP/1.1 400 this is no TLS\r\n\r\n");
    let gate = Gate::start(&routing([("other.test", server.address()), ("plain.test", plain.address())]));
    let config = Client { versions: tls::TLS12, ..Client::trusting(&authority) }.config();
    let error = tls::connect(&config, "other.test", gate.address()).map(|_| ()).unwrap_err();
    let told = tls::alert(&error).unwrap_or_else(|| panic!("no alert: {error}"));
    assert_ne!(told, AlertDescription::UnrecognisedName);
    assert_eq!(server.upstream.visit(0).wait_for_end(), End::Eof);

    let error = tls::connect(&config, "plain.test", gate.address()).map(|_| ()).unwrap_err();
    assert_eq!(tls::alert(&error), None);
}
