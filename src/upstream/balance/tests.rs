use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::*;

const EVERY_BALANCE: [Balance; 4] =
    [Balance::LeastConnections, Balance::RoundRobin, Balance::Random, Balance::SourceHash];

const PICKS: u32 = 1_000_000;

fn address(number: usize) -> SocketAddr {
    let [.., high, low] = number.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 6443))
}

/// One member a weight.
fn members(weights: impl IntoIterator<Item = u32>) -> Vec<Member> {
    weights.into_iter().enumerate().map(|(at, weight)| Member { key: key_of(address(at)), weight }).collect()
}

/// A thousand members with weights from 1 to 4.
fn thousand() -> Vec<Member> {
    members((0..1_000).map(|at| 1 + at % 4))
}

fn source(number: u32) -> IpAddr {
    Ipv4Addr::from(0xc000_0000 + number).into()
}

/// Clients from ever other sources whose connections do not end.
struct Crowd {
    open: Vec<Cell<usize>>,
    come: u32,
}

impl Crowd {
    fn new(endpoints: usize) -> Self {
        Self { open: vec![Cell::new(0); endpoints], come: 0 }
    }

    fn pick(&mut self, chooser: &Chooser, tried: &[usize], ramp: &dyn Fn(usize) -> f64) -> Option<usize> {
        let load = |at: usize| self.open[at].get();
        let picked = chooser.pick(&Circumstances { source: source(self.come), tried, load: &load, ramp });
        self.come += 1;
        if let Some(picked) = picked {
            self.open[picked].set(load(picked) + 1);
        }
        picked
    }

    fn come(mut self, chooser: &Chooser, clients: u32, ramp: &dyn Fn(usize) -> f64) -> Vec<usize> {
        for _ in 0..clients {
            self.pick(chooser, &[], ramp).unwrap();
        }
        self.open.iter().map(Cell::get).collect()
    }
}

fn full(_: usize) -> f64 {
    1.0
}

fn spread(balance: Balance, members: &[Member], clients: u32) -> Vec<usize> {
    Crowd::new(members.len()).come(&Chooser::new(balance, members, 7), clients, &full)
}

/// How far each count is from its share by weight.
fn errors(members: &[Member], counts: &[usize]) -> Vec<(f64, f64)> {
    let total: u32 = members.iter().map(|member| member.weight).sum();
    let all: usize = counts.iter().sum();
    let expected = |member: &Member| all as f64 * f64::from(member.weight) / f64::from(total);
    members.iter().zip(counts).map(|(member, count)| (*count as f64 - expected(member), expected(member))).collect()
}

#[test]
fn a_million_picks_of_a_thousand_spread_by_least_connections() {
    let members = thousand();
    for (error, expected) in errors(&members, &spread(Balance::LeastConnections, &members, PICKS)) {
        assert!(error.abs() <= 8.0, "{error} {expected}");
    }
}

#[test]
fn a_million_picks_of_a_thousand_spread_in_turn() {
    let members = thousand();
    for (error, expected) in errors(&members, &spread(Balance::RoundRobin, &members, PICKS)) {
        assert!(error == 0.0, "{error} {expected}");
    }
}

#[test]
fn a_million_picks_of_a_thousand_spread_by_lot() {
    let members = thousand();
    let errors = errors(&members, &spread(Balance::Random, &members, PICKS));
    assert!(errors.iter().all(|(error, expected)| error.abs() < 6.0 * expected.sqrt()), "{errors:?}");
    // As uneven as chance is, and no more: the sum has 999 degrees of freedom.
    let chi_square: f64 = errors.iter().map(|(error, expected)| error * error / expected).sum();
    assert!((730.0..1_270.0).contains(&chi_square), "{chi_square}");
}

#[test]
fn a_million_sources_of_a_thousand_spread_by_hash() {
    let members = thousand();
    for (error, expected) in errors(&members, &spread(Balance::SourceHash, &members, PICKS)) {
        // Chance, and a slot of the table too many or too few.
        assert!(error.abs() < 6.0 * expected.sqrt() + f64::from(PICKS) / 65_537.0, "{error} {expected}");
    }
}

