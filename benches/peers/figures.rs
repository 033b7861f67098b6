//! What is read from /proc, and what is made of it: processor time, memory, medians, percentiles.

use std::fs;
use std::time::Duration;

/// Processor time of some processes, every thread, user and kernel. The scheduler's own count, in nanoseconds: the
/// ticks of /proc/PID/stat are ten milliseconds. Over loopback it holds the network's work too, since the sender's
/// thread carries a packet up to the receiver's socket.
pub(crate) fn processor_time(pids: &[u32]) -> Duration {
    pids.iter().map(|pid| time_of_process(*pid)).sum()
}

fn time_of_process(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    threads
        .flatten()
        .filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
        })
        .sum()
}

/// The kernel threads that carry on with network work when a sender had its share.
pub(crate) fn softirq_threads() -> Vec<u32> {
    processes().into_iter().filter(|process| process.name.starts_with("ksoftirqd/")).map(|process| process.id).collect()
}

/// A process and everything below it.
pub(crate) fn with_descendants(pid: u32) -> Vec<u32> {
    let all = processes();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|process| process.parent == parent).map(|process| process.id));
        next += 1;
    }
    found
}

struct ProcessEntry {
    id: u32,
    parent: u32,
    name: String,
}

fn processes() -> Vec<ProcessEntry> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (before, after) = stat.rsplit_once(") ")?; // the name may hold anything, brackets too
            let parent = after.split_whitespace().nth(1)?.parse().ok()?;
            Some(ProcessEntry { id, parent, name: before.split_once('(')?.1.to_owned() })
        })
        .collect()
}

/// Ticks that the machine's processors spent since boot: busy with anything, and in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticks {
    pub(crate) busy: u64,
    pub(crate) all: u64,
}

impl Ticks {
    pub(crate) fn now() -> Self {
        Self::of(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// From the text of /proc/stat: user nice system idle iowait irq softirq steal.
    pub(crate) fn of(text: &str) -> Self {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|ticks| ticks.parse().ok()).collect();
        let all = ticks.iter().sum::<u64>();
        Self { busy: all - ticks.iter().skip(3).take(2).sum::<u64>(), all }
    }

    /// The share of the machine that was busy since then, 0 to 1.
    pub(crate) fn busy_since(self, then: Self) -> f64 {
        (self.busy.saturating_sub(then.busy)) as f64 / (self.all.saturating_sub(then.all)).max(1) as f64
    }
}

/// Bytes of memory that belong to some processes: the proportional share of what they share with others.
pub(crate) fn memory(pids: &[u32]) -> u64 {
    pids.iter().filter_map(|pid| pss(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)).sum()
}

pub(crate) fn pss(rollup: &str) -> Option<u64> {
    kilobytes(rollup, "Pss:")
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Bytes that the kernel's own objects take on this machine, those of sockets among them.
pub(crate) fn slabs() -> u64 {
    kilobytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "Slab:").unwrap_or_default()
}

/// The middle value; of an even number the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        _ if sorted.is_empty() => None,
        0 => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        _ => Some(sorted[middle]),
    }
}

/// The smallest value that at least this share of the values does not exceed.
pub(crate) fn percentile(sorted: &[u32], share: f64) -> Option<u32> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 0 and the length
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).or(sorted.last()).copied()
}

/// The median of what each round's value is to the other's of the same round; noise that lasts longer than a round
/// cancels out.
pub(crate) fn paired_ratio(values: &[Option<f64>], base: &[Option<f64>]) -> Option<f64> {
    let ratios: Vec<f64> = values
        .iter()
        .zip(base)
        .filter_map(|(value, base)| Some((*value)? / (*base)?))
        .filter(|ratio| ratio.is_finite())
        .collect();
    median(&ratios)
}
