//! Tests of the table as a whole.

mod ambiguity;
mod decide;
mod explain;
mod reach;
mod reference;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{Route, RouteLimits, RouteTable, SourceList, UpstreamId};
use crate::hello::{AlpnProtocol, Sni};
use crate::server_name::ServerName;

/// A route to upstream 0 in a few words: `names`, where `-` stands for "no server name", and what else it says.
pub(super) struct Draft {
    route: Route,
}

pub(super) fn route(name: &str, names: &str) -> Draft {
    let server_names = names.split_whitespace().filter(|name| *name != "-").map(|name| name.parse().unwrap());
    Draft {
        route: Route {
            name: name.into(),
            server_names: server_names.collect(),
            no_server_name: names.split_whitespace().any(|name| name == "-"),
            listeners: None,
            sources: SourceList::everyone(),
            alpn: Vec::new(),
            upstream: UpstreamId(0),
            upstream_name: "up".into(),
            idle_timeout: Duration::from_secs(86_400),
            half_close_timeout: Duration::from_secs(60),
            allow_short_idle: false,
            on_route_change: None,
            limits: RouteLimits::default(),
        },
    }
}

impl Draft {
    /// `+network` allows, `-network` denies, a single `+` is an empty `allow`.
    pub(super) fn sources(mut self, networks: &str) -> Self {
        self.route.sources = sources(networks);
        self
    }

    pub(super) fn alpn(mut self, protocols: &str) -> Self {
        self.route.alpn = alpn(protocols);
        self
    }
}

pub(super) fn sources(networks: &str) -> SourceList {
    let given = |sign| networks.split_whitespace().filter_map(move |word| word.strip_prefix(sign));
    let parsed = |words: Vec<&str>| -> Vec<IpNet> {
        words.into_iter().filter(|word| !word.is_empty()).map(|word| word.parse().unwrap()).collect()
    };
    let allow: Vec<_> = given('+').collect();
    let allow = (!allow.is_empty()).then(|| parsed(allow));
    SourceList::new(allow.as_deref(), &parsed(given('-').collect()))
}

pub(super) fn alpn(protocols: &str) -> Vec<AlpnProtocol> {
    protocols.split_whitespace().map(|protocol| protocol.parse().unwrap()).collect()
}

/// `-` is no name, a name with a space is invalid.
pub(super) fn sni(text: &str) -> Sni {
    match text.parse::<ServerName>() {
        _ if text == "-" => Sni::Absent,
        Ok(name) => Sni::Name(name),
        Err(_) => Sni::Invalid(text.as_bytes().into()),
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn table(drafts: impl IntoIterator<Item = Draft>) -> RouteTable {
    RouteTable::new(drafts.into_iter().map(|draft| Arc::new(draft.route))).unwrap()
}
