//! PEM files that the configuration names: whom to trust, and who we are. They are read again when they change.

use std::env;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Where distributions keep the certificates of the authorities that they trust, in one file.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Red Hat
    "/etc/pki/tls/certs/ca-bundle.crt",                  // older Red Hat
    "/etc/ssl/ca-bundle.pem",                            // SUSE
    "/etc/ssl/cert.pem",
];

/// Why a file is of no use.
#[derive(Debug)]
pub struct UnusableFile {
    path: PathBuf,
    why: String,
    /// It is there, or may be, and must not be read.
    is_denied: bool,
}

impl UnusableFile {
    fn new(path: &Path, why: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), why: why.to_string(), is_denied: false }
    }

    /// The file, if it is of no use because the system does not let us read it.
    pub fn denied(&self) -> Option<&Path> {
        self.is_denied.then_some(&*self.path)
    }

    fn of_pem(path: &Path, error: pem::Error, wanted: &str) -> Self {
        match error {
            pem::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => Self::new(path, "does not exist"),
            pem::Error::Io(error) => {
                let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
                Self { is_denied, ..Self::new(path, format_args!("cannot be read: {error}")) }
            }
            pem::Error::NoItemsFound => Self::new(path, format_args!("has no {wanted} in PEM form")),
            other => Self::new(path, format_args!("is no whole PEM file: {other}")),
        }
    }
}

impl fmt::Display for UnusableFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path.display(), self.why)
    }
}

impl std::error::Error for UnusableFile {}

/// The one provider of cryptography: another may be linked too, and rustls would then not know which is meant.
pub fn crypto() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The file of authorities that this system trusts: `SSL_CERT_FILE` says which, as it does to OpenSSL and Go, else the
/// customary places do.
pub fn system_roots() -> Option<PathBuf> {
    let named = env::var_os("SSL_CERT_FILE").filter(|name| !name.is_empty()).map(PathBuf::from);
    named.or_else(|| SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.is_file()))
}

/// The authorities in a file.
///
/// # Errors
/// When it cannot be read, is not PEM to its end, or holds no certificate that can be an authority's.
pub fn roots(path: &Path) -> Result<RootCertStore, UnusableFile> {
    let mut roots = RootCertStore::empty();
    let (usable, unusable) = roots.add_parsable_certificates(certificates(path)?);
    // The system's collection may hold some that are too odd for webpki; a file of the operator's is not worth less.
    if usable == 0 {
        return Err(UnusableFile::new(path, format_args!("has {unusable} certificates, and none that can be trusted")));
    }
    Ok(roots)
}

/// A certificate with its chain, and the key that belongs to it.
///
/// # Errors
/// When one of the files cannot be read or is not PEM, or they do not belong together.
pub fn identity(certificate: &Path, key: &Path) -> Result<CertifiedKey, UnusableFile> {
    let chain = certificates(certificate)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| UnusableFile::of_pem(key, error, "private key"))?;
    CertifiedKey::from_der(chain, secret, &crypto()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            UnusableFile::new(key, format_args!("is not the key of {}", certificate.display()))
        }
        other => UnusableFile::new(key, format_args!("cannot be used with {}: {other}", certificate.display())),
    })
}

/// The certificates in a file, each as it is.
///
/// # Errors
/// When it cannot be read, is not PEM to its end, or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, UnusableFile> {
    let unusable = |error| UnusableFile::of_pem(path, error, "certificate");
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(unusable)?.collect::<Result<_, _>>().map_err(unusable)?;
    if certificates.is_empty() {
        return Err(unusable(pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};

    #[test]
    fn files_are_read_or_say_what_is_wrong_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let pem = CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let certificate = write("a.pem", &format!("words before it\n{pem}{pem}"));
        let (key, other) = (write("a.key", &key.serialize_pem()), write("other.key", &other.serialize_pem()));

        assert!(!roots(&certificate).unwrap().is_empty());
        assert_eq!(identity(&certificate, &key).unwrap().cert.len(), 2);

        let told = |error: UnusableFile| error.to_string().replace(&format!("{}/", folder.path().display()), "");
        assert_eq!(told(roots(&folder.path().join("none.pem")).unwrap_err()), "none.pem does not exist");
        assert_eq!(told(roots(&key).unwrap_err()), "a.key has no certificate in PEM form");
        assert_eq!(told(roots(&write("empty.pem", "")).unwrap_err()), "empty.pem has no certificate in PEM form");
        let cut = told(roots(&write("cut.pem", &format!("{pem}{}", &pem[..100]))).unwrap_err());
        assert!(cut.starts_with("cut.pem is no whole PEM file: "), "{cut}");
        let nonsense = write("odd.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert_eq!(told(roots(&nonsense).unwrap_err()), "odd.pem has 1 certificates, and none that can be trusted");
        assert_eq!(told(identity(&certificate, &other).unwrap_err()), "other.key is not the key of a.pem");
        let keyless = identity(&certificate, &certificate).unwrap_err();
        assert_eq!(told(keyless), "a.pem has no private key in PEM form");
    }
}
