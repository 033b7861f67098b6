//! Permits: what they count, what they refuse, and that dropping them undoes it.

use super::*;
use crate::observe::live::tests::enter;
use crate::observe::live::{LiveEntry, LiveTable};
use std::rc::Rc;

/// Undecided connections of one worker of one.
struct Stage {
    config: Config,
    table: Rc<LiveTable>,
    undecided: Rc<Undecided>,
    limits: Arc<Limits>,
}

/// A connection that has not begun yet.
struct Client {
    live: LiveEntry,
    place: Place,
    permits: Permits,
}

/// The undecided connections of the only worker under this configuration.
pub(crate) fn undecided(config: &Config) -> (Rc<Undecided>, Arc<Limits>) {
    let plan = Plan::of(config, 1 << 16).unwrap();
    (Rc::new(Undecided::new(&plan.share())), Arc::new(Limits::new(config, &plan)))
}

impl Stage {
    fn set(limits: &str, route: &str) -> Self {
        let config = Self::configuration(limits, route);
        let (undecided, limits) = undecided(&config);
        Self { undecided, limits, table: Rc::default(), config }
    }

    /// Other limits of its route from now on.
    fn change(&mut self, route: &str) {
        self.config = Self::configuration("", route);
        let plan = Plan::of(&self.config, 1 << 16).unwrap();
        self.limits = Arc::new(self.limits.changed(&self.config, &plan));
    }

