//! What is in force: the configuration with the upstreams and the limits that run for it. Immutable: a reload swaps all of
//! it at once, so that no client is judged by one configuration and led by another.

use std::collections::HashMap;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

use crate::config::{Config, Established, Listener};
use crate::limits::Limits;
use crate::observe::story::Story;
pub use crate::observe::story::{Door, Doorplate};
use crate::outcome::Reason;
use crate::routing::{Decision, Route, UpstreamId};
use crate::upstream::Upstream;

/// What a client is judged by and led to.
#[derive(Debug)]
pub struct Snapshot {
    /// The whole of it, for who tells of it.
    pub config: Arc<Config>,
    listeners: Vec<(Arc<Doorplate>, Arc<Listener>)>,
    /// The running upstreams, as routes number them.
    pub upstreams: Vec<Arc<Upstream>>,
    /// What is counted for all workers together.
    pub limits: Arc<Limits>,
    /// What becomes of connections that are refused now.
    on_route_change: Established,
    /// The same, of routes that have a word of their own.
    on_change_of: HashMap<Arc<str>, Established>,
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
    /// What is configured, with the sockets of each listener, the upstreams that run, and what is counted.
    pub fn new(
        config: &Arc<Config>,
        doors: impl IntoIterator<Item = Door>,
        upstreams: Vec<Arc<Upstream>>,
        limits: Arc<Limits>,
    ) -> Self {
        let with_plate = |(door, listener): (_, &Listener)| {
            (Arc::new(Doorplate { door, listener: Arc::clone(&listener.name) }), Arc::new(listener.clone()))
        };
        let own_word = |route: &Arc<Route>| Some((Arc::clone(&route.name), route.on_route_change?));
        Self {
            config: Arc::clone(config),
            listeners: doors.into_iter().zip(&config.listeners).map(with_plate).collect(),
            upstreams,
            limits,
            on_route_change: config.on_route_change,
            on_change_of: config.routes.iter().filter_map(own_word).collect(),
        }
    }

