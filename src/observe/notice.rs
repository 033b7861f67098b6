//! Word to the connections of an endpoint.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::outcome::Reason;

/// Over how long the connections that get one [`Notice`] close, so that their clients do not come back all at once.
const SPREAD: Duration = Duration::from_secs(10);

/// Word to several connections of an endpoint, on any worker, that they are to close: each at its own moment within ten
/// seconds.
#[derive(Debug)]
pub struct Notice {
    /// The endpoint.
    pub endpoint: SocketAddr,
    word: OnceLock<(Reason, Instant)>,
}

impl Notice {
    /// Where those who connect to this address from now on get the word.
    pub fn at(endpoint: SocketAddr) -> Self {
        Self { endpoint, word: OnceLock::new() }
    }

    /// Gives the word; the first stands.
    pub fn give(&self, reason: Reason) {
        let _ = self.word.set((reason, Instant::now()));
    }

    /// The reason, once it was given.
    pub fn reason(&self) -> Option<Reason> {
        self.word.get().map(|(reason, _)| *reason)
    }

    /// The reason, for the connection of this number, once its moment has come.
    pub(super) fn due(&self, number: usize) -> Option<Reason> {
        let (reason, given) = self.word.get()?;
        // Neighbours in the table came at one time: let them go at different ones.
        let moment = SPREAD * u32::try_from(number % 10).unwrap_or(0) / 10;
        (given.elapsed() >= moment).then_some(*reason)
    }
}
