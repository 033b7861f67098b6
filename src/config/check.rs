//! Document → [`Config`]: what only shows when the parts are seen together.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::document::{Document, ListenerEntry, RouteEntry};
use super::mistakes::Collector;
use super::values::Span;
use super::{Config, ListenAddress, Listener, Upstream, admin, power};
use crate::routing::{Route, RouteTable, SourceList, UpstreamId};

/// Below this, clients that only think for a moment lose their connection.
const SHORT_IDLE: Duration = Duration::from_secs(60);

/// Puts the parts together. What comes out is whole only if no mistake was found, now or before.
pub(super) fn assemble(document: Document, collector: &Collector) -> Config {
    check_names("listener", document.listeners.iter().map(|entry| (&entry.path, &entry.name)), collector);
    check_names("route", document.routes.iter().map(|entry| (&entry.path, &entry.name)), collector);
    check_addresses(&document.listeners, collector);
    power::check(&document.power, &document.listeners, &document.upstreams, collector);
    admin::check(document.admin.as_ref(), &document.listeners, collector);
    for entry in &document.routes {
        check_listeners(entry, &document, collector);
        check_idle_timeout(entry, collector);
    }

    let ids: HashMap<&str, UpstreamId> =
        document.upstreams.iter().enumerate().map(|(id, upstream)| (&*upstream.name, UpstreamId(id))).collect();
    let (mut routes, mut route_networks) = (Vec::new(), Vec::new());
    // Tables are made of routes that were read without a mistake: others would seem ambiguous where they are not.
    let mut sound = Vec::new();
    for entry in document.routes {
        let upstream = find_upstream(&entry, &document.upstreams, &ids, collector);
        let Some(name) = entry.name.clone() else { continue };
        // A wrong upstream does not keep the route from being compared with others.
        let route = Arc::new(route(&entry, name, upstream.unwrap_or(UpstreamId(0))));
        if entry.sound {
            sound.push((entry.path, Arc::clone(&route)));
        }
        routes.push(route);
        route_networks.push(entry.networks);
    }
    Config {
        listeners: listeners(document.listeners, &sound, collector),
        routes,
        upstreams: document.upstreams,
        on_route_change: document.on_route_change,
        limits: document.limits,
        drain: document.drain,
        dns: document.dns,
        admin: document.admin,
        log: document.log,
        workers: document.workers,
        power: document.power,
        upgrade_socket: document.upgrade_socket,
        warnings: Vec::new(),
        route_networks,
    }
}

fn check_names<'e>(
    what: &str,
    entries: impl Iterator<Item = (&'e String, &'e Option<Arc<str>>)>,
    collector: &Collector,
) {
    let mut first_with: HashMap<&str, &str> = HashMap::new();
    for (path, name) in entries {
        let Some(name) = name else { continue };
        if let Some(first) = first_with.insert(name, path) {
            let remedy = "give one of them another `name`";
            collector.add(path, format!("is the second {what} called `{name}`, after {first}: {remedy}"));
        }
    }
}

fn check_addresses(listeners: &[ListenerEntry], collector: &Collector) {
    for (place, later) in listeners.iter().enumerate() {
        for earlier in &listeners[..place] {
            let (Some(first), Some(second)) = (earlier.address, later.address) else { continue };
            let path = format!("{}.address", later.path);
            if first == second && first.socket_addr().port() != 0 {
                collector.add(path, format!("`{second}` is taken by {} already", earlier.path));
            } else if takes_all_of(earlier, second) || takes_all_of(later, first) {
                let (dual, v4) = if takes_all_of(earlier, second) { (earlier, second) } else { (later, first) };
                let remedy = format!("write `v6_only: true` in {}, or leave `{v4}` out", dual.path);
                collector.add(path, format!("`{first}` and `{second}` both take every IPv4 address: {remedy}"));
            }
        }
    }
}

/// Whether `dual` listens on every IPv4 address by way of IPv6, and so does `v4`. (A single address beside `:6443` is
/// no clash: the kernel prefers the socket that is bound to it.)
fn takes_all_of(dual: &ListenerEntry, v4: ListenAddress) -> bool {
    let every_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, v4.socket_addr().port()));
    let address = dual.address.map(|address| address.socket_addr());
    let every_address = address.filter(|address| address.is_ipv6() && address.ip().is_unspecified() && !dual.v6_only);
    v4.socket_addr() == every_v4 && every_address.is_some_and(|dual| dual.port() == every_v4.port() && dual.port() != 0)
}

