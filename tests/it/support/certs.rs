//! A certificate authority for one test, and what it signs: as DER for rustls, as PEM files for openssl, curl and kubectl.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// A certificate authority; its files go when it is dropped.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    folder: TempDir,
}

/// A certificate with its key, signed by an [`Authority`].
#[derive(Debug)]
pub struct Identity {
    pub certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    /// What is sent behind the certificate.
    rest: Vec<CertificateDer<'static>>,
    /// PEM of the certificate.
    pub certificate_file: PathBuf,
    /// PEM of the key.
    pub key_file: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "snigate test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { certificate: certificate.der().clone(), issuer: Issuer::new(params, key), folder }
    }

    /// PEM of the authority's certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Where the PEM files are, and further files of a test may be.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Arc::new(roots)
    }

    /// A server certificate for `names` (wildcards and IP addresses too); the first one names the files and the subject.
    pub fn server(&self, names: &[&str]) -> Identity {
        let sans: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.sign(names[0], CertificateParams::new(sans).unwrap(), ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// As [`Authority::server`], but the authority's own certificate is sent along.
    pub fn server_with_authority(&self, names: &[&str]) -> Identity {
        Identity { rest: vec![self.certificate.clone()], ..self.server(names) }
    }

    /// As [`Authority::server`], but it has ended long ago.
    pub fn expired(&self, names: &[&str]) -> Identity {
        let sans: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(sans).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2019, 1, 1), rcgen::date_time_ymd(2020, 1, 1));
        self.sign(&format!("expired {}", names[0]), params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A server certificate that only its own key has signed; the authority has no part in it but keeps its files.
    pub fn self_signed(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        self.keep(&format!("self-signed {name}"), &certificate, &key)
    }

    /// As [`Authority::self_signed`], but it may sign others too, as `openssl req -x509` makes them.
    pub fn self_signed_authority(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        self.keep(&format!("self-signed {name}"), &certificate, &key)
    }

    /// A client certificate whose subject is `CN=name, O=organisation`.
    pub fn client(&self, name: &str, organisation: &str) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        self.sign(name, params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, name: &str, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Identity {
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.keep(name, &certificate, &key)
    }

    fn keep(&self, name: &str, certificate: &rcgen::Certificate, key: &KeyPair) -> Identity {
        let stem = name.replace(['*', '/', ':'], "_");
        let certificate_file = self.folder.path().join(format!("{stem}.pem"));
        let key_file = self.folder.path().join(format!("{stem}.key"));
        fs::write(&certificate_file, certificate.pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        Identity {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            rest: Vec::new(),
            certificate_file,
            key_file,
        }
    }
}

impl Identity {
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        [self.certificate.clone()].into_iter().chain(self.rest.clone()).collect()
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}
