//! The way that users take: from the public address to a route, and the name that leads there.

use std::num::NonZeroU16;
use std::sync::Arc;

use rustls::pki_types::{DnsName, ServerName as PeerName};

use super::Args;
use super::address::Host;
use crate::cli::{WrongUsage, explain};
use crate::config::{Config, Listener, suggestion};
use crate::hello::Sni;
use crate::routing::Route;
use crate::server_name::{ServerName, ServerNamePattern};

/// How users reach a route.
#[derive(Debug)]
pub(super) struct Way<'c> {
    pub(super) route: &'c Arc<Route>,
    /// Where their connections come in.
    pub(super) listener: &'c Listener,
    pub(super) host: Host,
    pub(super) port: NonZeroU16,
    /// The name that they send.
    pub(super) sent: Option<ServerName>,
    /// What the certificate must cover.
    pub(super) wanted: PeerName<'static>,
}

impl<'c> Way<'c> {
    /// The way that the arguments ask for.
    pub(super) fn find(config: &'c Config, args: &Args) -> anyhow::Result<Self> {
        let route = route(config, &args.route)?;
        let listeners = listeners(config, route, args.listener.as_deref())?;
        let (listener, port) = port(route, &listeners, args.server.as_ref().and_then(|server| server.port))?;
        let named = args.server_name.as_ref();
        let host = match (&args.server, named.or_else(|| first_name(route))) {
            (Some(server), _) => server.host.clone(),
            (None, Some(name)) => Host::Name(name.clone()),
            (None, None) => {
                let route = &route.name;
                return wrong(format!("route {route} has no name of its own: say with --server where users reach it"));
            }
        };
        let sent = sent(route, listener, &host, named)?;
        let wanted = match (&sent, &host) {
            (Some(name), _) | (None, Host::Name(name)) => match DnsName::try_from(name.to_string()) {
                Ok(name) => PeerName::DnsName(name),
                Err(_) => return wrong(format!("{name} is no name that a certificate could cover")),
            },
            (None, Host::Ip(address)) => PeerName::IpAddress((*address).into()),
        };
        Ok(Self { route, listener, host, port, sent, wanted })
    }

    /// What a kubeconfig has to say beside the address.
    pub(super) fn tls_server_name(&self) -> Option<&ServerName> {
        let name = self.sent.as_ref()?;
        (self.host != Host::Name(name.clone())).then_some(name)
    }

    /// The address as a URL.
    pub(super) fn url(&self) -> String {
        format!("https://{}:{}", self.host, self.port)
    }

    /// Whether the route is asked about clients that send this name.
    pub(super) fn takes(&self, name: &ServerName) -> bool {
        takes(self.route, self.listener, Some(name))
    }

    /// The other routes that are asked about these users.
    pub(super) fn rivals(&self) -> impl Iterator<Item = &Arc<Route>> {
        let routes = self.listener.table.routes_of(&sni(self.sent.as_ref()));
        routes.iter().filter(|route| route.name != self.route.name)
    }
}

fn wrong<T>(why: String) -> anyhow::Result<T> {
    Err(WrongUsage(why).into())
}

fn route<'c>(config: &'c Config, wanted: &str) -> anyhow::Result<&'c Arc<Route>> {
    let Some(route) = config.routes.iter().find(|route| &*route.name == wanted) else {
        let known = config.routes.iter().map(|route| &*route.name);
        return wrong(format!("no route is called `{wanted}`; {}", suggestion(wanted, known)));
    };
    Ok(route)
}

/// The listeners that the route is reached by; never none.
fn listeners<'c>(config: &'c Config, route: &Route, wanted: Option<&str>) -> anyhow::Result<Vec<&'c Listener>> {
    let mut listeners = explain::chosen(config, wanted)?;
    let names = route.listeners.as_ref();
    listeners.retain(|listener| names.is_none_or(|names| names.contains(&listener.name)));
    if listeners.is_empty() {
        let (route, listener) = (&route.name, wanted.unwrap_or_default());
        return wrong(format!("route {route} does not belong to listener {listener}"));
    }
    Ok(listeners)
}

/// The port that users connect to, and whose it is. A port that no listener has is translated on the way here.
fn port<'c>(
    route: &Route,
    listeners: &[&'c Listener],
    given: Option<NonZeroU16>,
) -> anyhow::Result<(&'c Listener, NonZeroU16)> {
    let own = |listener: &Listener| NonZeroU16::new(listener.address.socket_addr().port());
    let first = listeners[0];
    if let Some(port) = given {
        let owner = listeners.iter().find(|listener| own(listener) == Some(port));
        return Ok((owner.unwrap_or(&first), port));
    }
    let route = &route.name;
    if listeners.iter().any(|listener| own(listener) != own(first)) {
        let known = listeners.iter().map(|listener| format!("{} ({})", listener.name, listener.address));
        let known = known.collect::<Vec<_>>().join(", ");
        return wrong(format!(
            "route {route} has several ports: choose with --listener, or say --server HOST:PORT; {known}"
        ));
    }
    match own(first) {
        Some(port) => Ok((first, port)),
        None => wrong(format!("listener {} takes any free port: say --server HOST:PORT", first.name)),
    }
}

/// The name that users send: the one that was asked for, the host, or else the route's first.
fn sent(
    route: &Route,
    listener: &Listener,
    host: &Host,
    named: Option<&ServerName>,
) -> anyhow::Result<Option<ServerName>> {
    if let Some(name) = named {
        if takes(route, listener, Some(name)) {
            return Ok(Some(name.clone()));
        }
        let (route, names) = (&route.name, patterns(route));
        return wrong(format!(
            "route {route} does not take {name}, but {names}; `snigate explain --server-name {name}` says where it leads"
        ));
    }
    match (host, first_name(route)) {
        (Host::Name(host), _) if takes(route, listener, Some(host)) => Ok(Some(host.clone())),
        (_, Some(first)) => Ok(Some(first.clone())),
        (Host::Ip(_), None) if takes(route, listener, None) => Ok(None),
        (Host::Name(host), None) if route.server_names.is_empty() => wrong(format!(
            "kubectl sends {host}, and route {} takes only clients without a name: give --server an IP address",
            route.name
        )),
        _ => wrong(format!(
            "route {} takes {}: say with --server-name which name users are to send",
            route.name,
            patterns(route)
        )),
    }
}

fn takes(route: &Route, listener: &Listener, name: Option<&ServerName>) -> bool {
    listener.table.routes_of(&sni(name)).iter().any(|asked| asked.name == route.name)
}

fn sni(name: Option<&ServerName>) -> Sni {
    name.map_or(Sni::Absent, |name| Sni::Name(name.clone()))
}

fn first_name(route: &Route) -> Option<&ServerName> {
    route.server_names.iter().find_map(|pattern| match pattern {
        ServerNamePattern::Exact(name) => Some(name),
        _ => None,
    })
}

fn patterns(route: &Route) -> String {
    route.claims().map(|claim| claim.to_string()).collect::<Vec<_>>().join(", ")
}
