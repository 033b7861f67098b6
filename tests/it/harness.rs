//! The harness against itself, with no gate between: what the other tests take for granted.

use crate::support::certs::Authority;
use crate::support::gate::Lines;
use crate::support::tcp::{self, End, Refusing, Unanswering, Upstream};
use crate::support::tls::{self, Client, Service};
use crate::support::{descriptors, wait_until};
use rustls::{NamedGroup, ProtocolVersion};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

#[test]
fn a_recording_upstream_remembers_bytes_and_end() {
    let upstream = Upstream::recording();
    let mut polite = tcp::connect(upstream.address());
    polite.write_all(b"all of it").unwrap();
    upstream.visit(0).wait_for_bytes(9);
    assert_eq!(upstream.visit(0).end(), End::Open);
    tcp::finish(&polite);
    assert_eq!(upstream.visit(0).wait_for_end(), End::Eof);
    assert_eq!(upstream.visit(0).bytes(), b"all of it");
    assert_eq!(tcp::read_to_end(&mut polite), (Vec::new(), End::Eof));

    tcp::reset(tcp::connect(upstream.address()));
    assert_eq!(upstream.visit(1).wait_for_end(), End::Reset);
    assert_eq!(upstream.visits().len(), 2);
}

#[test]
fn scripted_upstreams_do_what_they_say() {
    let upstream = Upstream::echo();
    let mut client = tcp::connect(upstream.address());
    client.write_all(b"to and fro").unwrap();
    assert_eq!(tcp::read_exactly(&mut client, 10), b"to and fro");
    tcp::finish(&client);
    assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof));

    let upstream = Upstream::answering(4, "answer");
    let mut client = tcp::connect(upstream.address());
    client.write_all(b"four").unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (b"answer".to_vec(), End::Eof));

    let upstream = Upstream::resetting(4);
    let mut client = tcp::connect(upstream.address());
    client.write_all(b"four").unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Reset));

    let silent = Upstream::silent();
    let mut client = tcp::connect(silent.address());
    tcp::finish(&client);
    assert_eq!(silent.visit(0).wait_for_end(), End::Eof);
    drop(silent);
    assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof));
}

#[test]
fn an_answer_with_our_data_unread_ends_in_a_reset() {
    let upstream = Upstream::answering(4, "answer");
    let mut client = tcp::connect(upstream.address());
    client.write_all(b"four, and more that nobody reads").unwrap();
    assert_eq!(tcp::read_to_end(&mut client).1, End::Reset);
}

#[test]
fn pieces_arrive_one_by_one() {
    let upstream = Upstream::recording();
    let mut client = tcp::connect(upstream.address());
    let visit = upstream.visit(0);
    let pieces = [&b"a"[..], b"bc", b"def"].into_iter().scan(0, |sent, piece| {
        // Each is asked for only when the one before was read.
        wait_until("the piece before is noted", || visit.len() == *sent);
        *sent += piece.len();
        Some(piece)
    });
    tcp::write_in_pieces(&mut client, pieces).unwrap();
    visit.wait_for_bytes(6);
    let unreading = Upstream::unreading();
    let mut client = tcp::connect(unreading.address());
    unreading.visit(0);
    drop(unreading);
    let refused = tcp::write_in_pieces(&mut client, [&b"a"[..], b"b", b"c"]);
    assert!(refused.is_err(), "nobody can have read it");
}

