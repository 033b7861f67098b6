//! The calls of `demo --once`: TLS through the gate, and whether each ended as it must.

use super::certificates::{AUTHORITY_NAME, Authority};
use super::service::{Service, version_name};
use crate::upstream::certificate::fingerprint;
use anyhow::{Context as _, bail, ensure};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than a page of the demo's services ever has.
const MAX_RESPONSE: u64 = 64 * 1024;

/// One call and what must come of it.
pub(super) struct Call<'a> {
    pub(super) version: &'static SupportedProtocolVersion,
    /// The name that is verified, and sent unless `anonymous`.
    pub(super) name: &'static str,
    /// Sends no server name, as clients do that connect by address.
    pub(super) anonymous: bool,
    /// The service that must answer; `None` when the gate must refuse with `unrecognized_name`.
    pub(super) service: Option<&'a Service>,
}

/// What came of a call.
enum Answer {
    Page { certificate: CertificateDer<'static>, version: Option<ProtocolVersion>, page: String },
    Alert(AlertDescription),
}

/// Every call of the demo: each name over both versions, then the two refusals.
pub(super) fn all<'a>(alpha: &'a Service, beta: &'a Service) -> Vec<Call<'a>> {
    let mut calls = Vec::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (name, service) in [
            ("alpha.demo.snigate.test", Some(alpha)),
            ("beta.demo.snigate.test", Some(beta)),
            ("any.beta.demo.snigate.test", Some(beta)),
            ("nobody.demo.snigate.test", None),
        ] {
            calls.push(Call { version, name, anonymous: false, service });
        }
        calls.push(Call { version, name: "alpha.demo.snigate.test", anonymous: true, service: None });
    }
    calls
}

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.anonymous { "(no server name)" } else { self.name };
        write!(f, "{}  {name}", version_name(self.version.version))
    }
}

impl Call<'_> {
    /// What the access log must say of the call, as it stands in its JSON.
    pub(super) fn log_field(&self) -> String {
        match self.service {
            Some(service) => format!("\"upstream\":\"{}\"", service.label),
            None if self.anonymous => "\"reason\":\"no_server_name\"".to_owned(),
            None => "\"reason\":\"unknown_server_name\"".to_owned(),
        }
    }

    /// Makes the call and says in a few lines what came of it; an error says what was wrong with that.
    pub(super) async fn make(&self, gate: SocketAddr, authority: &Authority) -> anyhow::Result<String> {
        let answer = tokio::time::timeout(PATIENCE, Box::pin(self.ask(gate, authority)))
            .await
            .with_context(|| format!("no answer within {PATIENCE:?}"))??;
        match (answer, self.service) {
            (Answer::Alert(AlertDescription::UnrecognisedName), None) => {
                Ok("refused with the alert unrecognized_name (112), as it must be".to_owned())
            }
            (Answer::Alert(alert), _) => bail!("the client was told the alert {alert:?}"),
            (Answer::Page { page, .. }, None) => bail!("somebody answered: {page}"),
            (Answer::Page { certificate, version, page }, Some(service)) => {
                let who = format!("this is {}\n", service.label);
                ensure!(page.starts_with(&who), "the wrong service answered: {page}");
                ensure!(certificate == service.certificate, "{} showed another certificate", service.label);
                ensure!(version == Some(self.version.version), "{version:?} was spoken");
                Ok(format!(
                    "answered by {}\n  certificate   {} (issued by {AUTHORITY_NAME})\n  SHA-256       {}",
                    service.label,
                    service.names.join(", "),
                    fingerprint(&certificate)
                ))
            }
        }
    }

    async fn ask(&self, gate: SocketAddr, authority: &Authority) -> anyhow::Result<Answer> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate.clone())?;
        let mut config = ClientConfig::builder_with_provider(super::crypto())
            .with_protocol_versions(&[self.version])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_sni = !self.anonymous;
        let stream = TcpStream::connect(gate).await.context("connecting to the gate")?;
        let connector = TlsConnector::from(Arc::new(config));
        // The handshake also verifies that the certificate is the authority's and covers the name.
        let mut tls = match connector.connect(ServerName::try_from(self.name)?, stream).await {
            Ok(tls) => tls,
            Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(rustls::Error::AlertReceived(alert)) => return Ok(Answer::Alert(*alert)),
                _ => return Err(error).context("the TLS handshake"),
            },
        };
        let request = format!("GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.name);
        tls.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        (&mut tls).take(MAX_RESPONSE).read_to_string(&mut response).await?;
        let Some(("HTTP/1.1 200 OK", page)) =
            response.split_once("\r\n\r\n").map(|(head, page)| (head.lines().next().unwrap_or_default(), page))
        else {
            bail!("not the answer of a demo service: {response}");
        };
        let (_, connection) = tls.get_ref();
        let certificate = connection.peer_certificates().and_then(|chain| chain.first()).context("no certificate")?;
        Ok(Answer::Page {
            certificate: certificate.clone().into_owned(),
            version: connection.protocol_version(),
            page: page.to_owned(),
        })
    }
}
