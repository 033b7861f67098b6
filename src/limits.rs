//! How much there may be of everything, so that no client can use the gate up.
//!
//! - [`Plan`]: what fits into the process, computed before it starts and told in the log.
//! - [`Seats`]: the connections of all workers. There are never more than the plan says.
//! - [`Undecided`]: the connections of a worker that have no route yet. At the cap the oldest of them goes.
//! - [`Limits`]: what workers share: connections and rates for each source and each route. All of it is guarded by
//!   permits, which undo on drop what they counted.
//!
//! A source is an IPv4 address, or an IPv6 network of 64 bits, since a host has all addresses of one.

mod plan;
mod rate;
mod seats;
mod sources;
mod undecided;

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Config;
use crate::outcome::Reason;
use crate::routing::{Route, RouteLimits};
pub use plan::{ADMIN_CONNECTIONS, DoesNotFit, Plan, Share};
use rate::{Pace, SharedPace};
pub use seats::{Seat, Seats};
use sources::{Key, Source, Sources};
pub use undecided::{Place, Undecided};

/// What one read of a relay takes when the memory of all of them is used up.
pub const SCARCE_READ: usize = 4 * 1024;

/// What is counted for all workers together.
#[derive(Debug)]
pub struct Limits {
    started: Instant,
    sources: Arc<Sources>,
    undecided_per_source: usize,
    per_source: Option<NonZeroUsize>,
    rate_per_source: Option<Pace>,
    /// Those with limits.
    routes: HashMap<Arc<str>, Arc<LimitedRoute>>,
    /// The number of the next one. None is given twice: connections of a route that has gone are counted by its own still.
    next_route: NonZeroU32,
}

#[derive(Debug)]
struct LimitedRoute {
    /// Tells its sources from those of other routes.
    number: NonZeroU32,
    limits: RouteLimits,
    open: Arc<AtomicUsize>,
    sources: Arc<Sources>,
    pace: Option<Arc<SharedPace>>,
}

/// What a connection is counted in while it is open; nothing, where nothing limits it.
#[derive(Debug, Default)]
pub struct Permits(Option<Box<Counted>>);

#[derive(Debug, Default)]
struct Counted {
    source: Option<(Arc<Limits>, Key)>,
    route: Option<RoutePermit>,
}

#[derive(Debug)]
struct RoutePermit {
    route: Arc<LimitedRoute>,
    source: Option<Key>,
}

impl Limits {
    /// The limits of a configuration, for as many connections as the plan says.
    pub fn new(config: &Config, plan: &Plan) -> Self {
        Self::following(None, config, plan)
    }

    /// The limits of another configuration, with everything that is counted already.
    pub fn changed(&self, config: &Config, plan: &Plan) -> Self {
        Self::following(Some(self), config, plan)
    }

    fn following(before: Option<&Self>, config: &Config, plan: &Plan) -> Self {
        let limits = &config.limits;
        let new_sources = || Arc::new(Sources::for_connections(plan.connections()));
        let sources = before.map_or_else(new_sources, |before| Arc::clone(&before.sources));
        let mut next_route = before.map_or(NonZeroU32::MIN, |before| before.next_route);
        let mut routes = HashMap::new();
        for route in config.routes.iter().filter(|route| route.limits != RouteLimits::default()) {
            let limited = match before.and_then(|before| before.routes.get(&route.name)) {
                Some(before) => before.changed(&route.limits),
                None => {
                    let number = next_route;
                    // Billions of reloads away.
                    next_route = number.saturating_add(1);
                    LimitedRoute::new(number, &route.limits, &sources)
                }
            };
            routes.insert(Arc::clone(&route.name), Arc::new(limited));
        }
        Self {
            started: before.map_or_else(Instant::now, |before| before.started),
            sources,
            undecided_per_source: limits.undecided_per_source.get(),
            per_source: limits.per_source,
            rate_per_source: limits.rate_per_source.map(Pace::of),
            routes,
            next_route,
        }
    }

    /// Time since the beginning, which is all that paces need to know.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Counts a new connection of `source`.
    fn take_source(&self, source: Key) -> Taken {
        let now = self.now();
        self.sources.with(source, now, |slot| {
            slot.undecided += 1;
            let refused = if self.per_source.is_some_and(|most| slot.open as usize >= most.get()) {
                Some(Reason::LimitSource)
            // Last, so that a connection refused for another reason does not use the rate up.
            } else if self.rate_per_source.is_some_and(|pace| !slot.take(pace, now)) {
                Some(Reason::RateSource)
            } else {
                slot.open += u32::from(self.per_source.is_some());
                None
            };
            let crowded = slot.undecided as usize > self.undecided_per_source;
            Taken { counted: true, crowded, refused }
        })
    }

    /// Counts a connection in its route.
    ///
    /// # Errors
    /// The limit of the route that is reached.
    pub fn admit(&self, permits: &mut Permits, route: &Route, source: IpAddr) -> Result<(), Reason> {
        if route.limits == RouteLimits::default() {
            return Ok(());
        }
        // Every route with limits is here: both come from one configuration.
        let Some(limited) = self.routes.get(&route.name) else { return Ok(()) };
        let permit = limited.take(source, self.now())?;
        permits.0.get_or_insert_default().route = Some(permit);
        Ok(())
    }
}

/// What became of a new connection of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Taken {
    /// There was a slot to count it in.
    counted: bool,
    /// The source has more undecided connections than it may.
    crowded: bool,
    /// It may not have one more, and why.
    refused: Option<Reason>,
}

impl LimitedRoute {
    fn new(number: NonZeroU32, limits: &RouteLimits, sources: &Arc<Sources>) -> Self {
        Self {
            number,
            limits: limits.clone(),
            open: Arc::default(),
            sources: Arc::clone(sources),
            pace: limits.rate.map(|rate| Arc::new(SharedPace::new(rate))),
        }
    }

    /// The same route with other limits, and with everything that is counted already.
    fn changed(&self, limits: &RouteLimits) -> Self {
        let other = Self::new(self.number, limits, &self.sources);
        let pace = if self.limits.rate == limits.rate { self.pace.clone() } else { other.pace };
        Self { open: Arc::clone(&self.open), pace, ..other }
    }

    fn take(self: &Arc<Self>, source: IpAddr, now: Duration) -> Result<RoutePermit, Reason> {
        // Undone on drop, whatever is refused after it.
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let mut permit = RoutePermit { route: Arc::clone(self), source: None };
        if self.limits.connections.is_some_and(|most| before >= most.get()) {
            return Err(Reason::LimitRoute);
        }
        if let Some(most) = self.limits.per_source {
            let source = Key::on_route(Source::of(source), self.number);
            let room = self.sources.with(source, now, |slot| {
                let room = (slot.open as usize) < most.get();
                slot.open += u32::from(room);
                Taken { counted: room, refused: (!room).then_some(Reason::LimitSource), ..Taken::default() }
            });
            permit.source = room.counted.then_some(source);
            room.refused.map_or(Ok(()), Err)?;
        }
        // Last, so that a connection refused for another reason does not use the rate up.
        match &self.pace {
            Some(pace) if !pace.take(now) => Err(Reason::RateRoute),
            _ => Ok(permit),
        }
    }
}

impl Drop for RoutePermit {
    fn drop(&mut self) {
        self.route.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(source) = self.source {
            self.route.sources.close(source);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some((limits, source)) = &self.source {
            limits.sources.close(*source);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
