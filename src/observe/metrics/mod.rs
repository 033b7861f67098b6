//! What workers count. Each has a [`Tally`] of its own, which nobody else writes to: counting is a plain store to memory
//! that no other processor wants, and whoever shows it adds all of them up.
//!
//! Labels come from the configuration and from the list of reasons, never from clients.

mod histogram;
mod lanes;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::runtime::RuntimeMetrics;

use super::live::State;
pub use histogram::{Count, Distribution, Histogram, Scale};
pub use lanes::{Lane, LaneId, Lanes, Names};

/// Cache lines come in pairs to processors that read ahead.
#[repr(align(128))]
#[derive(Debug)]
pub struct Tally {
    /// Bytes of complete ClientHellos.
    pub hello_bytes: Histogram,
    /// TLS records that they came in.
    pub hello_records: Histogram,
    /// Microseconds from accept to a complete hello.
    pub hello_time: Histogram,
    /// Microseconds from accept to the end.
    pub duration: Histogram,
    /// What is there now, as of the last tick.
    pub now: Now,
    lanes: Mutex<Vec<Arc<Lane>>>,
    /// How busy the worker's runtime is.
    pub runtime: OnceLock<RuntimeMetrics>,
}

/// What a worker has, as its last tick found it.
#[derive(Debug, Default)]
pub struct Now {
    /// Connections in each state.
    pub states: [Count; State::ALL.len()],
    /// Bytes of hellos that wait for their end, or for an upstream.
    pub hello_memory: Count,
    /// Bytes that relays hold because nobody took them yet.
    pub relay_memory: Count,
    /// Pipes that are open.
    pub pipes: Count,
    /// Those of them that move bytes.
    pub pipes_lent: Count,
    /// Bytes spliced so far.
    pub spliced: Count,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            hello_bytes: Histogram::of(Scale::HELLO_BYTES),
            hello_records: Histogram::of(Scale::HELLO_RECORDS),
            hello_time: Histogram::of(Scale::HELLO_TIME),
            duration: Histogram::of(Scale::DURATION),
            now: Now::default(),
            lanes: Mutex::default(),
            runtime: OnceLock::new(),
        }
    }
}

impl Tally {
    /// The lanes that there are now.
    pub fn lanes(&self) -> Vec<Arc<Lane>> {
        self.with_lanes(|lanes| lanes.clone())
    }

    /// Held for a moment only, when a lane is new or gone, and when somebody looks.
    fn with_lanes<T>(&self, step: impl FnOnce(&mut Vec<Arc<Lane>>) -> T) -> T {
        step(&mut self.lanes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
