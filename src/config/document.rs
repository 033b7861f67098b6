//! YAML tree → the parts of a configuration, each by itself: every key, its default and its limits are here.
//!
//! A value that is wrong is reported and then takes its default, so that reading goes on; what has no default is
//! `None`. Nobody sees such a document: one mistake anywhere means that there is no configuration.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_yaml::Value;
use tracing::Level;

use super::mistakes::Collector;
use super::section::{Node, Section};
use super::{
    Admin, Dns, Drain, Established, Limits, ListenAddress, Log, LogFormat, Networks, Power, Reject, TrustedProxies,
    Upstream, admin, drain, limits, paths, power, proxy_protocol, upstream, values,
};
use crate::hello::{AlpnProtocol, LARGEST_CLIENT_HELLO};
use crate::routing::RouteLimits;
use crate::server_name::ServerNamePattern;

pub(super) struct Document {
    pub(super) listeners: Vec<ListenerEntry>,
    /// Whether the name of every listener is known.
    pub(super) listeners_known: bool,
    pub(super) routes: Vec<RouteEntry>,
    pub(super) upstreams: Vec<Upstream>,
    pub(super) on_route_change: Established,
    pub(super) limits: Limits,
    pub(super) drain: Drain,
    pub(super) dns: Dns,
    pub(super) admin: Option<Admin>,
    pub(super) log: Log,
    pub(super) workers: NonZeroUsize,
    pub(super) power: Power,
    pub(super) upgrade_socket: Option<PathBuf>,
}

pub(super) struct ListenerEntry {
    pub(super) path: String,
    pub(super) name: Option<Arc<str>>,
    pub(super) address: Option<ListenAddress>,
    pub(super) v6_only: bool,
    pub(super) reject: Reject,
    pub(super) client_hello_timeout: Duration,
    pub(super) max_client_hello: usize,
    pub(super) proxy_protocol: Option<TrustedProxies>,
    pub(super) networks: Networks,
}

pub(super) struct RouteEntry {
    pub(super) path: String,
    /// Whether it was read without a mistake.
    pub(super) sound: bool,
    pub(super) name: Option<Arc<str>>,
    pub(super) server_names: Vec<ServerNamePattern>,
    pub(super) no_server_name: bool,
    pub(super) upstream: Option<Arc<str>>,
    pub(super) listeners: Option<Vec<Arc<str>>>,
    pub(super) alpn: Vec<AlpnProtocol>,
    pub(super) networks: Networks,
    pub(super) idle_timeout: Duration,
    pub(super) half_close_timeout: Duration,
    pub(super) allow_short_idle: bool,
    pub(super) on_route_change: Option<Established>,
    pub(super) limits: RouteLimits,
}

pub(super) const REJECT: [(&str, Reject); 3] =
    [("alert", Reject::Alert), ("close", Reject::Close), ("reset", Reject::Reset)];
pub(super) const LOG_FORMAT: [(&str, LogFormat); 2] = [("json", LogFormat::Json), ("text", LogFormat::Text)];
pub(super) const LOG_LEVEL: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

/// Less than this is a slip of the unit.
pub(super) const SHORTEST: Duration = Duration::from_millis(10);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const DAY: Duration = Duration::from_hours(24);
/// Below a month, which is what `M` means where `m` was meant.
const MONTH: Duration = Duration::from_hours(30 * 24);

/// Reads the whole document.
pub(super) fn read(tree: &Value, collector: &Collector) -> Option<Document> {
    if tree.is_null() {
        collector.add("", "the configuration is empty: it needs `listeners`, `routes` and `upstreams`");
        return None;
    }
    Node::root(tree, collector).section(|keys| {
        let listener_nodes = some_items(keys.needed("listeners"), "nobody could connect");
        let listeners: Vec<_> = listener_nodes.iter().filter_map(listener).collect();
        let route_nodes = some_items(keys.needed("routes"), "every client would be refused");
        let upstream_nodes = keys.needed("upstreams").map(|node| node.entries()).unwrap_or_default();
        Document {
            listeners_known: listeners.len() == listener_nodes.len() && listeners.iter().all(|one| one.name.is_some()),
            listeners,
            routes: route_nodes.iter().filter_map(|node| route(node, collector)).collect(),
            upstreams: upstream_nodes.iter().map(|(name, node)| upstream::read(name, node)).collect(),
            on_route_change: on_route_change(keys).unwrap_or(Established::Keep),
            limits: keys.optional("limits").and_then(|node| limits::read(&node)).unwrap_or_default(),
            drain: keys.optional("drain").and_then(|node| drain::read(&node)).unwrap_or_default(),
            dns: keys.optional("dns").and_then(|node| dns(&node)).unwrap_or_default(),
            admin: keys.optional("admin").and_then(|node| admin::read(&node)),
            log: keys.optional("log").and_then(|node| log(&node)).unwrap_or(DEFAULT_LOG),
            workers: keys.value("workers", cores(), values::count(1024)),
            power: power::read(keys),
            upgrade_socket: keys.optional("upgrade_socket").and_then(|node| node.read(paths::socket_path)),
        }
    })
}

