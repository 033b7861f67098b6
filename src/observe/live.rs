//! The connections of one worker that are open now: their counters, and the way to stop one.
//!
//! There is no timer a connection: one coarse tick a worker sweeps the table and stops what was silent for too long.

mod leaving;
mod row;
mod table;

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::metrics::LaneId;
use super::notice::Notice;
use super::story::Story;
use crate::outcome::{Reason, Side};
pub use row::{Row, State};
pub use table::{LiveEntry, LiveTable, SLICE};

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

/// One live connection: what its relay counts, what the worker tells it, and its story. Small on purpose: see the test of
/// its size.
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
    /// It ends while bytes are under way.
    cut: Cell<bool>,
    waker: Cell<Option<Waker>>,
    /// It closes at its moment, unless it is spared before.
    revoked: Cell<bool>,
    notice: OnceCell<Arc<Notice>>,
    /// Where it is counted once it has a route.
    lane: Cell<Option<LaneId>>,
    story: Box<Story>,
}

/// How long a relay may be silent, in ticks. Unlimited before it relays: other deadlines hold there.
#[derive(Clone, Copy, Debug)]
struct SilenceLimits {
    idle: u32,
    half_closed: u32,
}

impl Live {
    /// What is known of it.
    pub fn story(&self) -> &Story {
        &self.story
    }

    /// From now on the connection is stopped after so long without a byte in either direction.
    pub fn limit_silence(&self, idle: Duration, half_closed: Duration) {
        self.last_byte.set(self.clock.get());
        self.limits.set(SilenceLimits { idle: ticks(idle), half_closed: ticks(half_closed) });
    }

    /// From now on the connection closes when the notice is given to those of its endpoint.
    pub fn heed(&self, notice: Arc<Notice>) {
        let _ = self.notice.set(notice);
    }

    /// The endpoint that it is connected to.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.notice.get().map(|notice| notice.endpoint)
    }

    /// From now on it is counted there.
    pub fn take(&self, lane: LaneId) {
        self.lane.set(Some(lane));
    }

    /// Where it is counted, if it has a route.
    pub fn lane(&self) -> Option<LaneId> {
        self.lane.get()
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

    /// Notes whether the configuration in force has it close.
    pub fn revoke(&self, revoked: bool) {
        self.revoked.set(revoked);
    }

    /// Whether it has it close.
    pub fn is_revoked(&self) -> bool {
        self.revoked.get()
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
            let known = self.waker.take().filter(|known| known.will_wake(cx.waker()));
            self.waker.set(known.or_else(|| Some(cx.waker().clone())));
        }
        reason
    }

    /// Waits for the reason to stop.
    pub async fn stopped(&self) -> Reason {
        poll_fn(|cx| self.poll_stop(cx).map_or(Poll::Pending, Poll::Ready)).await
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake_by_ref();
            self.waker.set(Some(waker));
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

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("story", &self.story).field("stop", &self.stop).finish_non_exhaustive()
    }
}

/// The number of whole ticks that surely cover a duration.
fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
