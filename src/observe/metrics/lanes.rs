//! [`Lanes`]: what is counted for each listener and route. One worker finds its own there by their names; others see them
//! through its tally.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use slab::Slab;

use super::{Count, Histogram, Scale, Tally};
use crate::outcome::{Reason, Side};

const REASONS: usize = Reason::ALL.len();

/// The connections of one worker that came in by one listener and took one route, or none.
#[repr(align(128))]
#[derive(Debug)]
pub struct Lane {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The names of the route and its upstream.
    pub route: Option<(Arc<str>, Arc<str>)>,
    begun: Count,
    ended: [Count; REASONS],
    connect_time: Histogram,
    /// Bytes of those that have ended.
    past: Bytes,
    /// Bytes of those that are open, while a tick adds them up.
    present: Bytes,
    /// Both, as of the last tick.
    shown: Bytes,
}

/// Bytes delivered to either side.
#[derive(Debug, Default)]
struct Bytes {
    sent: Count,
    received: Count,
}

impl Bytes {
    fn add(&self, sent: u64, received: u64) {
        self.sent.add(sent);
        self.received.add(received);
    }

    fn set(&self, sent: u64, received: u64) {
        self.sent.set(sent);
        self.received.set(received);
    }
}

impl Lane {
    fn new(listener: &Arc<str>, route: Option<(&Arc<str>, &Arc<str>)>) -> Self {
        Self {
            listener: Arc::clone(listener),
            route: route.map(|(route, upstream)| (Arc::clone(route), Arc::clone(upstream))),
            begun: Count::default(),
            ended: [const { Count::new() }; REASONS],
            connect_time: Histogram::of(Scale::CONNECT_TIME),
            past: Bytes::default(),
            present: Bytes::default(),
            shown: Bytes::default(),
        }
    }

    /// A connection took this lane.
    pub fn begin(&self) {
        self.begun.add(1);
    }

    /// One of them reached an endpoint, so many microseconds after its decision.
    pub fn connected(&self, microseconds: u64) {
        self.connect_time.note(microseconds);
    }

    /// One of them has ended, with so many bytes delivered to the upstream and to the client.
    pub fn end(&self, reason: Reason, sent: u64, received: u64) {
        self.ended[reason as usize].add(1);
        self.past.add(sent, received);
    }

    /// One of them is open, with so many bytes so far.
    pub fn gather(&self, sent: u64, received: u64) {
        self.present.add(sent, received);
    }

    /// All that are open were gathered. In between none has ended, so what is shown never shrinks.
    fn show(&self) {
        let (past, present) = (&self.past, &self.present);
        self.shown.set(past.sent.read() + present.sent.read(), past.received.read() + present.received.read());
        present.set(0, 0);
    }

    /// Connections that took it.
    pub fn begun(&self) -> u64 {
        self.begun.read()
    }

    /// Those that have ended for this reason.
    pub fn ended(&self, reason: Reason) -> u64 {
        self.ended[reason as usize].read()
    }

    /// Those that have ended.
    pub fn ended_in_all(&self) -> u64 {
        self.ended.iter().map(Count::read).sum()
    }

    /// Bytes delivered to the side opposite `from`, as of the last tick.
    pub fn bytes(&self, from: Side) -> u64 {
        match from {
            Side::Client => self.shown.sent.read(),
            Side::Upstream => self.shown.received.read(),
        }
    }

    /// Microseconds from decisions to upstream connections.
    pub fn connect_time(&self) -> &Histogram {
        &self.connect_time
    }

    /// Whether a connection has it. Those without a route are found by their listener again, whatever becomes of this.
    fn is_taken(&self) -> bool {
        self.route.is_some() && self.begun() > self.ended_in_all()
    }

    fn is_of(&self, listener: &Arc<str>, upstream: Option<&Arc<str>>) -> bool {
        same(&self.listener, listener) && same_or_none(self.route.as_ref().map(|(_, upstream)| upstream), upstream)
    }
}

