//! The shapes of load, and how one of them is measured against one subject.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::configurations;
use super::ends::Protocol;
use super::figures::{self, Ticks};
use super::idle;
use super::load::{Load, Work};
use super::process::Sink;
use super::report::Figure;
use super::subjects::{self, HELLO, Running};

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Down(usize),
    Up(usize),
    Objects,
    Connect {
        hello: usize,
    },
    /// New connections beside this many that are open and idle.
    Open(usize),
    Echo {
        size: usize,
        connections: usize,
    },
    Light {
        beside_bulk: bool,
    },
    Idle,
    /// So many idle connections in a container.
    Contained(usize),
}

const fn shape(key: &'static str, title: &'static str, kind: Kind) -> Shape {
    Shape { key, title, kind }
}

/// Every shape, in the order of the table.
pub(crate) const SHAPES: &[Shape] = &[
    shape("bulk-down-1", "bulk down, 1 stream", Kind::Down(1)),
    shape("bulk-down-8", "bulk down, 8 streams", Kind::Down(8)),
    shape("bulk-down-64", "bulk down, 64 streams", Kind::Down(64)),
    shape("bulk-up-1", "bulk up, 1 stream", Kind::Up(1)),
    shape("bulk-up-8", "bulk up, 8 streams", Kind::Up(8)),
    shape("bulk-up-64", "bulk up, 64 streams", Kind::Up(64)),
    shape("objects", "64 KiB objects, 16 connections", Kind::Objects),
    shape("connect-517", "new connection, 517-byte hello", Kind::Connect { hello: 517 }),
    shape("connect-1800", "new connection, 1,800-byte hello in two segments", Kind::Connect { hello: 1800 }),
    shape("open-10", "new connection beside 10 open", Kind::Open(10)),
    shape("open-100", "new connection beside 100 open", Kind::Open(100)),
    shape("open-1000", "new connection beside 1,000 open", Kind::Open(1000)),
    shape("open-9000", "new connection beside 9,000 open", Kind::Open(9000)),
    shape("echo-1", "echo 256 B, 1 connection", Kind::Echo { size: 256, connections: 1 }),
    shape("echo-16", "echo 1 KiB, 16 connections", Kind::Echo { size: 1024, connections: 16 }),
    shape("echo-256", "echo 1 KiB, 256 connections", Kind::Echo { size: 1024, connections: 256 }),
    shape("light", "light echo 1 KiB, 16 × 500/s", Kind::Light { beside_bulk: false }),
    shape("light-bulk", "light echo beside 4 paced streams", Kind::Light { beside_bulk: true }),
    shape("idle", "idle connection", Kind::Idle),
    shape("contained", "8,000 idle connections in 128 MiB", Kind::Contained(8000)),
];

const fn less(title: &'static str, unit: &'static str) -> Figure {
    Figure { title, unit, more: false }
}

const CPU_GB: Figure = less("CPU of the proxy", "s/GB");
const ALL_GB: Figure = less("CPU of everything", "s/GB");
const THROUGHPUT: Figure = Figure { title: "throughput", unit: "GB/s", more: true };
const CPU_UNIT: Figure = less("CPU of the proxy", "µs");
const ALL_UNIT: Figure = less("CPU of everything", "µs");
const RATE: Figure = Figure { title: "rate", unit: "/s", more: true };
const P50: Figure = less("p50", "µs");
const P99: Figure = less("p99", "µs");
const BESIDE: Figure = Figure { title: "paced streams", unit: "GB/s", more: true };
const FAILED: Figure = less("failures", "");
const MEMORY: Figure = less("memory", "B");
const MEMORY_CONTAINED: Figure = less("memory, the kernel's included", "MiB");
const MEMORY_LATER: Figure = less("memory after a burst", "B");

/// What a measurement needs besides its subject.
pub(crate) struct Bench<'b> {
    pub(crate) sink: &'b Sink,
    pub(crate) window: Duration,
    pub(crate) idle_connections: usize,
    /// Rate of the paced streams, all together, in bytes a second.
    pub(crate) paced: f64,
    pub(crate) softirq: &'b [u32],
}

