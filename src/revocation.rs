//! Deciding again: when another configuration is in force, a worker looks whom of its connections that refuses, a part of
//! them at a time, and has those close that are to, each at its own moment, so that they do not come back all at once.

use std::collections::BTreeMap;
use std::future::pending;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::observe::live::{Live, LiveTable};
use crate::outcome::Reason;
use crate::snapshot::Snapshot;

/// Over how long those who have to go close. All of them have within five seconds, a busy worker's delays included.
const SPREAD: Duration = Duration::from_secs(4);

/// The connections of a worker, as they are decided on again.
pub struct Revocation {
    live: Rc<LiveTable>,
    current: Arc<ArcSwap<Snapshot>>,
    /// The place of the table where looking goes on.
    place: usize,
    /// Places that have yet to be looked at.
    left: usize,
    /// Connections that were found to be refused since looking began.
    found: usize,
    /// Who has to go, by moment and number.
    leaving: BTreeMap<(Instant, u64), Rc<Live>>,
    dice: RandomState,
}

impl Revocation {
    /// Nothing to do, until it is told to begin.
    pub fn new(live: Rc<LiveTable>, current: Arc<ArcSwap<Snapshot>>) -> Self {
        Self { live, current, place: 0, left: 0, found: 0, leaving: BTreeMap::new(), dice: RandomState::new() }
    }

    /// Another configuration is in force: every connection is looked at. If that goes on already, it goes all the way round
    /// from where it is, so that no storm of reloads keeps it at the beginning.
    pub fn begin(&mut self) {
        self.left = self.live.places();
    }

    /// Waits until there is something to do, and does a little of it. May be dropped while it waits.
    pub async fn proceed(&mut self) {
        if self.left > 0 {
            // Connections have their turn before each part.
            yield_now().await;
            self.look_on();
        } else if let Some((&(moment, _), _)) = self.leaving.first_key_value() {
            sleep_until(moment).await;
        } else {
            pending::<()>().await;
        }
        self.close_due();
    }

    /// Decides on the connections of the next places, by what came into force last.
    fn look_on(&mut self) {
        let Self { live, current, leaving, dice, found, .. } = self;
        let snapshot = current.load();
        let next = live.visit(self.place, |live| {
            let (story, revoked) = (live.story(), snapshot.revokes(live.story()));
            // Who is to go already goes at its moment, and who no longer has to is spared.
            if revoked && !live.is_revoked() {
                leaving
                    .insert((Instant::now() + moment(dice.hash_one(story.number())), story.number()), Rc::clone(live));
                *found += 1;
            }
            live.revoke(revoked);
        });
        let end = if next == 0 { self.live.places() } else { next };
        self.left = self.left.saturating_sub(end - self.place);
        self.place = next;
        if self.left == 0 && self.found > 0 {
            let connections = std::mem::take(&mut self.found);
            tracing::info!(connections, "the configuration refuses connections that are open: they close within 5s");
        }
    }

    fn close_due(&mut self) {
        let now = Instant::now();
        while let Some(due) = self.leaving.first_entry().filter(|first| first.key().0 <= now) {
            let live = due.remove();
            if live.is_revoked() {
                live.stop(Reason::RouteChanged);
            }
        }
    }
}

