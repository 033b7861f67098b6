//! `upstreams`: endpoints, and how they are chosen among and reached.

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use super::document::{DAY, MINUTE, SHORTEST, each_once, some_items};
use super::section::{Node, Section};
use super::{Balance, Endpoint, EndpointAddress, Established, Upstream, health_check, proxy_protocol, values};

pub(super) const BALANCE: [(&str, Balance); 4] = [
    ("least_connections", Balance::LeastConnections),
    ("round_robin", Balance::RoundRobin),
    ("random", Balance::Random),
    ("source_hash", Balance::SourceHash),
];
pub(super) const ESTABLISHED: [(&str, Established); 2] = [("keep", Established::Keep), ("close", Established::Close)];

/// Above what an API server answers at once, far below what a storm of reconnecting clients would open.
const MAX_CONNECTING: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);

pub(super) fn read(name: &str, node: &Node<'_>) -> Upstream {
    node.read(|_| values::check_name(name));
    let read = node.section(|keys| Upstream {
        name: name.into(),
        endpoints: endpoints(keys),
        balance: keys.value("balance", Balance::LeastConnections, values::keyword(&BALANCE)),
        slow_start: keys.value("slow_start", MINUTE / 2, values::duration_or_off(SHORTEST, 60 * MINUTE)),
        connect_timeout: keys.value("connect_timeout", Duration::from_secs(3), values::duration(SHORTEST, MINUTE)),
        attempts: keys.value("attempts", NonZeroUsize::MIN.saturating_add(2), values::count(10)),
        max_connecting: keys.value("max_connecting", MAX_CONNECTING, values::count(65_536)),
        user_timeout: keys.value("user_timeout", 2 * MINUTE, values::duration_or_off(SHORTEST, DAY)),
        source_addresses: source_addresses(keys),
        proxy_protocol: keys.value("proxy_protocol", None, values::keyword(&proxy_protocol::ANNOUNCED)),
        on_removed: keys.value("on_removed", Established::Keep, values::keyword(&ESTABLISHED)),
        health_check: keys.optional("health_check").and_then(|node| health_check::read(&node)),
        on_unhealthy: keys.value("on_unhealthy", Established::Keep, values::keyword(&ESTABLISHED)),
    });
    // Its name is known even if nothing else is, so that routes to it are right.
    read.unwrap_or_else(|| Upstream {
        name: name.into(),
        endpoints: Vec::new(),
        balance: Balance::LeastConnections,
        slow_start: Duration::ZERO,
        connect_timeout: Duration::ZERO,
        attempts: NonZeroUsize::MIN,
        max_connecting: NonZeroUsize::MIN,
        user_timeout: Duration::ZERO,
        source_addresses: Vec::new(),
        proxy_protocol: None,
        on_removed: Established::Keep,
        health_check: None,
        on_unhealthy: Established::Keep,
    })
}

fn source_addresses(keys: &mut Section<'_>) -> Vec<IpAddr> {
    let Some(node) = keys.optional("source_addresses") else { return Vec::new() };
    let nodes = node.some_items("leave it out for the address that the kernel chooses");
    each_once(&nodes, values::source_address)
}

fn endpoints(keys: &mut Section<'_>) -> Vec<Endpoint> {
    let nodes = some_items(keys.needed("endpoints"), "connections need somewhere to go");
    let mut seen = HashSet::new();
    let mut endpoints = Vec::with_capacity(nodes.len());
    for node in nodes {
        let Some(endpoint) = endpoint(&node) else { continue };
        if seen.insert(endpoint.address.clone()) {
            endpoints.push(endpoint);
        } else {
            let weight = match endpoint.address {
                EndpointAddress::Service(_) => "",
                _ => "; `weight` gives it a larger share",
            };
            node.mistaken(format!("`{}` is listed twice{weight}", endpoint.address));
        }
    }
    endpoints
}

/// The short form, `host:port`, or the long one, which may name SRV records in place of an address.
fn endpoint(node: &Node<'_>) -> Option<Endpoint> {
    if node.is_text() {
        return Some(Endpoint { address: node.read(values::endpoint_address)?, weight: 1, backup: false });
    }
    node.section(|keys| {
        let service = keys.optional("srv");
        let address = match &service {
            None => keys.needed("address").and_then(|node| node.read(values::endpoint_address)),
            Some(node) => node.read(values::service),
        };
        let weight = keys.value("weight", NonZeroU32::MIN, values::count(256)).get();
        if service.is_some() {
            for (key, remedy) in [("address", "make two endpoints of the two"), ("weight", "SRV records have weights")]
            {
                if let Some(node) = keys.optional(key) {
                    node.mistaken(format!("does not go with `srv`: {remedy}"));
                }
            }
        }
        let backup = keys.value("backup", false, values::boolean);
        Some(Endpoint { address: address?, weight, backup })
    })?
}
