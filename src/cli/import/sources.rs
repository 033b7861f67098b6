//! Sets of source addresses, as disjoint networks: what `src` conditions select, and what is left of that.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A set of addresses of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SourceSet(Vec<IpNet>);

impl SourceSet {
    pub(super) fn nobody() -> Self {
        Self::default()
    }

    pub(super) fn everybody() -> Self {
        Self(vec![Ipv4Net::default().into(), Ipv6Net::default().into()])
    }

    pub(super) fn of(networks: &[IpNet]) -> Self {
        Self(networks.to_vec()).normal()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_everybody(&self) -> bool {
        *self == Self::everybody()
    }

    pub(super) fn networks(&self) -> &[IpNet] {
        &self.0
    }

    pub(super) fn or(&self, other: &Self) -> Self {
        Self([&self.0[..], &other.0[..]].concat()).normal()
    }

    pub(super) fn and(&self, other: &Self) -> Self {
        let pairs = self.0.iter().flat_map(|one| other.0.iter().map(move |two| (one, two)));
        let common = pairs.filter_map(|(one, two)| match (one.contains(two), two.contains(one)) {
            (true, _) => Some(*two),
            (_, true) => Some(*one),
            _ => None,
        });
        Self(common.collect()).normal()
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        let mut left = self.0.clone();
        for hole in &other.0 {
            left = left.into_iter().flat_map(|network| cut(network, hole)).collect();
        }
        Self(left).normal()
    }

    /// Equal sets are equal values then.
    fn normal(self) -> Self {
        let mut networks = IpNet::aggregate(&self.0);
        networks.sort_unstable();
        Self(networks)
    }
}

/// The parts of `network` that are outside of `hole`: at each prefix on the way to the hole, the other half.
fn cut(network: IpNet, hole: &IpNet) -> Vec<IpNet> {
    if hole.contains(&network) {
        return Vec::new();
    }
    if !network.contains(hole) {
        return vec![network];
    }
    let mut parts = Vec::new();
    let mut around = network;
    while around != *hole {
        let Ok(halves) = around.subnets(around.prefix_len() + 1) else { break };
        for half in halves {
            if half.contains(hole) {
                around = half;
            } else {
                parts.push(half);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(networks: &[&str]) -> SourceSet {
        SourceSet::of(&networks.iter().map(|network| network.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn sets_are_added_cut_and_compared() {
        let (ten, one, other) = (set(&["10.0.0.0/8"]), set(&["10.1.2.3/32"]), set(&["2001:db8::/32"]));
        assert_eq!(ten.or(&one), ten);
        assert_eq!(ten.and(&one), one);
        assert!(ten.and(&other).is_empty());
        let cut = ten.without(&one);
        assert_eq!(cut.networks().len(), 24);
        assert!(cut.and(&one).is_empty());
        assert_eq!(cut.or(&one), ten);
        assert!(SourceSet::everybody().without(&ten).or(&ten).is_everybody());
        assert!(one.without(&ten).is_empty());
        assert_eq!(set(&["10.0.0.0/9", "10.128.0.0/9"]), ten);
    }
}
