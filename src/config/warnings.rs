//! [`Warning`]: what a configuration may say and yet hardly means.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::check::belongs;
use super::values::Span;
use super::{
    Config, EndpointAddress, Established, Limits, Listener, Question, TrustedProxies, Upstream, counted, tree,
};
use crate::routing::{Claim, UpstreamId};
use crate::server_name::ServerNamePattern;

/// Something to think about, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where, as in [`super::Mistake`].
    pub path: String,
    /// What may come of it.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Quiet containers log nothing for this long and more. (Watches are no measure: the API server ends them by itself.)
const QUIET_LOG: Duration = Duration::from_hours(1);
/// Go's TLS handshake timeout is 10 s; one second of it is left for the handshake itself.
const CONNECT_BUDGET: Duration = Duration::from_secs(9);

/// Every warning, by place in the document.
pub(super) fn of(config: &Config) -> Vec<Warning> {
    let mut warnings = Vec::new();
    listeners_without_routes(config, &mut warnings);
    trusting_listeners(config, &mut warnings);
    for (place, _) in config.routes.iter().enumerate() {
        routes(config, place, &mut warnings);
    }
    unreached(config, &mut warnings);
    limits(config, &mut warnings);
    for (place, _) in config.upstreams.iter().enumerate() {
        upstreams(config, UpstreamId(place), &mut warnings);
    }
    warnings
}

fn warn(warnings: &mut Vec<Warning>, path: impl Into<String>, message: impl Into<String>) {
    warnings.push(Warning { path: path.into(), message: message.into() });
}

fn listeners_without_routes(config: &Config, warnings: &mut Vec<Warning>) {
    for (place, listener) in config.listeners.iter().enumerate() {
        if !config.routes.iter().any(|route| belongs(route, &listener.name)) {
            warn(warnings, format!("listeners[{place}]"), "no route uses it: every client is refused there");
        }
    }
}

fn trusting_listeners(config: &Config, warnings: &mut Vec<Warning>) {
    for (place, listener) in config.listeners.iter().enumerate() {
        if listener.proxy_protocol.as_ref().is_some_and(TrustedProxies::are_everybody) {
            let message = "everybody is believed: any client can pass for any source, so that no `allow` or `deny` \
                           means anything; name the proxies alone";
            warn(warnings, format!("listeners[{place}].proxy_protocol.trusted"), message);
        }
    }
}

fn routes(config: &Config, place: usize, warnings: &mut Vec<Warning>) {
    let route = &config.routes[place];
    if route.server_names.contains(&ServerNamePattern::Any) {
        let message = "`*` takes every name that no other route has, also names that are none of yours";
        warn(warnings, format!("routes[{place}].server_names"), message);
    }
    if route.idle_timeout < QUIET_LOG && !route.allow_short_idle {
        let idle = Span(route.idle_timeout);
        let message =
            format!("{idle} without a byte cuts `kubectl logs -f` of a container that logs nothing for so long");
        warn(warnings, format!("routes[{place}].idle_timeout"), message);
    }
}

/// Limits for each source that the limit for all of them makes idle. A default is nobody's mistake.
fn limits(config: &Config, warnings: &mut Vec<Warning>) {
    let (limits, default) = (&config.limits, Limits::default());
    let per_source = Some(limits.undecided_per_source).filter(|limit| *limit != default.undecided_per_source);
    covered("limits", ("undecided_per_source", per_source), ("undecided", Some(limits.undecided)), warnings);
    covered("limits", ("per_source", limits.per_source), ("max_connections", limits.max_connections), warnings);
    for (place, route) in config.routes.iter().enumerate() {
        let (limits, path) = (&route.limits, format!("routes[{place}].limits"));
        covered(&path, ("per_source", limits.per_source), ("connections", limits.connections), warnings);
    }
}

type Limit<'l> = (&'l str, Option<NonZeroUsize>);

fn covered(path: &str, (one_key, one): Limit<'_>, (all_key, all): Limit<'_>, warnings: &mut Vec<Warning>) {
    if let (Some(one), Some(all)) = (one, all)
        && one >= all
    {
        let message = format!("{one} is no limit beside `{all_key}: {all}`: one source can have all of them");
        warn(warnings, format!("{path}.{one_key}"), message);
    }
}

/// What clients of no listener reach. (A route may well be passed over on one of its listeners.)
fn unreached(config: &Config, warnings: &mut Vec<Warning>) {
    let mut missed: HashMap<(Arc<str>, Claim), usize> = HashMap::new();
    for listener in &config.listeners {
        for unreached in listener.table.unreached(&listener.sources) {
            let on_listeners = missed.entry((Arc::clone(&unreached.route.name), unreached.claim.clone())).or_default();
            *on_listeners += 1;
            let of_listeners = config.listeners.iter().filter(|listener| belongs(&unreached.route, &listener.name));
            if *on_listeners == of_listeners.count() {
                let place = config.routes.iter().position(|route| route.name == unreached.route.name);
                warn(warnings, format!("routes[{}]", place.unwrap_or_default()), unreached.to_string());
            }
        }
    }
}

