//! The connections of one worker that are open now: their counters, and the way to stop one.
//!
//! There is no timer a connection: one coarse tick a worker sweeps the table and stops what was silent for too long.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use super::notice::Notice;
use crate::outcome::{Reason, Side};

/// How often [`LiveTable::sweep`] is to be called; timeouts are kept to this precision.
pub const TICK: Duration = Duration::from_secs(1);

/// Silence that makes a connection quiet: see [`Pace::Quiet`].
const QUIET: u32 = 20;

/// What a relay has done about how a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Nothing yet: most connections end before a sweep comes.
    New,
    /// It has proved to last.
    Lasting,
    /// It was silent for 20 s, too, and nothing is under way.
    Quiet,
}

/// One live connection: what its relay counts and what the worker tells it.
#[derive(Debug)]
pub struct Live {
    clock: Rc<Cell<u32>>,
    /// The tick in which the last byte moved.
    last_byte: Cell<u32>,
    sent: Cell<u64>,
    received: Cell<u64>,
    spliced: Cell<u64>,
    limits: Cell<SilenceLimits>,
    half_closed: Cell<bool>,
    /// Set by the sweep, see [`Live::is_to_look`].
    look: Cell<bool>,
    pace: Cell<Pace>,
    stop: Cell<Option<Reason>>,
    waker: RefCell<Option<Waker>>,
    notice: OnceCell<Arc<Notice>>,
}

/// How long a relay may be silent, in ticks. Unlimited before it relays: other deadlines hold there.
#[derive(Clone, Copy, Debug)]
struct SilenceLimits {
    idle: u32,
    half_closed: u32,
}

impl Live {
    /// From now on the connection is stopped after so long without a byte in either direction.
    pub fn limit_silence(&self, idle: Duration, half_closed: Duration) {
        self.last_byte.set(self.clock.get());
        self.limits.set(SilenceLimits { idle: ticks(idle), half_closed: ticks(half_closed) });
    }

    /// From now on the connection closes when the notice is given.
    pub fn heed(&self, notice: Arc<Notice>) {
        let _ = self.notice.set(notice);
    }

    /// Counts bytes that were delivered to the side opposite `from`.
    pub fn count(&self, from: Side, bytes: usize) {
        let counter = match from {
            Side::Client => &self.sent,
            Side::Upstream => &self.received,
        };
        counter.set(counter.get() + bytes as u64);
        self.last_byte.set(self.clock.get());
    }

    /// Counts bytes that were delivered without passing through this process.
    pub fn count_spliced(&self, from: Side, bytes: usize) {
        self.spliced.set(self.spliced.get() + bytes as u64);
        self.count(from, bytes);
    }

    /// Of the bytes delivered either way, those that were spliced.
    pub fn spliced(&self) -> u64 {
        self.spliced.get()
    }

    /// Bytes delivered to the upstream.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Bytes delivered to the client.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// From now on the half-close limit holds, counted anew.
    pub fn half_close(&self) {
        self.half_closed.set(true);
        self.last_byte.set(self.clock.get());
    }

    /// Whether the relay is to look after its sockets: when the connection proves to last, when it becomes quiet and when
    /// it is so no more, and with one side half-closed at every tick.
    pub fn is_to_look(&self) -> bool {
        self.look.take()
    }

    /// The pace that is due, if it is not the one that was noted.
    pub fn new_pace(&self) -> Option<Pace> {
        let pace = if self.silence() >= QUIET { Pace::Quiet } else { Pace::Lasting };
        (pace != self.pace.get()).then_some(pace)
    }

    /// Notes what was done about it. As long as it is not, the next tick brings another look.
    pub fn note_pace(&self, pace: Pace) {
        self.pace.set(pace);
    }

    /// Ticks since the last byte.
    fn silence(&self) -> u32 {
        self.clock.get().saturating_sub(self.last_byte.get())
    }

    /// Tells the connection to end for a reason of ours; the first reason stands.
    pub fn stop(&self, reason: Reason) {
        if self.stop.get().is_none() {
            self.stop.set(Some(reason));
            self.wake();
        }
    }

    /// The reason it was told to stop, if it was.
    pub fn stop_reason(&self) -> Option<Reason> {
        self.stop.get()
    }

    /// The reason to stop, once there is one; until then the task is woken when it comes.
    pub fn poll_stop(&self, cx: &Context<'_>) -> Option<Reason> {
        let reason = self.stop.get();
        if reason.is_none() {
            let mut waker = self.waker.borrow_mut();
            match &mut *waker {
                Some(known) => known.clone_from(cx.waker()),
                None => *waker = Some(cx.waker().clone()),
            }
        }
        reason
    }

    /// Waits for the reason to stop.
    pub async fn stopped(&self) -> Reason {
        poll_fn(|cx| self.poll_stop(cx).map_or(Poll::Pending, Poll::Ready)).await
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn sweep(&self, number: usize) {
        if let Some(reason) = self.notice.get().and_then(|notice| notice.due(number)) {
            return self.stop(reason);
        }
        let silent = self.silence();
        let limits = self.limits.get();
        if self.half_closed.get() {
            if silent > limits.half_closed {
                self.stop(Reason::HalfCloseTimeout);
            } else {
                // Nobody reads a half-closed side any more, so its reset has to be looked for.
                self.look();
            }
        } else if silent > limits.idle {
            self.stop(Reason::IdleTimeout);
        } else if self.new_pace().is_some() {
            self.look();
        }
    }

    fn look(&self) {
        // Who has not looked since the last time does not relay yet.
        if !self.look.replace(true) {
            self.wake();
        }
    }
}

/// The number of whole ticks that surely cover a duration.
fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u32::MAX)
}

