//! [`Sources`]: what is known of each source, in all and on each route that counts it, in one table whose size does not
//! depend on how many there are of either.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Taken;
use super::rate::Pace;

/// An IPv4 address, or an IPv6 network of 64 bits, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source(u64);

impl Source {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // ff00::/8 is multicast, so no IPv6 source has such a number.
            IpAddr::V4(address) => Self(0xffff_ffff_0000_0000 | u64::from(u32::from(address))),
            IpAddr::V6(address) => {
                let network = &address.segments()[..4];
                Self(network.iter().fold(0, |number, segment| number << 16 | u64::from(*segment)))
            }
        }
    }
}

/// A source, as it is counted in all or on one route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Key {
    source: u64,
    /// The route's number; 0 is none's.
    route: u32,
}

impl Key {
    /// What a source has in all.
    pub(super) fn in_all(Source(source): Source) -> Self {
        Self { source, route: 0 }
    }

    /// What it has on the route of this number.
    pub(super) fn on_route(Source(source): Source, route: NonZeroU32) -> Self {
        Self { source, route: route.get() }
    }
}

/// What is known of one source.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    key: Key,
    /// Its open connections, where they are counted.
    pub(super) open: u32,
    /// Those of its connections that have no route yet.
    pub(super) undecided: u32,
    /// When its bucket will be full again, in nanoseconds since the beginning.
    due: u64,
}

impl Slot {
    /// Takes one out of its bucket, if there is one.
    pub(super) fn take(&mut self, pace: Pace, now: Duration) -> bool {
        let mut due = self.due();
        let room = pace.take(&mut due, now);
        // Enough for centuries.
        self.due = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
        room
    }

    fn due(&self) -> Duration {
        Duration::from_nanos(self.due)
    }

    fn is_counting(&self) -> bool {
        self.open > 0 || self.undecided > 0
    }
}

/// The slots that one source can have. Which set is its own is a secret of this process, so nobody can fill the set of
/// somebody else on purpose.
type Set = [Slot; WAYS];
const WAYS: usize = 8;

/// So many sources may be looked at at once; more than there are workers on most machines.
const SHARDS: usize = 64;
/// Slots for each connection that there may be. It is counted in two at most, in all and on its route; and with twice as
/// many, hardly a source finds its set full though every one of the connections comes from another.
const SLOTS_FOR_EACH: usize = 4;

/// A lock has a cache line of its own, lest those of one wait for those of its neighbour.
#[derive(Debug)]
#[repr(align(64))]
struct Shard(Mutex<Box<[Set]>>);

/// The table.
#[derive(Debug)]
pub(super) struct Sources {
    shards: Box<[Shard]>,
    hasher: RandomState,
}

impl Sources {
    /// A table that is large enough when each of so many connections is of a source of its own.
    pub(super) fn for_connections(connections: usize) -> Self {
        let sets = sets_a_shard(connections);
        let shard = |_| Shard(Mutex::new(vec![[Slot::default(); WAYS]; sets].into()));
        Self { shards: (0..SHARDS).map(shard).collect(), hasher: RandomState::new() }
    }

    /// The bytes of such a table.
    pub(super) fn size_for(connections: usize) -> usize {
        SHARDS * (size_of::<Shard>() + sets_a_shard(connections) * size_of::<Set>())
    }

    /// Looks at the slot of `key`. When all slots of its set count connections of others, it has none, and nothing is
    /// counted: what bounds all sources together holds for it like for everybody.
    pub(super) fn with(&self, key: Key, now: Duration, step: impl FnOnce(&mut Slot) -> Taken) -> Taken {
        self.slot(key, |set| find_or_take(set, key, now).map(step)).unwrap_or_default()
    }

    /// One of its open connections has ended.
    pub(super) fn close(&self, key: Key) {
        self.release(key, |slot| slot.open = slot.open.saturating_sub(1));
    }

    /// One of its connections is not undecided any more.
    pub(super) fn decide(&self, key: Key) {
        self.release(key, |slot| slot.undecided = slot.undecided.saturating_sub(1));
    }

    /// Who counts keeps the slot, so it is still there.
    fn release(&self, key: Key, step: impl FnOnce(&mut Slot)) {
        self.slot(key, |set| set.iter_mut().find(|slot| slot.key == key).map(step));
    }

    fn slot<T>(&self, key: Key, step: impl FnOnce(&mut Set) -> T) -> T {
        let hash = usize::try_from(self.hasher.hash_one(key) & u64::from(u32::MAX)).unwrap_or_default();
        let (shard, rest) = (hash % SHARDS, hash / SHARDS);
        // Counters are counters even if a step panicked.
        let mut sets = self.shards[shard].0.lock().unwrap_or_else(PoisonError::into_inner);
        let set = rest % sets.len();
        step(&mut sets[set])
    }
}

fn sets_a_shard(connections: usize) -> usize {
    (connections * SLOTS_FOR_EACH).div_ceil(SHARDS * WAYS).max(1)
}

