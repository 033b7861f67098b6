//! `--verify`: a real TLS connection through the public address, and what a user's kubectl would make of it.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use rustls::AlertDescription;
use tokio::task::JoinSet;

use super::PROTOCOLS;
use super::address::Host;
use super::authority::Trust;
use super::way::Way;
use crate::cli::check::probe::resolve;
use crate::config::{self, Dns, EndpointAddress, HealthCheck, Reject, TlsQuestion};
use crate::routing::Claim;
use crate::server_name::ServerNamePattern;
use crate::upstream::certificate::{Certificate, Name, RouteNames, warnings};
use crate::upstream::names::Names;
use crate::upstream::probe::{HandshakeFailure, Identity, ProbeFailure, Prober, Refusal, Report, Stage};

/// After this kubectl gives a TLS handshake up (Go's `TLSHandshakeTimeout`).
const PATIENCE: Duration = Duration::from_secs(10);

/// What was seen, in words, and whether users would get through.
pub(super) struct Findings {
    pub(super) text: String,
    pub(super) well: bool,
}

/// Connects to every address that the host has, all at the same time.
pub(super) fn verify(way: &Way<'_>, trust: &Trust) -> io::Result<Findings> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reports = runtime.block_on(visit(way, trust));
    // Does not wait for look-ups that hang.
    runtime.shutdown_background();
    Ok(match reports {
        Err(why) => Findings { text: format!("{}:{}: {why}\n", way.host, way.port), well: false },
        Ok(reports) => Findings {
            text: reports.iter().map(|(address, report)| told(way, trust, *address, report)).collect(),
            // Whoever cannot connect to one address tries the next.
            well: reports.iter().any(|(_, report)| is_well(way, report))
                && reports.iter().all(|(_, report)| is_well(way, report) || !is_reached(report)),
        },
    })
}

async fn visit(way: &Way<'_>, trust: &Trust) -> Result<Vec<(SocketAddr, Report)>, String> {
    let port = way.port.get();
    let host = match &way.host {
        Host::Ip(address) => EndpointAddress::Ip((*address, port).into()),
        Host::Name(name) => EndpointAddress::Name(name.as_str().into(), port),
    };
    // As users resolve it: the configuration's own DNS is for endpoints.
    let addresses = resolve(&Names::new(&Dns::default()), &host).await?;
    let question = TlsQuestion {
        authorities: trust.authorities(),
        server_name: Some(way.wanted.clone()),
        ..TlsQuestion::default()
    };
    let mut visits = JoinSet::new();
    for address in addresses {
        let (question, authorities) = (question.clone(), trust.fingerprints());
        visits.spawn(async move { (address, look(address, question, &authorities).await) });
    }
    let mut reports = visits.join_all().await;
    reports.sort_by_key(|(address, _)| *address);
    Ok(reports)
}

/// What kubectl would meet there. It believes a certificate that is one of the `authorities` itself, where webpki has
/// doubts about an authority that is a server: then it is the key that is verified.
async fn look(address: SocketAddr, question: TlsQuestion, authorities: &[String]) -> Report {
    let report = ask(address, &question).await;
    let Err(ProbeFailure::Refused(Refusal::Other(_))) = report.outcome else { return report };
    let known = report.certificate.as_ref().filter(|shown| authorities.contains(&shown.fingerprint));
    let Some(key) = known.map(|shown| shown.key) else { return report };
    ask(address, &TlsQuestion { authorities: None, pins: vec![key], ..question }).await
}

async fn ask(address: SocketAddr, question: &TlsQuestion) -> Report {
    let check = HealthCheck::once(question.clone(), PATIENCE);
    let mut probe = Prober::like_a_client(&PROTOCOLS, &check).endpoint(address);
    let report = probe.run().await;
    probe.part().await;
    report
}

fn is_well(way: &Way<'_>, report: &Report) -> bool {
    report.outcome.is_ok() && report.identity == Identity::Verified && objection(way, report).is_none()
}

/// What a known key alone does not excuse.
fn objection(way: &Way<'_>, report: &Report) -> Option<Refusal> {
    let certificate = report.certificate.as_ref()?;
    if certificate.not_after <= SystemTime::now() {
        return Some(Refusal::Expired);
    }
    (!covers(certificate, way)).then(|| Refusal::WrongName(way.wanted.to_str().into_owned()))
}

fn is_reached(report: &Report) -> bool {
    !matches!(report.outcome, Err(ProbeFailure::Connect(_) | ProbeFailure::TimedOut { stage: Stage::Connecting, .. }))
}

/// One address: the verdict, then what it rests on.
fn told(way: &Way<'_>, trust: &Trust, address: SocketAddr, report: &Report) -> String {
    let mut text = format!("{address}: {}\n", verdict(way, trust, report));
    if !is_reached(report) {
        return text;
    }
    let mut row = |title: &str, said: &str| text += &format!("  {title:12} {said}\n");
    row("sent", &format!("{}, protocols h2 and http/1.1", what_is_sent(way)));
    let Some(certificate) = report.certificate.as_deref() else { return text };
    let names = certificate.names.iter().map(Name::to_string).collect::<Vec<_>>().join(", ");
    row("certificate", &format!("{} for {}", certificate.subject, if names.is_empty() { "no name" } else { &names }));
    let fits = if covers(certificate, way) { "covered" } else { "NOT covered" };
    row("wanted", &format!("{}: {fits}", way.wanted.to_str()));
    row("would work", &would_work(certificate, way));
    let itself = if certificate.issuer == certificate.subject { ", which is itself" } else { "" };
    row("issued by", &format!("{}{itself}", certificate.issuer));
    row("until", &certificate.last_day());
    row("SHA-256", &certificate.fingerprint);
    for sent in &report.chain {
        row("came along", &format!("{}, SHA-256 {}", sent.subject, sent.fingerprint));
    }
    if !is_signed_by_known(report) {
        row("authority", in_want_of_an_authority(report));
    }
    for warning in warnings(certificate, &RouteNames::default(), SystemTime::now()) {
        row("warning", &warning.to_string());
    }
    text
}