#[test]
fn a_few_spread_exactly_by_least_connections() {
    assert_eq!(spread(Balance::LeastConnections, &members([1, 1, 1]), 30), [10, 10, 10]);
    assert_eq!(spread(Balance::LeastConnections, &members([1, 2, 3]), 60), [10, 20, 30]);
    // Connections that last elsewhere are made up for.
    let crowd = Crowd::new(3);
    crowd.open[1].set(10);
    let chooser = Chooser::new(Balance::LeastConnections, &members([1, 1, 1]), 0);
    assert_eq!(crowd.come(&chooser, 20, &full), [10, 10, 10]);
}

#[test]
fn ties_take_turns_however_many_endpoints_are_busy() {
    let mut crowd = Crowd::new(4);
    crowd.open[2].set(1);
    let chooser = Chooser::new(Balance::LeastConnections, &members([1; 4]), 0);
    let picks = (0..300).map(|_| {
        let picked = crowd.pick(&chooser, &[], &full).unwrap();
        crowd.open[picked].set(0); // it was short
        picked
    });
    let mut count = [0; 4];
    picks.for_each(|picked| count[picked] += 1);
    assert_eq!(count, [100, 100, 0, 100]);
}

#[test]
fn least_connections_of_many_stay_even_while_connections_come_and_go() {
    let members = members((0..100).map(|at| 1 + at % 2));
    let chooser = Chooser::new(Balance::LeastConnections, &members, 7);
    let mut crowd = Crowd::new(members.len());
    let mut open = Vec::new();
    for client in 0..200_000_u64 {
        open.push(crowd.pick(&chooser, &[], &full).unwrap());
        if open.len() > 15_000 {
            let index = usize::try_from(mix(client) % open.len() as u64).unwrap();
            let closed = &crowd.open[open.swap_remove(index)];
            closed.set(closed.get() - 1);
        }
    }
    let counts: Vec<_> = crowd.open.iter().map(Cell::get).collect();
    for (error, expected) in errors(&members, &counts) {
        assert!(error.abs() <= 0.1 * expected, "{error} {expected}");
    }
}

#[test]
fn turns_of_equals_go_round_and_of_others_are_evenly_spread() {
    let rotation = |weights: &[u32], clients: usize| -> Vec<usize> {
        let (chooser, mut crowd) =
            (Chooser::new(Balance::RoundRobin, &members(weights.to_vec()), 0), Crowd::new(weights.len()));
        (0..clients).map(|_| crowd.pick(&chooser, &[], &full).unwrap()).collect()
    };
    assert_eq!(rotation(&[1, 1, 1], 7), [0, 1, 2, 0, 1, 2, 0]);
    assert_eq!(rotation(&[200, 200], 4), [0, 1, 0, 1]);
    assert_eq!(rotation(&[5, 1, 1], 7), [0, 0, 0, 2, 0, 0, 1]);
    for weights in [
        vec![1, 2, 3],
        vec![256, 1, 1, 100],
        (1..=50).collect(),
        vec![65_535, 1, 30_000, 7],
        vec![3; 1_000],
        vec![65_535, 65_534],
    ] {
        let total = f64::from(weights.iter().sum::<u32>());
        let mut counts = vec![0.0; weights.len()];
        for (turn, picked) in rotation(&weights, 100_000).into_iter().enumerate() {
            counts[picked] += 1.0;
            let expected = (turn + 1) as f64 * f64::from(weights[picked]) / total;
            let ahead: f64 = counts[picked] - expected;
            assert!(ahead.abs() < 2.5, "{weights:?}: turn {turn} of {picked}: {ahead}");
        }
    }
}

#[test]
fn workers_share_the_turns() {
    let members = members([3, 2, 1]);
    let chooser = Chooser::new(Balance::RoundRobin, &members, 0);
    let worker = || Crowd::new(3).come(&chooser, 1_500, &full);
    let counts = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    let sum = |at: usize| counts.iter().map(|counts| counts[at]).sum::<usize>();
    assert_eq!([sum(0), sum(1), sum(2)], [3_000, 2_000, 1_000]);
}

