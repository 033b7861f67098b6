//! Passive health: an endpoint whose connects fail one after another is left out for a while.

use std::time::Duration;

use tokio::time::Instant;

/// Failed connects in a row that eject: one may be a lost packet, two a restart that is over already.
const FAILURES: u32 = 3;
/// How long the first ejection lasts. Each further one lasts twice as long, up to [`LONGEST`].
const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(300);

/// What connects said of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Ejection {
    failures: u32,
    /// Ejections since the last success.
    times: u32,
    until: Option<Instant>,
}

impl Ejection {
    pub(super) fn is_out(&self) -> bool {
        self.until.is_some()
    }

    /// When it is over, if it is on.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// A connect failed. Whether that makes it time for an ejection, which [`Ejection::eject`] begins.
    pub(super) fn fail(&mut self) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.failures >= FAILURES && !self.is_out()
    }

    /// Leaves it out from `now` on; for how long.
    pub(super) fn eject(&mut self, now: Instant) -> Duration {
        let time = FIRST.saturating_mul(2_u32.saturating_pow(self.times)).min(LONGEST);
        self.times = self.times.saturating_add(1);
        self.until = Some(now + time);
        time
    }

    /// A connect went well. Whether that ends an ejection.
    pub(super) fn succeed(&mut self) -> bool {
        std::mem::take(self).is_out()
    }

    /// Ends the ejection if its time is over; the next failure begins another. Whether it did.
    pub(super) fn release(&mut self, now: Instant) -> bool {
        let is_over = self.until.is_some_and(|until| until <= now);
        if is_over {
            (self.until, self.failures) = (None, FAILURES - 1);
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_failures_in_a_row_eject_and_a_success_between_starts_anew() {
        let mut ejection = Ejection::default();
        assert_eq!([ejection.fail(), ejection.fail()], [false, false]);
        assert!(!ejection.succeed());
        assert_eq!([ejection.fail(), ejection.fail(), ejection.fail()], [false, false, true]);
    }

    #[test]
    fn times_grow_to_five_minutes_until_a_success() {
        let mut ejection = Ejection::default();
        let mut now = Instant::now();
        let mut times = Vec::new();
        for _ in 0..8 {
            while !ejection.fail() {}
            times.push(ejection.eject(now).as_secs());
            assert!(!ejection.fail(), "it is out already");
            assert!(!ejection.release(now));
            now += Duration::from_secs(300);
            assert!(ejection.release(now) && !ejection.is_out());
            assert!(ejection.fail(), "one failure more is enough after an ejection");
        }
        assert_eq!(times, [5, 10, 20, 40, 80, 160, 300, 300]);
        ejection.eject(now);
        assert!(ejection.succeed() && !ejection.is_out());
        while !ejection.fail() {}
        assert_eq!(ejection.eject(now), FIRST);
    }
}
