//! The table against a plain reading of its rules, over small random tables in which everything collides.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use proptest::prelude::*;

use super::super::{Decision, Refusal, Route, RouteTable, SourceList};
use super::route;
use crate::hello::{AlpnProtocol, Sni};
use crate::server_name::ServerNamePattern;

/// A route as the configuration has it, its networks not yet flattened.
#[derive(Clone, Debug)]
struct Written {
    patterns: Vec<ServerNamePattern>,
    no_server_name: bool,
    allow: Option<Vec<IpNet>>,
    deny: Vec<IpNet>,
    alpn: Vec<AlpnProtocol>,
}

impl Written {
    fn route(&self, name: &str) -> Arc<Route> {
        Arc::new(Route {
            server_names: self.patterns.clone(),
            no_server_name: self.no_server_name,
            sources: SourceList::new(self.allow.as_deref(), &self.deny),
            alpn: self.alpn.clone(),
            ..route(name, "").route
        })
    }

    /// The specificity by which the source is admitted, by trying every network.
    fn admits(&self, source: IpAddr) -> Option<Option<u8>> {
        let longest = |networks: &[IpNet]| {
            networks.iter().filter(|network| network.contains(&source)).map(IpNet::prefix_len).max()
        };
        let allow = self.allow.as_deref().map(longest);
        let deny = longest(&self.deny);
        match allow {
            Some(None) => None,
            None => deny.is_none().then_some(None),
            Some(Some(allow)) => deny.is_none_or(|deny| allow > deny).then_some(Some(allow)),
        }
    }

    /// `None` if the route refuses the protocols, else the place of the first that it lists; the last for any.
    fn takes(&self, offered: &[AlpnProtocol]) -> Option<usize> {
        if self.alpn.is_empty() {
            return Some(usize::MAX);
        }
        offered.iter().position(|protocol| self.alpn.contains(protocol))
    }

    fn rank(&self, source: IpAddr, offered: &[AlpnProtocol]) -> Option<(Option<u8>, Reverse<usize>)> {
        Some((self.admits(source)?, Reverse(self.takes(offered)?)))
    }

    /// How good the best of its patterns for the name is.
    fn precedence(&self, name: &Sni) -> Option<(u8, usize)> {
        let Sni::Name(name) = name else { return self.no_server_name.then_some((0, 0)) };
        let matching = self.patterns.iter().filter(|pattern| pattern.matches(name));
        matching.map(precedence).max()
    }
}

fn precedence(pattern: &ServerNamePattern) -> (u8, usize) {
    match pattern {
        ServerNamePattern::Exact(_) => (2, 0),
        ServerNamePattern::Wildcard(parent) => (1, parent.as_str().split('.').count()),
        ServerNamePattern::Any => (0, 0),
    }
}

/// The places of the routes that win: several if the table is ambiguous for this client.
fn winners(routes: &[Written], name: &Sni, offered: &[AlpnProtocol], source: IpAddr) -> Result<Vec<usize>, Refusal> {
    let best = routes.iter().filter_map(|route| route.precedence(name)).max();
    let Some(best) = best else {
        return Err(if *name == Sni::Absent { Refusal::NoServerName } else { Refusal::UnknownServerName });
    };
    let asked: Vec<_> = (0..routes.len()).filter(|place| routes[*place].precedence(name) == Some(best)).collect();
    let highest = asked.iter().filter_map(|place| routes[*place].rank(source, offered)).max();
    match highest {
        Some(_) => Ok(asked.into_iter().filter(|place| routes[*place].rank(source, offered) == highest).collect()),
        None if asked.iter().any(|place| routes[*place].admits(source).is_some()) => Err(Refusal::AlpnDenied),
        None => Err(Refusal::SourceDenied),
    }
}

/// Networks of few bits, so that they nest, meet and repeat; some with host bits.
fn network() -> impl Strategy<Value = IpNet> {
    let v4 = (0..8_u32, 0..=3_u8, any::<bool>())
        .prop_map(|(bits, prefix, host)| IpNet::new(Ipv4Addr::from((bits << 29) | u32::from(host)).into(), prefix));
    let v6 = (0..4_u128, 0..=2_u8).prop_map(|(bits, prefix)| IpNet::new(Ipv6Addr::from(bits << 126).into(), prefix));
    prop_oneof![3 => v4, 1 => v6].prop_map(Result::unwrap)
}

