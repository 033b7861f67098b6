//! ClientHellos as a TLS library writes them, for clients that need no TLS beyond that.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::tls::classic;

/// A hello that asks for `name`; an IP address as the name is not sent.
pub fn hello(name: &str) -> Vec<u8> {
    hello_of(classic(), name, &[])
}

/// A hello of this provider that offers these protocols.
pub fn hello_of(provider: Arc<CryptoProvider>, name: &str, alpn: &[&str]) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let mut raw = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut raw).unwrap();
    }
    raw
}
