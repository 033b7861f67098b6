//! The endpoints of an upstream as they stand, to choose from: made anew whenever one of them changes, and read by all
//! workers without a lock.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::balance::{Circumstances, Member, Standing, Tiers, key_of, ramp};
use super::endpoint::Endpoint;
use crate::config::Balance;

/// An endpoint in its present standing.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// The `host:port` it was found as. The addresses of one host share it.
    pub target: Arc<str>,
    /// Its share of the connections, relative to the other endpoints.
    pub weight: u32,
    /// Whether it is used only when no other endpoint can be.
    pub backup: bool,
    /// Whether it may be chosen.
    pub standing: Standing,
    /// When it came back, if it did so lately: slow start counts from there.
    pub back_since: Option<Instant>,
}

impl Placed {
    /// Whether the other is the same host by another family of addresses.
    fn is_sibling_of(&self, other: &Self) -> bool {
        self.target == other.target && self.endpoint.address.is_ipv4() != other.endpoint.address.is_ipv4()
    }
}

/// Why nobody can be chosen, none having been tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// No name has an address.
    Addresses,
    /// Nobody has proved who it is.
    Proof,
}

#[derive(Debug)]
pub(super) struct Choice {
    placed: Vec<Placed>,
    tiers: Tiers,
    slow_start: Duration,
    /// An endpoint may be in its slow start.
    starting: bool,
    /// Names are being resolved or endpoints probed for the first time, so that waiting may help.
    pub(super) is_young: bool,
}

impl Choice {
    pub(super) fn new(
        balance: Balance,
        slow_start: Duration,
        placed: Vec<Placed>,
        is_young: bool,
        seed: usize,
    ) -> Self {
        let member = |placed: &Placed| {
            let member = Member { key: key_of(placed.endpoint.address), weight: placed.weight };
            (member, placed.standing, placed.backup)
        };
        let tiers = Tiers::new(balance, &placed.iter().map(member).collect::<Vec<_>>(), seed);
        let starting = placed.iter().any(|placed| placed.back_since.is_some());
        Self { placed, tiers, slow_start, starting, is_young }
    }

    /// The endpoints.
    pub(super) fn placed(&self) -> &[Placed] {
        &self.placed
    }

    /// The endpoint for the next attempt.
    pub(super) fn pick(&self, source: IpAddr, tried: &[SocketAddr]) -> Option<&Arc<Endpoint>> {
        let number = |address| self.placed.iter().position(|placed| placed.endpoint.address == address);
        let tried: Vec<_> = tried.iter().copied().filter_map(number).collect();
        let now = self.starting.then(Instant::now);
        let ramp = |at: usize| match (now, self.placed[at].back_since) {
            (Some(now), Some(since)) => ramp(now.saturating_duration_since(since), self.slow_start),
            _ => 1.0,
        };
        let load = |at: usize| self.placed[at].endpoint.open();
        let picked = self.tiers.pick(&Circumstances { source, tried: &tried, load: &load, ramp: &ramp });
        picked.map(|at| &self.placed[at].endpoint)
    }

    /// The same host by the other family, if it stands as well and was not tried.
    pub(super) fn sibling(&self, of: &Endpoint, tried: &[SocketAddr]) -> Option<&Arc<Endpoint>> {
        let own = self.placed.iter().find(|placed| placed.endpoint.address == of.address)?;
        let is_fit = |other: &&Placed| {
            other.is_sibling_of(own) && other.standing == own.standing && !tried.contains(&other.endpoint.address)
        };
        self.placed.iter().find(is_fit).map(|other| &other.endpoint)
    }
    /// The same, and waiting does not help.
    pub(super) fn grown_old(self) -> Self {
        Self { is_young: false, ..self }
    }

    /// Why nobody can be picked, if nobody was tried.
    pub(super) fn lack(&self) -> Lack {
        if self.placed.is_empty() { Lack::Addresses } else { Lack::Proof }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(address: &str, target: &str) -> Placed {
        Placed {
            endpoint: Arc::new(Endpoint::new(address.parse().unwrap())),
            target: target.into(),
            weight: 1,
            backup: false,
            standing: Standing::Up,
            back_since: None,
        }
    }

    #[test]
    fn a_sibling_that_stands_otherwise_is_not_tried_beside() {
        let [four, six] = [("192.0.2.1:1", "a:1"), ("[2001:db8::1]:1", "a:1")].map(|(a, t)| placed(a, t));
        for (standing, fits) in
            [(Standing::Up, true), (Standing::Down, false), (Standing::Unverified, false), (Standing::Draining, false)]
        {
            let all = vec![four.clone(), Placed { standing, ..six.clone() }];
            let choice = Choice::new(Balance::RoundRobin, Duration::ZERO, all, false, 0);
            let addresses = [&four, &six].map(|one| one.endpoint.address);
            assert_eq!(choice.sibling(&four.endpoint, &addresses[..1]).is_some(), fits, "{standing}");
            assert!(choice.sibling(&four.endpoint, &addresses).is_none(), "it was tried");
        }
    }

    #[test]
    fn siblings_are_one_host_by_both_families() {
        let [four, six, other] = [("192.0.2.1:1", "a:1"), ("[2001:db8::1]:1", "a:1"), ("[2001:db8::2]:1", "b:1")]
            .map(|(address, target)| placed(address, target));
        assert!(four.is_sibling_of(&six) && six.is_sibling_of(&four));
        assert!(!four.is_sibling_of(&four) && !four.is_sibling_of(&other));
    }
}