fn upstreams(config: &Config, id: UpstreamId, warnings: &mut Vec<Warning>) {
    let upstream = &config.upstreams[id.0];
    let path = tree::join("upstreams", &upstream.name);
    if !config.routes.iter().any(|route| route.upstream == id) {
        warn(warnings, path.clone(), "no route uses it");
    }
    for (place, endpoint) in upstream.endpoints.iter().enumerate() {
        if let Some(listener) = config.listeners.iter().find(|listener| leads_to(&endpoint.address, listener)) {
            let message = format!(
                "`{}` is our own listener `{}`: connections would go in circles",
                endpoint.address, listener.name
            );
            warn(warnings, format!("{path}.endpoints[{place}]"), message);
        }
    }
    health_check(upstream, &path, warnings);
    announced(upstream, &path, warnings);
    let attempts = attempts(upstream);
    let longest = upstream.connect_timeout.saturating_mul(attempts);
    if longest > CONNECT_BUDGET {
        let message = format!(
            "connecting may take {} ({} of {}), but clients give up after 10s (Go's handshake timeout), so \
             attempts end after {}",
            Span(longest),
            counted(attempts as usize, "attempt"),
            Span(upstream.connect_timeout),
            Span(CONNECT_BUDGET)
        );
        warn(warnings, format!("{path}.connect_timeout"), message);
    }
}

fn health_check(upstream: &Upstream, path: &str, warnings: &mut Vec<Warning>) {
    let Some(check) = &upstream.health_check else {
        if upstream.on_unhealthy == Established::Close {
            warn(warnings, format!("{path}.on_unhealthy"), "has nothing to act on without a `health_check`");
        }
        return;
    };
    if check.tls().is_some() && !check.asks_for_proof() {
        let message = "believes any certificate: it shows that something answers, not who; give it `ca_file` (or \
                       `system_roots: true`) and `server_name`";
        warn(warnings, format!("{path}.health_check"), message);
    }
}

/// A kube-apiserver takes a PROXY header for broken TLS. Whether an endpoint is one shows by what it is asked, or by its
/// port where it is not asked: a probe begins with a header too, and so proves that it is understood.
fn announced(upstream: &Upstream, path: &str, warnings: &mut Vec<Warning>) {
    const KUBERNETES_PATHS: [&str; 3] = ["/readyz", "/livez", "/healthz"];
    const KUBERNETES_PORT: u16 = 6443;
    if upstream.proxy_protocol.is_none() {
        return;
    }
    let sign = match upstream.health_check.as_ref().map(|check| &check.question) {
        Some(Question::Https(_, http)) if KUBERNETES_PATHS.iter().any(|start| http.path.starts_with(start)) => {
            format!("is asked for {}", http.path)
        }
        None if upstream.endpoints.iter().any(|endpoint| endpoint.address.port() == Some(KUBERNETES_PORT)) => {
            format!("listens on {KUBERNETES_PORT}")
        }
        _ => return,
    };
    let message = format!(
        "it {sign}, as a kube-apiserver does, and that does not understand PROXY headers: every client would fail; they \
         are for upstreams that are proxies themselves, and expect them"
    );
    warn(warnings, format!("{path}.proxy_protocol"), message);
}

/// How many attempts there can be: one an address, and names may have any number of those.
fn attempts(upstream: &Upstream) -> u32 {
    let named = upstream.endpoints.iter().any(|endpoint| !matches!(endpoint.address, EndpointAddress::Ip(_)));
    let addresses = if named { usize::MAX } else { upstream.endpoints.len() };
    u32::try_from(upstream.attempts.get().min(addresses)).unwrap_or(u32::MAX)
}

/// Whether connecting to `endpoint` surely comes out at `listener`. Addresses of this host other than loopback are not
/// known here.
fn leads_to(endpoint: &EndpointAddress, listener: &Listener) -> bool {
    let bound = listener.address.socket_addr();
    let everywhere = bound.ip().is_unspecified();
    match endpoint {
        EndpointAddress::Ip(endpoint) => {
            let address = endpoint.ip().to_canonical();
            let same_family = address.is_ipv4() == bound.is_ipv4() || (bound.is_ipv6() && !listener.v6_only);
            let there = bound.ip() == address || everywhere && same_family && address.is_loopback();
            there && bound.port() == endpoint.port()
        }
        EndpointAddress::Name(name, port) => {
            let there = &**name == "localhost" && (everywhere || bound.ip().is_loopback());
            there && bound.port() == *port
        }
        EndpointAddress::Service(_) => false,
    }
}
