//! Taking leave: the stages of a process that was told to stop, and when each of them comes.

mod remains;

use std::future::pending;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, interval_at, sleep, sleep_until};

use crate::config::{Drain, span};
pub use remains::Remains;

/// What a close takes at most: the last one is begun so long before the deadline.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often it is told how many are still there.
const TELL: Duration = Duration::from_secs(5);

/// How far the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It serves.
    Open,
    /// It was told to stop, and is not ready any more; it still accepts, since those who send clients have yet to notice.
    Closing,
    /// It accepts nobody new. Who is connected may end by itself.
    Draining,
    /// Who is connected still is told to go.
    Clearing {
        /// The moment by which everybody is told.
        by: Instant,
    },
}

/// Where the threads of a process see its stage. When the sender is gone, so is the process: whoever is there ends now.
pub type Stages = watch::Receiver<Stage>;

/// Waits until the process is at this stage, or beyond.
pub async fn reached(stages: &mut Stages, stage: Stage) {
    // An error: its sender is gone.
    let _ = stages.wait_for(|now| *now >= stage).await;
}

/// Waits until the process is to end now.
pub async fn over(stages: &mut Stages) {
    while stages.changed().await.is_ok() {}
}

/// The moment by which everybody is told to go, once that is known; never, if the process ends before.
pub async fn told_by(stages: &mut Stages) -> Instant {
    match stages.wait_for(|now| matches!(now, Stage::Clearing { .. })).await.map(|now| *now) {
        Ok(Stage::Clearing { by }) => by,
        _ => pending().await,
    }
}

/// Leads the process through its stages. Returns when all are `gone`, or at the deadline; `open` says how many connections
/// there are, and `remaining` who waits for whom; that may take its time, or never be said.
pub async fn take_leave(
    stage: &watch::Sender<Stage>,
    times: &Drain,
    open: impl Fn() -> usize,
    remaining: impl AsyncFn() -> Remains,
    gone: impl Future<Output = ()>,
) {
    let deadline = Instant::now() + times.deadline;
    stage.send_replace(Stage::Closing);
    sleep(times.grace).await;
    tracing::info!(connections = open(), "nobody new is accepted; who is connected may end by itself");
    stage.send_replace(Stage::Draining);
    let clear = async {
        sleep_until(deadline - times.spread).await;
        tracing::info!(connections = open(), spread = %span(times.spread), "closing what is open still");
        stage.send_replace(Stage::Clearing { by: deadline - FAREWELL.min(times.spread / 2) });
        sleep_until(deadline).await;
    };
    let tell = async {
        let mut turns = interval_at(Instant::now() + TELL, TELL);
        loop {
            turns.tick().await;
            remaining().await.tell();
        }
    };
    tokio::select! {
        () = gone => {}
        () = clear => {}
        () = tell => {}
    }
}

/// How connections are closed one by one, the last at a certain moment.
#[derive(Debug)]
pub struct Spread {
    connections: usize,
    begun: Instant,
    by: Instant,
    /// How much earlier than at even intervals from the beginning, in thousandths of such an interval: others who begin at
    /// the same moment close at other ones.
    earlier: u128,
}

impl Spread {
    /// Of so many connections, from now on.
    pub fn new(connections: usize, by: Instant) -> Self {
        let earlier = u128::from(RandomState::new().hash_one(()) % 1_000);
        Self { connections, begun: Instant::now(), by, earlier }
    }

