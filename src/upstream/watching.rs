//! The probes of one upstream: one watch an endpoint, begun and ended as endpoints come and go.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{AbortHandle, JoinSet};

use super::certificate::{Certificate, CertificateWarning, RouteNames, warnings};
use super::health::Health;
use super::probe::{Prober, Told, watch};
use super::roster::News;
use crate::config::{self, HealthCheck};

/// Has the endpoints of an upstream asked whether they are well.
#[derive(Debug)]
pub(super) struct Watches {
    upstream: Arc<str>,
    /// Without a `health_check` nobody is asked.
    asking: Option<(Arc<Prober>, Health)>,
    routes: Arc<RouteNames>,
    running: HashMap<SocketAddr, AbortHandle>,
}

impl Watches {
    /// As the upstream's `health_check` says; certificates are compared with the names of `routes`.
    pub(super) fn new(config: &config::Upstream, routes: RouteNames) -> Self {
        let asking = |check: &HealthCheck| (Prober::new(check), Health::new(Some(check)));
        Self {
            upstream: Arc::clone(&config.name),
            asking: config.health_check.as_ref().map(asking),
            routes: Arc::new(routes),
            running: HashMap::new(),
        }
    }

    /// From now on these are watched, among `tasks`, and no others.
    pub(super) fn follow(
        &mut self,
        addresses: impl Iterator<Item = SocketAddr>,
        teller: &UnboundedSender<News>,
        tasks: &mut JoinSet<()>,
    ) {
        let Some((prober, health)) = &self.asking else { return };
        let mut before = std::mem::take(&mut self.running);
        for address in addresses {
            let watched = before.remove(&address).unwrap_or_else(|| {
                let (probe, health, teller) = (prober.endpoint(address), health.clone(), teller.clone());
                let mut witness = Witness::new(Arc::clone(&self.upstream), address, Arc::clone(&self.routes));
                let mut last = None;
                let told = move |told: Told<'_>| {
                    let Told { state, report } = told;
                    let failure = report.outcome.as_ref().err().map(ToString::to_string);
                    tracing::debug!(upstream = %witness.upstream, endpoint = %address, failure, "probed");
                    if let Some(certificate) = &report.certificate {
                        witness.see(certificate);
                    }
                    let news = (state, failure);
                    if last.as_ref() != Some(&news) {
                        // Nobody listens any more only when this is about to be dropped.
                        let _ = teller.send(News::Probed { address, state, failure: news.1.clone() });
                        last = Some(news);
                    }
                };
                tasks.spawn_local(async move { match watch(probe, health, told).await {} })
            });
            self.running.insert(address, watched);
        }
        before.into_values().for_each(|gone| gone.abort());
    }
}

/// Tells of the certificates that an endpoint shows, each once.
struct Witness {
    upstream: Arc<str>,
    endpoint: SocketAddr,
    routes: Arc<RouteNames>,
    seen: Option<Arc<Certificate>>,
    warned: Vec<CertificateWarning>,
}

impl Witness {
    fn new(upstream: Arc<str>, endpoint: SocketAddr, routes: Arc<RouteNames>) -> Self {
        Self { upstream, endpoint, routes, seen: None, warned: Vec::new() }
    }

    fn see(&mut self, certificate: &Arc<Certificate>) {
        let Self { upstream, endpoint, routes, seen, warned } = self;
        if seen.as_ref() != Some(certificate) {
            let names = certificate.names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let (issuer, expires) = (&certificate.issuer, certificate.last_day());
            tracing::info!(%upstream, %endpoint, names, issuer, expires, "endpoint shows a certificate");
            *seen = Some(Arc::clone(certificate));
        }
        let warnings = warnings(certificate, routes, SystemTime::now());
        for warning in warnings.iter().filter(|warning| !warned.contains(warning)) {
            tracing::warn!(%upstream, %endpoint, "{warning}");
        }
        *warned = warnings;
    }
}
