//! [`Pace`]: a token bucket in one number, the moment at which it will be full again (the GCRA of ATM networks).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::routing::Rate;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// What one costs.
    each: Duration,
    /// What there is to spend after a silence.
    most: Duration,
}

impl Pace {
    pub(super) fn of(rate: Rate) -> Self {
        let each = rate.per / rate.count.get();
        Self { each, most: each * rate.count.get() }
    }

    /// Takes one out of the bucket that will be full at `due`, if there is one. Time only ever goes on.
    pub(super) fn take(self, due: &mut Duration, now: Duration) -> bool {
        // It cannot be emptier than empty, as another pace may have left it that was in force before.
        *due = (*due).min(now + self.most);
        let next = (*due).max(now) + self.each;
        let room = next <= now + self.most;
        if room {
            *due = next;
        }
        room
    }
}

/// A bucket that workers share.
#[derive(Debug)]
pub(super) struct SharedPace {
    pace: Pace,
    due: Mutex<Duration>,
}

impl SharedPace {
    pub(super) fn new(rate: Rate) -> Self {
        Self { pace: Pace::of(rate), due: Mutex::default() }
    }

    pub(super) fn take(&self, now: Duration) -> bool {
        self.pace.take(&mut self.due.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_what_it_holds_at_once_and_then_as_fast_as_it_fills() {
        for (text, count, milliseconds_each) in
            [("5/s", 5, 200), ("1/s", 1, 1000), ("60/m", 60, 1000), ("3/h", 3, 1_200_000)]
        {
            let pace = Pace::of(text.parse().unwrap());
            let (mut due, mut now) = (Duration::ZERO, Duration::from_secs(1000));
            for round in 0..3 {
                assert_eq!((0..100).filter(|_| pace.take(&mut due, now)).count(), count, "{text} {round}");
                for _ in 0..10 {
                    now += Duration::from_millis(milliseconds_each);
                    assert_eq!((0..100).filter(|_| pace.take(&mut due, now)).count(), 1, "{text}");
                }
                // However long the silence, no more than that is saved.
                now += Duration::from_secs(100_000);
            }
        }
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let pace = Pace::of("2/s".parse().unwrap());
        let (mut due, now) = (Duration::ZERO, Duration::from_secs(1));
        let taken = (0..1000).filter(|_| pace.take(&mut due, now)).count();
        assert!(taken == 2 && due == now + Duration::from_secs(1));
        assert!(pace.take(&mut due, now + Duration::from_millis(500)));
    }

    #[test]
    fn another_pace_holds_from_now_on() {
        let [slow, fast] = ["1/h", "10/s"].map(|text| Pace::of(text.parse().unwrap()));
        let (mut due, now) = (Duration::ZERO, Duration::from_secs(1));
        assert!(slow.take(&mut due, now));
        assert!(!fast.take(&mut due, now), "it is empty still");
        let soon = now + Duration::from_millis(100);
        assert!(fast.take(&mut due, soon) && !fast.take(&mut due, soon));
    }
}
