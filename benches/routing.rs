//! How long a decision takes, in small and large tables and source lists, and how long a table takes to build.

#![allow(clippy::unwrap_used)] // a benchmark that cannot be set up ends there

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use snigate::hello::Sni;
use snigate::routing::{Decision, Route, RouteLimits, RouteTable, SourceList, UpstreamId};

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

/// Half of the routes take an exact name, half a wildcard.
fn routes(count: usize) -> Vec<Arc<Route>> {
    let names = (0..count).map(|number| match number % 2 {
        0 => format!("service-{number}.apps.example.com"),
        _ => format!("*.tenant-{number}.clusters.example.com"),
    });
    names.enumerate().map(|(number, name)| Arc::new(route(&name, UpstreamId(number), SourceList::everyone()))).collect()
}

fn route(name: &str, upstream: UpstreamId, sources: SourceList) -> Route {
    Route {
        name: name.into(),
        server_names: vec![name.parse().unwrap()],
        no_server_name: false,
        listeners: None,
        sources,
        alpn: Vec::new(),
        upstream,
        upstream_name: "up".into(),
        idle_timeout: Duration::from_secs(86_400),
        half_close_timeout: Duration::from_secs(60),
        allow_short_idle: false,
        on_route_change: None,
        limits: RouteLimits::default(),
    }
}

fn short<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500)).sample_size(20);
    group
}

/// One name for every second route, but some 1,024 at most, spread over the table so that it is not always the same few
/// cache lines that answer.
fn names(count: usize, name: impl Fn(usize) -> String) -> Vec<Sni> {
    let step = count.div_ceil(1_024).next_multiple_of(2);
    (0..count).step_by(step).map(|number| Sni::Name(name(number).parse().unwrap())).collect()
}

fn decide(criterion: &mut Criterion) {
    let deepest = vec!["a"; 105].join(".");
    for count in [10, 1_000, 100_000] {
        let table = RouteTable::new(routes(count)).unwrap();
        let below_wildcard =
            |labels: &str| names(count, |number| format!("{labels}.tenant-{}.clusters.example.com", number + 1));
        let mut group = short(criterion, &format!("decide/{count}"));
        for (kind, matches, names) in [
            ("exact", true, names(count, |number| format!("service-{number}.apps.example.com"))),
            ("wildcard", true, below_wildcard("api")),
            ("wildcard_deep", true, below_wildcard("a.b.c.d.e.f")),
            ("wildcard_deepest", true, below_wildcard(&deepest)),
            ("miss", false, names(count, |number| format!("service-{number}.apps.example.org"))),
        ] {
            for name in &names {
                assert_eq!(matches!(table.decide(name, &[], SOURCE), Decision::Route(_)), matches, "{name:?}");
            }
            let mut next = names.iter().cycle();
            group.bench_function(kind, |bencher| {
                bencher.iter(|| next.next().map(|name| black_box(table.decide(black_box(name), &[], SOURCE))));
            });
        }
        group.finish();
    }
}

/// Networks of 20 to 28 bits all over the address space, two in three of them IPv4.
fn networks(count: u32) -> Vec<IpNet> {
    let spread = |number: u32| number.wrapping_mul(0x9e37_79b1); // 2^32 divided by the golden ratio
    let network = |number: u32| {
        let prefix = 20 + u8::try_from(number % 9).unwrap();
        match number % 3 {
            0 => IpNet::V6(Ipv6Net::new(Ipv6Addr::from(u128::from(spread(number)) << 96), prefix).unwrap()),
            _ => IpNet::V4(Ipv4Net::new(Ipv4Addr::from(spread(number)), prefix).unwrap()),
        }
    };
    (0..count).map(network).collect()
}

fn sources(criterion: &mut Criterion) {
    let mut group = short(criterion, "sources");
    for count in [10, 5_000] {
        let (allow, deny) = (networks(count), networks(count / 10));
        let list = SourceList::new(Some(&allow), &deny);
        for (kind, sources) in [
            (
                "v4",
                (0..256)
                    .map(|number: u32| Ipv4Addr::from(number.wrapping_mul(0x0101_6b55)).into())
                    .collect::<Vec<IpAddr>>(),
            ),
            ("v6", (0..256).map(|number: u128| Ipv6Addr::from(number << 120).into()).collect()),
        ] {
            let mut next = sources.iter().cycle();
            group.bench_function(format!("judge/{count}/{kind}"), |bencher| {
                bencher.iter(|| next.next().map(|source| list.judge(black_box(*source))));
            });
        }
        group.bench_function(format!("build/{count}"), |bencher| {
            bencher.iter(|| SourceList::new(Some(black_box(&allow)), black_box(&deny)));
        });
    }
    group.finish();
}

fn build(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("build");
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1)).sample_size(10);
    for count in [1_000, 100_000] {
        let routes = routes(count);
        let table = RouteTable::new(routes.clone()).unwrap();
        group.bench_function(format!("names/{count}"), |bencher| {
            bencher.iter_batched(|| routes.clone(), RouteTable::new, BatchSize::LargeInput);
        });
        group.bench_function(format!("unreached/{count}"), |bencher| {
            bencher.iter(|| table.unreached(&SourceList::everyone()));
        });
    }
    // One name shared by routes that differ in their sources alone.
    let shared = |number: u32| {
        let network = IpNet::new(Ipv4Addr::from(number << 12).into(), 20).unwrap();
        Arc::new(route("kube.example.com", UpstreamId(0), SourceList::new(Some(&[network]), &[])))
    };
    let routes: Vec<_> = (0..10_000).map(shared).collect();
    let table = RouteTable::new(routes.clone()).unwrap();
    group.bench_function("shared_name/10000", |bencher| {
        bencher.iter_batched(|| routes.clone(), RouteTable::new, BatchSize::LargeInput);
    });
    group.bench_function("shared_name_unreached/10000", |bencher| {
        bencher.iter(|| table.unreached(&SourceList::everyone()));
    });
    group.finish();
}

criterion_group!(benches, decide, sources, build);
criterion_main!(benches);