/// Numbers of one measurement.
pub(crate) struct Measured {
    pub(crate) values: Vec<(Figure, f64)>,
    /// How much of the machine worked for nobody here meanwhile, 0 to 1.
    pub(crate) foreign: f64,
}

/// A tenth of what eight streams move without a proxy: about a third of what a proxy does that copies, so that every one
/// has room.
pub(crate) fn share_of_direct(bench: &Bench<'_>) -> io::Result<f64> {
    let load = Load::start(Work::Down, 8, &subjects::direct(bench.sink).target(Protocol::Serve, HELLO));
    thread::sleep(WARM_UP);
    let (before, began) = (load.done().bytes, Instant::now());
    thread::sleep(bench.window);
    let rate = (load.done().bytes - before) as f64 / began.elapsed().as_secs_f64();
    match rate > 0.0 {
        true => Ok(rate / 10.0),
        false => Err(io::Error::other("nothing moves even without a proxy")),
    }
}

/// How long a load runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(400);

impl Shape {
    /// Whether the subject is started anew for each round, since its past shows.
    pub(crate) fn wants_fresh(&self) -> bool {
        matches!(self.kind, Kind::Idle | Kind::Contained(_))
    }

    /// Whether it is only measured when it is named.
    pub(crate) fn on_demand(&self) -> bool {
        matches!(self.kind, Kind::Open(_))
    }

    pub(crate) fn has_paced(&self) -> bool {
        self.kind == Kind::Light { beside_bulk: true }
    }

    /// Puts the load on a subject and reads the figures.
    pub(crate) fn measure(&self, running: &Running, bench: &Bench<'_>) -> io::Result<Measured> {
        let load =
            |work, connections, protocol, hello| Load::start(work, connections, &running.target(protocol, hello));
        match self.kind {
            Kind::Down(streams) => {
                window(&load(Work::Down, streams, Protocol::Serve, HELLO), None, running, bench, bulk)
            }
            Kind::Up(streams) => {
                window(&load(Work::Up, streams, Protocol::Drain, HELLO), None, running, bench, bulk_up)
            }
            Kind::Objects => {
                let work = Work::Fetch { size: 64 * 1024 };
                window(&load(work, 16, Protocol::Serve, HELLO), None, running, bench, per_unit)
            }
            Kind::Connect { hello } => {
                let connections = if hello == HELLO { 32 } else { 64 };
                window(&load(Work::Connect, connections, Protocol::Answer, hello), None, running, bench, per_unit)
            }
            Kind::Open(open) => {
                let open = open.min(configurations::connections().saturating_sub(idle::SPARE));
                let _open = idle::open(running, open)?;
                window(&load(Work::Connect, 32, Protocol::Answer, HELLO), None, running, bench, per_unit)
            }
            Kind::Echo { size, connections } => {
                window(&load(Work::Echo { size }, connections, Protocol::Echo, HELLO), None, running, bench, per_unit)
            }
            Kind::Light { beside_bulk } => {
                let work = Work::Stream { bytes_per_second: bench.paced };
                let beside = beside_bulk.then(|| load(work, 4, Protocol::Serve, HELLO));
                let light = load(Work::Knock { size: 1024, per_second: 500 }, 16, Protocol::Echo, HELLO);
                window(&light, beside.as_ref(), running, bench, if beside_bulk { light_beside } else { light_alone })
            }
            Kind::Idle => {
                let idle = idle::measure(running, bench.idle_connections)?;
                let values = vec![(MEMORY, idle.at_rest), (MEMORY_LATER, idle.after_burst)];
                Ok(Measured { values, foreign: 0.0 })
            }
            Kind::Contained(connections) => {
                if connections > configurations::connections().saturating_sub(idle::SPARE) {
                    return Err(io::Error::other("too few descriptors for so many connections"));
                }
                let bytes = idle::measure_contained(running, connections)?;
                Ok(Measured { values: vec![(MEMORY_CONTAINED, bytes / MEBI)], foreign: 0.0 })
            }
        }
    }
}