/// The address that each source is led to.
fn homes(members: &[Member], tried: &[usize], clients: u32) -> Vec<u64> {
    let chooser = Chooser::new(Balance::SourceHash, members, any_seed());
    let pick = |source| chooser.pick(&Circumstances { source, tried, load: &|_| 0, ramp: &full }).unwrap();
    (0..clients).map(|client| members[pick(source(client))].key).collect()
}

#[test]
fn instances_agree_on_the_endpoint_of_a_source() {
    let there = thousand();
    let mut here = there.clone();
    here.sort_unstable_by_key(|member| mix(member.key));
    assert_ne!(here, there);
    assert_eq!(homes(&here, &[], 50_000), homes(&there, &[], 50_000));
    // Also where one leads to that did not answer.
    let tried = [3, 500, 999];
    let tried_here = tried.map(|at| here.iter().position(|member| *member == there[at]).unwrap());
    assert_eq!(homes(&here, &tried_here, 50_000), homes(&there, &tried, 50_000));
}

#[test]
fn versions_agree_on_the_endpoint_of_a_source() {
    // A change here moves every client of instances that are replaced one by one.
    assert_eq!(key_of("192.0.2.1:6443".parse().unwrap()), 16_170_792_981_621_330_173);
    assert_eq!(key_of("[2001:db8::1]:6443".parse().unwrap()), 4_303_632_850_703_128_216);
    let members = members([1, 2, 3, 4]);
    let place = |key| members.iter().position(|member| member.key == key).unwrap();
    let places = |tried: &[usize]| homes(&members, tried, 20).into_iter().map(place).collect::<Vec<_>>();
    assert_eq!(places(&[]), [3, 3, 3, 3, 3, 0, 1, 2, 2, 3, 1, 3, 2, 3, 3, 3, 3, 1, 0, 1]);
    assert_eq!(places(&[3]), [1, 2, 2, 1, 2, 0, 1, 2, 2, 0, 1, 1, 2, 2, 1, 0, 2, 1, 0, 1]);
}

#[test]
fn a_key_is_that_of_the_address_alone() {
    let key = |text: &str| key_of(text.parse().unwrap());
    assert_eq!(key("192.0.2.1:6443"), key("[::ffff:192.0.2.1]:6443"));
    assert_eq!(key("[fe80::1%2]:6443"), key("[fe80::1%3]:6443"));
    assert_ne!(key("192.0.2.1:6443"), key("192.0.2.1:6444"));
    assert_ne!(key("192.0.2.1:6443"), key("192.0.2.2:6443"));
}

#[test]
fn slots_are_dealt_by_weight_and_everyone_has_one() {
    let skewed = members((0..1_000).map(|at| if at == 7 { 1 } else { HEAVIEST }));
    for members in [members([1]), members([1, 256]), members([1, 2, 3]), thousand(), skewed] {
        let table = Maglev::new(members.iter().copied());
        let mut slots = vec![0_usize; members.len()];
        (0..65_537).for_each(|hash| slots[table.at(hash)] += 1);
        for ((error, expected), slots) in errors(&members, &slots).into_iter().zip(slots) {
            assert!(error.abs() < 2.0 && slots > 0, "{slots} slots instead of {expected}");
        }
    }
}

#[test]
fn who_goes_or_comes_moves_few_of_the_others() {
    const CLIENTS: u32 = 50_000;
    for (count, bound) in [(2, 0.0), (3, 0.001), (10, 0.005), (100, 0.015), (1_000, 0.015)] {
        let all = members(std::iter::repeat_n(1, count));
        let (gone, rest) = all.split_last().unwrap();
        let (with, without) = (homes(&all, &[], CLIENTS), homes(rest, &[], CLIENTS));
        let moved = with.iter().zip(&without).filter(|(with, without)| with != without && **with != gone.key);
        let moved = moved.count() as f64 / f64::from(CLIENTS);
        assert!(moved <= bound, "{moved} of {count}");
    }
}

