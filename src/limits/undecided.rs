//! [`Undecided`]: the connections of one worker that have no route yet, in the order in which they came.
//!
//! What they have cost nobody but us, so they can be shed: at each cap the oldest of them goes, since it has had the most
//! time. One that was told why it is refused, and is given a moment to read it, has its place still.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::sources::{Key, Source};
use super::{Limits, Permits, Share};
use crate::observe::live::Live;
use crate::outcome::Reason;

/// The undecided connections of one worker.
#[derive(Debug)]
pub struct Undecided {
    most: usize,
    most_bytes: usize,
    /// By number, which is by age.
    waiting: RefCell<BTreeMap<u64, Waiting>>,
    next: Cell<u64>,
    /// What their hellos take, and those of clients that have a route and no upstream connection yet.
    bytes: Cell<usize>,
}

#[derive(Debug)]
struct Waiting {
    live: Rc<Live>,
    /// Where it comes from, once that is known.
    source: Option<Key>,
    /// What its hello takes so far.
    bytes: usize,
}

/// A connection's place among the undecided; given back on drop.
#[derive(Debug)]
pub struct Place {
    undecided: Rc<Undecided>,
    number: u64,
    /// In whose slot it is counted.
    source: Option<(Arc<Limits>, Key)>,
    /// What its hello takes after the decision.
    bytes: usize,
}

impl Undecided {
    /// Nobody yet, on a worker with this share of what there may be.
    pub fn new(share: &Share) -> Self {
        Self {
            most: share.undecided,
            most_bytes: share.hello_memory,
            waiting: RefCell::default(),
            next: Cell::new(0),
            bytes: Cell::new(0),
        }
    }

    /// Takes in a connection that was just accepted.
    pub fn enter(self: &Rc<Self>, live: Rc<Live>) -> Place {
        let number = self.next.get();
        self.next.set(number + 1);
        self.waiting.borrow_mut().insert(number, Waiting { live, source: None, bytes: 0 });
        if self.waiting.borrow().len() > self.most {
            self.shed_oldest();
        }
        Place { undecided: Rc::clone(self), number, source: None, bytes: 0 }
    }

    /// What their hellos take, and those of clients that have a route and no upstream connection yet.
    pub fn memory(&self) -> usize {
        self.bytes.get()
    }

    /// Ends the one that has waited longest. `false`: there is none.
    pub fn shed_oldest(&self) -> bool {
        self.shed_first(|_, _| true)
    }

    /// Ends the oldest of the wanted ones. Not who was told to end before, for whatever reason: it takes its time.
    fn shed_first(&self, wanted: impl Fn(u64, &Waiting) -> bool) -> bool {
        let is_it = |number, waiting: &Waiting| waiting.live.stop_reason().is_none() && wanted(number, waiting);
        let found =
            self.waiting.borrow().iter().find(|(number, waiting)| is_it(**number, waiting)).map(|(key, _)| *key);
        let Some(shed) = found.and_then(|number| self.leave(number)) else { return false };
        shed.live.stop(Reason::LimitUndecided);
        true
    }

    fn leave(&self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.borrow_mut().remove(&number)?;
        self.bytes.set(self.bytes.get() - waiting.bytes);
        Some(waiting)
    }

    /// Notes what the hello of this one takes, if it has its place still.
    fn note(&self, number: u64, bytes: usize) {
        if let Some(waiting) = self.waiting.borrow_mut().get_mut(&number) {
            self.bytes.set(self.bytes.get() - waiting.bytes + bytes);
            waiting.bytes = bytes;
        }
    }

    /// Ends those with the oldest hellos until what is left may stay. `false`: it may not, and there is no other than
    /// number `own`.
    fn trim_except(&self, own: u64) -> bool {
        while self.bytes.get() > self.most_bytes {
            if !self.shed_first(|number, waiting| number != own && waiting.bytes > 0) {
                return false;
            }
        }
        true
    }
}

impl Place {
    /// Counts the connection for its source, now that it is known.
    ///
    /// # Errors
    /// The limit of the source that is reached.
    pub fn identify(&mut self, limits: &Arc<Limits>, source: IpAddr, permits: &mut Permits) -> Result<(), Reason> {
        let source = Key::in_all(Source::of(source));
        let taken = limits.take_source(source);
        if !taken.counted {
            return Ok(());
        }
        self.source = Some((Arc::clone(limits), source));
        if taken.refused.is_none() && limits.per_source.is_some() {
            permits.0.get_or_insert_default().source = Some((Arc::clone(limits), source));
        }
        if let Some(waiting) = self.undecided.waiting.borrow_mut().get_mut(&self.number) {
            waiting.source = Some(source);
        }
        if taken.crowded {
            // The others may all be on other workers, and there is no harm in one more: with the next one here it goes.
            self.undecided.shed_first(|number, waiting| number != self.number && waiting.source == Some(source));
        }
        taken.refused.map_or(Ok(()), Err)
    }

    /// Its hello is not complete, and takes so many bytes. Hellos have a limit together; beyond it those whose hellos are
    /// oldest go, this one included.
    pub fn hold(&self, bytes: usize) {
        self.undecided.note(self.number, bytes);
        if !self.undecided.trim_except(self.number) {
            self.undecided.shed_first(|number, _| number == self.number);
        }
    }

    /// It has its route, and cannot be shed any more; its hello of so many bytes is kept until it is dropped.
    ///
    /// # Errors
    /// When there is no memory left for it.
    pub fn decided(&mut self, bytes: usize) -> Result<(), Reason> {
        let undecided = Rc::clone(&self.undecided);
        undecided.note(self.number, bytes);
        if !undecided.trim_except(self.number) {
            return Err(Reason::LimitUndecided);
        }
        if undecided.leave(self.number).is_some() {
            undecided.bytes.set(undecided.bytes.get() + bytes);
            self.bytes = bytes;
        }
        self.release_source();
        Ok(())
    }

    fn release_source(&mut self) {
        if let Some((limits, source)) = self.source.take() {
            limits.sources.decide(source);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.undecided.leave(self.number);
        self.undecided.bytes.set(self.undecided.bytes.get() - self.bytes);
        self.release_source();
    }
}