fn what_is_sent(way: &Way<'_>) -> String {
    way.sent.as_ref().map_or("no server name".to_owned(), |name| format!("server name {name}"))
}

fn covers(certificate: &Certificate, way: &Way<'_>) -> bool {
    match (&way.sent, &way.host) {
        (Some(name), _) | (None, Host::Name(name)) => certificate.covers(name),
        (None, Host::Ip(address)) => certificate.covers_address(*address),
    }
}

/// What users could send so that both the route and the certificate suit.
fn would_work(certificate: &Certificate, way: &Way<'_>) -> String {
    let is_taken = |pattern: &ServerNamePattern| match pattern {
        ServerNamePattern::Exact(name) => way.takes(name),
        ServerNamePattern::Wildcard(parent) => format!("any-name.{parent}").parse().is_ok_and(|name| way.takes(&name)),
        ServerNamePattern::Any => true,
    };
    let names = certificate.shared(&way.route.server_names).into_iter().filter(is_taken);
    let names = names.map(|name| name.to_string()).collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        let route = &way.route.name;
        let claims = way.route.claims().map(|claim: Claim| claim.to_string()).collect::<Vec<_>>().join(", ");
        return format!("no tls-server-name: route {route} takes {claims}, and the certificate covers none of that");
    }
    format!("tls-server-name {names} (any of these, by --server-name)")
}

/// Whether an authority that kubectl would know has signed; unknown counts as no.
fn is_signed_by_known(report: &Report) -> bool {
    match &report.identity {
        Identity::Verified => true,
        Identity::Refused(refusal) => matches!(refusal, Refusal::WrongName(_)),
        Identity::NotAsked | Identity::NotSeen => false,
    }
}

fn in_want_of_an_authority(report: &Report) -> &'static str {
    if report.chain.is_empty() {
        "not to be learnt here: an apiserver sends its own certificate alone. The cluster has it: \
         /etc/kubernetes/pki/ca.crt, or the ConfigMap kube-root-ca.crt"
    } else {
        "not to be learnt here: whoever answers can send whatever they like. Compare the SHA-256 of what came along with \
         that of the cluster's own before it becomes a --ca-file"
    }
}

fn verdict(way: &Way<'_>, trust: &Trust, report: &Report) -> String {
    let refused = |why: &str| format!("kubectl would refuse it: {why}");
    match &report.outcome {
        Ok(()) if report.identity == Identity::Verified => {
            objection(way, report).map_or("kubectl would believe it".to_owned(), |why| refused(&why.to_string()))
        }
        Ok(()) => refused("no authority is known, and this system has none to try"),
        Err(ProbeFailure::Refused(Refusal::UnknownIssuer)) => {
            refused(&format!("the certificate is signed by none of {}", trust.whose()))
        }
        Err(ProbeFailure::Refused(refusal)) => refused(&refusal.to_string()),
        Err(ProbeFailure::Handshake { why, .. }) => broken_handshake(way, why),
        Err(ProbeFailure::Connect(error)) => format!("cannot be reached: {error}"),
        Err(ProbeFailure::TimedOut { stage, limit }) => {
            format!("kubectl would give up after {}: {stage}", config::span(*limit))
        }
        Err(other) => other.to_string(),
    }
}

fn broken_handshake(way: &Way<'_>, why: &HandshakeFailure) -> String {
    match why {
        HandshakeFailure::Alert(AlertDescription::UnrecognisedName) => format!(
            "refused with the alert unrecognized_name: by the configuration that is in force there, no route takes {}, \
             or none takes it from this host's address, which a gate answers alike",
            way.sent.as_ref().map_or("clients without a name".to_owned(), ToString::to_string)
        ),
        HandshakeFailure::Alert(AlertDescription::NoApplicationProtocol) => {
            "refused with the alert no_application_protocol: the route, or the server, takes neither h2 nor http/1.1"
                .to_owned()
        }
        HandshakeFailure::Alert(AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure) => {
            "the server wants a client certificate, it seems: kubectl may have one, and this has none".to_owned()
        }
        HandshakeFailure::Alert(alert) => format!("ended by the alert {alert:?}"),
        HandshakeFailure::NotTls => "what answers there is no TLS".to_owned(),
        HandshakeFailure::Closed | HandshakeFailure::Reset => {
            let how = if *why == HandshakeFailure::Closed { "closed" } else { "reset" };
            format!("{how} without an alert: {}", plain_close(way))
        }
        HandshakeFailure::Other(why) => format!("no TLS handshake: {why}"),
    }
}

/// What it means when a gate says nothing.
fn plain_close(way: &Way<'_>) -> String {
    let listener = &way.listener.name;
    if way.listener.proxy_protocol.is_some() {
        return format!("listener {listener} requires a PROXY header, which a balancer in front would send");
    }
    let refusals = match way.listener.reject {
        Reject::Alert => String::new(),
        Reject::Close | Reject::Reset => {
            format!("; so does listener {listener} with names and sources that no route takes")
        }
    };
    format!(
        "so a gate refuses what may pass by itself, after which kubectl tries again: no endpoint is up or verified \
         (`snigate check --probe` asks them), a limit is reached, it is being stopped{refusals}. Its log has the reason"
    )
}