/// The slot of `key`, else one that counts nothing: if possible one whose bucket is full, so that nothing is forgotten.
fn find_or_take(set: &mut Set, key: Key, now: Duration) -> Option<&mut Slot> {
    let known = set.iter().position(|slot| slot.key == key);
    let place = known.or_else(|| {
        let idle = set.iter().enumerate().filter(|(_, slot)| !slot.is_counting());
        let (place, _) = idle.min_by_key(|(_, slot)| slot.due().saturating_sub(now))?;
        set[place] = Slot { key, ..Slot::default() };
        Some(place)
    })?;
    Some(&mut set[place])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn of(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    fn nth(number: u32) -> Key {
        Key::in_all(Source::of(Ipv4Addr::from(number).into()))
    }

    const NOW: Duration = Duration::from_secs(100);

    /// Counts one connection, and says how many there are then.
    fn open(sources: &Sources, key: Key) -> Option<u32> {
        let mut open = None;
        let count = |slot: &mut Slot| {
            slot.open += 1;
            open = Some(slot.open);
            Taken::default()
        };
        sources.with(key, NOW, count);
        open
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_64_bits() {
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        // An IPv4 address is none of the network that its number would name.
        assert_ne!(of("192.0.2.1"), Source::of(Ipv6Addr::from(0xc000_0201_u128 << 64).into()));
        assert_eq!((of("::1").0, of("255.255.255.255").0), (0, u64::MAX));
    }

    #[test]
    fn sources_are_counted_apart() {
        // So large that no set is full, however they are dealt out.
        let sources = Sources::for_connections(20_000);
        for number in 0..500 {
            for count in 1..=3 {
                assert_eq!(open(&sources, nth(number)), Some(count));
            }
        }
        assert_eq!(
            (open(&sources, Key::in_all(of("::1"))), open(&sources, Key::in_all(of("::2")))),
            (Some(1), Some(2))
        );
        for number in 0..500 {
            sources.close(nth(number));
            assert_eq!(open(&sources, nth(number)), Some(3));
        }
    }

    #[test]
    fn routes_count_apart_from_each_other_and_from_all() {
        let sources = Sources::for_connections(20_000);
        let on = |route: u32| Key::on_route(of("192.0.2.1"), NonZeroU32::new(route).unwrap());
        let keys = [Key::in_all(of("192.0.2.1")), on(1), on(2), on(u32::MAX)];
        for count in 1..=3 {
            assert_eq!(keys.map(|key| open(&sources, key)), [Some(count); 4]);
        }
        sources.close(on(2));
        assert_eq!(keys.map(|key| open(&sources, key)), [Some(4), Some(4), Some(3), Some(4)]);
    }

    #[test]
    fn a_million_sources_take_no_more_room_than_the_connections_there_may_be() {
        let sources = Sources::for_connections(1000);
        let size: usize = sources.shards.iter().map(|shard| size_of_val(&**shard.0.lock().unwrap())).sum();
        for number in 0..1_000_000 {
            open(&sources, nth(number));
            sources.close(nth(number));
        }
        assert_eq!(size, sources.shards.iter().map(|shard| size_of_val(&**shard.0.lock().unwrap())).sum::<usize>());
        assert!(size + SHARDS * size_of::<Shard>() == Sources::size_for(1000) && size < 200_000, "{size}");
        assert_eq!(size_of::<Slot>(), 32, "two share a cache line");
    }

    #[test]
    fn who_finds_no_slot_is_not_counted_and_takes_nobody_s() {
        let sources = Sources::for_connections(1);
        let counted: Vec<u32> = (0..10_000).filter(|number| open(&sources, nth(*number)).is_some()).collect();
        assert_eq!(counted.len(), SHARDS * WAYS, "every slot is taken");
        for number in &counted {
            assert_eq!(open(&sources, nth(*number)), Some(2));
        }
        // The slot of one that has none is nobody else's.
        (0..10_000).filter(|number| !counted.contains(number)).for_each(|number| sources.close(nth(number)));
        assert_eq!(open(&sources, nth(counted[0])), Some(3));
    }

    #[test]
    fn hardly_a_source_finds_its_set_full() {
        let sources = Sources::for_connections(10_000);
        let route = NonZeroU32::MIN;
        let keys = (0..10_000).map(Ipv4Addr::from).flat_map(|address| {
            let source = Source::of(address.into());
            [Key::in_all(source), Key::on_route(source, route)]
        });
        let missed = keys.filter(|key| open(&sources, *key).is_none()).count();
        assert!(missed < 1000, "{missed}");
    }

    #[test]
    fn the_emptiest_bucket_is_forgotten_last() {
        let mut set: Set = [Slot::default(); WAYS];
        for (number, slot) in (0..).zip(&mut set) {
            let due = NOW + Duration::from_secs(20 - number);
            let due = u64::try_from(due.as_nanos()).unwrap();
            *slot = Slot { key: Key::in_all(Source(10 + number)), due, ..Slot::default() };
        }
        set[7].open = 1;
        find_or_take(&mut set, Key::in_all(Source(99)), NOW).unwrap();
        assert_eq!(set.map(|slot| slot.key.source), [10, 11, 12, 13, 14, 15, 99, 17]);
        let known = find_or_take(&mut set, Key::in_all(Source(12)), NOW).unwrap();
        assert_eq!(known.due(), NOW + Duration::from_secs(18));
    }
}
