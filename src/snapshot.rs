//! What is in force: the configuration with the upstreams and the limits that run for it. Immutable: a reload swaps all of
//! it at once, so that no client is judged by one configuration and led by another.

use std::sync::Arc;

use crate::config::Listener;
use crate::limits::Limits;
use crate::routing::UpstreamId;
use crate::upstream::Upstream;

/// The sockets of a listener, however it is configured meanwhile. Numbers are never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Door(pub usize);

/// What a client is judged by and led to.
#[derive(Debug)]
pub struct Snapshot {
    /// The listeners, each with the sockets that it has.
    pub listeners: Vec<(Door, Arc<Listener>)>,
    /// The running upstreams, as routes number them.
    pub upstreams: Vec<Arc<Upstream>>,
    /// What is counted for all workers together.
    pub limits: Arc<Limits>,
}

/// Where a client came in, and what was in force then.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// The listener, as it was configured then.
    pub listener: Arc<Listener>,
    /// What it is judged by.
    pub snapshot: Arc<Snapshot>,
}

impl Snapshot {
    /// The entrance by these sockets, if a listener has them now.
    pub fn entrance(self: &Arc<Self>, door: Door) -> Option<Entrance> {
        let listener = Arc::clone(self.listener(door)?);
        Some(Entrance { listener, snapshot: Arc::clone(self) })
    }

    /// The listener that has these sockets now, if one does.
    pub fn listener(&self, door: Door) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|(own, _)| *own == door).map(|(_, listener)| listener)
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
        Arc::new(Snapshot {
            listeners: doors.map(|(door, listener)| (Door(door), Arc::new(listener))).collect(),
            upstreams: Vec::new(),
            limits: Arc::new(Limits::new(config, &Plan::of(config, 1 << 16).unwrap())),
        })
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
