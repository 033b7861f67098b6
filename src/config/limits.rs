//! `limits`: how much there may be of everything, in all and for each source; and what a route may have of it.

use std::num::NonZeroUsize;

use super::section::{Node, Section};
use super::values;
use crate::routing::{Rate, RouteLimits};

/// How much there may be of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; without it, as many as the limit of open files has room for.
    pub max_connections: Option<NonZeroUsize>,
    /// Connections that have no route yet, at once.
    pub undecided: NonZeroUsize,
    /// The same from one source.
    pub undecided_per_source: NonZeroUsize,
    /// Connections at once from one source; without it, any number.
    pub per_source: Option<NonZeroUsize>,
    /// New connections from one source; without it, any number.
    pub rate_per_source: Option<Rate>,
    /// Bytes that relays may hold because nobody took them yet.
    pub relay_memory: usize,
}

impl Limits {
    /// What is planned once, at the start.
    pub(super) fn planned(&self) -> impl PartialEq + use<> {
        (self.max_connections, self.undecided, self.relay_memory)
    }

    /// What only counts.
    pub(super) fn counted(&self) -> impl PartialEq + use<> {
        (self.undecided_per_source, self.per_source, self.rate_per_source)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: None,
            undecided: UNDECIDED,
            undecided_per_source: UNDECIDED_PER_SOURCE,
            per_source: None,
            rate_per_source: None,
            relay_memory: 32 << 20,
        }
    }
}

/// As many as may wait to be accepted: more than come in the time that a hello takes, short of an attack.
const UNDECIDED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);
/// A storm of clients behind one address of an office; eight such sources until the first of them matters to others.
const UNDECIDED_PER_SOURCE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(511);

/// Beyond the descriptors that a process may have on most systems.
const MOST: usize = 1_000_000;
/// Of undecided ones: they are kept in order, and each may hold a hello.
const MOST_UNDECIDED: usize = 65_536;

pub(super) fn read(node: &Node<'_>) -> Option<Limits> {
    let default = Limits::default();
    node.section(|keys| Limits {
        max_connections: some_count(keys, "max_connections"),
        undecided: keys.value("undecided", default.undecided, values::count(MOST_UNDECIDED)),
        undecided_per_source: keys.value(
            "undecided_per_source",
            default.undecided_per_source,
            values::count(MOST_UNDECIDED),
        ),
        per_source: some_count(keys, "per_source"),
        rate_per_source: keys.optional("rate_per_source").and_then(|node| node.read(values::parsed)),
        relay_memory: keys.value("relay_memory", default.relay_memory, values::size(1 << 20..=1 << 30)),
    })
}

pub(super) fn of_route(keys: &mut Section<'_>) -> RouteLimits {
    let read = |node: Node<'_>| {
        node.section(|keys| RouteLimits {
            connections: some_count(keys, "connections"),
            per_source: some_count(keys, "per_source"),
            rate: keys.optional("rate").and_then(|node| node.read(values::parsed)),
        })
    };
    keys.optional("limits").and_then(read).unwrap_or_default()
}

fn some_count(keys: &mut Section<'_>, key: &'static str) -> Option<NonZeroUsize> {
    keys.optional(key).and_then(|node| node.read(values::count(MOST)))
}
