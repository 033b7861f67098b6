//! Whom users of a kubeconfig believe.

use std::path::PathBuf;
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;

use super::Args;
use crate::cli::WrongUsage;
use crate::config::credentials;
use crate::config::{Authorities, Upstream};
use crate::upstream::certificate::{Certificate, RouteNames, fingerprint, warnings};

/// Letters in a line of PEM (RFC 7468, 2).
const PEM_LINE: usize = 64;

/// The authorities that a kubeconfig names.
#[derive(Debug)]
pub(super) enum Trust {
    /// Those in this file.
    File(PathBuf, Vec<CertificateDer<'static>>),
    /// Whoever the user's system believes, since the upstream's health check does so too.
    System,
    /// The same, for want of anything else.
    Unknown,
}

impl Trust {
    /// What `--ca-file` says, or else the upstream's health check.
    pub(super) fn of(upstream: &Upstream, args: &Args) -> anyhow::Result<Self> {
        let checked = upstream.health_check.as_ref().and_then(|check| check.tls()?.authorities.as_ref());
        let file = match (&args.ca_file, checked) {
            (Some(file), _) | (None, Some(Authorities::File(file))) => file.clone(),
            (None, Some(Authorities::System)) => return Ok(Self::System),
            (None, None) => return Ok(Self::Unknown),
        };
        // What is of no use to us is of none to kubectl.
        let certificates = credentials::roots(&file).and_then(|_| credentials::certificates(&file));
        Ok(Self::File(file, certificates.map_err(|error| WrongUsage(error.to_string()))?))
    }

    /// The authorities as a kubeconfig holds them. Made from the certificates alone: whatever else is in the file, such as
    /// a key, is nobody's business.
    pub(super) fn embedded(&self) -> Option<String> {
        let Self::File(_, certificates) = self else { return None };
        let pem: String = certificates.iter().map(|certificate| pem(certificate)).collect();
        Some(BASE64_STANDARD.encode(pem))
    }

    /// Whom a probe has to believe in the place of kubectl; `None` where this system has no authorities either.
    pub(super) fn authorities(&self) -> Option<Authorities> {
        match self {
            Self::File(file, _) => Some(Authorities::File(file.clone())),
            Self::System | Self::Unknown => {
                let file = credentials::system_roots()?;
                credentials::roots(&file).ok().map(|_| Authorities::System)
            }
        }
    }

    /// The SHA-256 of each authority that the kubeconfig brings.
    pub(super) fn fingerprints(&self) -> Vec<String> {
        let Self::File(_, certificates) = self else { return Vec::new() };
        certificates.iter().map(|certificate| fingerprint(certificate)).collect()
    }

    /// Whose they are.
    pub(super) fn whose(&self) -> String {
        match self {
            Self::File(file, _) => format!("the authorities in {}", file.display()),
            Self::System | Self::Unknown => "the system's authorities".to_owned(),
        }
    }

    /// What there is to know of them, in lines.
    pub(super) fn notes(&self) -> Vec<String> {
        match self {
            Self::File(file, certificates) => {
                let read = certificates.iter().filter_map(|der| Certificate::read(der));
                read.flat_map(|authority| described(&authority, &file.display().to_string())).collect()
            }
            Self::System => vec![
                "the upstream's certificate is signed by an authority of the system: users need none of their own".to_owned(),
            ],
            Self::Unknown => vec![
                "no authority is known, neither by --ca-file nor by ca_file of the upstream's health check: kubectl will \
                 believe those of the user's system, which know no cluster's own (that is /etc/kubernetes/pki/ca.crt, or \
                 the ConfigMap kube-root-ca.crt)"
                    .to_owned(),
            ],
        }
    }
}

fn described(authority: &Certificate, file: &str) -> Vec<String> {
    let (subject, last_day, fingerprint) = (&authority.subject, authority.last_day(), &authority.fingerprint);
    let line = format!("authority {subject} of {file}, until {last_day}, SHA-256 {fingerprint}");
    let warnings = warnings(authority, &RouteNames::default(), SystemTime::now());
    [line].into_iter().chain(warnings.iter().map(|warning| format!("authority {subject}: {warning}"))).collect()
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = BASE64_STANDARD.encode(certificate);
    // Nothing but ASCII, so that bytes are letters.
    let lines = text.as_bytes().chunks(PEM_LINE).map(|line| format!("{}\n", line.escape_ascii())).collect::<String>();
    format!("-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::pem::PemObject as _;

    #[test]
    fn authorities_are_embedded_without_what_else_is_in_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let key = KeyPair::generate().unwrap();
        let certificate = |name: &str| CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let (one, two) = (certificate("one.test"), certificate("a-name-that-takes-some-room.two.test"));
        std::fs::write(&file, format!("# words\n{}{}{}", one.pem(), key.serialize_pem(), two.pem())).unwrap();
        let trust = Trust::File(file.clone(), credentials::certificates(&file).unwrap());
        let embedded = BASE64_STANDARD.decode(trust.embedded().unwrap()).unwrap();
        let text = String::from_utf8(embedded.clone()).unwrap();
        assert!(!text.contains("KEY") && text.lines().all(|line| line.len() <= PEM_LINE), "{text}");
        let read: Vec<_> = CertificateDer::pem_slice_iter(&embedded).map(Result::unwrap).collect();
        assert_eq!(read, [one.der().clone(), two.der().clone()]);
    }
}
