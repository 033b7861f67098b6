//! What is open still, for whoever waits for it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::time::Duration;

use crate::config::span;
use crate::observe::live::Row;

/// Routes that are named; the rest is counted together.
const NAMED: usize = 5;

/// The connections that are open still.
#[derive(Debug, Default)]
pub struct Remains {
    /// The age of the oldest.
    oldest: Option<Duration>,
    routes: BTreeMap<Arc<str>, usize>,
    without_route: usize,
}

impl Remains {
    /// This one is open still.
    pub fn add(&mut self, row: &Row) {
        self.oldest = self.oldest.max(Some(row.age));
        match &row.route {
            Some(route) => *self.routes.entry(Arc::clone(route)).or_default() += 1,
            None => self.without_route += 1,
        }
    }

    /// How many there are.
    pub fn connections(&self) -> usize {
        self.without_route + self.routes.values().sum::<usize>()
    }

    /// Says so in the log.
    pub(super) fn tell(&self) {
        // Whole seconds: nobody waits for less.
        let oldest = self.oldest.map(|age| span(Duration::from_secs(age.as_secs())).to_string());
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
    async fn what_remains_is_counted_by_route() {
        let table = Rc::new(LiveTable::default());
        let known = config().routes.remove(0);
        let route = |name: usize| Arc::new(Route { name: format!("route-{name}").into(), ..Route::clone(&known) });
        let mut remains = Remains::default();
        assert_eq!((remains.to_string(), remains.connections(), remains.oldest), ("nobody".to_owned(), 0, None));
        let mut held = Vec::new();
        for name in 0..8 {
            for _ in 0..=name {
                let live = enter(&table);
                live.story().decide(&route(name));
                held.push(live);
            }
            tokio::time::advance(Duration::from_secs(90)).await;
        }
        table.page(0).0.iter().for_each(|row| remains.add(row));
        assert_eq!((remains.connections(), remains.oldest), (36, Some(Duration::from_secs(720))));
        assert_eq!(
            remains.to_string(),
            "8 of `route-7`, 7 of `route-6`, 6 of `route-5`, 5 of `route-4`, 4 of `route-3`, 6 of other routes"
        );
        drop(held);
        let _undecided = enter(&table);
        table.page(0).0.iter().for_each(|row| remains.add(row));
        assert!(remains.to_string().ends_with("6 of other routes, 1 without a route"), "{remains}");
    }
}
