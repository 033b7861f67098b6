//! How long the choice of an endpoint takes, among few and many: at the first attempt, when one has failed, while one
//! starts; and how long it takes to prepare the choice when endpoints change.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use snigate::config::Balance;
use snigate::upstream::balance::{Circumstances, Member, Standing, Tiers, key_of};

const EVERY_BALANCE: [(&str, Balance); 4] = [
    ("least_connections", Balance::LeastConnections),
    ("round_robin", Balance::RoundRobin),
    ("random", Balance::Random),
    ("source_hash", Balance::SourceHash),
];

fn endpoints(count: u16) -> Vec<(Member, Standing, bool)> {
    let member = |number: u16| {
        let [high, low] = number.to_be_bytes();
        Member { key: key_of(SocketAddr::from(([10, 0, high, low], 6443))), weight: 1 + u32::from(number % 4) }
    };
    (0..count).map(|number| (member(number), Standing::Up, false)).collect()
}

fn short<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500)).sample_size(20);
    group
}

/// Each pick is a connection from another source that does not end.
fn picks(group: &mut BenchmarkGroup<'_, WallTime>, tried: &[usize], ramp: &dyn Fn(usize) -> f64, counts: &[u16]) {
    for (name, balance) in EVERY_BALANCE {
        for &count in counts {
            let tiers = Tiers::new(balance, &endpoints(count), 0);
            // Each counter by itself, as in an endpoint.
            let open: Vec<Box<AtomicUsize>> = (0..count).map(|_| Box::default()).collect();
            let load = |at: usize| open[at].load(Ordering::Relaxed);
            let mut come = 0;
            group.bench_function(format!("{name}/{count}"), |bencher| {
                bencher.iter(|| {
                    come += 1;
                    let source = Ipv4Addr::from(come).into();
                    let picked = tiers.pick(&Circumstances { source, tried: black_box(tried), load: &load, ramp });
                    if let Some(picked) = picked {
                        open[picked].fetch_add(1, Ordering::Relaxed);
                    }
                    picked
                });
            });
        }
    }
}

fn pick(criterion: &mut Criterion) {
    let mut group = short(criterion, "pick");
    picks(&mut group, &[], &|_| 1.0, &[1, 10, 1_000]);
    group.finish();
    let mut group = short(criterion, "pick_after_two_failures");
    picks(&mut group, &[1, 3], &|_| 1.0, &[10, 1_000]);
    group.finish();
    let mut group = short(criterion, "pick_while_all_start");
    picks(&mut group, &[], &|_| 0.01, &[1, 10, 1_000]);
    group.finish();
}

fn build(criterion: &mut Criterion) {
    let mut group = short(criterion, "build");
    for (name, balance) in EVERY_BALANCE {
        for count in [10, 1_000] {
            let endpoints = endpoints(count);
            group.bench_function(format!("{name}/{count}"), |bencher| {
                bencher.iter(|| Tiers::new(balance, black_box(&endpoints), 0));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, pick, build);
criterion_main!(benches);
