//! [`Ambiguity`]: two routes that one client could match equally.
//!
//! Two routes of one claim tie for a client exactly when both admit its source by the same specificity and either both
//! list no protocol, or both list one in common (a client that offers only that one finds them equal). So the areas
//! that routes admit are sorted into bins of equal specificity and protocol; a tie is an overlap within a bin.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Claim;
use super::sources::Area;
use super::table::Candidates;
use crate::hello::AlpnProtocol;

/// Two routes that one client could match equally, so that nothing but their order in the file would decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ambiguity {
    /// What both take.
    pub claim: Claim,
    /// Name of the earlier route.
    pub first: Arc<str>,
    /// Name of the later route.
    pub second: Arc<str>,
    /// Some of the sources that both admit by equally long prefixes; there may be more.
    pub source: IpNet,
    /// A protocol that both list; none if neither lists any.
    pub protocol: Option<AlpnProtocol>,
}

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { claim, first, second, source, protocol } = self;
        write!(f, "routes `{first}` and `{second}` match equally: {claim} from {source}")?;
        match protocol {
            Some(protocol) => write!(f, " with protocol {protocol}"),
            None => write!(f, " with any protocol"),
        }
    }
}

impl std::error::Error for Ambiguity {}

/// Protocol and specificity: within a bin, areas that overlap tie.
type Bin<'r> = (Option<&'r AlpnProtocol>, Option<u8>);

/// The ties among the routes of one claim: at least one for each route that ties with an earlier one, and one at most
/// for any two routes.
pub(super) fn among(candidates: &Candidates) -> Vec<Ambiguity> {
    let Candidates { claim, routes } = candidates;
    if routes.len() < 2 {
        return Vec::new();
    }
    let mut bins: BTreeMap<Bin<'_>, Vec<(Area, usize)>> = BTreeMap::new();
    for (place, route) in routes.iter().enumerate() {
        let any = route.alpn.is_empty().then_some(None);
        let protocols: Vec<_> = any.into_iter().chain(route.alpn.iter().map(Some)).collect();
        for area in route.sources.admitted() {
            for protocol in &protocols {
                bins.entry((*protocol, area.specificity)).or_default().push((area, place));
            }
        }
    }
    let mut found = BTreeMap::new();
    for ((protocol, _), areas) in bins {
        for (earlier, later, source) in overlaps(areas) {
            found.entry((earlier, later)).or_insert_with(|| Ambiguity {
                claim: claim.clone(),
                first: Arc::clone(&routes[earlier].name),
                second: Arc::clone(&routes[later].name),
                source,
                protocol: protocol.cloned(),
            });
        }
    }
    found.into_values().collect()
}

/// Sweeps over the areas of several routes; each that overlaps another route's is found with the one, begun before it,
/// that reaches furthest.
fn overlaps(mut areas: Vec<(Area, usize)>) -> Vec<(usize, usize, IpNet)> {
    areas.sort_unstable_by_key(|(area, place)| (area.first, *place));
    let mut found = Vec::new();
    let mut furthest: Option<(IpAddr, usize)> = None;
    for (area, place) in areas {
        match furthest {
            Some((last, other)) if last >= area.first && other != place => {
                let shared = network_at(area.first, last.min(area.last));
                found.push((other.min(place), other.max(place), shared));
            }
            _ => {}
        }
        if furthest.is_none_or(|(last, _)| last < area.last) {
            furthest = Some((area.last, place));
        }
    }
    found
}

/// The largest network that begins at `first` and does not reach past `last`.
fn network_at(first: IpAddr, last: IpAddr) -> IpNet {
    let networks = (0..=128).map_while(|prefix| IpNet::new(first, prefix).ok());
    let mut fitting = networks.filter(|network| network.network() == first && network.broadcast() <= last);
    fitting.next().unwrap_or_else(|| first.into())
}
