//! How a running gate ends.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;

use super::signals::Signals;
use crate::cli::STOPPED_SHORT;
use crate::config::{Drain, span};
use crate::server::Server;

/// How long the threads may take to end: a second more than a worker gives its connections, and less than the five that
/// service managers should wait beyond the deadline.
const STOP_LIMIT: Duration = Duration::from_secs(4);

/// Takes leave of everybody, within these times; with another signal, of nobody.
pub(super) async fn leave(server: Server, cause: &str, times: &Drain, again: &mut Signals) -> anyhow::Result<ExitCode> {
    let (connections, grace, deadline) = (server.open(), span(times.grace), span(times.deadline));
    tracing::info!(cause, connections, %grace, %deadline, "stopping; a second signal stops at once");
    tokio::select! {
        () = server.drain(times) => {}
        signal = again.stop() => {
            let connections = server.open();
            tracing::warn!(signal, connections, "stopped at once");
            return Ok(code(connections));
        }
    }
    let view = Arc::clone(server.view());
    let stopped = tokio::task::spawn_blocking(move || server.stop());
    tokio::select! {
        cut = stopped => {
            let cut = cut.context("stopping failed")?;
            tracing::info!(cut, "stopped");
            Ok(code(cut))
        }
        () = sleep(STOP_LIMIT) => {
            let connections = view.open();
            tracing::error!(connections, "a thread does not end: stopped without it");
            view.log.flush();
            Ok(code(connections))
        }
        _ = again.stop() => Ok(ExitCode::from(STOPPED_SHORT)),
    }
}

fn code(cut: usize) -> ExitCode {
    if cut == 0 { ExitCode::SUCCESS } else { ExitCode::from(STOPPED_SHORT) }
}
