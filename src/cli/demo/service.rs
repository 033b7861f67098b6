//! A small TLS service: one HTTP/1.1 page that says who answers and what it saw of the handshake.

use super::certificates::Authority;
use rustls::pki_types::CertificateDer;
use rustls::{ProtocolVersion, ServerConfig};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// How long a client may take from connecting to the end of its request.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest request head; a browser's is far below.
const MAX_HEAD: usize = 16 * 1024;

/// A running service. It lives as long as the runtime that it was started on.
pub(super) struct Service {
    pub(super) label: &'static str,
    /// What its certificate and its route are for.
    pub(super) names: &'static [&'static str],
    pub(super) address: SocketAddr,
    pub(super) certificate: CertificateDer<'static>,
}

impl Service {
    /// Starts on a free loopback port, with a certificate of `authority` for `names`.
    pub(super) async fn start(
        label: &'static str,
        names: &'static [&'static str],
        authority: &Authority,
    ) -> anyhow::Result<Self> {
        let (certificate, key) = authority.sign(names)?;
        let mut config = ServerConfig::builder_with_provider(super::crypto())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), label));
        Ok(Self { label, names, address, certificate })
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, label: &'static str) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let acceptor = acceptor.clone();
                // A client that breaks off has its own reasons; the demo's log line tells the rest.
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(PATIENCE, Box::pin(answer(stream, peer, acceptor, label))).await;
                });
            }
            // Out of descriptors, most likely: that passes.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(stream: TcpStream, peer: SocketAddr, acceptor: TlsAcceptor, label: &str) -> io::Result<()> {
    let mut tls = acceptor.accept(stream).await?;
    let page = {
        let (_, connection) = tls.get_ref();
        let version = connection.protocol_version().map_or("an unknown version", version_name);
        let name = connection.server_name().unwrap_or("none");
        let alpn = connection.alpn_protocol().map_or_else(|| "none".into(), String::from_utf8_lossy);
        format!(
            "this is {label}\nserver name: {name}\nTLS version: {version}\nALPN:        {alpn}\nI see you as {peer}\n"
        )
    };
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || tls.read_buf(&mut head).await? == 0 {
            return Err(ErrorKind::InvalidData.into());
        }
    }
    let response = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
        page.len()
    );
    tls.write_all(response.as_bytes()).await?;
    tls.shutdown().await
}

/// A protocol version as people write it.
pub(super) fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLS 1.2",
        ProtocolVersion::TLSv1_3 => "TLS 1.3",
        _ => "an unknown version",
    }
}
