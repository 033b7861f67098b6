//! The gate as a whole: its workers, limits, configuration and logs.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::Known;
use super::families::{Families, float};
use crate::server::View;

pub(super) fn write(families: &mut Families<'_>, known: &Known) -> fmt::Result {
    families.words("build", "What runs", [("version", env!("CARGO_PKG_VERSION"))])?;
    let view = &known.view;
    write_workers(families, view)?;
    write_limits(families, view)?;
    write_configuration(families, known)?;
    families.counter(
        "log_lines_dropped",
        "Lines that were dropped because their place took none for too long",
        [([("log", "access")], view.log.dropped()), ([("log", "messages")], known.messages.dropped())],
    )
}

fn write_workers(families: &mut Families<'_>, view: &View) -> fmt::Result {
    let numbers: Vec<String> = (0..view.workers.len()).map(|number| number.to_string()).collect();
    let workers = || numbers.iter().zip(&view.workers);
    families.gauge(
        "worker_connections_open",
        "Connections of a worker, those on their way to it included",
        workers().map(|(number, worker)| ([("worker", number.as_str())], float(worker.open()))),
    )?;
    families.seconds(
        "worker_busy_seconds",
        "Time in which a worker had something to do",
        workers().map(|(number, worker)| {
            let busy = worker.tally.runtime.get().map(|runtime| runtime.worker_total_busy_duration(0));
            ([("worker", number.as_str())], busy.unwrap_or_default().as_secs_f64())
        }),
    )
}

fn write_limits(families: &mut Families<'_>, view: &View) -> fmt::Result {
    let (plan, workers) = (&view.plan, view.workers.len());
    let share = plan.share();
    families.one("connections_limit", "Connections that may be open", float(plan.connections()))?;
    families.one("undecided_limit", "Connections that may be without a route yet", float(share.undecided * workers))?;
    families.one(
        "relay_memory_limit_bytes",
        "Bytes that relays may hold before their reads become small",
        float(share.relay_memory * workers),
    )?;
    families.one("hello_memory_limit_bytes", "Bytes that hellos may take", float(share.hello_memory * workers))?;
    families.one("pipes_limit", "Pipes that may be open", float(share.pipes * workers))
}

fn write_configuration(families: &mut Families<'_>, known: &Known) -> fmt::Result {
    let hash = known.view.current.load().config_hash();
    families.words("config", "The configuration in force, by the beginning of its SHA-256", [("hash", &hash)])?;
    let results = known.file.results();
    families.counter(
        "config_reloads",
        "Attempts to take another configuration over",
        [([("result", "taken_over")], results.taken_over), ([("result", "refused")], results.refused)],
    )?;
    let succeeded = f64::from(u8::from(results.wrong.is_none()));
    families.one(
        "config_last_reload_successful",
        "Whether the last attempt succeeded, or there was none",
        succeeded,
    )?;
    families.one(
        "config_last_reload_success_timestamp_seconds",
        "When what is in force was taken over",
        timestamp(results.last),
    )
}

pub(super) fn timestamp(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
