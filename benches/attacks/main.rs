//! Attacks, and what a well-behaved client feels of them: `cargo bench --bench attacks`, or some of them: `-- --only silent`.
//!
//! Each attack meets a gate of its own, in a network of its own. Without and with the attack, in turns, a client connects
//! again and again and another talks over a connection that it has had from the beginning; compared are their p99, medians
//! over the turns. Attackers share the machine with the gate, where on a real network they do not: they run at the lowest
//! priority, their rates are bounded, and between the two they attack another gate, which shows what of the effect is the
//! machine's. No number fails; what must hold is that the gate answers, and in the end holds what it held at first.
//!
//! `main` is the order of things, `crowd` the attackers, `attacks` what they do, `good` the well-behaved clients,
//! `upstreams` whom all of them want to reach.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed run
#![allow(clippy::cast_precision_loss)] // figures to be printed

mod attacks;
mod crowd;
mod good;
#[allow(dead_code)] // the comparison with other proxies uses the rest
#[path = "../peers/network.rs"]
mod network;
#[allow(dead_code, unreachable_pub)] // the tests use the rest
#[path = "../../tests/it/support/mod.rs"]
mod support;
mod upstreams;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};

use attacks::{ATTACKS, Attack};
use crowd::Crowd;
use good::Good;
use support::descriptors;
use support::gate::GateProcess;
use upstreams::Upstreams;

/// Attack a gate, and measure what others feel of it
#[derive(Debug, Parser)]
#[command(name = "attacks")]
struct Args {
    /// Turns without and with each attack
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Only these attacks
    #[arg(long, value_name = "ATTACK", num_args = 1.., value_delimiter = ',')]
    only: Vec<String>,
    /// A line that is added to the configuration of the gate
    #[arg(long, value_name = "YAML", default_value = "")]
    add: String,
    /// Stay in this network namespace
    #[arg(long)]
    here: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    if !args.bench {
        eprintln!("attacks: nothing is attacked without --bench, which `cargo bench` gives"); // `cargo test --benches`
        return;
    }
    if !args.here {
        let own: Vec<OsString> = env::args_os().skip(1).collect();
        network::enter(&own);
    }
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let wanted = |attack: &&'static Attack| args.only.is_empty() || args.only.iter().any(|name| name == attack.key);
    println!("| attack | load held | connect p99, ms | stream p99, ms | memory, MiB | processor | how they ended |");
    println!("|---|---|--:|--:|--:|--:|---|");
    for attack in ATTACKS.iter().filter(wanted) {
        match measure(attack, &args) {
            Some(row) => println!("{row}"),
            None => eprintln!("{}: skipped", attack.key),
        }
    }
}

/// What one turn measured.
struct Turn {
    good: good::Felt,
    /// Of one processor.
    busy: f64,
    load: crowd::Load,
}

fn measure(attack: &'static Attack, args: &Args) -> Option<String> {
    let upstreams = Upstreams::start();
    let [gate, another] = [(); 2].map(|()| GateProcess::start(&upstreams.configuration(&args.add)));
    let at_rest = [&gate, &another].map(|gate| descriptors::sockets(gate.pid()));
    let memory = descriptors::memory(gate.pid());
    let good = Good::start(gate.address());
    let held = [at_rest[0] + 2 * good::STREAMS, at_rest[1]];
    let (mut calm, mut beside, mut attacked) = (Vec::new(), Vec::new(), Vec::new());
    let length = Duration::from_secs(args.seconds);
    for _ in 0..args.rounds {
        calm.push(turn(&gate, &good, length, None));
        for (target, turns, held) in [(&another, &mut beside, held[1]), (&gate, &mut attacked, held[0])] {
            let crowd = Crowd::gather(attack, target.address())?;
            // Until those who hold on are all there, or as many as they will become.
            crowd.wait_until_grown();
            turns.push(turn(&gate, &good, length, Some(&crowd)));
            drop(crowd);
            // What is left of it is the gate's to end by itself.
            descriptors::wait_for_baseline(target.pid(), held);
        }
    }
    let most = peak_memory(gate.pid());
    let streams_held = good.stop();
    descriptors::wait_for_baseline(gate.pid(), at_rest[0]);
    let turns = [calm, beside, attacked];
    let failures: usize = turns[2].iter().map(|turn| turn.good.failures).sum();
    let [idle, _, busy] = turns.each_ref().map(|turns| 100.0 * middle(turns.iter().map(|turn| turn.busy)));
    Some(format!(
        "| {} | {} | {}{} | {}{} | {:.1} → {:.1} | {idle:.0} % → {busy:.0} % | {} |",
        attack.title,
        turns[2].last()?.load,
        p99(&turns, |felt| felt.connect),
        if failures > 0 { format!(", {failures} failed") } else { String::new() },
        p99(&turns, |felt| felt.stream),
        if streams_held { "" } else { ", broken" },
        memory as f64 / 1_048_576.0,
        most as f64 / 1_048_576.0,
        ends(&gate),
    ))
}

/// Without an attack, beside one on another gate, and under it.
fn p99(turns: &[Vec<Turn>; 3], part: fn(&good::Felt) -> f64) -> String {
    let felt = turns.each_ref().map(|turns| format!("{:.2}", middle(turns.iter().map(|turn| part(&turn.good)))));
    felt.join(" · ")
}

fn turn(gate: &GateProcess, good: &Good, length: Duration, crowd: Option<&Crowd>) -> Turn {
    let (ticks, begin) = (descriptors::ticks(gate.pid()), Instant::now());
    if let Some(crowd) = crowd {
        crowd.begin_count();
    }
    good.begin();
    thread::sleep(length);
    let felt = good.end();
    let load = crowd.map(|crowd| crowd.load(begin.elapsed())).unwrap_or_default();
    // A tick is a hundredth of a second.
    let busy = (descriptors::ticks(gate.pid()) - ticks) as f64 / 100.0 / begin.elapsed().as_secs_f64();
    Turn { good: felt, busy, load }
}

/// The most memory that the gate ever had in use.
fn peak_memory(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024 * line.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap()
}

/// The reasons of the access log, less those of well-behaved clients, the most frequent first.
fn ends(gate: &GateProcess) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for line in gate.log() {
        if line["route"] != good::NAME {
            *counts.entry(line["reason"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let shown: Vec<String> = counts.iter().map(|(reason, count)| format!("`{reason}` {count}")).collect();
    shown.join(", ")
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
