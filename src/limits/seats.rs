//! [`Seats`]: how many connections there may be, of all workers together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// All seats, those that are taken included.
#[derive(Debug)]
pub struct Seats {
    all: usize,
    taken: AtomicUsize,
}

/// A connection's seat; given back on drop.
#[derive(Debug)]
pub struct Seat(Arc<Seats>);

impl Seats {
    /// So many, none of them taken.
    pub fn of(all: usize) -> Arc<Self> {
        Arc::new(Self { all, taken: AtomicUsize::new(0) })
    }

    /// How many there are.
    pub fn all(&self) -> usize {
        self.all
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes one, if there is one left. Workers that ask at the same time get no more than there are.
    pub fn take(self: &Arc<Self>) -> Option<Seat> {
        let one_more = |taken| (taken < self.all).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Seat(Arc::clone(self)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn there_are_no_more_seats_than_there_are() {
        const SEATS: usize = 3;
        let seats = Seats::of(SEATS);
        let (together, most) = (Barrier::new(4), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        together.wait();
                        let held: Vec<_> = (0..SEATS).filter_map(|_| seats.take()).collect();
                        // Counted once all have what they can get.
                        most.fetch_add(held.len(), Ordering::SeqCst);
                        together.wait();
                        assert_eq!(most.load(Ordering::SeqCst), SEATS);
                        together.wait();
                        most.fetch_sub(held.len(), Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(seats.taken(), 0);
    }
}