#[test]
fn the_sources_of_one_that_failed_are_shared_by_the_others() {
    let all = members([1; 5]);
    let (before, after) = (homes(&all, &[], 50_000), homes(&all, &[2], 50_000));
    let mut taken_over = [0_usize; 5];
    for (before, after) in before.into_iter().zip(after) {
        let place = all.iter().position(|member| member.key == after).unwrap();
        if before == all[2].key { taken_over[place] += 1 } else { assert_eq!(before, after) }
    }
    assert_eq!(taken_over[2], 0);
    for place in [0, 1, 3, 4] {
        assert!((2_300..2_700).contains(&taken_over[place]), "{taken_over:?}");
    }
}

#[test]
fn one_that_starts_has_the_share_that_its_ramp_says() {
    let members = members([1, 1, 2, 1]);
    for balance in EVERY_BALANCE {
        let chooser = Chooser::new(balance, &members, 7);
        let counts = Crowd::new(4).come(&chooser, 100_000, &|at| if at == 2 { 0.25 } else { 1.0 });
        let share = match balance {
            // A quarter of its sources find it already, 2 of 5 being its.
            Balance::SourceHash => 0.25 * 2.0 / 5.0,
            // It has a weight of 0.5 for now, of 3.5 in all.
            _ => 0.5 / 3.5,
        };
        let expected = [(1.0 - share) / 3.0, (1.0 - share) / 3.0, share, (1.0 - share) / 3.0];
        for (count, expected) in counts.iter().zip(expected) {
            assert!((*count as f64 - 100_000.0 * expected).abs() < 900.0, "{balance:?}: {counts:?}");
        }
    }
}

#[test]
fn when_all_start_they_share_as_ever() {
    for (balance, count) in EVERY_BALANCE.into_iter().flat_map(|balance| [(balance, 4), (balance, 40)]) {
        let members = members(std::iter::repeat_n(1, count));
        let counts = Crowd::new(count).come(&Chooser::new(balance, &members, 7), 40_000, &|_| FIRST_SHARE);
        let expected = 40_000.0 / count as f64;
        for (error, _) in errors(&members, &counts) {
            assert!(error.abs() < 6.0 * expected.sqrt(), "{balance:?}: {counts:?}");
        }
    }
}

#[test]
fn a_rising_ramp_takes_a_source_to_its_endpoint_once() {
    let members = members([1; 3]);
    let chooser = Chooser::new(Balance::SourceHash, &members, 7);
    for client in 0..1_000 {
        let at = |share: f64| {
            let ramp = |at| if at == 1 { share } else { 1.0 };
            chooser.pick(&Circumstances { source: source(client), tried: &[], load: &|_| 0, ramp: &ramp }).unwrap()
        };
        let way: Vec<_> = (1..=100).map(|percent| at(f64::from(percent) / 100.0)).collect();
        let changes = way.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes == 0 || changes == 1 && way[99] == 1, "{way:?}");
    }
}

#[test]
fn a_ramp_rises_from_little_to_all() {
    let half_a_minute = Duration::from_secs(30);
    assert_eq!(ramp(Duration::ZERO, half_a_minute), FIRST_SHARE);
    assert_eq!(ramp(Duration::from_secs(3), half_a_minute), 0.1);
    assert_eq!(ramp(Duration::from_secs(15), half_a_minute), 0.5);
    assert_eq!(ramp(half_a_minute, half_a_minute), 1.0);
    assert_eq!(ramp(Duration::MAX, half_a_minute), 1.0);
    assert_eq!(ramp(Duration::ZERO, Duration::ZERO), 1.0);
}

#[test]
fn seeds_begin_elsewhere() {
    let first = |balance, seed| Crowd::new(50).pick(&Chooser::new(balance, &members([1; 50]), seed), &[], &full);
    for balance in [Balance::LeastConnections, Balance::RoundRobin, Balance::Random] {
        let mut firsts: Vec<_> = (0..50).map(|seed| first(balance, seed).unwrap()).collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert!(firsts.len() > 25, "{balance:?}: {firsts:?}");
    }
    assert_ne!(any_seed(), any_seed());
}

fn tiers(balance: Balance, endpoints: &[(Standing, bool)]) -> Tiers {
    let members = members(std::iter::repeat_n(1, endpoints.len()));
    let endpoints: Vec<_> =
        members.into_iter().zip(endpoints).map(|(member, (standing, backup))| (member, *standing, *backup)).collect();
    Tiers::new(balance, &endpoints, 7)
}

