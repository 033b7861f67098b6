//! [`SourceList`]: which source addresses a route or a listener admits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// `allow` and `deny` networks, flattened into sorted ranges so that judging an address is one binary search.
///
/// The longest prefix that holds the address decides between the two; at equal length `deny` does. An absent `allow`
/// admits every source and counts as shorter than `/0`; an empty one admits nobody. Networks are taken without their
/// host bits. IPv4-mapped IPv6 addresses and networks (`::ffff:0:0/96` and longer) mean IPv4; a shorter IPv6 network,
/// `::/0` included, holds IPv6 sources only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceList {
    /// No `allow` was given.
    open: bool,
    v4: Steps<u32>,
    v6: Steps<u128>,
}

/// What a [`SourceList`] says of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceVerdict {
    /// Admitted.
    Allowed {
        /// The longest `allow` prefix that holds it; none if there is no `allow`, which sorts below every prefix.
        specificity: Option<u8>,
    },
    /// No network of `allow` holds it.
    NotAllowed,
    /// A network of `deny` holds it, and no longer one of `allow`.
    Denied {
        /// The longest `deny` prefix that holds it.
        deny: u8,
        /// The longest `allow` prefix that holds it.
        allow: Option<u8>,
    },
}

/// A step function over the addresses of one family: what matches from each start up to the next one. Before the first
/// start nothing matches.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Steps<A> {
    starts: Box<[A]>,
    matches: Box<[Matches]>,
}

/// The longest prefixes of both lists that hold an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Matches {
    allow: Option<u8>,
    deny: Option<u8>,
}

/// A network as the numbers of its first and last address.
struct Span {
    first: u128,
    last: u128,
    prefix: u8,
    denies: bool,
}

impl SourceList {
    /// Flattens the two lists; `None` for `allow` means that every source is admitted unless denied.
    pub fn new(allow: Option<&[IpNet]>, deny: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let allowed = allow.into_iter().flatten().map(|network| (network, false));
        for (network, denies) in allowed.chain(deny.iter().map(|network| (network, true))) {
            match canonical(*network) {
                IpNet::V4(network) => v4.push(Span::of_v4(network, denies)),
                IpNet::V6(network) => v6.push(Span::of_v6(network, denies)),
            }
        }
        // A step past the last IPv4 address begins nowhere.
        let v4 = flatten(v4).into_iter().filter_map(|(start, matches)| Some((u32::try_from(start).ok()?, matches)));
        Self { open: allow.is_none(), v4: v4.collect(), v6: flatten(v6).into_iter().collect() }
    }

    /// The list without `allow` and `deny`: every source is admitted.
    pub fn everyone() -> Self {
        Self::new(None, &[])
    }

    /// Whether `source` is admitted, and by how long a prefix.
    pub fn judge(&self, source: IpAddr) -> SourceVerdict {
        self.weigh(match source.to_canonical() {
            IpAddr::V4(address) => self.v4.at(u32::from(address)),
            IpAddr::V6(address) => self.v6.at(u128::from(address)),
        })
    }

    /// Whether `source` is admitted.
    pub fn admits(&self, source: IpAddr) -> bool {
        matches!(self.judge(source), SourceVerdict::Allowed { .. })
    }

    /// Whether no source at all is admitted.
    pub fn admits_nobody(&self) -> bool {
        self.admitted().next().is_none()
    }

    /// The addresses admitted, as disjoint areas of one specificity each, IPv4 first, in ascending order.
    pub(super) fn admitted(&self) -> impl Iterator<Item = Area> {
        let v4 = self.v4.pieces(0..=u32::MAX, |start| start - 1);
        let v6 = self.v6.pieces(0..=u128::MAX, |start| start - 1);
        let v4 = v4.map(|(first, last, here)| (Ipv4Addr::from(first).into(), Ipv4Addr::from(last).into(), here));
        let v6 = v6.map(|(first, last, here)| (Ipv6Addr::from(first).into(), Ipv6Addr::from(last).into(), here));
        v4.chain(v6).filter_map(|(first, last, matches)| match self.weigh(matches) {
            SourceVerdict::Allowed { specificity } => Some(Area { first, last, specificity }),
            SourceVerdict::NotAllowed | SourceVerdict::Denied { .. } => None,
        })
    }

    fn weigh(&self, matches: Matches) -> SourceVerdict {
        match matches {
            Matches { allow: None, .. } if !self.open => SourceVerdict::NotAllowed,
            Matches { allow, deny: Some(deny) } if Some(deny) >= allow => SourceVerdict::Denied { deny, allow },
            Matches { allow, .. } => SourceVerdict::Allowed { specificity: allow },
        }
    }
}

impl<A: Copy + Ord> Steps<A> {
    fn at(&self, address: A) -> Matches {
        let begun = self.starts.partition_point(|start| *start <= address);
        begun.checked_sub(1).map_or_else(Matches::default, |step| self.matches[step])
    }

