//! Names of connections.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Names connections: unique on this host, also across restarts.
#[derive(Debug, Default)]
pub struct Ids {
    /// What the names of one worker begin with: when it started, in microseconds since the epoch, and its number.
    prefix: String,
    next: Cell<u64>,
}

impl Ids {
    /// The names that one worker gives.
    pub fn of_worker(worker: usize) -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros();
        Self { prefix: format!("{start:x}-{worker:x}-"), next: Cell::new(0) }
    }

    pub(super) fn next(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        number
    }

    pub(super) fn name(&self, number: u64) -> String {
        format!("{}{number:x}", self.prefix)
    }
}
