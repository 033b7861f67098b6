//! Asking endpoints whether they are well, and who they are.
//!
//! A [`Prober`] holds what the probes of one upstream share, above all whom they believe; each endpoint has a [`Probe`],
//! which keeps its HTTP connection where it can; [`watch`] asks again and again.

mod credentials;
mod http;
mod report;
mod tls;
mod watch;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::connect::established;
use super::sources::Sources;
use crate::config::{HealthCheck, HttpQuestion, Question};
use crate::proxy_protocol::Version;
use credentials::{Credentials, Loaded};
pub use report::{Identity, ProbeFailure, Report, Stage};
use tls::Shown;
pub use tls::{HandshakeFailure, Refusal};
pub use watch::{Told, watch};

/// How long a connection is kept for further probes. A new one now and then sees what its successors will: a certificate
/// that has changed or expired, and behind a virtual address another machine.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// How long the other side may take to close after us.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the probes of one upstream share.
#[derive(Debug)]
pub struct Prober {
    check: HealthCheck,
    credentials: Option<Credentials>,
    announced: Option<Version>,
    sources: Sources,
    /// What is offered by ALPN.
    protocols: &'static [&'static [u8]],
}

impl Prober {
    /// For one `health_check`, from these of our addresses, of endpoints that expect this PROXY header: it will say that a
    /// probe is our own connection and no client's. Files are read at the first probe, and again when they change.
    pub fn new(check: &HealthCheck, announced: Option<Version>, source_addresses: &[IpAddr]) -> Arc<Self> {
        // Only who will speak HTTP says so: a service that speaks something else must not refuse the rest for it.
        let protocols: &[&[u8]] = if matches!(check.question, Question::Https(..)) { &[b"http/1.1"] } else { &[] };
        let sources = Sources::new(source_addresses);
        Arc::new(Self { announced, sources, ..Self::offering(protocols, check) })
    }

    /// As somebody who offers these protocols.
    pub fn like_a_client(protocols: &'static [&'static [u8]], check: &HealthCheck) -> Arc<Self> {
        Arc::new(Self::offering(protocols, check))
    }

    fn offering(protocols: &'static [&'static [u8]], check: &HealthCheck) -> Self {
        let (credentials, sources) = (check.tls().map(Credentials::new), Sources::default());
        Self { check: check.clone(), credentials, announced: None, sources, protocols }
    }

    /// The probe of one endpoint.
    pub fn endpoint(self: &Arc<Self>, address: SocketAddr) -> Probe {
        Probe { prober: Arc::clone(self), address, kept: None, done: None }
    }
}

/// The probe of one endpoint.
#[derive(Debug)]
pub struct Probe {
    prober: Arc<Prober>,
    address: SocketAddr,
    kept: Option<Kept>,
    /// Done with, and to be closed properly.
    done: Option<TlsStream<TcpStream>>,
}

/// A connection that waits for the next request.
#[derive(Debug)]
struct Kept {
    stream: TlsStream<TcpStream>,
    since: Instant,
    /// Whom it was verified with: when that changes, it is worth nothing.
    loaded: Arc<Loaded>,
}

/// What a probe has seen so far; stays when it runs out of time.
#[derive(Default)]
struct Seen {
    stage: Stage,
    verdict: Option<Result<(), Refusal>>,
    shown: Shown,
}

impl Probe {
    /// Where it asks.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks once. What comes of it need not wait for [`Probe::part`].
    pub async fn run(&mut self) -> Report {
        let mut seen = Seen::default();
        let limit = self.prober.check.timeout;
        let outcome = timeout(limit, self.ask(&mut seen)).await;
        let outcome = outcome.unwrap_or(Err(ProbeFailure::TimedOut { stage: seen.stage, limit }));
        let identity = match seen.verdict {
            _ if !self.prober.check.asks_for_proof() => Identity::NotAsked,
            None => Identity::NotSeen,
            Some(Ok(())) => Identity::Verified,
            Some(Err(refusal)) => Identity::Refused(refusal),
        };
        let Shown { certificate, chain } = seen.shown;
        Report { outcome, identity, certificate, chain }
    }

