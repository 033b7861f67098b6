//! What is open still, for whoever waits for it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::span;
use crate::observe::story::Story;

/// Routes that are named; the rest is counted together.
const NAMED: usize = 5;

/// The connections that are open still: of one worker, or of all.
#[derive(Debug, Default)]
pub struct Remains {
    /// When the first of them was accepted.
    oldest: Option<Instant>,
    routes: BTreeMap<Arc<str>, usize>,
    without_route: usize,
}

impl Remains {
    /// This one is open still.
    pub fn add(&mut self, story: &Story) {
        self.note_age(story.accepted());
        match story.route() {
            Some(route) => *self.routes.entry(Arc::clone(&route.name)).or_default() += 1,
            None => self.without_route += 1,
        }
    }

    /// And these are.
    pub fn join(&mut self, others: Self) {
        others.oldest.into_iter().for_each(|oldest| self.note_age(oldest));
        for (route, connections) in others.routes {
            *self.routes.entry(route).or_default() += connections;
        }
        self.without_route += others.without_route;
    }

    fn note_age(&mut self, accepted: Instant) {
        self.oldest = Some(self.oldest.map_or(accepted, |oldest| oldest.min(accepted)));
    }

    /// How many there are.
    pub fn connections(&self) -> usize {
        self.without_route + self.routes.values().sum::<usize>()
    }

    /// Says so in the log.
    pub(super) fn tell(&self) {
        // Whole seconds: nobody waits for less.
        let oldest = self.oldest.map(|accepted| span(Duration::from_secs(accepted.elapsed().as_secs())).to_string());
        tracing::info!(connections = self.connections(), oldest, "draining: {}", self);
    }
}

/// How many of which route, those with most first.
impl Display for Remains {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut routes: Vec<_> = self.routes.iter().collect();
        routes.sort_by_key(|&(_, connections)| Reverse(connections));
        let (named, others) = routes.split_at(NAMED.min(routes.len()));
        let mut told: Vec<_> = named.iter().map(|(route, connections)| format!("{connections} of `{route}`")).collect();
        let others: usize = others.iter().map(|&(_, connections)| connections).sum();
        for (connections, which) in [(others, "of other routes"), (self.without_route, "without a route")] {
            if connections > 0 {
                told.push(format!("{connections} {which}"));
            }
        }
        if told.is_empty() { f.write_str("nobody") } else { f.write_str(&told.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::live::LiveTable;
    use crate::observe::live::tests::enter;
    use crate::routing::Route;
    use crate::snapshot::tests::config;
    use std::rc::Rc;

    #[tokio::test(start_paused = true)]
    async fn what_remains_is_counted_by_route_over_all_workers() {
        let table = Rc::new(LiveTable::default());
        let known = config().routes.remove(0);
        let route = |name: usize| Arc::new(Route { name: format!("route-{name}").into(), ..Route::clone(&known) });
        let mut all = Remains::default();
        assert_eq!((all.to_string(), all.connections(), all.oldest), ("nobody".to_owned(), 0, None));
        let begun = Instant::now();
        for worker in 0..2 {
            let mut remains = Remains::default();
            for name in 0..8 {
                for _ in 0..=name {
                    let live = enter(&table);
                    live.story().decide(&route(name));
                    remains.add(live.story());
                }
            }
            all.join(remains);
            assert_eq!(all.connections(), 36 * (worker + 1));
            tokio::time::advance(Duration::from_secs(90)).await;
        }
        assert_eq!(
            all.to_string(),
            "16 of `route-7`, 14 of `route-6`, 12 of `route-5`, 10 of `route-4`, 8 of `route-3`, 12 of other routes"
        );
        all.add(enter(&table).story());
        assert!(all.to_string().ends_with("12 of other routes, 1 without a route"), "{all}");
        assert_eq!((all.connections(), all.oldest), (73, Some(begun)));
    }
}
