//! [`View`]: what can be seen of a running gate without asking any of its workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::drain::Stages;
use crate::limits::Plan;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Tally;
use crate::snapshot::Snapshot;
use crate::upstream::names::Ages;

/// A running gate, seen from outside.
#[derive(Debug)]
pub struct View {
    /// What is in force.
    pub current: Arc<ArcSwap<Snapshot>>,
    /// How many connections there may be, and what that takes.
    pub plan: Plan,
    /// The workers, by number.
    pub workers: Vec<Seen>,
    /// How old the answers of DNS are.
    pub ages: Arc<Ages>,
    /// Where ended connections are written down.
    pub log: AccessLog,
    /// When it started.
    pub started: SystemTime,
    /// How far it is on its way out.
    pub stages: Stages,
}

/// A worker, seen from outside.
#[derive(Debug)]
pub struct Seen {
    /// Connections it has, and those on their way to it.
    pub(super) open: Arc<AtomicUsize>,
    /// What it counts.
    pub tally: Arc<Tally>,
}

impl View {
    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.workers.iter().map(Seen::open).sum()
    }
}

impl Seen {
    /// Whether it runs: it holds what it counts for as long.
    pub fn is_running(&self) -> bool {
        Arc::strong_count(&self.tally) > 1
    }

    /// Connections it has, and those on their way to it.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}
