//! What the program's own log is told of connections that ended through no fault of their clients': a client can have one
//! such end after the other, so each reason is told of once a second, with how many more there were.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::outcome::Reason;

/// At most one line for each reason in this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// When a worker last told of each reason, and how often it did not since.
#[derive(Debug, Default)]
pub struct Troubles(RefCell<HashMap<Reason, (Instant, usize)>>);

impl Troubles {
    /// Whether a line is due for another such end; with it, how many there were without one.
    pub fn due(&self, reason: Reason) -> Option<usize> {
        let (now, mut told) = (Instant::now(), self.0.borrow_mut());
        match told.get_mut(&reason) {
            Some((last, untold)) if now - *last < INTERVAL => {
                *untold += 1;
                None
            }
            _ => Some(told.insert(reason, (now, 0)).map_or(0, |(_, untold)| untold)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reason_is_told_once_a_second_with_those_that_were_not() {
        let troubles = Troubles::default();
        assert_eq!(troubles.due(Reason::UpstreamBusy), Some(0));
        assert_eq!(troubles.due(Reason::ConnectRefused), Some(0), "another matter");
        for _ in 0..5 {
            assert_eq!(troubles.due(Reason::UpstreamBusy), None);
        }
        tokio::time::advance(INTERVAL).await;
        assert_eq!(troubles.due(Reason::UpstreamBusy), Some(5));
        assert_eq!(troubles.due(Reason::UpstreamBusy), None);
        tokio::time::advance(10 * INTERVAL).await;
        assert_eq!(troubles.due(Reason::UpstreamBusy), Some(1));
    }
}
