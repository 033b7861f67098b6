//! Much through one gate, for long: `cargo bench --bench soak`, or with `-- --gigabytes 10` a shorter run.
//!
//! One connection carries all of it, both ways at once, in pieces of every size, with stops on either side; more follow it
//! and end in every way, with bytes under way. Each byte is compared with what was sent. In the end the gate must hold
//! nothing and do nothing. A failure names the seed that brings the same choices again. CI runs a part of it, as a test.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed run

#[allow(dead_code)] // the tests use the rest
#[path = "peers/network.rs"]
mod network;
#[allow(dead_code, unreachable_pub)]
#[path = "../tests/it/support/mod.rs"]
mod support;

use std::ffi::OsString;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;

use support::descriptors;
use support::soak::{Plan, Soak};

/// Move much through a gate and compare every byte
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Args {
    /// GB that the first connection carries, each way
    #[arg(long, default_value_t = 100)]
    gigabytes: u64,
    /// Connections after it, of up to 128 MiB each way
    #[arg(long, value_name = "CONNECTIONS", default_value_t = 300)]
    more: u64,
    /// Decides sizes, stops and ends [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds for which the gate is watched when all is done
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    watch: u64,
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
        eprintln!("soak: nothing is moved without --bench, which `cargo bench` gives"); // `cargo test --benches`
        return;
    }
    if !args.here {
        let own: Vec<OsString> = std::env::args_os().skip(1).collect();
        network::enter(&own);
    }
    let seed = args.seed.unwrap_or_else(|| SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs());
    let plan = Plan { first: args.gigabytes * 1_000_000_000, more: args.more, seed };
    println!("{plan:?}, congestion control {}", network::congestion_control().unwrap());
    let soak = Soak::set(plan);
    let begin = Instant::now();
    thread::scope(|scope| {
        // Gone when the run ends, however it does.
        let (_running, run) = mpsc::channel::<()>();
        scope.spawn(|| {
            let run = run;
            while run.recv_timeout(Duration::from_secs(5)) == Err(RecvTimeoutError::Timeout) {
                report(&soak, begin);
            }
        });
        soak.run();
    });
    report(&soak, begin);
    let memory = descriptors::memory(soak.gate.pid());
    soak.expect_rest();
    let before = descriptors::ticks(soak.gate.pid());
    thread::sleep(Duration::from_secs(args.watch));
    let ticks = descriptors::ticks(soak.gate.pid()) - before;
    println!(
        "every byte arrived as it was sent, and nothing is left over; the gate has {} KiB of memory and used {ticks} ticks of \
         processor time in {} s of rest",
        memory / 1024,
        args.watch
    );
    assert!(ticks <= args.watch, "a gate at rest must not need a hundredth of a processor");
}

fn report(soak: &Soak, begin: Instant) {
    let bytes = soak.compared.load(Ordering::Relaxed);
    let seconds = begin.elapsed().as_secs_f64();
    let ended = soak.ended.load(Ordering::Relaxed);
    println!(
        "{seconds:5.0} s: {ended} connections have ended; {:.1} GB compared, both ways; {:.2} GB/s",
        in_gb(bytes),
        in_gb(bytes) / seconds
    );
}

#[allow(clippy::cast_precision_loss)] // it is printed
fn in_gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}
