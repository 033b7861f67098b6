//! `status`: how the gate as a whole is.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::super::{Known, health};
use crate::drain::Stage;
use crate::observe::live::State;

pub(super) fn status(known: &Known) -> Value {
    let view = &known.view;
    let objections = health::objections(view);
    let results = known.file.results();
    let in_state = |state: State| {
        let count = |worker: &crate::server::Seen| worker.tally.now.states[state as usize].read();
        (state.label().to_owned(), json!(view.workers.iter().map(count).sum::<u64>()))
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started": time(view.started),
        "uptime_seconds": view.started.elapsed().unwrap_or_default().as_secs(),
        "stage": match *view.stages.borrow() {
            Stage::Open => "open",
            Stage::Closing => "closing",
            Stage::Draining => "draining",
            Stage::Clearing { .. } => "clearing",
        },
        "ready": objections.is_empty(),
        "objections": objections,
        "workers": view.workers.len(),
        "connections": {
            "open": view.open(),
            "limit": view.plan.connections(),
            "by_state": State::ALL.into_iter().map(in_state).collect::<serde_json::Map<_, _>>(),
        },
        "config": {
            "path": known.file.path().display().to_string(),
            "hash": view.current.load().config_hash(),
            "taken_over": time(results.last),
            "reloads": { "taken_over": results.taken_over, "refused": results.refused },
            "mistakes": results.wrong,
        },
    })
}

pub(super) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
