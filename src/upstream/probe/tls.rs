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
    shown: OnceLock<Shown>,
}

/// What was shown, as far as it could be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// The certificate of whoever answered.
    pub(super) certificate: Option<Arc<Certificate>>,
    /// Those that came behind it.
    pub(super) chain: Vec<Certificate>,
}

impl Witness {
    /// What was shown; nothing if it did not come so far.
    pub(super) fn shown(&self) -> Shown {
        self.shown.get().cloned().unwrap_or_default()
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
        let shown = self.shown.get_or_init(|| Shown {
            certificate: Certificate::read(end_entity).map(Arc::new),
            chain: intermediates.iter().filter_map(|der| Certificate::read(der)).collect(),
        });
        if let Some(chain) = &self.loaded.chain {
            let verified = chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
            verified.map_err(|error| match error {
                // An authority of the same name with another key, as after its renewal.
                Error::InvalidCertificate(CertificateError::BadSignature) => CertificateError::UnknownIssuer.into(),
                other => other,
            })?;
        }
        let pins = &self.loaded.pins;
        if !pins.is_empty() && !shown.certificate.as_ref().is_some_and(|certificate| pins.contains(&certificate.key)) {
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

/// A handshake over `socket` that offers these protocols, and who sees its certificate.
pub(super) fn handshake(
    loaded: &Arc<Loaded>,
    name: ServerName<'static>,
    protocols: &[&[u8]],
    socket: TcpStream,
) -> (Arc<Witness>, impl Future<Output = io::Result<TlsStream<TcpStream>>>) {
    let witness = Arc::new(Witness { loaded: Arc::clone(loaded), shown: OnceLock::new() });
    let config = client_config(&witness, protocols);
    let handshake =
        async { TlsConnector::from(Arc::new(config.map_err(io::Error::other)?)).connect(name, socket).await };
    (witness, handshake)
}

fn client_config(witness: &Arc<Witness>, protocols: &[&[u8]]) -> Result<ClientConfig, Error> {
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
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
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

/// Why a handshake did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The other side said why.
    Alert(AlertDescription),
    /// The other side speaks something else.
    NotTls,
    /// The other side closed without a word.
    Closed,
    /// The other side reset the connection.
    Reset,
    /// Something else.
    Other(String),
}

impl HandshakeFailure {
    pub(super) fn of(error: &io::Error) -> Self {
        match (tls_error(error), error.kind()) {
            (Some(Error::AlertReceived(alert)), _) => Self::Alert(*alert),
            (Some(Error::InvalidMessage(_)), _) => Self::NotTls,
            (_, io::ErrorKind::UnexpectedEof) => Self::Closed,
            (_, io::ErrorKind::ConnectionReset) => Self::Reset,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// With the remedy where there is a usual one.
impl fmt::Display for HandshakeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alert(alert) => {
                let remedy = match alert {
                    AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure => {
                        "; does it want a `client_certificate`?"
                    }
                    AlertDescription::UnrecognisedName => "; `server_name` is not one of its names",
                    AlertDescription::NoApplicationProtocol => "; it does not speak http/1.1",
                    _ => "",
                };
                write!(f, "it sent the alert {alert:?}{remedy}")
            }
            Self::NotTls => f.write_str("what answers there is no TLS"),
            Self::Closed => f.write_str("it closed the connection"),
            Self::Reset => f.write_str("it reset the connection"),
            Self::Other(why) => f.write_str(why),
        }
    }
}
