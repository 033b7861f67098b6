//! Whom probes believe and what they show: read from files, and again when those change.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::sign::SingleCertAndKey;

use crate::config::files::Stamp;
use crate::config::{Authorities, Pin, TlsQuestion, credentials};

/// Everything that a handshake needs.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) provider: Arc<CryptoProvider>,
    /// Verifies chain, dates and name, if there are authorities.
    pub(super) chain: Option<Arc<WebPkiServerVerifier>>,
    pub(super) client: Option<Arc<SingleCertAndKey>>,
    pub(super) pins: Vec<Pin>,
}

/// The files, and what was last read from them.
#[derive(Debug)]
pub(super) struct Credentials {
    authorities: Option<PathBuf>,
    question: TlsQuestion,
    latest: Mutex<Latest>,
}

#[derive(Debug, Default)]
struct Latest {
    loaded: Option<Arc<Loaded>>,
    stamps: Vec<Option<Stamp>>,
    /// Files that are wrong are told of once, not at every probe.
    told: bool,
}

impl Credentials {
    pub(super) fn new(question: &TlsQuestion) -> Self {
        let authorities = match &question.authorities {
            None => None,
            Some(Authorities::File(path)) => Some(path.clone()),
            // An empty path is no file: who vanished since the configuration was checked must not be left out.
            Some(Authorities::System) => Some(credentials::system_roots().unwrap_or_default()),
        };
        Self { authorities, question: question.clone(), latest: Mutex::default() }
    }

    /// What is in force. Of files that have become wrong, what was last right in them.
    ///
    /// # Errors
    /// When they never were right.
    pub(super) fn current(&self) -> Result<Arc<Loaded>, String> {
        // Held for some stats, and some reads when files have changed.
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken before reading: what changes meanwhile shows at the next probe.
        let stamps = self.stamps();
        if let Some(loaded) = latest.loaded.as_ref().filter(|_| stamps == latest.stamps) {
            return Ok(Arc::clone(loaded));
        }
        match (self.load(), latest.loaded.clone()) {
            (Ok(loaded), before) => {
                if before.is_some() {
                    tracing::info!(files = self.names(), "took over changed files for health checks");
                }
                let loaded = Arc::new(loaded);
                *latest = Latest { loaded: Some(Arc::clone(&loaded)), stamps, told: false };
                Ok(loaded)
            }
            (Err(error), before) => {
                if !std::mem::replace(&mut latest.told, true) {
                    let kept = if before.is_some() { "what was there before holds" } else { "nobody is believed" };
                    tracing::warn!(error, kept, "a file for health checks is of no use");
                }
                before.ok_or(error)
            }
        }
    }

    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let client = self.question.client.iter().flat_map(|files| [&files.certificate, &files.key]);
        self.authorities.iter().chain(client)
    }

    fn names(&self) -> String {
        self.files().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        self.files().map(|path| Stamp::of(path)).collect()
    }

    fn load(&self) -> Result<Loaded, String> {
        let provider = credentials::crypto();
        let chain = self.authorities.as_ref().map(|path| {
            let roots = credentials::roots(path).map_err(|error| error.to_string())?;
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            verifier.build().map_err(|error| format!("{}: {error}", path.display()))
        });
        let client = self.question.client.as_ref().map(|files| {
            let identity = credentials::identity(&files.certificate, &files.key);
            identity.map(|identity| Arc::new(SingleCertAndKey::from(identity))).map_err(|error| error.to_string())
        });
        Ok(Loaded {
            chain: chain.transpose()?,
            client: client.transpose()?,
            pins: self.question.pins.clone(),
            provider,
        })
    }
}