fn protocols() -> impl Strategy<Value = Vec<AlpnProtocol>> {
    proptest::collection::vec(prop_oneof![Just("h2"), Just("h3"), Just("x")].prop_map(|p| p.parse().unwrap()), 0..3)
}

fn written() -> impl Strategy<Value = Written> {
    let pattern = prop_oneof![Just("*"), Just("*.c"), Just("*.b.c"), Just("b.c"), Just("a.b.c")];
    (
        proptest::collection::vec(pattern.prop_map(|pattern| pattern.parse().unwrap()), 0..3),
        any::<bool>(),
        proptest::option::of(proptest::collection::vec(network(), 0..3)),
        proptest::collection::vec(network(), 0..3),
        protocols(),
    )
        .prop_map(|(patterns, no_server_name, allow, deny, alpn)| Written {
            patterns,
            no_server_name,
            allow,
            deny,
            alpn,
        })
}

/// One address of each area that [`network`] can tell apart.
fn every_source() -> Vec<IpAddr> {
    let v4 = (0..8_u32).map(|bits| Ipv4Addr::from((bits << 29) | 5).into());
    v4.chain((0..4_u128).map(|bits| Ipv6Addr::from((bits << 126) | (1 << 100)).into())).collect()
}

fn every_name() -> Vec<Sni> {
    let names = ["c", "b.c", "a.b.c", "x.c", "x.b.c", "x.a.b.c", "d"];
    names.iter().map(|name| Sni::Name(name.parse().unwrap())).chain([Sni::Absent]).collect()
}

/// Every ordered choice of up to two of the protocols, and all of them: enough to make any two routes meet.
fn every_offer() -> Vec<Vec<AlpnProtocol>> {
    let all: Vec<AlpnProtocol> = ["h2", "h3", "x"].iter().map(|p| p.parse().unwrap()).collect();
    let singles = all.iter().map(|one| vec![one.clone()]);
    let pairs = all.iter().flat_map(|one| all.iter().map(|two| vec![one.clone(), two.clone()]));
    [Vec::new(), all.clone()].into_iter().chain(singles).chain(pairs).collect()
}

/// Pairs of places of which some client matches both equally, whoever else it matches.
fn ties(routes: &[Written]) -> BTreeSet<(usize, usize)> {
    let claims = |route: &Written| -> BTreeSet<Option<ServerNamePattern>> {
        let nameless = route.no_server_name.then_some(None);
        route.patterns.iter().cloned().map(Some).chain(nameless).collect()
    };
    let mut found = BTreeSet::new();
    for second in 0..routes.len() {
        for first in 0..second {
            let (a, b) = (&routes[first], &routes[second]);
            let equal = |source: IpAddr| {
                every_offer()
                    .iter()
                    .any(|offer| a.rank(source, offer).is_some_and(|rank| b.rank(source, offer) == Some(rank)))
            };
            if !claims(a).is_disjoint(&claims(b)) && every_source().into_iter().any(equal) {
                found.insert((first, second));
            }
        }
    }
    found
}

