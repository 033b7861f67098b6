//! The signals that a gate heeds.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears them.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// What a signal says.
pub(super) enum Told {
    Stop(&'static str),
    Reload,
}

impl Signals {
    /// Hears them from now on. To be called within a runtime.
    ///
    /// # Errors
    /// When the kernel has no room for them.
    pub(super) fn install() -> io::Result<Self> {
        let [terminate, interrupt, hang_up] = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)?, hang_up: signal(hang_up)? })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Told::Stop("SIGINT"),
            _ = self.hang_up.recv() => Told::Reload,
        }
    }

    /// Waits for one that says to stop.
    pub(super) async fn stop(&mut self) -> &'static str {
        loop {
            if let Told::Stop(signal) = self.next().await {
                return signal;
            }
        }
    }
}
