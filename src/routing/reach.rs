//! [`RouteTable::unreached`]: what a route claims and no client can get.
//!
//! No claim can be emptied by others: a wildcard always has names left that are nowhere else. Within a claim, tables
//! have no ambiguities, so a route of the same specificity leaves the other its clients. That leaves one case: at every
//! source a route is passed over where, for each protocol it lists, a route with a longer `allow` prefix takes that
//! protocol too; one that lists none, where such a route lists none either.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::sources::Area;
use super::table::Candidates;
use super::{Claim, Route, RouteTable, SourceList, SourceVerdict};

/// A route that wins no client for something it claims.
#[derive(Clone, Debug)]
pub struct Unreached {
    /// The route.
    pub route: Arc<Route>,
    /// Which of its claims.
    pub claim: Claim,
    /// Why.
    pub why: WhyUnreached,
}

/// What keeps clients from a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyUnreached {
    /// Its own `allow` and `deny` admit no source.
    AdmitsNobody,
    /// The listener refuses every source that it admits.
    ListenerRefuses,
    /// Routes of these names have longer `allow` prefixes and take all its clients.
    TakenBy(Vec<Arc<str>>),
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { route, claim, why } = self;
        write!(f, "route `{}` is never reached for {claim}: ", route.name)?;
        match why {
            WhyUnreached::AdmitsNobody => f.write_str("its `allow` and `deny` admit no source"),
            WhyUnreached::ListenerRefuses => f.write_str("the listener refuses every source it admits"),
            WhyUnreached::TakenBy(names) => {
                let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
                write!(f, "what it admits goes to {} by longer `allow` prefixes", names.join(", "))
            }
        }
    }
}

impl RouteTable {
    /// Every route and claim that no client can reach through a listener with these sources, by route name.
    pub fn unreached(&self, listener: &SourceList) -> Vec<Unreached> {
        let listener: Vec<_> = listener.admitted().collect();
        let mut found: Vec<_> = self.candidates().flat_map(|candidates| candidates.unreached(&listener)).collect();
        found.sort_by(|a, b| (&a.route.name, &a.claim).cmp(&(&b.route.name, &b.claim)));
        found
    }
}

impl Candidates {
    fn unreached(&self, listener: &[Area]) -> Vec<Unreached> {
        let reached = match &self.routes[..] {
            [alone] => vec![within(listener, &alone.sources).next().is_some()],
            routes => Sweep::over(routes, listener),
        };
        let missed = self.routes.iter().zip(reached).filter(|(_, reached)| !reached);
        missed
            .map(|(route, _)| Unreached {
                route: Arc::clone(route),
                claim: self.claim.clone(),
                why: self.why_unreached(route, listener),
            })
            .collect()
    }

    fn why_unreached(&self, route: &Arc<Route>, listener: &[Area]) -> WhyUnreached {
        if route.sources.admits_nobody() {
            return WhyUnreached::AdmitsNobody;
        }
        if within(listener, &route.sources).next().is_none() {
            return WhyUnreached::ListenerRefuses;
        }
        let takers = self.routes.iter().filter(|other| takes_from(other, route, listener));
        WhyUnreached::TakenBy(takers.map(|other| Arc::clone(&other.name)).collect())
    }
}

/// Whether `other` is preferred to `route` by some client that both admit.
fn takes_from(other: &Route, route: &Route, listener: &[Area]) -> bool {
    let protocol = other.alpn.is_empty() || other.alpn.iter().any(|protocol| route.alpn.contains(protocol));
    let specificity = |route: &Route, source| match route.sources.judge(source) {
        SourceVerdict::Allowed { specificity } => Some(specificity),
        SourceVerdict::NotAllowed | SourceVerdict::Denied { .. } => None,
    };
    // Where both admit, the first such address is the first of an area of one of them.
    let mut areas = within(listener, &other.sources).chain(within(listener, &route.sources));
    protocol
        && areas.any(|Area { first, .. }| {
            let (theirs, own) = (specificity(other, first), specificity(route, first));
            own.is_some() && theirs > own
        })
}

/// What `sources` admits of what the listener does.
fn within(listener: &[Area], sources: &SourceList) -> impl Iterator<Item = Area> {
    sources.admitted().flat_map(move |area| {
        let passed = listener.partition_point(|other| other.last < area.first);
        let shared = listener[passed..].iter().take_while(move |other| other.first <= area.last);
        shared.map(move |other| Area { first: area.first.max(other.first), last: area.last.min(other.last), ..area })
    })
}

/// A walk over all addresses that stops wherever the set of admitting routes changes.
struct Sweep<'t> {
    routes: &'t [Arc<Route>],
    /// The routes that admit where the sweep stands, best first.
    admitting: BTreeSet<Rank>,
    reached: Vec<bool>,
}

/// A route's place among those that admit an address: by specificity, then those that list protocols.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    specificity: Reverse<Option<u8>>,
    any_protocol: bool,
    place: usize,
}

/// One border of an area that a route of this rank admits. Leaving sorts before entering.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Border {
    at: IpAddr,
    enters: bool,
    rank: Rank,
}

impl<'t> Sweep<'t> {
    /// For each route, whether some client reaches it.
    fn over(routes: &'t [Arc<Route>], listener: &[Area]) -> Vec<bool> {
        let mut borders = Vec::new();
        for (place, route) in routes.iter().enumerate() {
            for area in within(listener, &route.sources) {
                let specificity = Reverse(area.specificity);
                let rank = Rank { specificity, any_protocol: route.alpn.is_empty(), place };
                borders.push(Border { at: area.first, enters: true, rank });
                borders.extend(after(area.last).map(|at| Border { at, enters: false, rank }));
            }
        }
        borders.sort_unstable();
        let mut sweep = Self { routes, admitting: BTreeSet::new(), reached: vec![false; routes.len()] };
        for stop in borders.chunk_by(|a, b| a.at == b.at) {
            for Border { enters, rank, .. } in stop {
                _ = if *enters { sweep.admitting.insert(*rank) } else { sweep.admitting.remove(rank) };
            }
            sweep.mark();
        }
        sweep.reached
    }

    /// Marks the routes that some client reaches from where the sweep stands. Routes of one specificity list different
    /// protocols, else they were ambiguous, so none of them takes from another.
    fn mark(&mut self) {
        let mut taken = HashSet::new();
        for Rank { place, .. } in &self.admitting {
            let alpn = &self.routes[*place].alpn;
            self.reached[*place] |= alpn.is_empty() || alpn.iter().any(|protocol| !taken.contains(protocol));
            if alpn.is_empty() {
                return;
            }
            taken.extend(alpn);
        }
    }
}

/// The next address in the order of [`IpAddr`], in which the first of IPv6 follows the last of IPv4.
fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(Ipv6Addr::UNSPECIFIED.into()),
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|next| Ipv6Addr::from(next).into()),
    }
}
