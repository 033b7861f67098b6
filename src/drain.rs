//! Taking leave: the stages of a process that was told to stop.

use tokio::sync::watch;
use tokio::time::Instant;

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

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
}