    fn configuration(limits: &str, route: &str) -> Config {
        let yaml = format!(
            "
            listeners: [{{ address: '127.0.0.1:0' }}]
            routes:
              - {{ name: a, server_names: [a.test], upstream: up, limits: {{ {route} }} }}
              - {{ name: b, server_names: [b.test], upstream: up }}
            upstreams: {{ up: {{ endpoints: ['127.0.0.1:1'] }} }}
            workers: 1
            limits: {{ {limits} }}"
        );
        Config::parse(&yaml).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    fn accept(&self) -> Client {
        let live = enter(&self.table);
        let place = self.undecided.enter(live.share());
        Client { live, place, permits: Permits::default() }
    }

    /// Accepts and identifies.
    fn client(&self, source: &str) -> Result<Client, Reason> {
        let mut client = self.accept();
        client.place.identify(&self.limits, source.parse().unwrap(), &mut client.permits).map(|()| client)
    }

    fn admit(&self, client: &mut Client, source: &str, route: usize) -> Result<(), Reason> {
        self.limits.admit(&mut client.permits, &self.config.routes[route], source.parse().unwrap())
    }

    /// Of these, the numbers of those that were shed.
    fn shed(clients: &[Client]) -> Vec<usize> {
        let stopped = clients.iter().enumerate().filter(|(_, client)| client.live.stop_reason().is_some());
        stopped
            .map(|(number, client)| {
                assert_eq!(client.live.stop_reason(), Some(Reason::LimitUndecided));
                number
            })
            .collect()
    }
}

#[test]
fn at_the_cap_the_oldest_undecided_goes() {
    let stage = Stage::set("undecided: 3", "");
    let mut clients: Vec<_> = (0..3).map(|_| stage.accept()).collect();
    assert_eq!(Stage::shed(&clients), [0; 0]);
    clients.push(stage.accept());
    assert_eq!(Stage::shed(&clients), [0]);
    // One that has its route is no candidate any more, and one that left makes room.
    clients[1].place.decided(0).unwrap();
    drop(clients.remove(2));
    clients.extend([stage.accept(), stage.accept()]);
    assert_eq!(Stage::shed(&clients), [0]);
    clients.push(stage.accept());
    assert_eq!(Stage::shed(&clients), [0, 2]);
}

#[test]
fn who_is_told_to_end_already_is_not_shed_for_another() {
    let stage = Stage::set("", "");
    let clients: Vec<_> = (0..3).map(|_| stage.accept()).collect();
    clients[0].live.stop(Reason::Drained);
    assert!(stage.undecided.shed_oldest());
    let reasons: Vec<_> = clients.iter().map(|client| client.live.stop_reason()).collect();
    assert_eq!(reasons, [Some(Reason::Drained), Some(Reason::LimitUndecided), None]);
    clients[2].live.stop(Reason::Drained);
    assert!(!stage.undecided.shed_oldest(), "there is none whose seat would be free at once");
}

#[test]
fn a_source_sheds_its_own_oldest() {
    let stage = Stage::set("undecided_per_source: 2", "");
    let sources = ["192.0.2.1", "2001:db8::1", "192.0.2.1", "2001:db8::2", "::ffff:192.0.2.1"];
    let mut clients: Vec<_> = sources.map(|source| stage.client(source).unwrap()).into();
    assert_eq!(Stage::shed(&clients), [0]);
    clients.push(stage.client("2001:db8::3").unwrap());
    assert_eq!(Stage::shed(&clients), [0, 1]);
    // Those that have their routes do not count.
    clients[2].place.decided(0).unwrap();
    clients[4].place.decided(0).unwrap();
    drop(clients.remove(0));
    clients.extend(["192.0.2.1", "192.0.2.1"].map(|source| stage.client(source).unwrap()));
    assert_eq!(Stage::shed(&clients), [0]);
}

#[test]
fn a_newcomer_stays_though_the_others_of_its_source_are_elsewhere() {
    let stage = Stage::set("undecided_per_source: 2", "");
    // Another worker counts in the same table.
    let share = Plan::of(&stage.config, 1 << 16).unwrap().share();
    let other = Rc::new(Undecided::new(&share));
    let limits = Arc::clone(&stage.limits);
    let elsewhere = Stage { config: stage.config.clone(), table: Rc::default(), undecided: other, limits };
    let held = ["192.0.2.1"; 2].map(|source| elsewhere.client(source).unwrap());
    let mut clients = vec![stage.client("192.0.2.1").unwrap()];
    assert_eq!((Stage::shed(&held), Stage::shed(&clients)), (vec![], vec![]));
    // Of those, too, the oldest goes: a worker has one more than there may be, and never two.
    for number in 0..3 {
        clients.push(stage.client("192.0.2.1").unwrap());
        assert_eq!(Stage::shed(&clients), Vec::from_iter(0..=number));
    }
    assert_eq!(Stage::shed(&held), [0; 0]);
}

#[test]
fn hellos_have_a_bound_together() {
    let stage = Stage::set("relay_memory: 1MiB", "");
    const HELLO: usize = 32 << 10;
    let mut clients: Vec<_> = (0..40).map(|_| stage.accept()).collect();
    // The first two are silent: to shed them would free nothing.
    clients[2..34].iter().for_each(|client| client.place.hold(HELLO));
    assert_eq!(Stage::shed(&clients), [0; 0]);
    clients[34].place.hold(1);
    assert_eq!(Stage::shed(&clients), [2]);
    clients[3].place.decided(HELLO).unwrap();
    clients[35].place.hold(HELLO - 1);
    assert_eq!(Stage::shed(&clients), [2]);
    clients[36].place.hold(1);
    assert_eq!(Stage::shed(&clients), [2, 4], "not the one that has its route");

    // With nobody else to shed it is the newcomer that goes.
    let stage = Stage::set("relay_memory: 1MiB", "");
    let mut clients: Vec<_> = (0..34).map(|_| stage.accept()).collect();
    clients[..32].iter_mut().for_each(|client| client.place.decided(HELLO).unwrap());
    assert_eq!(clients[32].place.decided(1), Err(Reason::LimitUndecided));
    clients[33].place.hold(1);
    assert_eq!(Stage::shed(&clients), [32, 33]);
    drop(clients.drain(..32));
    assert_eq!(stage.accept().place.decided(HELLO), Ok(()));
}

#[test]
fn a_source_has_no_more_connections_than_it_may() {
    let stage = Stage::set("per_source: 2", "");
    let mut held: Vec<_> = ["192.0.2.1"; 2].map(|source| stage.client(source).unwrap()).into();
    held[0].place.decided(0).unwrap();
    assert_eq!(stage.client("192.0.2.1").err(), Some(Reason::LimitSource));
    assert_eq!(stage.client("::ffff:192.0.2.1").err(), Some(Reason::LimitSource));
    assert!(stage.client("192.0.2.2").is_ok());
    held.remove(0);
    assert!(stage.client("192.0.2.1").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_source_brings_no_more_new_ones_than_it_may() {
    let stage = Stage::set("rate_per_source: 2/s", "");
    let come = |source: &str| (0..10).filter(|_| stage.client(source).is_ok()).count();
    assert_eq!((come("192.0.2.1"), come("2001:db8::1"), come("2001:db8::2")), (2, 2, 0));
    assert_eq!(stage.client("192.0.2.1").err(), Some(Reason::RateSource));
    tokio::time::advance(Duration::from_millis(500)).await;
    assert_eq!((come("192.0.2.1"), come("2001:db8::2")), (1, 1));
}

#[test]
fn a_route_has_no_more_connections_than_it_may() {
    let stage = Stage::set("", "connections: 3, per_source: 2");
    let mut clients: Vec<_> = (0..6).map(|_| stage.accept()).collect();
    let outcomes: Vec<_> = clients
        .iter_mut()
        .zip(["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1"])
        .map(|(client, source)| stage.admit(client, source, 0).err())
        .collect();
    let (source, route) = (Some(Reason::LimitSource), Some(Reason::LimitRoute));
    assert_eq!(outcomes, [None, None, source, None, route, route]);
    let mut other = stage.accept();
    assert_eq!(stage.admit(&mut other, "192.0.2.1", 1), Ok(()), "another route is another matter");
    clients.remove(0);
    assert_eq!(stage.admit(&mut other, "192.0.2.1", 0), Ok(()));
    assert_eq!(stage.admit(&mut stage.accept(), "192.0.2.9", 0), Err(Reason::LimitRoute));
}

#[test]
fn what_a_route_counts_of_sources_stays_counted_when_its_limits_change() {
    let mut stage = Stage::set("", "per_source: 2");
    let come = |stage: &Stage| {
        let mut client = stage.accept();
        stage.admit(&mut client, "192.0.2.1", 0).map(|()| client)
    };
    let mut held: Vec<_> = (0..2).map(|_| come(&stage).unwrap()).collect();
    stage.change("connections: 9");
    let uncounted = come(&stage).unwrap();
    stage.change("per_source: 2");
    assert_eq!(come(&stage).err(), Some(Reason::LimitSource));
    held.pop();
    held.push(come(&stage).unwrap());
    drop(uncounted);
    assert_eq!(come(&stage).err(), Some(Reason::LimitSource));

    // A route that has had no limits counts anew, and what it counted before is not taken off that.
    stage.change("");
    stage.change("per_source: 2");
    let _anew: Vec<_> = (0..2).map(|_| come(&stage).unwrap()).collect();
    drop(held);
    assert_eq!(come(&stage).err(), Some(Reason::LimitSource));
}

#[tokio::test(start_paused = true)]
async fn a_route_takes_no_more_new_ones_than_it_may() {
    let stage = Stage::set("", "rate: 60/m");
    let come = || (0..100).filter(|_| stage.admit(&mut stage.accept(), "192.0.2.1", 0).is_ok()).count();
    assert_eq!(come(), 60);
    assert_eq!(stage.admit(&mut stage.accept(), "192.0.2.9", 0), Err(Reason::RateRoute));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(come(), 2);
}

#[test]
fn a_panic_gives_back_what_its_connection_had() {
    let stage = Stage::set("undecided: 1, per_source: 1, undecided_per_source: 1", "connections: 1, per_source: 1");
    for _ in 0..3 {
        let mut client = stage.client("192.0.2.1").unwrap();
        stage.admit(&mut client, "192.0.2.1", 0).unwrap();
        client.place.hold(1000);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _client = client;
            panic!("a defect, for the test of it");
        }));
        assert!(panicked.is_err());
        assert!(stage.table.is_empty() && !stage.undecided.shed_oldest());
    }
}

#[test]
fn a_connection_that_a_source_may_not_have_does_not_use_its_rate_up() {
    let stage = Stage::set("per_source: 1, rate_per_source: 2/h", "");
    let first = stage.client("192.0.2.1").unwrap();
    assert_eq!(stage.client("192.0.2.1").err(), Some(Reason::LimitSource));
    drop(first);
    drop(stage.client("192.0.2.1").unwrap());
    assert_eq!(stage.client("192.0.2.1").err(), Some(Reason::RateSource));
}