fn check_listeners(entry: &RouteEntry, document: &Document, collector: &Collector) {
    // With a name unknown, that of a wrong listener might be the one that is missing.
    let Some(wanted) = entry.listeners.as_deref().filter(|_| document.listeners_known) else { return };
    let known = document.listeners.iter().filter_map(|listener| listener.name.as_deref());
    for name in wanted.iter().filter(|name| !known.clone().any(|known| known == &***name)) {
        let message = format!("no listener is called `{name}`; {}", collector.suggestion(name, known.clone()));
        collector.add(format!("{}.listeners", entry.path), message);
    }
}

fn check_idle_timeout(entry: &RouteEntry, collector: &Collector) {
    if entry.idle_timeout < SHORT_IDLE && !entry.allow_short_idle {
        let idle = Span(entry.idle_timeout);
        let remedy = "raise it to 60s at least, or write `allow_short_idle: true` if it is meant";
        let message = format!("{idle} would cut connections that only wait for a moment: {remedy}");
        collector.add(format!("{}.idle_timeout", entry.path), message);
    }
}

fn route(entry: &RouteEntry, name: Arc<str>, upstream: UpstreamId) -> Route {
    Route {
        name,
        server_names: entry.server_names.clone(),
        no_server_name: entry.no_server_name,
        listeners: entry.listeners.clone(),
        sources: SourceList::new(entry.networks.allow.as_deref(), &entry.networks.deny),
        alpn: entry.alpn.clone(),
        upstream,
        upstream_name: entry.upstream.clone().unwrap_or_default(),
        idle_timeout: entry.idle_timeout,
        half_close_timeout: entry.half_close_timeout,
        allow_short_idle: entry.allow_short_idle,
        on_route_change: entry.on_route_change,
        limits: entry.limits.clone(),
    }
}

fn find_upstream(
    entry: &RouteEntry,
    upstreams: &[Upstream],
    ids: &HashMap<&str, UpstreamId>,
    collector: &Collector,
) -> Option<UpstreamId> {
    // Without any upstream that is the mistake, and is reported.
    let name = entry.upstream.as_deref().filter(|_| !ids.is_empty())?;
    let id = ids.get(name).copied();
    if id.is_none() {
        let remedy = collector.suggestion(name, upstreams.iter().map(|upstream| &*upstream.name));
        collector.add(format!("{}.upstream", entry.path), format!("no upstream is called `{name}`; {remedy}"));
    }
    id
}

/// The listeners with their tables, and what is ambiguous in those.
fn listeners(entries: Vec<ListenerEntry>, routes: &[(String, Arc<Route>)], collector: &Collector) -> Vec<Listener> {
    let mut told = BTreeSet::new();
    let mut listeners = Vec::with_capacity(entries.len());
    for entry in entries {
        let (Some(name), Some(address)) = (entry.name, entry.address) else { continue };
        let here = routes.iter().filter(|(_, route)| belongs(route, &name));
        let table = RouteTable::new(here.map(|(_, route)| Arc::clone(route))).unwrap_or_else(|ambiguities| {
            for ambiguity in ambiguities {
                // Routes of several listeners are ambiguous on each of them, and told of once.
                if told.insert((Arc::clone(&ambiguity.first), Arc::clone(&ambiguity.second))) {
                    let second = routes.iter().rfind(|(_, route)| route.name == ambiguity.second);
                    let path = second.map(|(path, _)| path.as_str()).unwrap_or_default();
                    let remedy = "set them apart by `allow`, `alpn` or `listeners`";
                    collector.add(path, format!("{ambiguity}: {remedy}"));
                }
            }
            RouteTable::default()
        });
        listeners.push(Listener {
            name,
            address,
            v6_only: entry.v6_only,
            reject: entry.reject,
            client_hello_timeout: entry.client_hello_timeout,
            max_client_hello: entry.max_client_hello,
            proxy_protocol: entry.proxy_protocol,
            sources: SourceList::new(entry.networks.allow.as_deref(), &entry.networks.deny),
            table: Arc::new(table),
            networks: entry.networks,
        });
    }
    listeners
}

/// Whether `route` is for the listener called `name`.
pub(super) fn belongs(route: &Route, name: &str) -> bool {
    route.listeners.as_ref().is_none_or(|listeners| listeners.iter().any(|listener| &**listener == name))
}
