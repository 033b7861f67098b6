//! [`RouteTable`]: the routes of one listener, found by server name.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Ambiguity, Claim, Decision, Refusal, Route, SourceVerdict, ambiguity};
use crate::hello::{AlpnProtocol, Sni};
use crate::server_name::{ServerName, ServerNamePattern};

/// The routes of one listener.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    exact: HashMap<ServerName, Candidates>,
    /// `*.name` by `name`.
    wildcard: HashMap<ServerName, Candidates>,
    any: Option<Candidates>,
    no_server_name: Option<Candidates>,
    /// Length of the longest key of `wildcard`: longer suffixes of a name need no look-up, which bounds the work that a
    /// name of a hundred labels makes.
    longest_wildcard: usize,
}

/// The routes that share a claim, in the order they were given.
#[derive(Clone, Debug)]
pub(super) struct Candidates {
    pub(super) claim: Claim,
    pub(super) routes: Vec<Arc<Route>>,
}

/// How well a route suits a client that it does not refuse: the greater wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fit {
    /// The longest `allow` prefix that holds the source.
    pub(super) specificity: Option<u8>,
    /// The place of the client's first protocol that the route lists; last for a route that lists none.
    pub(super) protocol: Reverse<usize>,
}

impl Fit {
    /// The place that stands for "any protocol".
    pub(super) const ANY_PROTOCOL: Reverse<usize> = Reverse(usize::MAX);
}

/// Why a route refuses a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Objection {
    Source(SourceVerdict),
    Alpn,
}

impl RouteTable {
    /// Builds the table of the routes of one listener.
    ///
    /// # Errors
    /// Every place where two routes could match one client equally; one per route that overlaps an earlier one.
    pub fn new(routes: impl IntoIterator<Item = Arc<Route>>) -> Result<Self, Vec<Ambiguity>> {
        let mut table = Self::default();
        for route in routes {
            for claim in route.claims() {
                table.add(claim, Arc::clone(&route));
            }
        }
        let mut ambiguities: Vec<_> = table.candidates().flat_map(ambiguity::among).collect();
        if ambiguities.is_empty() {
            return Ok(table);
        }
        ambiguities.sort_by(|a, b| (&a.first, &a.second, &a.claim).cmp(&(&b.first, &b.second, &b.claim)));
        Err(ambiguities)
    }

    fn add(&mut self, claim: Claim, route: Arc<Route>) {
        let none = |claim| Candidates { claim, routes: Vec::with_capacity(1) };
        let candidates = match &claim {
            Claim::Pattern(ServerNamePattern::Exact(name)) => {
                self.exact.entry(name.clone()).or_insert_with(|| none(claim))
            }
            Claim::Pattern(ServerNamePattern::Wildcard(parent)) => {
                self.longest_wildcard = self.longest_wildcard.max(parent.as_str().len());
                self.wildcard.entry(parent.clone()).or_insert_with(|| none(claim))
            }
            Claim::Pattern(ServerNamePattern::Any) => self.any.get_or_insert_with(|| none(claim)),
            Claim::NoServerName => self.no_server_name.get_or_insert_with(|| none(claim)),
        };
        // Routes come one after the other: a name that a route lists twice finds the route in the last place.
        if !candidates.routes.last().is_some_and(|last| Arc::ptr_eq(last, &route)) {
            candidates.routes.push(route);
        }
    }

    /// Where a client goes that sent this server name and offers these protocols, from this address.
    pub fn decide(&self, name: &Sni, alpn: &[AlpnProtocol], source: IpAddr) -> Decision<'_> {
        self.asked(name).map_or_else(Decision::Refuse, |candidates| candidates.decide(alpn, source))
    }

    /// The routes among which source and protocols decide for a client that sent this server name; none for one that is
    /// refused whatever they are.
    pub fn routes_of(&self, name: &Sni) -> &[Arc<Route>] {
        self.asked(name).map_or(&[], |candidates| &candidates.routes)
    }

    fn asked(&self, name: &Sni) -> Result<&Candidates, Refusal> {
        match name {
            Sni::Name(name) => self.matching(name).next().ok_or(Refusal::UnknownServerName),
            Sni::Absent => self.no_server_name.as_ref().ok_or(Refusal::NoServerName),
            Sni::Invalid(_) => Err(Refusal::ServerNameInvalid),
        }
    }

    /// The candidates of every pattern that matches `name`, best first.
    pub(super) fn matching(&self, name: &ServerName) -> impl Iterator<Item = &Candidates> {
        let suffixes = name.parents().filter(|parent| parent.len() <= self.longest_wildcard);
        let wildcards = suffixes.filter_map(|parent| self.wildcard.get(parent));
        self.exact.get(name).into_iter().chain(wildcards).chain(&self.any)
    }

    /// The candidates of clients without a name.
    pub(super) fn nameless(&self) -> Option<&Candidates> {
        self.no_server_name.as_ref()
    }

    /// The candidates of every claim, in no order.
    pub(super) fn candidates(&self) -> impl Iterator<Item = &Candidates> {
        self.exact.values().chain(self.wildcard.values()).chain(&self.any).chain(&self.no_server_name)
    }
}

impl Candidates {
    pub(super) fn decide(&self, alpn: &[AlpnProtocol], source: IpAddr) -> Decision<'_> {
        let mut best: Option<(Fit, &Arc<Route>)> = None;
        let mut refusal = Refusal::SourceDenied;
        for route in &self.routes {
            match judge(route, alpn, source) {
                Ok(fit) if best.is_none_or(|(other, _)| fit > other) => best = Some((fit, route)),
                Ok(_) | Err(Objection::Source(_)) => {}
                Err(Objection::Alpn) => refusal = Refusal::AlpnDenied,
            }
        }
        best.map_or(Decision::Refuse(refusal), |(_, route)| Decision::Route(route))
    }
}

/// How well a route suits a client that asked for one of its names, or why it refuses; the source is asked first.
pub(super) fn judge(route: &Route, alpn: &[AlpnProtocol], source: IpAddr) -> Result<Fit, Objection> {
    let specificity = match route.sources.judge(source) {
        SourceVerdict::Allowed { specificity } => specificity,
        verdict => return Err(Objection::Source(verdict)),
    };
    if route.alpn.is_empty() {
        return Ok(Fit { specificity, protocol: Fit::ANY_PROTOCOL });
    }
    let place = alpn.iter().position(|protocol| route.alpn.contains(protocol)).ok_or(Objection::Alpn)?;
    Ok(Fit { specificity, protocol: Reverse(place) })
}
