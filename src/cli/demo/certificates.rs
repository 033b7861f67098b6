//! The demo's own certificate authority: made on the spot, gone with the process.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What the authority calls itself.
pub(super) const AUTHORITY_NAME: &str = "snigate demo authority";

/// Signs the certificates of the demo's services.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) pem: String,
}

impl Authority {
    pub(super) fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, AUTHORITY_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self { certificate: certificate.der().clone(), pem: certificate.pem(), issuer: Issuer::new(params, key) })
    }

    /// A server certificate for `names`, the first of which is its subject.
    pub(super) fn sign(
        &self,
        names: &[&str],
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        if let Some(first) = names.first() {
            params.distinguished_name.push(DnType::CommonName, *first);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
    }
}

/// The authority's certificate as a file for curl and openssl; removed when dropped.
pub(super) struct AuthorityFile(PathBuf);

impl AuthorityFile {
    pub(super) fn create(pem: &str) -> io::Result<Self> {
        let (path, mut file) = create_new(&std::env::temp_dir())?;
        let created = Self(path);
        file.write_all(pem.as_bytes())?;
        Ok(created)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for AuthorityFile {
    fn drop(&mut self) {
        // If it is gone already, that is what was wanted.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A file that was not there before, so that nobody else's file or link is written through.
fn create_new(folder: &Path) -> io::Result<(PathBuf, File)> {
    for attempt in 0..100 {
        let path = folder.join(format!("snigate-demo-{}-{attempt}.pem", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            opened => return opened.map(|file| (path, file)),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_file_goes_with_its_guard() {
        let first = AuthorityFile::create("one").unwrap();
        let second = AuthorityFile::create("two").unwrap();
        let path = first.path().to_owned();
        assert_ne!(path, second.path());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        drop(first);
        assert!(!path.exists());
    }
}