/// Everybody in the order in which one connection gets them when none answers.
fn order(tiers: &Tiers) -> Vec<usize> {
    let mut tried = Vec::new();
    while let Some(next) = tiers.pick(&Circumstances { source: source(0), tried: &tried, load: &|_| 0, ramp: &|_| 0.5 })
    {
        tried.push(next);
    }
    tried
}

#[test]
fn the_order_of_choice_is_kept() {
    use Standing::*;
    for balance in EVERY_BALANCE {
        for (endpoints, expected) in [
            (&[][..], &[][..]),
            (&[(Up, false)], &[0]),
            (&[(Up, true)], &[0]),
            (&[(Down, false)], &[0]),
            (&[(Down, true)], &[0]),
            (&[(Unverified, false)], &[]),
            (&[(Draining, true)], &[]),
            (&[(Up, true), (Up, false)], &[1, 0]),
            (&[(Down, false), (Up, true)], &[1, 0]),
            (&[(Down, true), (Down, false), (Up, true), (Up, false)], &[3, 2, 1, 0]),
            (&[(Unverified, false), (Down, true), (Draining, false)], &[1]),
            (&[(Unverified, true), (Draining, true), (Unverified, false), (Draining, false)], &[]),
        ] {
            assert_eq!(order(&tiers(balance, endpoints)), expected, "{balance:?} {endpoints:?}");
        }
    }
}

#[test]
fn every_endpoint_of_a_tier_is_tried_before_the_next_tier() {
    use Standing::*;
    for balance in EVERY_BALANCE {
        // Three tiers of 20 and some that are never picked, mixed.
        let kinds = [(Up, true), (Unverified, false), (Down, false), (Up, false), (Draining, false)];
        let endpoints: Vec<_> = (0..100).map(|at| kinds[at % kinds.len()]).collect();
        let order: Vec<_> = order(&tiers(balance, &endpoints)).into_iter().map(|at| kinds[at % kinds.len()]).collect();
        let expected = [[(Up, false); 20], [(Up, true); 20], [(Down, false); 20]].concat();
        assert_eq!(order, expected, "{balance:?}");
    }
}

#[test]
fn a_tier_balances_whom_it_has() {
    use Standing::*;
    let endpoints = [(Down, false), (Up, false), (Up, true), (Up, false), (Unverified, false)];
    let loads = [0, 3, 0, 4, 0];
    for (balance, expected) in [(Balance::LeastConnections, [1, 1, 1, 1]), (Balance::RoundRobin, [3, 1, 3, 1])] {
        let tiers = tiers(balance, &endpoints);
        let picks = (0..4).map(|_| {
            let now = Circumstances { source: source(0), tried: &[], load: &|at| loads[at], ramp: &full };
            tiers.pick(&now).unwrap()
        });
        assert_eq!(picks.collect::<Vec<_>>(), expected, "{balance:?}");
    }
}

proptest! {
    #[test]
    fn whoever_is_left_is_picked_and_nobody_twice(
        balance in proptest::sample::select(EVERY_BALANCE.to_vec()),
        endpoints in proptest::collection::vec((any::<u32>(), 0..9_usize, 0.001..=1.0_f64), 0..40),
        skewed: bool,
        seed: usize,
        client: u32,
    ) {
        // Once with weights that are in no proportion to each other, once with small ones.
        let weights = endpoints.iter().map(|(weight, ..)| if skewed { *weight } else { weight % 4 });
        let chooser = Chooser::new(balance, &members(weights), seed);
        let mut tried = Vec::new();
        while let Some(next) = chooser.pick(&Circumstances {
            source: Ipv4Addr::from(client).into(),
            tried: &tried,
            load: &|at| endpoints[at].1,
            ramp: &|at| endpoints[at].2,
        }) {
            prop_assert!(next < endpoints.len() && !tried.contains(&next));
            tried.push(next);
        }
        prop_assert_eq!(tried.len(), endpoints.len());
    }
}
