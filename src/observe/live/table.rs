//! The table of a worker's live connections.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use slab::Slab;

use super::{Live, Pace, SilenceLimits};
use crate::observe::ids::Ids;
use crate::observe::story::{Doorplate, Story};
use crate::outcome::{Phase, Reason};

/// Places of the table that are visited in one turn, at most, so that no connection waits for long.
pub const SLICE: usize = 256;

/// The live connections of one worker.
#[derive(Debug, Default)]
pub struct LiveTable {
    pub(super) ids: Ids,
    clock: Rc<Cell<u32>>,
    pub(super) entries: RefCell<Slab<Rc<Live>>>,
    /// As many as there are entries, for other threads to read.
    count: Arc<AtomicUsize>,
    /// Set once all are stopped, for those that enter later.
    stop: Cell<Option<Reason>>,
    /// How many were drained while bytes were under way, or before they could end.
    pub(super) cut: Cell<usize>,
}

impl LiveTable {
    /// An empty table that gives its connections these names, and adds them to what `count` counts.
    pub fn new(ids: Ids, count: Arc<AtomicUsize>) -> Self {
        Self { ids, count, ..Self::default() }
    }

    /// Enters a connection that came in here and begins in this phase; it is in the table for as long as the entry lives.
    pub fn enter(self: &Rc<Self>, source: SocketAddr, plate: Arc<Doorplate>, phase: Phase) -> LiveEntry {
        let live = Rc::new(Live {
            clock: Rc::clone(&self.clock),
            last_byte: Cell::new(self.clock.get()),
            sent: Cell::new(0),
            received: Cell::new(0),
            spliced: Cell::new(0),
            limits: Cell::new(SilenceLimits { idle: u32::MAX, half_closed: u32::MAX }),
            half_closed: Cell::new(false),
            look: Cell::new(false),
            pace: Cell::new(Pace::New),
            stop: Cell::new(self.stop.get()),
            cut: Cell::new(false),
            waker: Cell::new(None),
            revoked: Cell::new(false),
            notice: OnceCell::new(),
            lane: Cell::new(None),
            story: Box::new(Story::begin(self.ids.next(), source, plate, phase)),
        });
        let key = self.entries.borrow_mut().insert(Rc::clone(&live));
        self.count.fetch_add(1, Ordering::Relaxed);
        LiveEntry { table: Rc::clone(self), key, live }
    }

    /// One [`TICK`](super::TICK) has passed: stops every connection that was silent for longer than it may be.
    pub fn sweep(&self) {
        self.sweep_and(|_| {});
    }

    /// The same, with a look at each of them.
    pub fn sweep_and(&self, mut look: impl FnMut(&Live)) {
        self.clock.set(self.clock.get().saturating_add(1));
        for (number, live) in &*self.entries.borrow() {
            live.sweep(number);
            look(live);
        }
    }

    /// Stops every connection, those that have yet to enter included.
    pub fn stop_all(&self, reason: Reason) {
        self.stop.set(Some(reason));
        for (_, live) in &*self.entries.borrow() {
            live.stop(reason);
        }
    }

    /// Shows the connections in the next [`SLICE`] of the [`LiveTable::places`] from this one on. Returns the place to go on
    /// at, which after the last is the first.
    pub fn visit(&self, from: usize, mut see: impl FnMut(&Rc<Live>)) -> usize {
        let entries = self.entries.borrow();
        let end = entries.capacity().min(from.saturating_add(SLICE));
        (from..end).filter_map(|place| entries.get(place)).for_each(&mut see);
        if end < entries.capacity() { end } else { 0 }
    }

    /// Places that there are, those without a connection included. They never become fewer.
    pub fn places(&self) -> usize {
        self.entries.borrow().capacity()
    }

    /// Connections open now.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Whether no connection is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A connection's place in the table; given back on drop.
#[derive(Debug)]
pub struct LiveEntry {
    table: Rc<LiveTable>,
    key: usize,
    live: Rc<Live>,
}

impl LiveEntry {
    /// What the connection is called.
    pub fn id(&self) -> String {
        self.table.ids.name(self.live.story.number())
    }

    /// The connection itself, to hold beside its entry.
    pub fn share(&self) -> Rc<Live> {
        Rc::clone(&self.live)
    }
}

impl std::ops::Deref for LiveEntry {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.live
    }
}

impl Drop for LiveEntry {
    fn drop(&mut self) {
        self.table.entries.borrow_mut().remove(self.key);
        self.table.count.fetch_sub(1, Ordering::Relaxed);
        if self.live.cut.get() && self.live.stop_reason() == Some(Reason::Drained) {
            self.table.cut.set(self.table.cut.get() + 1);
        }
    }
}