    /// Every piece of the function on `all` as its first and last address; `before` is the address before another.
    fn pieces(&self, all: RangeInclusive<A>, before: impl Fn(A) -> A) -> impl Iterator<Item = (A, A, Matches)> {
        let (lowest, highest) = all.into_inner();
        let starts = || self.starts.iter().copied();
        let nothing_first = starts().next() != Some(lowest);
        let firsts = nothing_first.then_some(lowest).into_iter().chain(starts());
        let lasts = starts().filter(move |start| *start > lowest).map(before).chain([highest]);
        let matches = nothing_first.then(Matches::default).into_iter().chain(self.matches.iter().copied());
        firsts.zip(lasts).zip(matches).map(|((first, last), matches)| (first, last, matches))
    }
}

impl<A> FromIterator<(A, Matches)> for Steps<A> {
    fn from_iter<I: IntoIterator<Item = (A, Matches)>>(steps: I) -> Self {
        let (starts, matches): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
        Self { starts: starts.into(), matches: matches.into() }
    }
}

impl Span {
    fn of_v4(network: Ipv4Net, denies: bool) -> Self {
        let first = u128::from(u32::from(network.network()));
        let last = u128::from(u32::from(network.broadcast()));
        Self { first, last, prefix: network.prefix_len(), denies }
    }

    fn of_v6(network: Ipv6Net, denies: bool) -> Self {
        let (first, last) = (network.network().into(), network.broadcast().into());
        Self { first, last, prefix: network.prefix_len(), denies }
    }
}

/// A network without host bits, IPv4 if it is IPv4-mapped.
fn canonical(network: IpNet) -> IpNet {
    let mapped = match network {
        // ::ffff:0:0/96 is the mapped range (RFC 4291, 2.5.5.2).
        IpNet::V6(v6) if v6.prefix_len() >= 96 => {
            v6.network().to_ipv4_mapped().and_then(|address| Ipv4Net::new(address, v6.prefix_len() - 96).ok())
        }
        _ => None,
    };
    mapped.map_or(network, IpNet::V4).trunc()
}

/// Sweeps over the networks once. Two networks are disjoint or one holds the other, so those around an address nest.
fn flatten(mut spans: Vec<Span>) -> Vec<(u128, Matches)> {
    spans.sort_unstable_by_key(|span| (span.first, span.prefix));
    let mut steps = Vec::with_capacity(2 * spans.len());
    // Last address of each network around the sweep's place, outermost first, and what matches in it.
    let mut around: Vec<(u128, Matches)> = Vec::new();
    for span in spans {
        leave(&mut around, &mut steps, |last| last < span.first);
        let mut matches = around.last().map_or_else(Matches::default, |(_, matches)| *matches);
        *(if span.denies { &mut matches.deny } else { &mut matches.allow }) = Some(span.prefix);
        steps.push((span.first, matches));
        around.push((span.last, matches));
    }
    leave(&mut around, &mut steps, |_| true);
    // Of several steps at one start the last one stands.
    steps.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 = next.1;
        }
        same
    });
    steps.dedup_by_key(|(_, matches)| *matches);
    steps
}

/// Leaves the innermost networks whose last address is passed: from there on the one around them holds.
fn leave(around: &mut Vec<(u128, Matches)>, steps: &mut Vec<(u128, Matches)>, passed: impl Fn(u128) -> bool) {
    while let Some((last, _)) = around.pop_if(|(last, _)| passed(*last)) {
        let matches = around.last().map_or_else(Matches::default, |(_, matches)| *matches);
        steps.extend(last.checked_add(1).map(|next| (next, matches)));
    }
}

