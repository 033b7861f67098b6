//! What is in force: the configuration with the upstreams and the limits that run for it. Immutable: a reload swaps all of
//! it at once, so that no client is judged by one configuration and led by another.

use std::sync::Arc;

use crate::config::Listener;
use crate::limits::Limits;
pub use crate::observe::story::{Door, Doorplate};
use crate::routing::UpstreamId;
use crate::upstream::Upstream;

/// What a client is judged by and led to.
#[derive(Debug)]
pub struct Snapshot {
    listeners: Vec<(Arc<Doorplate>, Arc<Listener>)>,
    upstreams: Vec<Arc<Upstream>>,
    /// What is counted for all workers together.
    pub limits: Arc<Limits>,
}

/// Where a client came in, and what was in force then.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// Where that is, for as long as the client stays.
    pub plate: Arc<Doorplate>,
    /// The listener, as it was configured then.
    pub listener: Arc<Listener>,
    /// What it is judged by.
    pub snapshot: Arc<Snapshot>,
}

impl Snapshot {
    /// Of listeners with the sockets that they have, running upstreams as routes number them, and limits.
    pub fn new(
        listeners: impl IntoIterator<Item = (Door, Listener)>,
        upstreams: Vec<Arc<Upstream>>,
        limits: Arc<Limits>,
    ) -> Self {
        let with_plate = |(door, listener): (_, Listener)| {
            (Arc::new(Doorplate { door, listener: Arc::clone(&listener.name) }), Arc::new(listener))
        };
        Self { listeners: listeners.into_iter().map(with_plate).collect(), upstreams, limits }
    }

    /// The entrance by these sockets, if a listener has them now.
    pub fn entrance(self: &Arc<Self>, door: Door) -> Option<Entrance> {
        let (plate, listener) = self.listeners.iter().find(|(plate, _)| plate.door == door)?;
        let (plate, listener) = (Arc::clone(plate), Arc::clone(listener));
        Some(Entrance { plate, listener, snapshot: Arc::clone(self) })
    }

    /// The upstream that a route of one of the listeners leads to.
    pub fn upstream(&self, id: UpstreamId) -> &Arc<Upstream> {
        &self.upstreams[id.0]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::Config;
    use crate::limits::Plan;

    /// A snapshot of this configuration in which no upstream runs; its listeners have the doors from 0 on.
    pub(crate) fn snapshot(config: &Config) -> Arc<Snapshot> {
        let doors = config.listeners.iter().cloned().enumerate();
        let limits = Limits::new(config, &Plan::of(config, 1 << 16).unwrap());
        let listeners = doors.map(|(door, listener)| (Door(door), listener));
        Arc::new(Snapshot::new(listeners, Vec::new(), Arc::new(limits)))
    }

    /// A configuration with one of everything.
    pub(crate) fn config() -> Config {
        let yaml = "
            listeners: [{ address: '127.0.0.1:0' }]
            routes: [{ server_names: [a.test], upstream: up }]
            upstreams: { up: { endpoints: ['127.0.0.1:1'] } }";
        Config::parse(yaml).unwrap()
    }

    /// The entrance of its listener.
    pub(crate) fn entrance() -> Entrance {
        snapshot(&config()).entrance(Door(0)).unwrap()
    }

    #[test]
    fn a_door_leads_to_its_listener_or_to_nobody() {
        let snapshot = snapshot(&config());
        assert_eq!(&*snapshot.entrance(Door(0)).unwrap().listener.name, "127.0.0.1:0");
        assert!(snapshot.entrance(Door(1)).is_none());
    }
}
