//! `snigate check --probe`: asks every endpoint once, so that a mistake shows before the first client does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{DnsName, ServerName};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::{self, Config, EndpointAddress, HealthCheck, TlsQuestion};
use crate::routing::UpstreamId;
use crate::upstream::certificate::{Name, RouteNames, warnings};
use crate::upstream::names::Names;
use crate::upstream::probe::{Identity, ProbeFailure, Prober, Report, Stage};

/// How long names may take to be resolved, all at the same time.
const RESOLVING: Duration = Duration::from_secs(5);
/// Names of a certificate that are shown; kube-apiserver's has a dozen.
const NAMES_SHOWN: usize = 4;
const HEADER: [&str; 8] =
    ["UPSTREAM", "ENDPOINT", "ADDRESS", "REACHABLE", "CERTIFICATE FOR", "ISSUER", "EXPIRES", "VERDICT"];

/// What was found.
pub(super) struct Findings {
    pub(super) table: String,
    pub(super) warnings: Vec<String>,
    pub(super) all_well: bool,
}

/// One address of an endpoint, or why there is none.
struct Asked {
    upstream: UpstreamId,
    endpoint: EndpointAddress,
    result: Result<(SocketAddr, Report), String>,
}

/// Asks every address of every endpoint, all at the same time.
pub(super) fn ask_all(config: &Config) -> io::Result<Findings> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(async {
        let names = Arc::new(Names::new(&config.dns));
        let mut asking = JoinSet::new();
        for (place, upstream) in config.upstreams.iter().enumerate() {
            let id = UpstreamId(place);
            let prober = Prober::new(&question(config, id), upstream.proxy_protocol, &upstream.source_addresses);
            for endpoint in &upstream.endpoints {
                asking.spawn(ask_endpoint(id, endpoint.address.clone(), Arc::clone(&names), Arc::clone(&prober)));
            }
        }
        asking.join_all().await.into_iter().flatten().collect::<Vec<_>>()
    });
    // Does not wait for look-ups that hang.
    runtime.shutdown_background();
    Ok(findings(config, asked))
}

/// What the upstream's own health check asks; without one, what its clients begin with: a TLS handshake.
fn question(config: &Config, id: UpstreamId) -> HealthCheck {
    let upstream = &config.upstreams[id.0];
    upstream.health_check.clone().unwrap_or_else(|| {
        let names = RouteNames::of(&config.routes, id);
        let name = names.example().and_then(|name| DnsName::try_from(name.as_str().to_owned()).ok());
        let question = TlsQuestion { server_name: name.map(ServerName::DnsName), ..TlsQuestion::default() };
        HealthCheck::once(question, upstream.connect_timeout)
    })
}

async fn ask_endpoint(
    upstream: UpstreamId,
    endpoint: EndpointAddress,
    names: Arc<Names>,
    prober: Arc<Prober>,
) -> Vec<Asked> {
    let addresses = match resolve(&names, &endpoint).await {
        Ok(addresses) => addresses,
        Err(why) => return vec![Asked { upstream, endpoint, result: Err(why) }],
    };
    let mut asking = JoinSet::new();
    for address in addresses {
        let (endpoint, mut probe) = (endpoint.clone(), prober.endpoint(address));
        asking.spawn(async move {
            let report = probe.run().await;
            probe.part().await;
            Asked { upstream, endpoint, result: Ok((address, report)) }
        });
    }
    asking.join_all().await
}

/// The addresses of an endpoint, or why there is none.
pub(in crate::cli) async fn resolve(names: &Names, endpoint: &EndpointAddress) -> Result<Vec<SocketAddr>, String> {
    match timeout(RESOLVING, names.resolve(endpoint)).await {
        Err(_) => Err(format!("not resolved within {}", config::span(RESOLVING))),
        Ok(Err(error)) => Err(format!("cannot be resolved: {error}")),
        Ok(Ok(resolved)) => Ok(resolved.into_iter().map(|resolved| resolved.address).collect()),
    }
}

fn findings(config: &Config, mut asked: Vec<Asked>) -> Findings {
    let place = |one: &Asked| {
        let endpoints = &config.upstreams[one.upstream.0].endpoints;
        let endpoint = endpoints.iter().position(|endpoint| endpoint.address == one.endpoint);
        (one.upstream.0, endpoint, one.result.as_ref().ok().map(|(address, _)| *address))
    };
    asked.sort_by_key(place);
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(asked.iter().map(|one| row(config, one)));
    let well = |one: &Asked| one.result.as_ref().is_ok_and(|(_, report)| report.outcome.is_ok());
    Findings {
        table: table(&rows),
        warnings: asked.iter().flat_map(|one| warned(config, one)).collect(),
        all_well: asked.iter().all(well),
    }
}

fn row(config: &Config, asked: &Asked) -> [String; 8] {
    let none = || "-".to_owned();
    let (upstream, endpoint) = (config.upstreams[asked.upstream.0].name.to_string(), asked.endpoint.to_string());
    let (address, report) = match &asked.result {
        Ok(found) => found,
        Err(why) => return [upstream, endpoint, none(), "no".to_owned(), none(), none(), none(), why.clone()],
    };
    let certificate = report.certificate.as_deref();
    [
        upstream,
        endpoint,
        address.to_string(),
        if is_reachable(report) { "yes" } else { "no" }.to_owned(),
        certificate.map_or_else(none, |certificate| names(&certificate.names)),
        certificate.map_or_else(none, |certificate| certificate.issuer.clone()),
        certificate.map_or_else(none, |certificate| certificate.last_day()),
        verdict(report),
    ]
}

fn is_reachable(report: &Report) -> bool {
    !matches!(
        report.outcome,
        Err(ProbeFailure::Connect(_)
            | ProbeFailure::Files(_)
            | ProbeFailure::TimedOut { stage: Stage::Connecting, .. })
    )
}

fn names(names: &[Name]) -> String {
    let shown: Vec<String> = names.iter().take(NAMES_SHOWN).map(Name::to_string).collect();
    match names.len() {
        0 => "no name".to_owned(),
        count if count > NAMES_SHOWN => format!("{} and {} more", shown.join(", "), count - NAMES_SHOWN),
        _ => shown.join(", "),
    }
}

fn verdict(report: &Report) -> String {
    match (&report.outcome, &report.identity) {
        (Err(failure), _) => failure.to_string(),
        (Ok(()), Identity::NotAsked) => "ok, not verified".to_owned(),
        (Ok(()), _) => "ok".to_owned(),
    }
}

fn warned(config: &Config, asked: &Asked) -> Vec<String> {
    let Ok((address, report)) = &asked.result else { return Vec::new() };
    let Some(certificate) = &report.certificate else { return Vec::new() };
    let upstream = &config.upstreams[asked.upstream.0].name;
    let routes = RouteNames::of(&config.routes, asked.upstream);
    let warnings = warnings(certificate, &routes, SystemTime::now());
    warnings.into_iter().map(|warning| format!("upstreams.{upstream}: {address}: {warning}")).collect()
}

/// Columns as wide as their widest cell, two spaces apart.
fn table(rows: &[[String; 8]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    let line = |row: &[String; 8]| {
        let cells: String = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}  ")).collect();
        format!("{}\n", cells.trim_end())
    };
    rows.iter().map(line).collect()
}
