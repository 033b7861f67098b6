//! TLS peers over blocking sockets: a server that knows what it saw of each handshake, and a client that chooses what it
//! shows.

use super::certs::{Authority, Identity};
use super::tcp::{End, Upstream, Visit};
use super::wait_for;
use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore,
    ServerConfig, ServerConnection, Stream, StreamOwned, SupportedProtocolVersion,
};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// TLS 1.2 alone, for [`Client::versions`].
pub const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
/// TLS 1.3 alone.
pub const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The classic provider: key shares of 32 bytes.
pub fn classic() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A provider whose first key share is post-quantum, so that its hello does not fit in one segment.
pub fn post_quantum() -> Arc<CryptoProvider> {
    let kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
    Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() })
}

/// What a [`TlsServer`] saw of one handshake.
#[derive(Clone, Debug)]
pub struct Facts {
    pub version: ProtocolVersion,
    pub server_name: Option<String>,
    pub alpn: Option<String>,
    pub client_certificate: Option<CertificateDer<'static>>,
    pub resumed: bool,
    pub group: Option<NamedGroup>,
}

/// What a [`TlsServer`] does after the handshake.
#[derive(Clone, Debug)]
pub enum Talk {
    /// Sends back what comes.
    Echo,
    /// Answers one HTTP/1.1 request with this page.
    Http(String),
    /// Answers the requests of one connection with these texts, one after the other, then closes.
    Script(Vec<String>),
    /// Answers requests over HTTP/1.1 with 200 while this is true, else with 500; sends back whatever is no request.
    Ready(Arc<AtomicBool>),
}

/// How to set up a [`TlsServer`].
pub struct Service<'a> {
    pub identity: &'a Identity,
    /// Whose client certificates are required; none by default.
    pub clients: Option<Arc<RootCertStore>>,
    pub alpn: &'a [&'a str],
    pub provider: Arc<CryptoProvider>,
    pub talk: Talk,
}

impl<'a> Service<'a> {
    pub fn echo(identity: &'a Identity) -> Self {
        Self { identity, clients: None, alpn: &[], provider: classic(), talk: Talk::Echo }
    }

    pub fn http(identity: &'a Identity, page: &str) -> Self {
        Self { talk: Talk::Http(page.to_owned()), ..Self::echo(identity) }
    }

    pub fn start(self) -> TlsServer {
        self.serve(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
    }

    /// Starts on a listener that is there already.
    pub fn serve(self, listener: TcpListener) -> TlsServer {
        let builder =
            ServerConfig::builder_with_provider(self.provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = match self.clients {
            None => builder.with_no_client_auth(),
            Some(roots) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots, self.provider).build().unwrap(),
            ),
        };
        let mut config = builder.with_single_cert(self.identity.chain(), self.identity.key()).unwrap();
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let (config, talk) = (Arc::new(config), self.talk);
        let facts = Arc::new(Mutex::new(Vec::new()));
        let noted = facts.clone();
        let upstream = Upstream::serve(listener, move |stream, visit| serve(&config, stream, visit, &noted, &talk));
        TlsServer { upstream, facts }
    }
}

/// A TLS server of its own port on 127.0.0.1.
pub struct TlsServer {
    /// The TCP below it, where every raw byte that came is remembered.
    pub upstream: Upstream,
    facts: Arc<Mutex<Vec<Facts>>>,
}

impl TlsServer {
    pub fn address(&self) -> SocketAddr {
        self.upstream.address()
    }

    /// Waits for handshake number `index` (from 0; in the order in which they ended) and says what was seen of it.
    pub fn facts(&self, index: usize) -> Facts {
        wait_for(&format!("TLS handshake {index}"), || self.facts.lock().unwrap().get(index).cloned())
    }

    /// How many handshakes there were.
    pub fn handshakes(&self) -> usize {
        self.facts.lock().unwrap().len()
    }
}

/// A socket whose incoming bytes are noted in a visit.
struct Tap<'a> {
    stream: TcpStream,
    visit: &'a Visit,
}

impl Read for Tap<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer);
        match &read {
            Ok(0) => self.visit.note_end(End::Eof),
            Ok(count) => self.visit.note(&buffer[..*count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.visit.note_end(End::Reset),
            Err(_) => {}
        }
        read
    }
}

impl Write for Tap<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// One connection of a server. A failed handshake or a cut leaves no facts, or only a visit that ended: the test sees it.
fn serve(config: &Arc<ServerConfig>, stream: TcpStream, visit: &Visit, noted: &Mutex<Vec<Facts>>, talk: &Talk) {
    let mut connection = ServerConnection::new(config.clone()).unwrap();
    let mut tap = Tap { stream, visit };
    while connection.is_handshaking() {
        if connection.complete_io(&mut tap).is_err() {
            // What was said is said; the client has the last word, so that nothing of ours is lost to a RST.
            let _ = tap.stream.shutdown(Shutdown::Write);
            visit.read_to_end(&mut tap.stream);
            return;
        }
    }
    noted.lock().unwrap().push(Facts {
        version: connection.protocol_version().unwrap(),
        server_name: connection.server_name().map(str::to_owned),
        alpn: connection.alpn_protocol().map(|protocol| String::from_utf8(protocol.to_vec()).unwrap()),
        client_certificate: connection.peer_certificates().map(|chain| chain[0].clone().into_owned()),
        resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        group: connection.negotiated_key_exchange_group().map(|group| group.name()),
    });
    let mut tls = Stream::new(&mut connection, &mut tap);
    let served = match talk {
        Talk::Echo => echo(&mut tls),
        Talk::Http(page) => answer(&mut tls, page),
        Talk::Ready(ready) => tell_or_echo(&mut tls, ready),
        Talk::Script(texts) => texts.iter().try_for_each(|text| answer_with(&mut tls, text)),
    };
    if served.is_ok() {
        connection.send_close_notify();
        // The client may be gone already: then there is nobody to tell.
        let _ = connection.complete_io(&mut tap);
        // Its FIN comes before ours, so that nothing of ours is lost to a RST.
        visit.read_to_end(&mut tap.stream);
    }
}

