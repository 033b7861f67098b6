//! Many gates that know nothing of each other: `cargo bench --bench scale`, or with `-- --sources 100000` a shorter run.
//!
//! A client comes through whichever instance a balancer or DNS leads it to, and by another one the next time. With
//! `balance: source_hash` all instances that see the same endpoints lead it to the same one. What this simulates is what
//! becomes of that while endpoints and instances change: every source comes twice, before and after, each time through an
//! instance drawn by lot. It fails where more sources move than must.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::rc::Rc;

use clap::Parser;
use snigate::config::Balance;
use snigate::upstream::balance::{Circumstances, Member, Standing, Tiers, key_of};

/// Lead many sources through many instances to many endpoints
#[derive(Debug, Parser)]
#[command(name = "scale")]
struct Args {
    /// Clients, each of an address of its own
    #[arg(long, default_value_t = 10_000_000)]
    sources: u32,
    /// Gates
    #[arg(long, default_value_t = 100)]
    instances: usize,
    /// Endpoints of the upstream
    #[arg(long, default_value_t = 1_000)]
    endpoints: u16,
    /// What `cargo bench` says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one instance knows: the endpoints in the order in which it found them, and how they stand.
#[derive(Clone)]
struct Instance {
    keys: Vec<u64>,
    tiers: Rc<Tiers>,
}

impl Instance {
    fn knowing(endpoints: &[(u16, Standing)]) -> Self {
        let key = |number: u16| key_of(SocketAddr::from((Ipv4Addr::from(0x0A00_0000 + u32::from(number)), 6443)));
        let placed = |&(number, standing): &(u16, Standing)| (Member { key: key(number), weight: 1 }, standing, false);
        let placed: Vec<_> = endpoints.iter().map(placed).collect();
        let keys = placed.iter().map(|(member, ..)| member.key).collect();
        Self { keys, tiers: Tiers::new(Balance::SourceHash, &placed, 0).into() }
    }

    /// The key of the endpoint that the source is led to.
    fn lead(&self, source: IpAddr) -> u64 {
        let now = Circumstances { source, tried: &[], load: &|_| 0, ramp: &|_| 1.0 };
        self.tiers.pick(&now).map_or(0, |at| self.keys[at])
    }
}

/// Lots, the same in every run: xorshift64* (Vigna 2016).
struct Lots(u64);

impl Lots {
    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).unwrap_or_default() % count
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// What happens between two visits of every source.
struct Change {
    what: String,
    before: Vec<Instance>,
    after: Vec<Instance>,
    /// The share of sources whose endpoint has gone, or which a new one should have.
    must: f64,
    /// The share of the others that may move, too.
    bound: f64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut lots = Lots(0x5EED);
    println!(
        "{} sources, each through one of {} instances by lot before and after, to {} endpoints\n",
        args.sources, args.instances, args.endpoints
    );
    println!("| between the two | must move | moved | of those that need not |\n|---|---|---|---|");
    let changes = changes(&args, &mut lots);
    let mut failed = false;
    for change in changes {
        let moved = moved(&change, args.sources, &mut lots);
        let beyond = (moved - change.must).max(0.0);
        println!(
            "| {} | {:.2} % | {:.2} % | {:.2} % |",
            change.what,
            change.must * 100.0,
            moved * 100.0,
            beyond * 100.0
        );
        failed |= beyond > change.bound;
    }
    let (least, most) = evenness(&args, &mut lots);
    println!("\nsources of an endpoint, relative to their mean: {least:.2} to {most:.2}");
    if failed {
        eprintln!("more sources moved than may");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn changes(args: &Args, lots: &mut Lots) -> Vec<Change> {
    let (instances, count) = (args.instances, args.endpoints);
    let all = |standing| (0..count).map(move |number| (number, standing)).collect::<Vec<_>>();
    let everywhere = |known: &[(u16, Standing)]| vec![Instance::knowing(known); instances];
    let up = all(Standing::Up);
    // DNS answers come in any order.
    let mut in_any_order = || {
        let mut known = up.clone();
        lots.shuffle(&mut known);
        Instance::knowing(&known)
    };
    let before: Vec<Instance> = (0..instances).map(|_| in_any_order()).collect();
    let tenth = count / 10;
    let hundredth = (count / 100).max(1);
    let share = |endpoints: u16| f64::from(endpoints) / f64::from(count);
    let without = |gone: u16| up[usize::from(gone)..].to_vec();
    let with = |new: u16| (0..count + new).map(|number| (number, Standing::Up)).collect::<Vec<_>>();
    let down = |number: u16| {
        let mut known = up.clone();
        known[usize::from(number)].1 = Standing::Down;
        known
    };
    let half_changed = |known: &[(u16, Standing)]| {
        let mut mixed = before.clone();
        mixed[..instances / 2].fill(Instance::knowing(known));
        mixed
    };
    let own_view = |at: usize| Instance::knowing(&down(u16::try_from(at).unwrap_or_default() % count));
    let change =
        |what: &str, after, must, bound| Change { what: what.to_owned(), before: before.clone(), after, must, bound };
    vec![
        change("nothing; instances know the endpoints in different orders", before.clone(), 0.0, 0.0),
        change("half of the instances go", before[instances / 2..].to_vec(), 0.0, 0.0),
        change("as many instances come", [before.clone(), before.clone()].concat(), 0.0, 0.0),
        change("one endpoint fails, and all instances know", everywhere(&down(0)), share(1), 0.01),
        change("one endpoint fails, and half of the instances know", half_changed(&down(0)), share(1) / 2.0, 0.01),
        change(
            "each instance takes another endpoint for failed",
            (0..instances).map(own_view).collect(),
            share(1),
            0.02,
        ),
        change(&format!("{hundredth} endpoints go"), everywhere(&without(hundredth)), share(hundredth), 0.03),
        change(&format!("{tenth} endpoints go"), everywhere(&without(tenth)), share(tenth), 0.05),
        change(
            &format!("{hundredth} endpoints come"),
            everywhere(&with(hundredth)),
            f64::from(hundredth) / f64::from(count + hundredth),
            0.03,
        ),
    ]
}

/// The share of sources that are led elsewhere.
fn moved(change: &Change, sources: u32, lots: &mut Lots) -> f64 {
    let moved = (0..sources).filter(|source| {
        let source = IpAddr::from(Ipv4Addr::from(*source));
        let before = change.before[lots.below(change.before.len())].lead(source);
        before != change.after[lots.below(change.after.len())].lead(source)
    });
    moved.count() as f64 / f64::from(sources)
}

/// What the endpoint with the fewest and with the most sources has, relative to the mean.
fn evenness(args: &Args, lots: &mut Lots) -> (f64, f64) {
    let known: Vec<_> = (0..args.endpoints).map(|number| (number, Standing::Up)).collect();
    let instance = Instance::knowing(&known);
    let mut counts = HashMap::new();
    for _ in 0..args.sources {
        let source = u32::try_from(lots.below(1 << 30)).unwrap_or_default();
        *counts.entry(instance.lead(Ipv4Addr::from(source).into())).or_insert(0_u32) += 1;
    }
    let mean = f64::from(args.sources) / f64::from(args.endpoints);
    let least = counts.values().min().copied().filter(|_| counts.len() == usize::from(args.endpoints)).unwrap_or(0);
    let most = counts.values().max().copied().unwrap_or(0);
    (f64::from(least) / mean, f64::from(most) / mean)
}