    /// The beginning of the SHA-256 of the whole configuration, every default filled in: the same on all gates that are
    /// configured the same.
    pub fn config_hash(&self) -> String {
        let hash = digest(&SHA256, self.config.to_string().as_bytes());
        hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
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

    /// Whether a connection has to close since a client like this one would be refused now, and its route, or without one
    /// of that name all of them, are said to close such connections.
    ///
    /// Whoever has no route yet is not judged: that is done when it is decided where it goes.
    pub fn revokes(&self, story: &Story) -> bool {
        let Some(route) = story.route() else { return false };
        let established = self.on_change_of.get(&route.name).copied().unwrap_or(self.on_route_change);
        established == Established::Close && !self.admits(story)
    }

    /// Whether a client like this one would be led anywhere now.
    fn admits(&self, story: &Story) -> bool {
        let (Some((_, listener)), Some(hello)) = (self.now_at(story.plate()), story.hello()) else { return false };
        let (name, protocols) = (hello.said.server_name(), hello.said.protocols());
        let decision = || listener.table.decide(&name, &protocols, story.source().ip());
        lets_in(listener, story).is_ok() && matches!(decision(), Decision::Route(_))
    }

    /// The listener that is now where another was: the one that has its sockets, else the one of its name, which has moved.
    /// Where there is none, nobody comes in any more.
    fn now_at(&self, plate: &Doorplate) -> Option<&(Arc<Doorplate>, Arc<Listener>)> {
        let with = |wanted: &dyn Fn(&Doorplate) -> bool| self.listeners.iter().find(|(plate, _)| wanted(plate));
        with(&|now| now.door == plate.door).or_else(|| with(&|now| now.listener == plate.listener))
    }
}

/// Whether a listener lets a client in that others let in already, by whom it believes and by its own networks.
///
/// # Errors
/// Why it does not.
fn lets_in(listener: &Listener, story: &Story) -> Result<(), Reason> {
    let peer = story.balancer().unwrap_or(story.source()).ip();
    let believes = match &listener.proxy_protocol {
        Some(trusted) => trusted.sources.admits(peer),
        // A header would be taken for no TLS.
        None => story.balancer().is_none(),
    };
    match () {
        () if !believes => Err(Reason::ProxySourceUntrusted),
        () if !listener.sources.admits(story.source().ip()) => Err(Reason::SourceDenied),
        () => Ok(()),
    }
}

impl Entrance {
    /// Where this client would come in now, if another configuration is in force; what holds for a listener that is gone
    /// is what was in force last, as for those who wait when a door closes.
    ///
    /// # Errors
    /// When the listener does not let it in any more.
    pub fn renewed(&self, now: &Arc<Snapshot>, story: &Story) -> Result<Option<Self>, Reason> {
        if Arc::ptr_eq(now, &self.snapshot) {
            return Ok(None);
        }
        let Some((plate, listener)) = now.now_at(&self.plate) else { return Ok(None) };
        lets_in(listener, story)?;
        Ok(Some(Self { plate: Arc::clone(plate), listener: Arc::clone(listener), snapshot: Arc::clone(now) }))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::hello::{ClientHello, Sni};
    use crate::limits::Plan;
    use crate::observe::live::{LiveEntry, LiveTable};
    use crate::outcome::Phase;
    use std::rc::Rc;

    /// A snapshot of this configuration in which no upstream runs; its listeners have the doors from 0 on.
    pub(crate) fn snapshot(config: &Config) -> Arc<Snapshot> {
        snapshot_with(config, (0..).map(Door))
    }

    fn snapshot_with(config: &Config, doors: impl IntoIterator<Item = Door>) -> Arc<Snapshot> {
        let limits = Limits::new(config, &Plan::of(config, 1 << 16).unwrap());
        Arc::new(Snapshot::new(&Arc::new(config.clone()), doors, Vec::new(), Arc::new(limits)))
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
        at_first(&config())
    }

    /// The entrance of the first listener.
    fn at_first(config: &Config) -> Entrance {
        snapshot(config).entrance(Door(0)).unwrap()
    }

    /// A client that has just come in.
    fn came(entrance: &Entrance, table: &Rc<LiveTable>, source: [u8; 4]) -> LiveEntry {
        table.enter((source, 1).into(), Arc::clone(&entrance.plate), Phase::Hello)
    }

    /// A client that came in, said this, and was led to its route.
    pub(crate) fn led(entrance: &Entrance, table: &Rc<LiveTable>, name: &str, alpn: &[&str]) -> LiveEntry {
        let client = came(entrance, table, [192, 0, 2, 1]);
        speak(entrance, &client, name, alpn);
        client
    }

    fn speak(entrance: &Entrance, client: &LiveEntry, name: &str, alpn: &[&str]) {
        let (server_name, alpn) =
            (Sni::from_wire(name.as_bytes()), alpn.iter().map(|one| one.parse().unwrap()).collect());
        let hello = ClientHello { server_name, alpn, ech: false, legacy_version: 0x303, records: 1, len: 99 };
        let source = client.story().source().ip();
        let Decision::Route(route) = entrance.listener.table.decide(&hello.server_name, &hello.alpn, source) else {
            panic!("{name} is refused");
        };
        client.story().hear(&hello, Some(route), None);
        client.story().decide(route);
    }

    #[test]
    fn a_door_leads_to_its_listener_or_to_nobody() {
        let snapshot = snapshot(&config());
        assert_eq!(&*snapshot.entrance(Door(0)).unwrap().listener.name, "127.0.0.1:0");
        assert!(snapshot.entrance(Door(1)).is_none());
    }

    const BEFORE: &str = "
        listeners: [{ address: ':1', name: one }, { address: ':2', name: two }]
        routes:
          - { name: route, server_names: [a.test], upstream: up }
          - { name: other, server_names: [other.test], upstream: up }
        upstreams: { up: { endpoints: ['127.0.0.1:1'] } }
        on_route_change: close";

    fn changed(changes: &[(&str, &str)]) -> Config {
        let text = changes.iter().fold(BEFORE.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        });
        Config::parse(&text).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    #[test]
    fn who_would_be_refused_now_is_revoked_where_that_is_said() {
        let client = led(&at_first(&changed(&[])), &Rc::default(), "a.test", &["h2", "http/1.1"]);
        let gone = ("- { name: route, server_names: [a.test], upstream: up }", "");
        let (all, route) = (("on_route_change: close", ""), "name: route, ");
        for (revoked, changes) in [
            (false, &[][..]),
            (true, &[gone]),
            (false, &[gone, all]),
            (false, &[gone, ("[other.test]", "['*.test']")]),
            (false, &[(route, "name: called_otherwise, ")]),
            (true, &[("[a.test]", "[b.test]")]),
            (true, &[(route, "name: route, deny: [192.0.2.0/24], ")]),
            (false, &[(route, "name: route, deny: [192.0.3.0/24], ")]),
            (true, &[(route, "name: route, alpn: [h3], ")]),
            (false, &[(route, "name: route, alpn: [http/1.1], ")]),
            (true, &[(route, "name: route, listeners: [two], ")]),
            (true, &[("name: one", "name: one, deny: [192.0.2.1]")]),
            (false, &[("name: two", "name: two, deny: [192.0.2.1]")]),
            (true, &[("name: one", "name: one, proxy_protocol: { trusted: [10.0.0.1] }")]),
            // The new configuration says what becomes of it, and there the route of the same name before all routes.
            (false, &[(route, "name: route, on_route_change: keep, deny: [192.0.2.1], ")]),
            (true, &[all, (route, "name: route, on_route_change: close, deny: [192.0.2.1], ")]),
            (true, &[gone, ("name: other,", "name: other, on_route_change: keep,")]),
        ] {
            let now = snapshot(&changed(changes));
            assert_eq!(now.revokes(client.story()), revoked, "{changes:?}");
        }
    }

    #[test]
    fn a_listener_is_known_by_its_sockets_then_by_its_name() {
        let client = led(&at_first(&changed(&[])), &Rc::default(), "a.test", &[]);
        let one = ("{ address: ':1', name: one }, ", "");
        let only_two = ("name: route, ", "name: route, listeners: [two], ");
        for (revoked, doors, changes) in [
            // It has moved, or is called otherwise; where there is none, nobody comes in.
            (false, [5, 1], &[][..]),
            (true, [5, 1], &[("name: one", "name: three")]),
            (false, [0, 1], &[("name: one", "name: three")]),
            (true, [1, 2], &[one]),
            // Two exchange their addresses: who comes to the same one comes in by the other.
            (false, [1, 0], &[only_two]),
        ] {
            let now = snapshot_with(&changed(changes), doors.map(Door));
            assert_eq!(now.revokes(client.story()), revoked, "{doors:?} {changes:?}");
        }
    }

    #[test]
    fn a_proxy_that_is_no_longer_believed_counts() {
        let trusting = |who: &str| ("name: one", format!("name: one, proxy_protocol: {{ trusted: [{who}] }}"));
        let with = |(from, to): (&str, String)| changed(&[(from, &to)]);
        let entrance = at_first(&with(trusting("10.0.0.1")));
        let client = came(&entrance, &Rc::default(), [10, 0, 0, 1]);
        client.story().introduce(Some("192.0.2.1:7".parse().unwrap()));
        let undecided = came(&entrance, &Rc::default(), [10, 0, 0, 1]);
        undecided.story().introduce(Some("192.0.2.1:7".parse().unwrap()));
        speak(&entrance, &client, "a.test", &[]);
        for (revoked, now) in
            [(false, with(trusting("10.0.0.0/24"))), (true, with(trusting("192.0.2.1"))), (true, changed(&[]))]
        {
            let now_in_force = snapshot(&now);
            assert_eq!(now_in_force.revokes(client.story()), revoked, "{now}");
            let renewed = entrance.renewed(&now_in_force, undecided.story());
            assert_eq!(renewed.err(), revoked.then_some(Reason::ProxySourceUntrusted), "{now}");
        }
    }

    #[test]
    fn who_is_undecided_comes_in_by_what_is_in_force_now() {
        let entrance = at_first(&changed(&[]));
        let client = came(&entrance, &Rc::default(), [192, 0, 2, 1]);
        let renewed = |now: &Arc<Snapshot>| entrance.renewed(now, client.story());
        assert!(renewed(&entrance.snapshot).unwrap().is_none(), "nothing has changed");
        let now = snapshot(&changed(&[("name: one", "name: three")]));
        let there = renewed(&now).unwrap().unwrap();
        assert_eq!((&*there.listener.name, &*there.plate.listener), ("three", "three"));
        assert!(Arc::ptr_eq(&there.snapshot, &now));
        let gone = snapshot_with(&changed(&[("{ address: ':1', name: one }, ", "")]), [Door(1)]);
        assert!(renewed(&gone).unwrap().is_none());
        let denied = snapshot(&changed(&[("name: one", "name: one, deny: [192.0.2.1]")]));
        assert_eq!(renewed(&denied).unwrap_err(), Reason::SourceDenied);
        assert!(!denied.revokes(client.story()), "it has no route yet");
    }
}