/// The live connections of one worker.
#[derive(Debug, Default)]
pub struct LiveTable {
    clock: Rc<Cell<u32>>,
    entries: RefCell<Slab<Rc<Live>>>,
    /// As many as there are entries, for other threads to read.
    count: Arc<AtomicUsize>,
    /// Set once all are stopped, for those that enter later.
    stop: Cell<Option<Reason>>,
}

impl LiveTable {
    /// An empty table that adds its connections to what `count` counts.
    pub fn counted_in(count: Arc<AtomicUsize>) -> Self {
        Self { count, ..Self::default() }
    }

    /// Enters a connection; it is in the table for as long as the entry lives.
    pub fn enter(self: &Rc<Self>) -> LiveEntry {
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
            waker: RefCell::new(None),
            notice: OnceCell::new(),
        });
        let key = self.entries.borrow_mut().insert(Rc::clone(&live));
        self.count.fetch_add(1, Ordering::Relaxed);
        LiveEntry { table: Rc::clone(self), key, live }
    }

    /// One [`TICK`] has passed: stops every connection that was silent for longer than it may be.
    pub fn sweep(&self) {
        self.clock.set(self.clock.get().saturating_add(1));
        for (number, live) in &*self.entries.borrow() {
            live.sweep(number);
        }
    }

    /// Stops every connection, those that have yet to enter included.
    pub fn stop_all(&self, reason: Reason) {
        self.stop.set(Some(reason));
        for (_, live) in &*self.entries.borrow() {
            live.stop(reason);
        }
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(idle: u64, half_closed: u64) -> (Rc<LiveTable>, LiveEntry) {
        let table = Rc::new(LiveTable::default());
        let entry = table.enter();
        entry.limit_silence(Duration::from_secs(idle), Duration::from_secs(half_closed));
        (table, entry)
    }

    fn stopped(live: &Live) -> Option<Reason> {
        live.poll_stop(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn silence_ends_a_connection_and_a_byte_saves_it() {
        let (table, live) = entry(3, 60);
        for _ in 0..3 {
            table.sweep();
        }
        assert_eq!(stopped(&live), None, "three ticks may be a little less than three seconds");
        live.count(Side::Upstream, 1);
        for _ in 0..3 {
            table.sweep();
        }
        assert_eq!(stopped(&live), None);
        table.sweep();
        assert_eq!(stopped(&live), Some(Reason::IdleTimeout));
    }

    #[test]
    fn a_half_closed_connection_has_its_own_limit_counted_anew() {
        let (table, live) = entry(100, 2);
        for _ in 0..50 {
            table.sweep();
        }
        live.half_close();
        table.sweep();
        table.sweep();
        assert_eq!(stopped(&live), None);
        table.sweep();
        assert_eq!(stopped(&live), Some(Reason::HalfCloseTimeout));
    }

    #[tokio::test(start_paused = true)]
    async fn a_notice_closes_all_of_its_connections_one_after_another() {
        let (table, first) = entry(100, 100);
        let others: Vec<_> = (0..19).map(|_| table.enter()).collect();
        let (notice, other) = (Arc::default(), table.enter());
        others.iter().chain([&first]).for_each(|live| live.heed(Arc::clone(&notice)));
        table.sweep();
        assert_eq!(stopped(&first), None);
        notice.give(Reason::EndpointRemoved);
        let mut closed = Vec::new();
        for _ in 0..10 {
            table.sweep();
            closed.push(others.iter().chain([&first]).filter(|live| live.stop_reason().is_some()).count());
            tokio::time::advance(TICK).await;
        }
        assert_eq!(closed, (1..=10).map(|tick| 2 * tick).collect::<Vec<_>>());
        assert_eq!((stopped(&first), stopped(&other)), (Some(Reason::EndpointRemoved), None));
    }

    #[test]
    fn before_it_relays_no_silence_ends_it() {
        let table = Rc::new(LiveTable::default());
        let live = table.enter();
        for _ in 0..100_000 {
            table.sweep();
        }
        assert_eq!(stopped(&live), None);
    }

    #[test]
    fn the_first_reason_to_stop_stands_and_entries_leave_on_drop() {
        let (table, live) = entry(1, 1);
        table.stop_all(Reason::Drained);
        live.stop(Reason::IdleTimeout);
        assert_eq!(stopped(&live), Some(Reason::Drained));
        assert_eq!(stopped(&table.enter()), Some(Reason::Drained));
        assert_eq!(table.len(), 1);
        drop(live);
        assert!(table.is_empty());
    }

    #[test]
    fn durations_round_up_to_ticks() {
        assert_eq!(ticks(Duration::from_millis(1)), 1);
        assert_eq!(ticks(Duration::from_secs(60)), 60);
        assert_eq!(ticks(Duration::MAX), u32::MAX);
    }
}