/// Most are the very same text.
fn same(one: &Arc<str>, other: &Arc<str>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

fn same_or_none(one: Option<&Arc<str>>, other: Option<&Arc<str>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => same(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// A lane of a worker, as its connections remember it: a pointer would be twice as large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneId(NonZeroU32);

impl LaneId {
    fn of(place: usize) -> Self {
        // Of four billion lanes some would be confused; there is no memory for a thousandth of them.
        let number = u32::try_from(place).unwrap_or(u32::MAX).saturating_add(1);
        Self(NonZeroU32::new(number).unwrap_or(NonZeroU32::MAX))
    }

    fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The lanes of one worker. They are made when a connection first takes them.
#[derive(Debug, Default)]
pub struct Lanes {
    tally: Arc<Tally>,
    all: RefCell<Slab<Arc<Lane>>>,
    unrouted: RefCell<Vec<LaneId>>,
    /// Of each route, by listener and upstream: seldom more than one.
    routed: RefCell<HashMap<Arc<str>, Vec<LaneId>>>,
    /// What the configuration in force names.
    named: RefCell<Names>,
}

/// The names that a configuration gives.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// To listeners.
    pub listeners: HashSet<Arc<str>>,
    /// To routes.
    pub routes: HashSet<Arc<str>>,
}

impl Names {
    fn have(&self, lane: &Lane) -> bool {
        let routed = lane.route.as_ref().is_none_or(|(route, _)| self.routes.contains(route));
        routed && self.listeners.contains(&lane.listener)
    }
}

impl Lanes {
    /// Those that this tally shows.
    pub fn of(tally: Arc<Tally>) -> Self {
        Self { tally, ..Self::default() }
    }

    /// What else the worker counts.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// For connections of a listener that have no route, or none yet.
    pub fn of_listener(&self, listener: &Arc<str>) -> LaneId {
        self.find_or_open(&mut self.unrouted.borrow_mut(), listener, None)
    }

    /// For connections of a listener that this route leads to this upstream.
    pub fn of_route(&self, listener: &Arc<str>, route: &Arc<str>, upstream: &Arc<str>) -> LaneId {
        let mut routed = self.routed.borrow_mut();
        if !routed.contains_key(route) {
            routed.insert(Arc::clone(route), Vec::new());
        }
        let Some(lanes) = routed.get_mut(route) else { unreachable!("it was put there just now") };
        self.find_or_open(lanes, listener, Some((route, upstream)))
    }

    fn find_or_open(
        &self,
        lanes: &mut Vec<LaneId>,
        listener: &Arc<str>,
        route: Option<(&Arc<str>, &Arc<str>)>,
    ) -> LaneId {
        let mut all = self.all.borrow_mut();
        let upstream = route.map(|(_, upstream)| upstream);
        if let Some(known) = lanes.iter().find(|lane| all[lane.place()].is_of(listener, upstream)) {
            return *known;
        }
        let new = Arc::new(Lane::new(listener, route));
        self.tally.with_lanes(|shown| shown.push(Arc::clone(&new)));
        let id = LaneId::of(all.insert(new));
        lanes.push(id);
        id
    }

    /// Counts something in this lane, which is there for as long as a connection has taken it.
    pub fn count(&self, lane: LaneId, step: impl FnOnce(&Lane)) {
        if let Some(lane) = self.all.borrow().get(lane.place()) {
            step(lane);
        }
    }

    /// From now on the configuration gives these names. A lane that neither it has nor the one before is forgotten, unless
    /// a connection takes it: what was counted last can be seen until the change after the one that removed it, and what
    /// is remembered is bounded by two configurations.
    pub fn follow(&self, names: Names) {
        let before = self.named.replace(names);
        let (now, mut all) = (self.named.borrow(), self.all.borrow_mut());
        let mut forgotten = Vec::new();
        let mut sift = |lanes: &mut Vec<LaneId>| {
            lanes.retain(|id| {
                let lane = &all[id.place()];
                let stays = now.have(lane) || before.have(lane) || lane.is_taken();
                if !stays {
                    forgotten.push(all.remove(id.place()));
                }
                stays
            });
        };
        sift(&mut self.unrouted.borrow_mut());
        self.routed.borrow_mut().retain(|_, lanes| {
            sift(lanes);
            !lanes.is_empty()
        });
        if !forgotten.is_empty() {
            let is_forgotten = |lane: &Arc<Lane>| forgotten.iter().any(|gone| Arc::ptr_eq(gone, lane));
            self.tally.with_lanes(|shown| shown.retain(|lane| !is_forgotten(lane)));
        }
    }

    /// All open connections have been gathered: from now on their bytes are shown.
    pub fn show(&self) {
        self.all.borrow().iter().for_each(|(_, lane)| lane.show());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(listeners: &[&str], routes: &[&str]) -> Names {
        let set = |names: &[&str]| names.iter().map(|&name| Arc::from(name)).collect();
        Names { listeners: set(listeners), routes: set(routes) }
    }

    fn lane(lanes: &Lanes, listener: &str, route: &str) -> LaneId {
        lanes.of_route(&listener.into(), &route.into(), &"up".into())
    }

    /// Listener and route of each lane that is shown.
    fn shown(lanes: &Lanes) -> Vec<String> {
        let text = |lane: &Arc<Lane>| match &lane.route {
            Some((route, upstream)) => format!("{} {route} {upstream}", lane.listener),
            None => lane.listener.to_string(),
        };
        let mut shown: Vec<_> = lanes.tally().lanes().iter().map(text).collect();
        shown.sort();
        shown
    }

    #[test]
    fn a_lane_is_found_again_by_its_names() {
        let lanes = Lanes::default();
        let first = lane(&lanes, "one", "a");
        assert_eq!(first, lane(&lanes, "one", "a"));
        for other in [lane(&lanes, "two", "a"), lane(&lanes, "one", "b"), lanes.of_listener(&"one".into())] {
            assert_ne!(first, other);
        }
        let elsewhere = lanes.of_route(&"one".into(), &"a".into(), &"down".into());
        assert_ne!(first, elsewhere, "the route leads elsewhere now");
        assert_eq!(shown(&lanes), ["one", "one a down", "one a up", "one b up", "two a up"]);
    }

    #[test]
    fn bytes_are_those_of_ended_and_of_open_ones_at_a_tick() {
        let lanes = Lanes::default();
        lane(&lanes, "one", "a");
        let lane = lanes.tally().lanes().remove(0);
        let bytes = || [Side::Client, Side::Upstream].map(|side| lane.bytes(side));
        lane.end(Reason::ClientClosed, 1, 10);
        lane.gather(100, 1000);
        assert_eq!(bytes(), [0, 0]);
        lanes.show();
        assert_eq!(bytes(), [101, 1010]);
        // The one that was open has ended, with a little more.
        lane.end(Reason::Drained, 102, 1000);
        assert_eq!(bytes(), [101, 1010]);
        lanes.show();
        assert_eq!(bytes(), [103, 1010]);
        assert_eq!((lane.ended(Reason::Drained), lane.ended(Reason::NotTls), lane.ended_in_all()), (1, 0, 2));
    }

    #[test]
    fn a_removed_route_is_seen_until_the_change_after_and_while_somebody_takes_it() {
        let lanes = Lanes::default();
        let all = names(&["one", "two"], &["a", "b"]);
        lanes.follow(all.clone());
        let held = lane(&lanes, "one", "a");
        lanes.count(held, Lane::begin);
        let _ = (lane(&lanes, "one", "b"), lane(&lanes, "two", "b"), lanes.of_listener(&"two".into()));
        lanes.follow(names(&["one"], &["c"]));
        assert_eq!(shown(&lanes), ["one a up", "one b up", "two", "two b up"]);
        lanes.follow(names(&["one"], &["c"]));
        assert_eq!(shown(&lanes), ["one a up"]);
        assert_eq!(held, lane(&lanes, "one", "a"), "what comes meanwhile is counted with it");
        lanes.count(held, |lane| lane.end(Reason::ClientClosed, 1, 1));
        lanes.follow(all);
        lanes.follow(names(&["one"], &["c"]));
        lanes.follow(names(&["one"], &["c"]));
        assert!(shown(&lanes).is_empty());
    }
}