/// Quota and affinity of the process are respected, as they are when it starts: a running gate cannot read its quota.
fn cores() -> NonZeroUsize {
    static CORES: LazyLock<NonZeroUsize> =
        LazyLock::new(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
    *CORES
}

fn listener(node: &Node<'_>) -> Option<ListenerEntry> {
    node.section(|keys| {
        let address = keys.needed("address").and_then(|node| node.read(values::listen_address));
        ListenerEntry {
            path: node.path.clone(),
            name: name_or(keys, || address.map(|address| address.to_string().into())),
            address,
            v6_only: v6_only(keys, address),
            reject: keys.value("reject", Reject::Alert, values::keyword(&REJECT)),
            client_hello_timeout: keys.value(
                "client_hello_timeout",
                Duration::from_secs(5),
                values::duration(SHORTEST, MINUTE),
            ),
            // Hellos of common clients have 517 bytes and more: less than 512 would refuse nearly everyone.
            max_client_hello: keys.value("max_client_hello", 16 << 10, values::size(512..=LARGEST_CLIENT_HELLO)),
            proxy_protocol: keys.optional("proxy_protocol").and_then(|node| proxy_protocol::read(&node)),
            networks: networks(keys),
        }
    })
}

fn v6_only(keys: &mut Section<'_>, address: Option<ListenAddress>) -> bool {
    let Some(node) = keys.optional("v6_only") else { return false };
    let v6_only = node.read(values::boolean).unwrap_or_default();
    if let Some(address) = address.filter(|address| v6_only && address.socket_addr().is_ipv4()) {
        node.mistaken(format!("is for IPv6 addresses, and `{address}` is none: leave it out"));
    }
    v6_only
}

fn route(node: &Node<'_>, collector: &Collector) -> Option<RouteEntry> {
    let mistakes_before = collector.count();
    let mut route = node.section(|keys| {
        let (server_names, no_server_name) = clients(node, keys);
        let default_name = || match server_names.first() {
            Some(first) => Some(first.to_string().into()),
            None => no_server_name.then(|| "no_server_name".into()),
        };
        RouteEntry {
            path: node.path.clone(),
            sound: true,
            name: name_or(keys, default_name),
            upstream: keys.needed("upstream").and_then(|node| node.read(values::name)),
            listeners: keys.optional("listeners").map(|node| {
                each_once(&node.some_items("name a listener, or leave the key out for all of them"), values::name)
            }),
            alpn: keys.optional("alpn").map_or_else(Vec::new, |node| {
                each_once(&node.some_items("name a protocol, or leave the key out for any"), values::parsed)
            }),
            networks: networks(keys),
            idle_timeout: keys.value("idle_timeout", DAY, values::duration(SHORTEST, MONTH)),
            half_close_timeout: keys.value("half_close_timeout", MINUTE, values::duration(SHORTEST, MONTH)),
            allow_short_idle: keys.value("allow_short_idle", false, values::boolean),
            on_route_change: on_route_change(keys),
            limits: limits::of_route(keys),
            server_names,
            no_server_name,
        }
    })?;
    route.sound = collector.count() == mistakes_before;
    Some(route)
}

/// `server_names` and `no_server_name`: one of them at least.
fn clients(node: &Node<'_>, keys: &mut Section<'_>) -> (Vec<ServerNamePattern>, bool) {
    let (named, nameless) = (keys.optional("server_names"), keys.optional("no_server_name"));
    let no_server_name = nameless.map_or(Some(false), |node| node.read(values::boolean));
    if named.is_none() && no_server_name == Some(false) {
        node.mistaken("takes no client: give it `server_names`, or `no_server_name: true`, or both");
    }
    let remedy = "name one, or leave the key out and write `no_server_name: true`";
    let server_names = named.map_or_else(Vec::new, |node| each_once(&node.some_items(remedy), values::parsed));
    (server_names, no_server_name.unwrap_or_default())
}

fn on_route_change(keys: &mut Section<'_>) -> Option<Established> {
    keys.optional("on_route_change").and_then(|node| node.read(values::keyword(&upstream::ESTABLISHED)))
}

fn dns(node: &Node<'_>) -> Option<Dns> {
    node.section(|keys| Dns {
        servers: keys.optional("servers").map_or_else(Vec::new, |node| {
            let remedy = "name one, or leave the key out for those of /etc/resolv.conf";
            each_once(&node.some_items(remedy), values::dns_server)
        }),
    })
}

const DEFAULT_LOG: Log = Log { format: LogFormat::Json, level: Level::INFO, access: true };

fn log(node: &Node<'_>) -> Option<Log> {
    node.section(|keys| Log {
        format: keys.value("format", DEFAULT_LOG.format, values::keyword(&LOG_FORMAT)),
        level: keys.value("level", DEFAULT_LOG.level, values::keyword(&LOG_LEVEL)),
        access: keys.value("access", DEFAULT_LOG.access, values::boolean),
    })
}

fn name_or(keys: &mut Section<'_>, default: impl FnOnce() -> Option<Arc<str>>) -> Option<Arc<str>> {
    match keys.optional("name") {
        Some(node) => node.read(values::name),
        None => default(),
    }
}

fn networks(keys: &mut Section<'_>) -> Networks {
    let allow = keys.optional("allow").map(|node| {
        each_once(&node.some_items("nobody is allowed; leave the key out to allow every source"), values::network)
    });
    // An empty `deny` says what an absent one says, and nothing else can be meant.
    let deny = keys.optional("deny").map_or_else(Vec::new, |node| each_once(&node.items(), values::network));
    Networks { allow, deny }
}

pub(super) fn some_items<'d>(node: Option<Node<'d>>, remedy: &str) -> Vec<Node<'d>> {
    node.map(|node| node.some_items(remedy)).unwrap_or_default()
}

/// The items as `parse` understands them; one that says the same as another is a mistake.
pub(super) fn each_once<T: Clone + Eq + Hash + fmt::Display>(
    nodes: &[Node<'_>],
    parse: impl Fn(&Value) -> Result<T, String>,
) -> Vec<T> {
    let mut seen = HashSet::new();
    let mut items = Vec::with_capacity(nodes.len());
    for node in nodes {
        let Some(item) = node.read(&parse) else { continue };
        if seen.insert(item.clone()) {
            items.push(item);
        } else {
            node.mistaken(format!("`{item}` is listed twice"));
        }
    }
    items
}
