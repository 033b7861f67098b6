//! Connections: who came, what became of them, and how much was moved.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use super::families::{Families, float};
use crate::observe::live::State;
use crate::observe::metrics::{Count, Distribution, Histogram, Lane, Scale, Tally};
use crate::outcome::{Reason, Side};
use crate::server::View;

pub(super) fn write(families: &mut Families<'_>, view: &View) -> fmt::Result {
    let sums = Sums::of(view);
    write_begun(families, &sums)?;
    write_bytes(families, &sums, view)?;
    write_hellos(families, view)?;
    families.histogram(
        "connect_duration_seconds",
        "Time from the decision to the upstream connection, failed attempts included",
        sums.connect_times.iter().map(|(upstream, seen)| ([("upstream", &**upstream)], seen.clone())),
    )?;
    let durations = sum(view, Scale::DURATION, |tally| &tally.duration);
    families.histogram("connection_duration_seconds", "Time from accept to the end", [([], durations)])
}

fn write_begun(families: &mut Families<'_>, sums: &Sums) -> fmt::Result {
    families.counter(
        "connections_accepted",
        "Connections accepted",
        sums.accepted.iter().map(|(listener, count)| ([("listener", &**listener)], *count)),
    )?;
    families.counter(
        "connections_routed",
        "Connections for which a route was found",
        sums.routed.iter().map(|((listener, route), count)| ([("listener", &**listener), ("route", &**route)], *count)),
    )?;
    families.counter(
        "connections_ended",
        "Connections that have ended; without a route if none was found",
        sums.ended.iter().map(|((listener, route, reason), count)| {
            ([("listener", &**listener), ("route", &**route), ("reason", reason.label())], *count)
        }),
    )?;
    families.gauge(
        "connections_open",
        "Connections open, by what they are doing, as of the last second",
        State::ALL.map(|state| ([("state", state.label())], float(sums.states[state as usize]))),
    )?;
    families.gauge(
        "route_connections_open",
        "Connections open that a route took",
        sums.open.iter().map(|(route, count)| ([("route", &**route)], float(*count))),
    )
}

fn write_bytes(families: &mut Families<'_>, sums: &Sums, view: &View) -> fmt::Result {
    families.counter(
        "bytes",
        "Bytes delivered to the upstream (sent) and to the client (received), as of the last second",
        sums.bytes.iter().flat_map(|(route, [sent, received])| {
            [("sent", sent), ("received", received)]
                .map(|(direction, bytes)| ([("route", &**route), ("direction", direction)], *bytes))
        }),
    )?;
    let now = |of: fn(&Tally) -> &Count| view.workers.iter().map(|worker| of(&worker.tally).read()).sum::<u64>();
    families.counter(
        "spliced_bytes",
        "Bytes that the kernel moved by splice(2)",
        [([], now(|tally| &tally.now.spliced))],
    )?;
    families.one(
        "relay_memory_bytes",
        "Bytes that relays hold because nobody took them yet, in buffers and in pipes",
        float(now(|tally| &tally.now.relay_memory)),
    )?;
    families.one(
        "hello_memory_bytes",
        "Bytes of hellos that wait for their end, or for an upstream",
        float(now(|tally| &tally.now.hello_memory)),
    )?;
    families.one("pipes_open", "Pipes for splice(2)", float(now(|tally| &tally.now.pipes)))?;
    families.one("pipes_lent", "Pipes that move bytes", float(now(|tally| &tally.now.pipes_lent)))
}

fn write_hellos(families: &mut Families<'_>, view: &View) -> fmt::Result {
    let sizes = sum(view, Scale::HELLO_BYTES, |tally| &tally.hello_bytes);
    families.histogram("hello_size_bytes", "Bytes of complete ClientHellos", [([], sizes)])?;
    let records = sum(view, Scale::HELLO_RECORDS, |tally| &tally.hello_records);
    families.histogram("hello_records", "TLS records that ClientHellos came in", [([], records)])?;
    let times = sum(view, Scale::HELLO_TIME, |tally| &tally.hello_time);
    families.histogram("hello_duration_seconds", "Time from accept to a complete ClientHello", [([], times)])
}

/// What all workers have seen.
fn sum(view: &View, scale: &'static Scale, of: fn(&Tally) -> &Histogram) -> Distribution {
    let mut all = Distribution::of(scale);
    view.workers.iter().for_each(|worker| of(&worker.tally).add_to(&mut all));
    all
}

type Name = Arc<str>;

/// The lanes of all workers, added up by their labels. An empty route stands for none.
#[derive(Default)]
struct Sums {
    accepted: BTreeMap<Name, u64>,
    routed: BTreeMap<(Name, Name), u64>,
    ended: BTreeMap<(Name, Name, OrderedReason), u64>,
    open: BTreeMap<Name, u64>,
    bytes: BTreeMap<Name, [u64; 2]>,
    connect_times: HashMap<Name, Distribution>,
    states: [u64; State::ALL.len()],
}

/// A reason, by its place in the list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct OrderedReason(usize);

impl OrderedReason {
    fn label(self) -> &'static str {
        Reason::ALL[self.0].label()
    }
}

impl Sums {
    fn of(view: &View) -> Self {
        let mut sums = Self::default();
        let config = &view.current.load().config;
        // What can be counted is there from the beginning: a series that begins with 1 shows no increase.
        sums.accepted.extend(config.listeners.iter().map(|listener| (Arc::clone(&listener.name), 0)));
        for route in &config.routes {
            sums.open.insert(Arc::clone(&route.name), 0);
            sums.bytes.insert(Arc::clone(&route.name), [0; 2]);
        }
        for worker in &view.workers {
            worker.tally.lanes().iter().for_each(|lane| sums.add(lane));
            let states = worker.tally.now.states.iter();
            sums.states.iter_mut().zip(states).for_each(|(sum, count)| *sum += count.read());
        }
        sums
    }

    fn add(&mut self, lane: &Lane) {
        let listener = || Arc::clone(&lane.listener);
        let name = lane.route.as_ref().map_or_else(|| Arc::from(""), |(route, _)| Arc::clone(route));
        for (number, reason) in Reason::ALL.iter().enumerate() {
            let count = lane.ended(*reason);
            if count > 0 {
                *self.ended.entry((listener(), Arc::clone(&name), OrderedReason(number))).or_default() += count;
            }
        }
        // Read after the ends: of what happens meanwhile, at worst too many seem to be open.
        let begun = lane.begun();
        let Some((route, upstream)) = &lane.route else {
            *self.accepted.entry(listener()).or_default() += begun;
            return;
        };
        *self.routed.entry((listener(), Arc::clone(route))).or_default() += begun;
        *self.open.entry(Arc::clone(route)).or_default() += begun.saturating_sub(lane.ended_in_all());
        let bytes = self.bytes.entry(Arc::clone(route)).or_default();
        bytes[0] += lane.bytes(Side::Client);
        bytes[1] += lane.bytes(Side::Upstream);
        let times = self.connect_times.entry(Arc::clone(upstream));
        lane.connect_time().add_to(times.or_insert_with(|| Distribution::of(Scale::CONNECT_TIME)));
    }
}
