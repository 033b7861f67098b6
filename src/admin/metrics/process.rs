//! The process, by the names that everybody uses for it.

use std::fmt;
use std::fs;

use rustix::time::{ClockId, clock_gettime};

use super::families::{Families, float};
use super::gate::timestamp;
use crate::server::View;

pub(super) fn write(families: &mut Families<'_>, view: &View) -> fmt::Result {
    families.one("start_time_seconds", "When it was started", timestamp(view.started))?;
    families.seconds("cpu_seconds", "Processor time used", [([], cpu_time())])?;
    families.gauge("resident_memory_bytes", "Memory in use", resident().map(|bytes| ([], float(bytes))))?;
    families.gauge("open_fds", "Descriptors in use", open_files().map(|count| ([], float(count))))?;
    families.one("max_fds", "Descriptors that may be in use", float(view.plan.open_files()))
}

fn cpu_time() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    float(time.tv_sec) + float(time.tv_nsec) / 1e9
}

fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(resident.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Not known to a process that has become another user: the directory then belongs to root.
fn open_files() -> Option<usize> {
    // One of them is that of the directory itself, while it is read.
    fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1))
}
