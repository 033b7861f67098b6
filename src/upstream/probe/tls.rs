//! The TLS side of a probe: who answers is looked at in every case, and believed or not.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::credentials::Loaded;
use crate::upstream::certificate::Certificate;

/// Why a certificate is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotYetValid,
    /// It is for others.
    WrongName(String),
    /// No authority that is believed has signed it.
    UnknownIssuer,
    /// Its key is none of the pinned ones.
    OtherKey,
    /// Something else.
    Other(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("the certificate has expired"),
            Self::NotYetValid => f.write_str("the certificate is not valid yet"),
            Self::WrongName(name) => write!(f, "the certificate does not cover {name}"),
            Self::UnknownIssuer => f.write_str("the certificate is signed by nobody who is believed"),
            Self::OtherKey => f.write_str("the certificate's key is none of the pinned ones"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

/// A key that no pin names.
#[derive(Debug, thiserror::Error)]
#[error("its key is none of the pinned ones")]
struct NotPinned;

/// Looks at the certificate of one handshake; believes it or not.
#[derive(Debug)]
pub(super) struct Witness {
    loaded: Arc<Loaded>,
    seen: OnceLock<Option<Arc<Certificate>>>,
}

impl Witness {
    /// The certificate that was shown, if one was and it could be read.
    pub(super) fn certificate(&self) -> Option<Arc<Certificate>> {
        self.seen.get().cloned().flatten()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = self.seen.get_or_init(|| Certificate::read(end_entity).map(Arc::new));
        if let Some(chain) = &self.loaded.chain {
            let verified = chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
            verified.map_err(|error| match error {
                // An authority of the same name with another key, as after its renewal.
                Error::InvalidCertificate(CertificateError::BadSignature) => CertificateError::UnknownIssuer.into(),
                other => other,
            })?;
        }
        let pins = &self.loaded.pins;
        if !pins.is_empty() && !seen.as_ref().is_some_and(|certificate| pins.contains(&certificate.key)) {
            return Err(CertificateError::Other(OtherError(Arc::new(NotPinned))).into());
        }
        Ok(ServerCertVerified::assertion())
    }

    // That the other side holds the key is verified even where any certificate will do.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.loaded.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.loaded.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.loaded.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A handshake over `socket`, and who sees its certificate. Only a probe that will speak HTTP offers a protocol: a service
/// that speaks another must not refuse the rest for it.
pub(super) fn handshake(
    loaded: &Arc<Loaded>,
    name: ServerName<'static>,
    http: bool,
    socket: TcpStream,
) -> (Arc<Witness>, impl Future<Output = io::Result<TlsStream<TcpStream>>>) {
    let witness = Arc::new(Witness { loaded: Arc::clone(loaded), seen: OnceLock::new() });
    let config = client_config(&witness, http);
    let handshake =
        async { TlsConnector::from(Arc::new(config.map_err(io::Error::other)?)).connect(name, socket).await };
    (witness, handshake)
}

fn client_config(witness: &Arc<Witness>, http: bool) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(&witness.loaded.provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Witness>::clone(witness));
    let mut config = match &witness.loaded.client {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(Arc::<rustls::sign::SingleCertAndKey>::clone(identity)),
    };
    // A resumed session shows no certificate.
    config.resumption = Resumption::disabled();
    if http {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    Ok(config)
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// Why the certificate was not believed, if it is that which ended a handshake.
pub(super) fn refusal(error: &io::Error, wanted: &ServerName<'_>) -> Option<Refusal> {
    let Error::InvalidCertificate(why) = tls_error(error)? else { return None };
    Some(match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Refusal::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Refusal::NotYetValid,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Refusal::WrongName(wanted.to_str().into_owned())
        }
        CertificateError::UnknownIssuer => Refusal::UnknownIssuer,
        CertificateError::BadSignature => Refusal::Other("it does not hold the certificate's key".to_owned()),
        CertificateError::Other(OtherError(cause)) if cause.is::<NotPinned>() => Refusal::OtherKey,
        other => Refusal::Other(format!("the certificate is not valid: {other}")),
    })
}

/// What went wrong, with the remedy where there is a usual one.
pub(super) fn explain(error: &io::Error) -> String {
    match tls_error(error) {
        Some(Error::AlertReceived(alert)) => {
            let remedy = match alert {
                AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure => {
                    "; does it want a `client_certificate`?"
                }
                AlertDescription::UnrecognisedName => "; `server_name` is not one of its names",
                AlertDescription::NoApplicationProtocol => "; it does not speak http/1.1",
                _ => "",
            };
            format!("it sent the alert {alert:?}{remedy}")
        }
        Some(Error::InvalidMessage(_)) => "what answers there is no TLS".to_owned(),
        _ if error.kind() == io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        _ => error.to_string(),
    }
}