#[test]
fn refusing_and_unanswering_addresses() {
    let refusing = Refusing::new();
    let address = refusing.address();
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let upstream = Upstream::serve(refusing.open(), |mut stream, _| stream.write_all(b"open").unwrap());
    assert_eq!(upstream.address(), address);
    assert_eq!(tcp::read_to_end(&mut tcp::connect(address)).0, b"open");

    let unanswering = Unanswering::new();
    let error = TcpStream::connect_timeout(&unanswering.address(), Duration::from_millis(300)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[test]
fn lines_of_two_sources_do_not_mix() {
    let lines = Lines::default();
    let (mut one, mut other) = (lines.entry(), lines.entry());
    one.write_all(b"fir").unwrap();
    other.write_all(b"sec").unwrap();
    one.write_all(b"st\nthi").unwrap();
    other.write_all(b"ond\n").unwrap();
    one.write_all(b"rd\n").unwrap();
    assert_eq!(lines.all(), ["first", "second", "third"]);
}

#[test]
fn what_was_poured_can_be_told_apart_from_what_was_taken() {
    let unreading = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut client = tcp::connect(unreading.local_addr().unwrap());
    let (mut peer, _) = unreading.accept().unwrap();
    let poured = tcp::pour_until_blocked(&mut [&mut client])[0];
    let taken = poured - tcp::unacknowledged(&client);
    assert!(0 < taken && taken < poured, "{taken} of {poured}");
    tcp::reset(client);
    let (bytes, end) = tcp::read_to_end(&mut peer);
    assert!((taken..poured).contains(&bytes.len()), "{} of {taken} to {poured}", bytes.len());
    assert!(bytes == tcp::pattern(bytes.len()));
    assert_eq!(end, End::Reset);
}

#[test]
fn a_reset_behind_a_fin_is_seen() {
    let unreading = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for (sent, expected) in [(&b""[..], false), (b"unread", true)] {
        let mut client = tcp::connect(unreading.local_addr().unwrap());
        let (peer, _) = unreading.accept().unwrap();
        client.write_all(sent).unwrap();
        tcp::finish(&peer);
        drop(peer);
        assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof));
        wait_until("the reset", || !expected || tcp::was_reset(&client));
        assert!(!tcp::was_reset(&client), "each is told once");
    }
}

#[test]
fn sockets_of_a_process_are_counted() {
    let _held: Vec<_> = (0..300).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let count = descriptors::sockets(std::process::id());
    assert!(count >= 300, "{count}");
}

#[test]
fn tls_peers_agree_on_what_was_chosen() {
    let authority = Authority::new();
    let identity = authority.server(&["here.test"]);
    let user = authority.client("somebody", "some group");
    for (versions, expected) in [(tls::TLS12, ProtocolVersion::TLSv1_2), (tls::TLS13, ProtocolVersion::TLSv1_3)] {
        let server = Service { clients: Some(authority.roots()), alpn: &["one"], ..Service::echo(&identity) }.start();
        let client =
            Client { versions, identity: Some(&user), alpn: vec![b"one".to_vec()], ..Client::trusting(&authority) };
        let config = client.config();
        for resumed in [false, true] {
            let mut session = tls::connect(&config, "here.test", server.address()).unwrap();
            assert_eq!(session.echo(&[7; 200_000]).unwrap(), [7; 200_000]);
            assert_eq!(session.certificate(), identity.certificate);
            let hello = session.hello.clone();
            session.close().unwrap();
            let facts = server.facts(usize::from(resumed));
            assert_eq!(facts.version, expected);
            assert_eq!(facts.server_name.as_deref(), Some("here.test"));
            assert_eq!(facts.alpn.as_deref(), Some("one"));
            assert_eq!(facts.client_certificate.as_ref(), Some(&user.certificate));
            assert_eq!(facts.resumed, resumed);
            let visit = server.upstream.visit(usize::from(resumed));
            assert_eq!(visit.wait_for_end(), End::Eof);
            assert!(visit.bytes().starts_with(&hello));
        }
        assert_eq!(server.handshakes(), 2);
    }
}

#[test]
fn a_post_quantum_hello_fills_more_than_a_segment() {
    let authority = Authority::new();
    let identity = authority.server(&["here.test"]);
    let server = Service { provider: tls::post_quantum(), ..Service::echo(&identity) }.start();
    let config = Client { provider: tls::post_quantum(), sni: false, ..Client::trusting(&authority) }.config();
    let session = tls::connect(&config, "here.test", server.address()).unwrap();
    assert!(session.hello.len() > 1400, "{} bytes", session.hello.len());
    assert_eq!(server.facts(0).group, Some(NamedGroup::X25519MLKEM768));
    assert_eq!(server.facts(0).server_name, None);
}

#[test]
fn a_refused_handshake_names_its_alert() {
    let authority = Authority::new();
    let identity = authority.server(&["here.test"]);
    let server = Service { clients: Some(authority.roots()), ..Service::echo(&identity) }.start();
    let config = Client { versions: tls::TLS12, ..Client::trusting(&authority) }.config();
    let error = tls::connect(&config, "here.test", server.address()).map(|_| ()).unwrap_err();
    assert!(tls::alert(&error).is_some(), "{error}");
    assert_eq!(server.handshakes(), 0);
}
