//! What the tests stand on: certificates, TLS and TCP peers, a running gate, and ways to wait.

pub mod certs;
pub mod descriptors;
pub mod dns;
pub mod gate;
pub mod haproxy;
pub mod hello;
pub mod hosts;
pub mod http;
pub mod kube_api;
pub mod metrics;
pub mod soak;
pub mod supervisor;
pub mod tcp;
pub mod tls;
pub mod tools;

use std::time::{Duration, Instant};

/// How long anything on this machine may take before a test gives up. Generous: machines are busy, and only a failing
/// test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` yields something, looking again and again; panics with `what` when it does not in time.
pub fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_long_for(PATIENCE, what, condition)
}

/// [`wait_for`] something that takes longer.
pub fn wait_long_for<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// [`wait_for`] a condition that is only true or not yet.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}
