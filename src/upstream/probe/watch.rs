//! Asking one endpoint again and again.

use std::convert::Infallible;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Probe, Report};
use crate::upstream::health::{Health, State};

/// Percent of the interval between two probes. Never more than all of it, so that the time to notice holds; some less,
/// so that instances and endpoints drift apart.
const PAUSE: RangeInclusive<u32> = 90..=100;
/// The same after the first probe: those of all endpoints begin together.
const FIRST_PAUSE: RangeInclusive<u32> = 10..=100;

/// What came of one probe.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// What is thought of the endpoint now.
    pub state: State,
    /// What the probe found.
    pub report: &'a Report,
}

/// Asks an endpoint at once and then forever, and tells of each probe. Ends only by being dropped.
pub async fn watch(mut probe: Probe, mut health: Health, mut told: impl FnMut(Told<'_>)) -> Infallible {
    let mut rhythm = Rhythm::new(probe.prober.check.interval);
    loop {
        rhythm.next().await;
        let report = probe.run().await;
        health.note(report.passed(), report.proof());
        told(Told { state: health.state(), report: &report });
        // Never at the cost of the next probe.
        let _ = timeout_at(rhythm.next, probe.part()).await;
    }
}

/// When probes begin.
struct Rhythm {
    interval: Duration,
    pauses: RangeInclusive<u32>,
    next: Instant,
}

impl Rhythm {
    fn new(interval: Duration) -> Self {
        Self { interval, pauses: FIRST_PAUSE, next: Instant::now() }
    }

    /// Returns when the next probe is due: the first one at once.
    async fn next(&mut self) {
        sleep_until(self.next).await;
        let pauses = std::mem::replace(&mut self.pauses, PAUSE);
        self.next = Instant::now() + self.interval * percent(pauses) / 100;
    }
}

/// Any number of these. Nobody gains by guessing it, so the keys that std makes for its hash tables will do.
fn percent(range: RangeInclusive<u32>) -> u32 {
    let choices = u64::from(range.end() - range.start()) + 1;
    let chosen = RandomState::new().build_hasher().finish() % choices;
    range.start() + u32::try_from(chosen).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HealthCheck, Question};
    use crate::upstream::health::Proof;
    use tokio::time::sleep;

    const INTERVAL: Duration = Duration::from_secs(5);
    const ANSWER: Duration = Duration::from_millis(300);
    /// The timer of tokio rounds up to milliseconds.
    const ROUNDING: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn probes_come_at_their_interval_and_drift() {
        let mut rhythm = Rhythm::new(INTERVAL);
        let begun = Instant::now();
        rhythm.next().await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let mut pauses = Vec::new();
        for _ in 0..100 {
            let before = Instant::now();
            sleep(ANSWER).await;
            rhythm.next().await;
            pauses.push(before.elapsed());
        }
        let within = |pause: &Duration| (INTERVAL * 9 / 10..=INTERVAL + ROUNDING).contains(pause);
        assert!(pauses[0] >= INTERVAL / 10 && pauses[0] <= INTERVAL + ROUNDING, "{pauses:?}");
        assert!(pauses[1..].iter().all(within), "{pauses:?}");
        assert!(pauses[1..].iter().any(|pause| *pause != pauses[1]), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_dies_is_noticed_in_the_time_that_was_promised() {
        let timeout = Duration::from_secs(3);
        let check = HealthCheck { question: Question::Tcp, interval: INTERVAL, timeout, rise: 2, fall: 2 };
        for _ in 0..100 {
            let (mut rhythm, mut health) = (Rhythm::new(check.interval), Health::new(Some(&check)));
            for _ in 0..3 {
                rhythm.next().await;
                sleep(ANSWER).await;
                health.note(Some(true), Proof::None);
            }
            let died = Instant::now();
            while health.state().up {
                rhythm.next().await;
                sleep(check.timeout).await;
                health.note(Some(false), Proof::None);
            }
            assert!(died.elapsed() <= check.time_to_notice() + 2 * ROUNDING, "{:?}", died.elapsed());
        }
    }

    #[test]
    fn random_percents_are_spread_over_their_range() {
        let drawn: std::collections::BTreeSet<u32> = (0..2000).map(|_| percent(PAUSE)).collect();
        assert_eq!(drawn, PAUSE.collect());
    }
}