/// What happened between two readings.
struct Window {
    seconds: f64,
    /// Not a number when there is no proxy.
    proxy: f64,
    everything: f64,
    units: f64,
    bytes: f64,
    drained: f64,
    beside: f64,
    failed: f64,
    delays: Vec<u32>,
}

/// Lets a load run, reads everything twice, and stops it.
fn window(
    load: &Load,
    beside: Option<&Load>,
    running: &Running,
    bench: &Bench<'_>,
    figures: fn(&Window) -> Vec<(Figure, f64)>,
) -> io::Result<Measured> {
    let proxy = running.pids();
    let everything = [&proxy[..], &[std::process::id(), bench.sink.pid()], bench.softirq].concat();
    let read = || -> io::Result<_> {
        let drained = bench.sink.drained()?;
        let done = load.done();
        let aside = beside.map_or(0, |beside| beside.done().bytes);
        let time = [figures::processor_time(&proxy), figures::processor_time(&everything)];
        Ok((Instant::now(), drained, done, aside, time, Ticks::now()))
    };
    thread::sleep(WARM_UP);
    load.record(true);
    let before = read()?;
    thread::sleep(bench.window);
    let after = read()?;
    load.record(false);
    let window = Window {
        seconds: (after.0 - before.0).as_secs_f64(),
        drained: (after.1 - before.1) as f64,
        units: (after.2.units - before.2.units) as f64,
        bytes: (after.2.bytes - before.2.bytes) as f64,
        beside: (after.3 - before.3) as f64,
        failed: after.2.failed as f64,
        proxy: if proxy.is_empty() { f64::NAN } else { after.4[0].saturating_sub(before.4[0]).as_secs_f64() },
        everything: after.4[1].saturating_sub(before.4[1]).as_secs_f64(),
        delays: load.delays(),
    };
    let processors = thread::available_parallelism().map_or(1, usize::from) as f64;
    let foreign = after.5.busy_since(before.5) - window.everything / window.seconds / processors;
    let mut values = figures(&window);
    if window.failed > 0.0 {
        values.push((FAILED, window.failed));
    }
    Ok(Measured { values, foreign: foreign.max(0.0) })
}

const GIGA: f64 = 1e9;
const MICRO: f64 = 1e6;
const MEBI: f64 = 1024.0 * 1024.0;

fn bulk(window: &Window) -> Vec<(Figure, f64)> {
    per_byte(window, window.bytes)
}

fn bulk_up(window: &Window) -> Vec<(Figure, f64)> {
    per_byte(window, window.drained)
}

fn per_byte(window: &Window, bytes: f64) -> Vec<(Figure, f64)> {
    vec![
        (CPU_GB, window.proxy * GIGA / bytes),
        (ALL_GB, window.everything * GIGA / bytes),
        (THROUGHPUT, bytes / GIGA / window.seconds),
    ]
}

fn per_unit(window: &Window) -> Vec<(Figure, f64)> {
    let mut values = vec![
        (CPU_UNIT, window.proxy * MICRO / window.units),
        (ALL_UNIT, window.everything * MICRO / window.units),
        (RATE, window.units / window.seconds),
    ];
    values.extend(delays(window));
    values
}

fn light_alone(window: &Window) -> Vec<(Figure, f64)> {
    let mut values =
        vec![(CPU_UNIT, window.proxy * MICRO / window.units), (ALL_UNIT, window.everything * MICRO / window.units)];
    values.extend(delays(window));
    values
}

/// The processors' time is mostly the streams', so it is counted by their bytes.
fn light_beside(window: &Window) -> Vec<(Figure, f64)> {
    let mut values = delays(window);
    values.push((CPU_GB, window.proxy * GIGA / window.beside));
    values.push((BESIDE, window.beside / GIGA / window.seconds));
    values
}

fn delays(window: &Window) -> Vec<(Figure, f64)> {
    [(P50, 0.5), (P99, 0.99)]
        .into_iter()
        .filter_map(|(figure, share)| Some((figure, f64::from(figures::percentile(&window.delays, share)?) / 1000.0)))
        .collect()
}
