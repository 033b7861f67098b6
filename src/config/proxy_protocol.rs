//! `proxy_protocol`: of a listener, whom it believes when they say who their clients are; of an upstream, whether we say.

use ipnet::IpNet;

use super::document::{each_once, some_items};
use super::section::Node;
use super::values;
use crate::proxy_protocol::Version;
use crate::routing::SourceList;

pub(super) const ANNOUNCED: [(&str, Option<Version>); 3] =
    [("none", None), ("v1", Some(Version::V1)), ("v2", Some(Version::V2))];

/// Who may connect to a listener that requires a PROXY header, and is believed what it says in it.
#[derive(Clone, Debug)]
pub struct TrustedProxies {
    /// Their addresses.
    pub sources: SourceList,
    /// The same, as written.
    pub(super) networks: Vec<IpNet>,
}

impl TrustedProxies {
    /// Whether everybody is among them.
    pub(super) fn are_everybody(&self) -> bool {
        self.networks.iter().any(|network| network.prefix_len() == 0)
    }
}

pub(super) fn read(node: &Node<'_>) -> Option<TrustedProxies> {
    if !node.is_section() {
        return node.read(|value| {
            let found = values::found(value);
            Err(format!("expected whom to trust, such as `{{ trusted: [10.0.0.0/8] }}`, found {found}"))
        });
    }
    node.section(|keys| {
        let remedy = "nobody could connect; name the proxies, or leave `proxy_protocol` out";
        let nodes = some_items(keys.needed("trusted"), remedy);
        let networks = each_once(&nodes, values::network);
        TrustedProxies { sources: SourceList::new(Some(&networks), &[]), networks }
    })
}
