//! Upstreams as they run: their endpoints with the connections each has, and the choice among them.

pub mod balance;
mod connect;
pub mod names;
mod resolve;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::config::{self, EndpointAddress};
pub use connect::{ConnectError, Connection, UserTimeout, connect, keep_alive};
use resolve::Resolver;

/// A named set of endpoints and how to reach them. Workers share it.
#[derive(Debug)]
pub struct Upstream {
    /// The name in the configuration.
    pub name: Arc<str>,
    endpoints: Vec<Arc<Endpoint>>,
    connect_timeout: Duration,
    attempts: usize,
    user_timeout: UserTimeout,
    /// Where the next search starts, so that ties take turns.
    turn: AtomicUsize,
}

/// One address of an upstream.
#[derive(Debug)]
pub struct Endpoint {
    address: EndpointAddress,
    resolver: Resolver,
    weight: u32,
    backup: bool,
    /// Connections open or being opened.
    open: AtomicUsize,
}

/// A connection's share of an endpoint, counted for as long as this lives.
#[derive(Debug)]
pub struct Lease(Arc<Endpoint>);

impl Lease {
    fn take(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(endpoint))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Upstream {
    /// An upstream as configured, with no connections.
    pub fn new(config: &config::Upstream) -> Self {
        let endpoint = |endpoint: &config::Endpoint| {
            Arc::new(Endpoint {
                address: endpoint.address.clone(),
                resolver: Resolver::new(),
                weight: endpoint.weight,
                backup: endpoint.backup,
                open: AtomicUsize::new(0),
            })
        };
        Self {
            name: Arc::clone(&config.name),
            endpoints: config.endpoints.iter().map(endpoint).collect(),
            connect_timeout: config.connect_timeout,
            attempts: config.attempts.get(),
            user_timeout: config.user_timeout.into(),
            turn: AtomicUsize::new(0),
        }
    }

    /// The endpoint for the next attempt: of those not yet `tried` the one with fewest connections for its weight,
    /// primaries before backups. Ties take turns.
    fn pick(&self, tried: &[usize]) -> Option<usize> {
        let count = self.endpoints.len();
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..count).map(|step| start.wrapping_add(step) % count);
        in_turn.filter(|index| !tried.contains(index)).min_by(|&a, &b| {
            let (a, b) = (&self.endpoints[a], &self.endpoints[b]);
            a.backup.cmp(&b.backup).then_with(|| a.load_against(b).cmp(&b.load_against(a)))
        })
    }
}

impl Endpoint {
    /// This endpoint's load on the scale it shares with `other`: open/weight compares as open × the other's weight.
    /// The connection to come counts, so that empty endpoints compare by weight.
    fn load_against(&self, other: &Self) -> u64 {
        (self.open.load(Ordering::Relaxed) as u64 + 1) * u64::from(other.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(endpoints: &[(u32, bool)]) -> Upstream {
        let endpoint = |&(weight, backup): &(u32, bool)| {
            Arc::new(Endpoint {
                address: EndpointAddress::Ip(([127, 0, 0, 1], 1).into()),
                resolver: Resolver::new(),
                weight,
                backup,
                open: AtomicUsize::new(0),
            })
        };
        Upstream {
            name: "test".into(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            connect_timeout: Duration::from_secs(3),
            attempts: 3,
            user_timeout: Duration::ZERO.into(),
            turn: AtomicUsize::new(0),
        }
    }

    fn spread(upstream: &Upstream, connections: usize) -> Vec<usize> {
        let leases: Vec<_> =
            (0..connections).map(|_| Lease::take(&upstream.endpoints[upstream.pick(&[]).unwrap()])).collect();
        let open = upstream.endpoints.iter().map(|endpoint| endpoint.open.load(Ordering::Relaxed)).collect();
        drop(leases);
        assert!(upstream.endpoints.iter().all(|endpoint| endpoint.open.load(Ordering::Relaxed) == 0));
        open
    }

    #[test]
    fn connections_spread_by_weight() {
        assert_eq!(spread(&upstream(&[(1, false), (1, false), (1, false)]), 30), [10, 10, 10]);
        assert_eq!(spread(&upstream(&[(1, false), (2, false), (3, false)]), 60), [10, 20, 30]);
    }

    #[test]
    fn backups_wait_until_every_primary_was_tried() {
        let upstream = upstream(&[(1, true), (1, false), (1, false)]);
        assert_eq!(spread(&upstream, 20), [0, 10, 10]);
        assert_eq!(upstream.pick(&[1, 2]), Some(0));
        assert_eq!(upstream.pick(&[0, 1, 2]), None);
    }

    #[test]
    fn ties_take_turns() {
        let upstream = upstream(&[(1, false), (1, false)]);
        let picks: Vec<_> = (0..4).filter_map(|_| upstream.pick(&[])).collect();
        assert_eq!(picks, [0, 1, 0, 1]);
    }
}
