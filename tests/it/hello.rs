//! Hellos of a real TLS library, read as they leave it.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use snigate::hello::{ClientHello, HelloReader, Sni, ja4};

use crate::support::hello::{self, hello_of};
use crate::support::tls::classic;

fn read(raw: &[u8]) -> ClientHello {
    HelloReader::new(16 * 1024).advance(raw).expect("is valid").expect("is complete")
}

#[test]
fn a_rustls_hello_says_what_its_configuration_says() {
    let raw = hello_of(classic(), "Gate.Example", &["h2", "http/1.1"]);
    let hello = read(&raw);
    assert_eq!(hello.server_name, Sni::Name("gate.example".parse().unwrap()));
    assert_eq!(hello.alpn, ["h2".parse().unwrap(), "http/1.1".parse().unwrap()]);
    assert_eq!((hello.legacy_version, hello.records, hello.ech), (0x0303, 1, false));
    assert_eq!(hello.len + 5, raw.len());
    let fingerprint = ja4(&raw).unwrap();
    assert!(fingerprint.starts_with("t13d") && fingerprint.contains("h2_"), "{fingerprint}");
}

#[test]
fn a_post_quantum_hello_is_read_across_two_segments() {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.insert(0, aws_lc_rs::kx_group::X25519MLKEM768);
    let raw = hello_of(Arc::new(provider), "gate.example", &[]);
    assert!(raw.len() > 1400, "{} bytes leave no room for a post-quantum key share", raw.len());
    let mut reader = HelloReader::new(16 * 1024);
    assert_eq!(reader.advance(&raw[..1400]), Ok(None));
    assert_eq!(reader.advance(&raw), Ok(Some(read(&raw))));
    assert_eq!(read(&raw).server_name, Sni::Name("gate.example".parse().unwrap()));
}

#[test]
fn a_client_that_connects_by_address_sends_no_name() {
    let hello = read(&hello::hello("127.0.0.1"));
    assert_eq!((hello.server_name, hello.alpn.len()), (Sni::Absent, 0));
}