    /// How many may not be told yet; `None`, once all are to be.
    pub fn may_stay(&self) -> Option<usize> {
        let window = self.by.saturating_duration_since(self.begun).as_nanos();
        let passed = self.begun.elapsed().as_nanos();
        if passed >= window {
            return None;
        }
        let told = (self.connections as u128 * passed * 1_000 + self.earlier * window) / (window * 1_000);
        Some(self.connections.saturating_sub(usize::try_from(told).unwrap_or(usize::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn is_ready(future: impl Future<Output = ()>) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn a_stage_is_reached_by_itself_by_later_ones_and_by_the_end() {
        let by = Instant::now() + Duration::from_secs(1);
        let (stage, stages) = watch::channel(Stage::Open);
        let has_reached = |stage| is_ready(async { reached(&mut stages.clone(), stage).await });
        assert!(has_reached(Stage::Open) && !has_reached(Stage::Closing));
        stage.send_replace(Stage::Closing);
        assert!(has_reached(Stage::Closing) && !has_reached(Stage::Draining));
        stage.send_replace(Stage::Clearing { by });
        assert!(has_reached(Stage::Draining) && !is_ready(over(&mut stages.clone())));
        let (stage, mut stages) = watch::channel(Stage::Open);
        drop(stage);
        assert!(is_ready(reached(&mut stages, Stage::Draining)) && is_ready(over(&mut stages)));
    }
    fn times(grace: u64, spread: u64, deadline: u64) -> Drain {
        let [grace, spread, deadline] = [grace, spread, deadline].map(Duration::from_millis);
        Drain { grace, spread, deadline }
    }

    /// The stages of a process whose connections take so long to end after it accepts nobody new, each with the
    /// milliseconds until it came, and how long all of it took.
    async fn course(times: Drain, end: u64) -> (Vec<(u128, Stage)>, u128) {
        let (begun, stage) = (Instant::now(), watch::Sender::new(Stage::Open));
        let (mut stages, mut ended) = (stage.subscribe(), stage.subscribe());
        let seen = RefCell::new(Vec::new());
        let watch = async {
            while stages.changed().await.is_ok() {
                seen.borrow_mut().push((begun.elapsed().as_millis(), *stages.borrow()));
            }
        };
        let gone = async {
            reached(&mut ended, Stage::Draining).await;
            sleep(Duration::from_millis(end)).await;
        };
        tokio::select! {
            biased;
            () = watch => unreachable!("its sender is here"),
            () = take_leave(&stage, &times, || 1, pending, gone) => {}
        }
        (seen.take(), begun.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn every_stage_has_its_time() {
        let begun = Instant::now();
        let at = |milliseconds| Stage::Clearing { by: begun + Duration::from_millis(milliseconds) };
        let (stages, took) = course(times(5_000, 10_000, 25_000), u64::MAX / 2).await;
        assert_eq!(stages, [(0, Stage::Closing), (5_000, Stage::Draining), (15_000, at(24_000))]);
        assert_eq!(took, 25_000);
        // With no time in between, and with less than a close may take.
        let begun = Instant::now();
        let at = |milliseconds| Stage::Clearing { by: begun + Duration::from_millis(milliseconds) };
        let (stages, took) = course(times(100, 1_000, 1_100), u64::MAX / 2).await;
        assert_eq!((stages.last(), took), (Some(&(100, at(600))), 1_100));
        assert_eq!(course(times(0, 0, 0), u64::MAX / 2).await.1, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_who_is_gone() {
        let (stages, took) = course(times(5_000, 10_000, 25_000), 1_234).await;
        assert_eq!(stages, [(0, Stage::Closing), (5_000, Stage::Draining)]);
        assert_eq!(took, 6_234);
        assert_eq!(course(times(5_000, 10_000, 25_000), 12_000).await.1, 17_000);
        // The grace is for those who come still, whoever is there.
        assert_eq!(course(times(5_000, 10_000, 25_000), 0).await.1, 5_000);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_go_one_by_one() {
        for connections in [1, 2, 7, 1_000] {
            let spread = Spread::new(connections, Instant::now() + Duration::from_secs(9));
            let mut most = Vec::new();
            for tenth in 0..90 {
                let may_stay = spread.may_stay().unwrap();
                let even = connections as f64 * (1.0 - f64::from(tenth) / 90.0);
                assert!((may_stay as f64 - even).abs() <= 1.0, "{may_stay} of {connections} after {tenth} tenths");
                most.push(may_stay);
                tokio::time::advance(Duration::from_millis(100)).await;
            }
            assert!(most.is_sorted_by(|before, after| before >= after), "{most:?}");
            assert_eq!((most[0], spread.may_stay()), (connections, None));
        }
        assert_eq!(Spread::new(5, Instant::now()).may_stay(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn two_that_begin_together_do_not_close_together() {
        let by = Instant::now() + Duration::from_secs(10);
        let spreads: Vec<_> = (0..20).map(|_| Spread::new(1, by)).collect();
        tokio::time::advance(Duration::from_secs(5)).await;
        let gone = spreads.iter().filter(|spread| spread.may_stay() == Some(0)).count();
        assert!((1..20).contains(&gone), "{gone} of 20");
    }
}