/// Neighbouring addresses that a list admits with one specificity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) first: IpAddr,
    pub(super) last: IpAddr,
    pub(super) specificity: Option<u8>,
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ip, sources};
    use super::*;

    fn check(list: &str, cases: &[(&str, SourceVerdict)]) {
        for (source, expected) in cases {
            assert_eq!(sources(list).judge(ip(source)), *expected, "{list} / {source}");
        }
    }

    fn allowed(specificity: u8) -> SourceVerdict {
        SourceVerdict::Allowed { specificity: Some(specificity) }
    }

    const ANY: SourceVerdict = SourceVerdict::Allowed { specificity: None };
    const NO: SourceVerdict = SourceVerdict::NotAllowed;

    fn denied(deny: u8, allow: impl Into<Option<u8>>) -> SourceVerdict {
        SourceVerdict::Denied { deny, allow: allow.into() }
    }

    #[test]
    fn an_absent_allow_admits_everyone_and_an_empty_one_nobody() {
        check("", &[("192.0.2.1", ANY), ("::1", ANY), ("255.255.255.255", ANY), ("0.0.0.0", ANY)]);
        check("+", &[("192.0.2.1", NO), ("::1", NO)]);
        check("-10.0.0.0/8", &[("10.1.2.3", denied(8, None)), ("11.0.0.0", ANY), ("9.255.255.255", ANY), ("::1", ANY)]);
        check("-0.0.0.0/0", &[("10.1.2.3", denied(0, None)), ("::1", ANY)]);
        assert_eq!(SourceList::everyone(), sources(""));
    }

    #[test]
    fn the_longest_prefix_decides_and_a_tie_denies() {
        check(
            "+10.0.0.0/8 -10.1.0.0/16 +10.1.2.0/24 -10.1.2.3/32",
            &[
                ("10.0.0.1", allowed(8)),
                ("10.1.0.1", denied(16, 8)),
                ("10.1.2.1", allowed(24)),
                ("10.1.2.3", denied(32, 24)),
                ("10.1.2.4", allowed(24)),
                ("10.1.3.0", denied(16, 8)),
                ("10.2.0.0", allowed(8)),
                ("11.0.0.0", NO),
            ],
        );
        check("+10.0.0.0/8 -10.0.0.0/8", &[("10.0.0.1", denied(8, 8)), ("11.0.0.1", NO)]);
        check("+10.0.0.0/9 -10.0.0.0/8", &[("10.0.0.1", allowed(9)), ("10.128.0.0", NO)]);
        check("+0.0.0.0/0 -0.0.0.0/0", &[("10.0.0.1", denied(0, 0)), ("::1", NO)]);
        check("+10.0.0.0/8 +10.0.0.0/8", &[("10.0.0.1", allowed(8))]);
    }

    #[test]
    fn networks_may_reach_both_ends_of_the_address_space() {
        check(
            "+0.0.0.0/8 +255.255.255.0/24 -255.255.255.255/32 +ffff::/16 +::/128",
            &[
                ("0.0.0.0", allowed(8)),
                ("1.0.0.0", NO),
                ("255.255.255.254", allowed(24)),
                ("255.255.255.255", denied(32, 24)),
                ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", allowed(16)),
                ("::", allowed(128)),
                ("::1", NO),
            ],
        );
    }

    #[test]
    fn ipv4_mapped_addresses_and_networks_mean_ipv4() {
        check("+10.0.0.0/8", &[("::ffff:10.1.2.3", allowed(8)), ("::ffff:11.0.0.0", NO), ("::10.1.2.3", NO)]);
        check("+::ffff:10.0.0.0/104", &[("10.1.2.3", allowed(8)), ("::ffff:10.1.2.3", allowed(8)), ("11.0.0.1", NO)]);
        check("+::ffff:0:0/96", &[("192.0.2.1", allowed(0)), ("::1", NO)]);
        check("+::ffff:192.0.2.1/128", &[("192.0.2.1", allowed(32)), ("192.0.2.2", NO)]);
        check("+0.0.0.0/0 -::ffff:10.9.9.9/104", &[("10.0.0.1", denied(8, 0)), ("192.0.2.1", allowed(0))]);
        // A shorter IPv6 network says nothing of IPv4.
        check("+::/0", &[("192.0.2.1", NO), ("::ffff:192.0.2.1", NO), ("2001:db8::1", allowed(0))]);
        check("-::/0", &[("192.0.2.1", ANY), ("2001:db8::1", denied(0, None))]);
    }

    #[test]
    fn host_bits_do_not_count() {
        assert_eq!(sources("+10.1.2.3/8 -10.255.0.1/16"), sources("+10.0.0.0/8 -10.255.0.0/16"));
        assert_eq!(sources("+2001:db8::1/32"), sources("+2001:db8::/32"));
    }

    #[test]
    fn who_is_admitted_at_all_is_known() {
        for (list, nobody) in [
            ("", false),
            ("+", true),
            ("+10.0.0.0/8", false),
            ("+10.0.0.0/8 -10.0.0.0/8", true),
            ("+10.0.0.0/8 -10.0.0.0/9 -10.128.0.0/9", true),
            ("+10.0.0.0/8 -10.0.0.0/9 -10.128.0.0/10", false),
            ("-0.0.0.0/0", false),
            ("-0.0.0.0/0 -::/0", true),
            ("-0.0.0.0/0 -::/1 -8000::/1", true),
        ] {
            assert_eq!(sources(list).admits_nobody(), nobody, "{list}");
        }
    }

    #[test]
    fn areas_are_split_where_the_specificity_changes() {
        let areas = |list: &str| -> Vec<_> {
            sources(list)
                .admitted()
                .map(|area| (area.first.to_string(), area.last.to_string(), area.specificity))
                .collect()
        };
        let area = |first: &str, last: &str, specificity| (first.to_owned(), last.to_owned(), specificity);
        const LAST: &str = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        assert_eq!(areas(""), [area("0.0.0.0", "255.255.255.255", None), area("::", LAST, None)]);
        assert_eq!(
            areas("+10.0.0.0/8 +10.64.0.0/10 -10.128.0.0/9 +8000::/1"),
            [
                area("10.0.0.0", "10.63.255.255", Some(8)),
                area("10.64.0.0", "10.127.255.255", Some(10)),
                area("8000::", LAST, Some(1)),
            ]
        );
        assert_eq!(areas("+10.0.0.0/9 +10.128.0.0/9"), [area("10.0.0.0", "10.255.255.255", Some(9))]);
        assert_eq!(areas("+"), []);
    }
}