fn echo(tls: &mut impl ReadWrite) -> io::Result<()> {
    answer_all(tls, |heard| heard.to_vec())
}

fn tell_or_echo(tls: &mut impl ReadWrite, ready: &AtomicBool) -> io::Result<()> {
    answer_all(tls, |heard| match (heard.starts_with(b"GET "), ready.load(Ordering::Relaxed)) {
        (false, _) => heard.to_vec(),
        (true, true) => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec(),
        (true, false) => b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 9\r\n\r\nnot ready".to_vec(),
    })
}

/// Answers every piece that comes, until the end.
fn answer_all(tls: &mut impl ReadWrite, answer: impl Fn(&[u8]) -> Vec<u8>) -> io::Result<()> {
    let mut scratch = vec![0; 64 * 1024];
    loop {
        match tls.read(&mut scratch)? {
            0 => return Ok(()),
            count => tls.write_all(&answer(&scratch[..count]))?,
        }
        tls.flush()?;
    }
}

fn answer(tls: &mut impl ReadWrite, page: &str) -> io::Result<()> {
    let length = page.len();
    answer_with(tls, &format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{page}"))
}

/// Answers the next request with this text as it is.
fn answer_with(tls: &mut impl ReadWrite, text: &str) -> io::Result<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        tls.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    tls.write_all(text.as_bytes())?;
    tls.flush()
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// What a client shows in its hello.
pub struct Client<'a> {
    pub roots: Arc<RootCertStore>,
    pub versions: &'static [&'static SupportedProtocolVersion],
    pub provider: Arc<CryptoProvider>,
    /// Its own certificate.
    pub identity: Option<&'a Identity>,
    pub alpn: Vec<Vec<u8>>,
    /// Whether it sends the server name.
    pub sni: bool,
}

impl Client<'_> {
    /// TLS 1.2 and 1.3, with server name, without ALPN and certificate.
    pub fn trusting(authority: &Authority) -> Self {
        Self {
            roots: authority.roots(),
            versions: rustls::ALL_VERSIONS,
            provider: classic(),
            identity: None,
            alpn: Vec::new(),
            sni: true,
        }
    }

    /// The configuration; sessions are resumed among connections that share it.
    pub fn config(self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(self.provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(self.roots);
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.key()).unwrap(),
        };
        config.alpn_protocols = self.alpn;
        config.enable_sni = self.sni;
        Arc::new(config)
    }
}

/// A TLS connection of a client after its handshake.
pub struct Session {
    tls: StreamOwned<ClientConnection, TcpStream>,
    /// The hello as it was sent.
    pub hello: Vec<u8>,
}

/// Connects to `address`, verifies that the server is `name`, and completes the handshake.
pub fn connect(config: &Arc<ClientConfig>, name: &str, address: SocketAddr) -> io::Result<Session> {
    connect_sending(config, name, super::tcp::connect(address), |stream, hello| stream.write_all(hello))
}

/// [`connect`] over a socket that is there already, with its own way to send the hello.
pub fn connect_sending(
    config: &Arc<ClientConfig>,
    name: &str,
    mut stream: TcpStream,
    send: impl FnOnce(&mut TcpStream, &[u8]) -> io::Result<()>,
) -> io::Result<Session> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(config.clone(), name).unwrap();
    let mut hello = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut hello)?;
    }
    send(&mut stream, &hello)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(Session { tls: StreamOwned::new(connection, stream), hello })
}

impl Session {
    /// The certificate that the server showed.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.tls.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }

    pub fn local_address(&self) -> SocketAddr {
        self.tls.sock.local_addr().unwrap()
    }

    /// Sends `bytes` and reads as many back.
    pub fn echo(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut back = vec![0; bytes.len()];
        // In parts, so that neither side's socket buffers fill while nobody reads.
        for (part, returned) in bytes.chunks(64 * 1024).zip(back.chunks_mut(64 * 1024)) {
            self.tls.write_all(part)?;
            self.tls.flush()?;
            self.tls.read_exact(returned)?;
        }
        Ok(back)
    }

    /// Ends the session as TLS wants it: close_notify both ways, then the FINs.
    pub fn close(mut self) -> io::Result<()> {
        self.tls.conn.send_close_notify();
        self.tls.flush()?;
        super::tcp::finish(&self.tls.sock);
        let rest = self.tls.read_to_end(&mut Vec::new())?;
        if rest == 0 { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    }
}

/// The alert that made a handshake fail.
pub fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}