    /// Ends a session that is done with as TLS wants it: `close_notify`, FIN, and the other side's end read, so that no RST
    /// of ours cuts it short.
    pub async fn part(&mut self) {
        let Some(mut stream) = self.done.take() else { return };
        let _ = timeout(FAREWELL, async {
            stream.shutdown().await?;
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        })
        .await;
    }

    async fn ask(&mut self, seen: &mut Seen) -> Result<(), ProbeFailure> {
        let prober = Arc::clone(&self.prober);
        let Some(credentials) = &prober.credentials else {
            return self.connect().await.map(drop);
        };
        let loaded = credentials.current().map_err(ProbeFailure::Files)?;
        let Question::Https(_, question) = &prober.check.question else {
            self.done = Some(self.open(&loaded, seen).await?);
            return Ok(());
        };
        if let Some(kept) = self.take_kept(&loaded) {
            seen.stage = Stage::Asking;
            // A server may close an idle connection whenever it likes: only a new one shows what a failure is worth.
            if let Ok(outcome) = self.request(kept, question).await {
                return outcome;
            }
        }
        let stream = self.open(&loaded, seen).await?;
        seen.stage = Stage::Asking;
        let fresh = Kept { stream, since: Instant::now(), loaded };
        self.request(fresh, question)
            .await
            .map_err(|error| ProbeFailure::NoAnswer(HandshakeFailure::of(&error).to_string()))?
    }

    /// The connection of the last probe, if it is still good for another.
    fn take_kept(&mut self, loaded: &Arc<Loaded>) -> Option<Kept> {
        let kept = self.kept.take()?;
        if kept.since.elapsed() < KEPT_FOR && Arc::ptr_eq(&kept.loaded, loaded) {
            return Some(kept);
        }
        self.done = Some(kept.stream);
        None
    }

    async fn open(&self, loaded: &Arc<Loaded>, seen: &mut Seen) -> Result<TlsStream<TcpStream>, ProbeFailure> {
        seen.stage = Stage::Connecting;
        let socket = self.connect().await?;
        seen.stage = Stage::Handshaking;
        let (witness, handshake) = tls::handshake(loaded, self.peer_name(), self.prober.protocols, socket);
        let result = handshake.await;
        seen.shown = witness.shown();
        match result {
            Ok(stream) => {
                seen.verdict = Some(Ok(()));
                Ok(stream)
            }
            Err(error) => Err(match tls::refusal(&error, &self.peer_name()) {
                Some(refusal) if self.prober.check.asks_for_proof() => {
                    seen.verdict = Some(Err(refusal.clone()));
                    ProbeFailure::Refused(refusal)
                }
                _ => ProbeFailure::Handshake {
                    why: HandshakeFailure::of(&error),
                    announced: self.prober.announced.is_some(),
                },
            }),
        }
    }

    async fn connect(&self) -> Result<TcpStream, ProbeFailure> {
        let connected = async {
            let socket = self.prober.sources.begin(self.address)?;
            let mut socket = TcpStream::from_std(socket.into())?;
            established(&socket).await?;
            if let Some(version) = self.prober.announced {
                socket.write_all(&version.header_of_our_own()).await?;
            }
            Ok(socket)
        };
        connected.await.map_err(ProbeFailure::Connect)
    }

    /// The name that is sent and verified; an address is verified but never sent.
    fn peer_name(&self) -> ServerName<'static> {
        let named = self.prober.check.tls().and_then(|tls| tls.server_name.clone());
        named.unwrap_or_else(|| ServerName::IpAddress(self.address.ip().into()))
    }

    /// One request and what its answer says; an error if there was none.
    async fn request(&mut self, mut connection: Kept, question: &HttpQuestion) -> io::Result<Result<(), ProbeFailure>> {
        let host = match self.peer_name() {
            ServerName::IpAddress(_) => self.address.to_string(),
            name => name.to_str().into_owned(),
        };
        let answer = http::get(&mut connection.stream, &host, &question.path).await?;
        if answer.reusable {
            self.kept = Some(connection);
        } else {
            self.done = Some(connection.stream);
        }
        let accepted = question.statuses.contains(&answer.status);
        Ok(if accepted { Ok(()) } else { Err(ProbeFailure::Status(answer.status)) })
    }
}
