//! snigate beside other proxies, and beside no proxy at all: `cargo bench --bench peers`.
//!
//! Every subject routes by server name, with two threads and no logs, to the same upstream; all of them are started for
//! a shape of load and loaded one at a time, in turns that begin with another one each round. Compared are medians and
//! the ratios within a round. `snigate again` is the same program as `snigate`, so its ratio is the noise. The processor
//! time of the proxy says more than its throughput, as the clients and the upstream share the machine with it.
//!
//! HAProxy, nginx and Envoy are measured where they are installed: in the path, or where `SNIGATE_HAPROXY`,
//! `SNIGATE_NGINX` (with `SNIGATE_NGINX_STREAM` for its stream module) and `SNIGATE_ENVOY` say; `SNIGATE_BIN` names another
//! build of snigate. No number fails.
//!
//! `main` is the order of things, `rounds` take turns, `subjects` starts what is compared as `configurations` says,
//! `shapes` measures, `load` (`connecting`, `paced`, `idle`) are the clients, `sink` the upstream, `cgroup` a
//! container, `figures` the arithmetic, `report` and `chart` the outcome.

mod cgroup;
mod chart;
mod configurations;
mod connecting;
mod ends;
mod figures;
mod idle;
mod load;
mod network;
mod paced;
mod process;
mod report;
mod rounds;
mod shapes;
mod sink;
mod subjects;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs, io};

use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};

use process::Sink;
use report::{Column, Role, number};
use rounds::Rounds;
use shapes::{Bench, SHAPES, Shape};
use subjects::Subject;

