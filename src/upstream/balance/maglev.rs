//! Maglev hashing (Eisenbud and others, 2016): a table of hashes to members that instances build alike, that gives each
//! member its share nearly exactly, and that changes little for the others when one comes or goes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Member;
use super::hash::mix;

/// Prime, so that every walk through the table meets every slot; far above any number of endpoints, so that shares come
/// out even. Another size moves every client.
const SLOTS: u64 = 65_537;

/// One turn of a member with weight 1: the largest weight still has a step of its own.
const TURN: u64 = 1 << 32;

const FREE: u16 = u16::MAX;

/// Which member a hash belongs to.
#[derive(Debug)]
pub(super) struct Maglev {
    /// The member of each slot by its place in the list. A list longer than the table has members without a slot.
    slots: Box<[u16]>,
}

/// A member's way through the table: each has an order of its own in which it asks for slots.
struct Walk {
    place: u16,
    slot: u64,
    skip: u64,
    /// Members take turns to find their next slot, the heavier the more often.
    pause: u64,
}

impl Maglev {
    /// The table of some members, whatever order they come in.
    pub(super) fn new(members: impl Iterator<Item = Member>) -> Self {
        let mut members: Vec<(u16, Member)> = (0..FREE).zip(members).collect();
        // Who is first to ask for a slot gets it, so that all instances must ask in the same order.
        members.sort_unstable_by_key(|(_, member)| member.key);
        let mut walks: Vec<Walk> = members.iter().map(|(place, member)| Walk::new(*place, *member)).collect();
        // Everybody's first turn comes before anybody's second.
        let mut turns: BinaryHeap<Reverse<(u64, usize)>> = (0..walks.len()).map(|walk| Reverse((0, walk))).collect();
        let mut slots: Box<[u16]> = (0..SLOTS).map(|_| FREE).collect();
        for _ in 0..SLOTS {
            let Some(mut next) = turns.peek_mut() else { break };
            let Reverse((time, walk)) = &mut *next;
            let walk = &mut walks[*walk];
            *walk.next_free(&mut slots) = walk.place;
            *time += walk.pause;
        }
        Self { slots }
    }

    /// The place of the member that a hash belongs to.
    pub(super) fn at(&self, hash: u64) -> usize {
        usize::from(self.slots[index(hash % SLOTS)])
    }
}

impl Walk {
    fn new(place: u16, member: Member) -> Self {
        // Two hashes of its key: any that do not go together will do.
        let (first, second) = (mix(member.key), mix(!member.key));
        let pause = TURN / u64::from(member.weight);
        Self { place, slot: first % SLOTS, skip: 1 + second % (SLOTS - 1), pause }
    }

    /// There must be one.
    fn next_free<'s>(&mut self, slots: &'s mut [u16]) -> &'s mut u16 {
        while slots[index(self.slot)] != FREE {
            self.slot = (self.slot + self.skip) % SLOTS;
        }
        &mut slots[index(self.slot)]
    }
}

/// A slot's number as an index.
#[allow(clippy::cast_possible_truncation)] // it is less than `SLOTS`
fn index(slot: u64) -> usize {
    slot as usize
}