fn place(name: &str) -> usize {
    name.parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn tables_answer_as_their_rules_read(routes in proptest::collection::vec(written(), 0..5)) {
        let named = routes.iter().enumerate().map(|(place, written)| written.route(&place.to_string()));
        let expected = ties(&routes);
        let table = match RouteTable::new(named) {
            Ok(table) => table,
            Err(ambiguities) => {
                let pairs: BTreeSet<_> = ambiguities.iter().map(|it| (place(&it.first), place(&it.second))).collect();
                prop_assert!(pairs.is_subset(&expected), "{pairs:?} of {expected:?}");
                for it in ambiguities {
                    // The example holds: from there, with that protocol, both are equal.
                    let offer: Vec<_> = it.protocol.into_iter().collect();
                    let [a, b] = [&it.first, &it.second].map(|name| routes[place(name)].rank(it.source.addr(), &offer));
                    prop_assert!(a.is_some() && a == b);
                }
                // Every route that ties with an earlier one, or an earlier one with it, is in some report.
                let reported: BTreeSet<_> = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
                prop_assert_eq!(reported, expected.iter().flat_map(|(a, b)| [*a, *b]).collect());
                return Ok(());
            }
        };
        prop_assert!(expected.is_empty(), "not reported: {expected:?}");

        let mut reached = BTreeSet::new();
        for name in every_name() {
            for source in every_source() {
                for offer in every_offer() {
                    let answer = match table.decide(&name, &offer, source) {
                        Decision::Route(route) => Ok(vec![place(&route.name)]),
                        Decision::Refuse(refusal) => Err(refusal),
                    };
                    let expected = winners(&routes, &name, &offer, source);
                    prop_assert_eq!(&answer, &expected, "{:?} {:?} {}", name, offer, source);
                    let explained = table.explain(&name, &offer, source);
                    let explained = explained.decision().map(|route| vec![place(&route.name)]);
                    prop_assert_eq!(&explained, &answer);
                    reached.extend(answer.into_iter().flatten());
                }
            }
        }
        // The names above reach every claim, so what never answered is exactly what is out of reach everywhere.
        let unreached = table.unreached(&SourceList::everyone());
        for (place, written) in routes.iter().enumerate() {
            let claims = written.route("").claims().collect::<BTreeSet<_>>();
            let out: BTreeSet<_> =
                unreached.iter().filter(|it| it.route.name.parse() == Ok(place)).map(|it| it.claim.clone()).collect();
            prop_assert_eq!(reached.contains(&place), out != claims, "{}: {:?}", place, unreached);
        }
    }

    #[test]
    fn source_lists_answer_as_every_network_asked_in_turn(
        allow in proptest::option::of(proptest::collection::vec(any_network(), 0..12)),
        deny in proptest::collection::vec(any_network(), 0..12),
        others in proptest::collection::vec(any::<IpAddr>(), 8),
    ) {
        let list = SourceList::new(allow.as_deref(), &deny);
        let written = Written { patterns: vec![], no_server_name: false, allow, deny, alpn: vec![] };
        let networks = written.allow.iter().flatten().chain(&written.deny);
        // The borders of every network from both sides, and some addresses anywhere.
        let ends = networks.flat_map(|network| [network.network(), network.broadcast()]);
        let mut anybody = false;
        for source in ends.flat_map(beside).chain(others) {
            let admitted = written.admits(source.to_canonical());
            let verdict = match list.judge(source) {
                super::super::SourceVerdict::Allowed { specificity } => Some(specificity),
                _ => None,
            };
            prop_assert_eq!(verdict, admitted, "{}", source);
            prop_assert_eq!(list.admits(source), admitted.is_some());
            anybody |= admitted.is_some();
        }
        prop_assert!(!(anybody && list.admits_nobody()));
        for area in list.admitted() {
            for source in [area.first, area.last] {
                if source == source.to_canonical() {
                    prop_assert_eq!(written.admits(source), Some(area.specificity), "{}", source);
                }
            }
        }
    }
}

/// Networks of any length around few addresses. None IPv4-mapped: those have tests of their own.
fn any_network() -> impl Strategy<Value = IpNet> {
    let v4 = (prop_oneof![any::<u32>(), Just(0), Just(u32::MAX), Just(0x0a00_0000)], 0..=32_u8)
        .prop_map(|(address, prefix)| IpNet::new(Ipv4Addr::from(address).into(), prefix));
    let v6 = (prop_oneof![Just(1_u128 << 100), Just(u128::MAX), Just(0x2001_0db8 << 96)], 0..=128_u8)
        .prop_map(|(address, prefix)| IpNet::new(Ipv6Addr::from(address).into(), prefix));
    prop_oneof![v4, v6].prop_map(Result::unwrap)
}

fn beside(address: IpAddr) -> Vec<IpAddr> {
    match address {
        IpAddr::V4(v4) => [-1, 0, 1].map(|step| Ipv4Addr::from(u32::from(v4).wrapping_add_signed(step)).into()).into(),
        IpAddr::V6(v6) => [-1, 0, 1].map(|step| Ipv6Addr::from(u128::from(v6).wrapping_add_signed(step)).into()).into(),
    }
}