/// Compare snigate with other proxies and with none
#[derive(Debug, Parser)]
#[command(name = "peers")]
struct Args {
    /// Rounds over all subjects for each shape
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Only shapes of these names or families (`bulk-down`); `open` are new connections beside many open ones, measured only on demand
    #[arg(long, value_name = "SHAPE", num_args = 1.., value_delimiter = ',')]
    only: Vec<String>,
    /// Only these subjects; `one` is snigate with one worker, measured only on demand
    #[arg(long, value_name = "SUBJECT", num_args = 1.., value_delimiter = ',')]
    subjects: Vec<String>,
    /// Another snigate to compare with this one
    #[arg(long, value_name = "FILE")]
    other: Option<PathBuf>,
    /// Connections of the idle shape
    #[arg(long, default_value_t = 4000)]
    idle: usize,
    /// Measure again, this often at most, while others use more than a seventh of the machine; the quietest counts
    #[arg(long, value_name = "TIMES", default_value_t = 2)]
    patience: usize,
    /// Stay in this network namespace
    #[arg(long)]
    here: bool,
    /// Where the table goes; the chart goes beside it, with the ending `svg`
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/peers.md"))]
    markdown: PathBuf,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args: Vec<OsString> = env::args_os().collect();
    let outcome = match args.get(1).and_then(|arg| arg.to_str()) {
        Some(process::LAUNCH) => Err(process::launch(&args[2..])),
        Some(process::SINK) => sink::serve(),
        _ => {
            let wanted = Args::parse();
            if wanted.bench && !wanted.here {
                network::enter(&args[1..]);
            }
            compare(&wanted)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &Args) -> io::Result<()> {
    if !args.bench {
        eprintln!("peers: nothing is measured without --bench, which `cargo bench` gives"); // `cargo test --benches`
        return Ok(());
    }
    let _alone = wait_for_others()?;
    raise_descriptor_limit()?;
    let (subjects, missing) = choose_subjects(args)?;
    let shapes: Vec<&Shape> = SHAPES.iter().filter(|shape| wanted(args, shape)).collect();
    if shapes.is_empty() {
        let names: Vec<&str> = SHAPES.iter().map(|shape| shape.key).collect();
        return Err(io::Error::other(format!("no such shape; there are: {}", names.join(" "))));
    }
    fs::create_dir_all(env!("CARGO_TARGET_TMPDIR"))?;
    let directory = tempfile::Builder::new().prefix("peers-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let sink = Sink::start()?;
    let softirq = figures::softirq_threads();
    let mut bench = Bench {
        sink: &sink,
        window: Duration::from_secs_f64(args.seconds),
        idle_connections: args.idle.min(configurations::connections().saturating_sub(idle::SPARE)),
        paced: 0.0,
        softirq: &softirq,
    };
    let mut rounds = Rounds::new(args.rounds, args.patience, subjects.iter().map(column).collect());
    if shapes.iter().any(|shape| shape.has_paced()) {
        bench.paced = shapes::share_of_direct(&bench)?;
        eprintln!("paced streams: {} GB/s in all", number(bench.paced / 1e9));
    }
    let mut text = String::new();
    for shape in shapes {
        rounds.measure(shape, &subjects, &bench, directory.path());
        text = write(&rounds, &subjects, &missing, args)?;
    }
    println!("{text}");
    eprintln!("written: {0} and {1}", args.markdown.display(), args.markdown.with_extension("svg").display());
    Ok(())
}

/// Whether a shape is measured: all that are part of the comparison, or those that are named.
fn wanted(args: &Args, shape: &Shape) -> bool {
    match args.only.is_empty() {
        true => !shape.on_demand(),
        false => args.only.iter().any(|wanted| {
            shape.key.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        }),
    }
}

fn choose_subjects(args: &Args) -> io::Result<(Vec<Subject>, Vec<&'static str>)> {
    let (found, missing) = subjects::find(args.other.clone());
    for title in &missing {
        eprintln!("{title}: not installed, skipped");
    }
    let names: Vec<&str> = found.iter().map(|subject| subject.key).collect();
    if let Some(unknown) = args.subjects.iter().find(|wanted| !names.contains(&wanted.as_str())) {
        return Err(io::Error::other(format!("no subject `{unknown}`; there are: {}", names.join(" "))));
    }
    let wanted = |subject: &Subject| match args.subjects.is_empty() {
        true => subject.key != subjects::ONE,
        false => args.subjects.iter().any(|wanted| subject.key == wanted),
    };
    Ok((found.into_iter().filter(wanted).collect(), missing))
}

fn column(subject: &Subject) -> Column {
    let role = match subject.key {
        subjects::DIRECT => Role::Floor,
        subjects::BASE => Role::Base,
        subjects::AGAIN => Role::Again,
        subjects::LOG | subjects::ONE | subjects::OTHER => Role::Variant,
        _ => Role::Peer,
    };
    Column { title: subject.title, role }
}

/// Two of these at once would measure each other.
fn wait_for_others() -> io::Result<fs::File> {
    let lock = fs::File::options().create(true).append(true).open(env::temp_dir().join("snigate-peers.lock"))?;
    if lock.try_lock().is_err() {
        eprintln!("another run is measuring; waiting for its end");
        lock.lock()?;
    }
    Ok(lock)
}

/// Each connection takes a descriptor at both ends and two in the proxy; children inherit the limit.
fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// Writes the table and the chart. Done after every shape, so that a run that is stopped is not lost.
fn write(measured: &Rounds, subjects: &[Subject], missing: &[&str], args: &Args) -> io::Result<String> {
    let machine = machine();
    let measure = format!("{} × {} s", args.rounds, args.seconds);
    let mut text = format!("{}\n{machine}; {measure}.\n", measured.table.markdown());
    text += "In brackets: the ratio to snigate, paired within rounds. Bold: the best proxy of the row.\n";
    if let Some((middle, largest)) = measured.table.noise() {
        text += &format!(
            "Noise, snigate against itself: {:.1} % in the median row, {:.1} % in the worst.\n",
            middle * 100.0,
            largest * 100.0
        );
    }
    if let Some(foreign) = figures::median(&measured.foreign) {
        let most = measured.foreign.iter().copied().fold(0.0, f64::max);
        text += &format!(
            "Others used {:.0} % of the machine in the median measurement, {:.0} % at worst.\n",
            foreign * 100.0,
            most * 100.0
        );
    }
    text += &versions(subjects, missing);
    if let Some(directory) = args.markdown.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&args.markdown, &text)?;
    let chart = args.markdown.with_extension("svg");
    let subtitle = format!("Ratio to snigate, less is better; {machine}; medians of {measure}");
    fs::write(&chart, chart::draw(&measured.table, "snigate beside other proxies", &subtitle))?;
    Ok(text)
}

/// What the numbers were measured on.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let model = model.trim_start_matches(['\t', ' ', ':']);
    let kernel = read("/proc/sys/kernel/osrelease");
    let congestion = network::congestion_control().unwrap_or_else(|_| "unknown congestion control".into());
    format!("{processors} × {model}, Linux {}, loopback with {congestion}", kernel.trim())
}

fn versions(subjects: &[Subject], missing: &[&str]) -> String {
    let named = |subject: &&Subject| matches!(column(subject).role, Role::Base | Role::Peer);
    let mut versions: Vec<String> = subjects.iter().filter(named).filter_map(Subject::version).collect();
    versions.dedup();
    let mut text = format!("Versions: {}.\n", versions.join("; "));
    if !missing.is_empty() {
        text += &format!("Not installed: {}.\n", missing.join(", "));
    }
    text
}