/// Any within the spread.
fn moment(chance: u64) -> Duration {
    const PARTS: u32 = 1 << 12;
    SPREAD * (u32::try_from(chance % u64::from(PARTS)).unwrap_or(0)) / PARTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::observe::live::{LiveEntry, SLICE};
    use crate::snapshot::Door;
    use crate::snapshot::tests::{led, snapshot};
    use std::collections::HashSet;
    use tokio::time::timeout;

    const LIMIT: Duration = Duration::from_secs(5);

    /// A worker's connections to `a.test`, and what is in force for them.
    struct Stage {
        table: Rc<LiveTable>,
        current: Arc<ArcSwap<Snapshot>>,
        clients: Vec<LiveEntry>,
        revocation: Revocation,
    }

    fn config(name: &str, policy: &str) -> Config {
        let yaml = format!(
            "
            listeners: [{{ address: ':1' }}]
            routes: [{{ name: route, server_names: [{name}], upstream: up }}]
            upstreams: {{ up: {{ endpoints: ['127.0.0.1:1'] }} }}
            on_route_change: {policy}"
        );
        Config::parse(&yaml).unwrap()
    }

    impl Stage {
        fn set(clients: usize) -> Self {
            let (snapshot, table) = (snapshot(&config("a.test", "keep")), Rc::new(LiveTable::default()));
            let entrance = snapshot.entrance(Door(0)).unwrap();
            let clients = (0..clients).map(|_| led(&entrance, &table, "a.test", &[])).collect();
            let current = Arc::new(ArcSwap::new(snapshot));
            let revocation = Revocation::new(Rc::clone(&table), Arc::clone(&current));
            Self { table, current, clients, revocation }
        }

        fn change(&mut self, name: &str, policy: &str) {
            self.current.store(snapshot(&config(name, policy)));
            self.revocation.begin();
        }

        /// Lets so much time pass.
        async fn pass(&mut self, time: Duration) {
            let _ = timeout(time, async {
                loop {
                    self.revocation.proceed().await;
                }
            })
            .await;
        }

        fn stopped(&self) -> usize {
            self.clients.iter().filter(|client| client.stop_reason() == Some(Reason::RouteChanged)).count()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_refused_closes_within_five_seconds_and_not_all_at_once() {
        let mut stage = Stage::set(1000);
        stage.change("b.test", "close");
        let mut closed = vec![0];
        for _ in 0..50 {
            stage.pass(LIMIT / 50).await;
            closed.push(stage.stopped());
        }
        assert_eq!(closed[50], 1000, "{closed:?}");
        let most = closed.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        // 25 are to be expected in a fiftieth.
        assert!(most < 60, "{closed:?}");
        assert!(stage.revocation.leaving.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_may_stay_does() {
        for (name, policy) in [("b.test", "keep"), ("a.test", "close"), ("'*.test'", "close")] {
            let mut stage = Stage::set(10);
            stage.change(name, policy);
            stage.pass(2 * LIMIT).await;
            assert_eq!(stage.stopped(), 0, "{name} {policy}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_is_taken_back_spares_those_who_are_there_still() {
        let mut stage = Stage::set(1000);
        stage.change("b.test", "close");
        stage.pass(SPREAD / 2).await;
        let gone = stage.stopped();
        assert!((300..700).contains(&gone), "{gone}");
        stage.change("a.test", "close");
        stage.pass(2 * LIMIT).await;
        assert_eq!(stage.stopped(), gone);
        stage.change("b.test", "close");
        stage.pass(LIMIT).await;
        assert_eq!(stage.stopped(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_changes_puts_nobody_off() {
        let mut stage = Stage::set(10 * SLICE);
        stage.change("b.test", "close");
        // One part is looked at between two changes.
        for _ in 0..500 {
            stage.revocation.begin();
            stage.revocation.proceed().await;
            tokio::time::advance(LIMIT / 500).await;
            assert!(stage.revocation.leaving.len() <= 10 * SLICE, "nobody is to go twice");
        }
        stage.revocation.proceed().await;
        assert_eq!(stage.stopped(), 10 * SLICE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_looks_at_a_part_and_all_are_looked_at_once() {
        let mut stage = Stage::set(3 * SLICE);
        // What is no longer there leaves places.
        stage.clients.retain(|client| client.story().number() % 3 != 0);
        stage.change("b.test", "close");
        let mut turns = 0;
        while stage.revocation.left > 0 {
            stage.revocation.proceed().await;
            turns += 1;
            let looked = stage.clients.iter().filter(|client| client.is_revoked()).count();
            assert!(looked <= turns * SLICE);
        }
        assert_eq!(turns, stage.table.places().div_ceil(SLICE));
        assert!(stage.clients.iter().all(|client| client.is_revoked()));
    }

    #[test]
    fn moments_are_spread() {
        let moments: HashSet<_> = (0..10_000).map(moment).collect();
        assert_eq!(moments.len(), 4096);
        assert!(moments.iter().all(|moment| *moment < SPREAD));
    }
}
