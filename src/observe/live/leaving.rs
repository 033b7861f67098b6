//! Who goes first when not all can stay.

use std::cmp::Reverse;
use std::rc::Rc;

use super::{Live, LiveTable};
use crate::outcome::Phase;

/// So many ticks without a byte, and nobody would notice if the next ones did not come.
const STILL: u32 = 2;

impl Live {
    /// Whether bytes move: the last one did in this tick or the one before.
    pub fn is_moving(&self) -> bool {
        self.silence() < STILL
    }

    /// Notes that it ends while bytes are under way.
    pub fn note_cut(&self) {
        self.cut.set(true);
    }

    /// For how long nobody would have missed it, in ticks.
    fn dispensable(&self) -> u32 {
        // Before it relays nothing was promised: whoever tries again finds somebody who stays.
        if self.story.phase() == Phase::Relaying { self.silence() } else { u32::MAX }
    }
}

impl LiveTable {
    /// Those to stop so that no more than `may_stay` are left: first who is not relayed yet, then who was silent for longest.
    pub fn first_to_go(&self, may_stay: usize) -> Vec<Rc<Live>> {
        let entries = self.entries.borrow();
        let staying = entries.iter().filter(|(_, live)| live.stop_reason().is_none());
        let mut staying: Vec<_> = staying.map(|(key, live)| (Reverse(live.dispensable()), key)).collect();
        let too_many = staying.len().saturating_sub(may_stay);
        if too_many < staying.len() {
            staying.select_nth_unstable(too_many);
        }
        staying[..too_many].iter().map(|&(_, key)| Rc::clone(&entries[key])).collect()
    }

    /// How many were cut so far: drained while bytes were under way, or before they could end.
    pub fn cut(&self) -> usize {
        self.cut.get()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{enter, entry};
    use crate::outcome::{Reason, Side};

    #[test]
    fn who_is_not_relayed_goes_first_and_who_moves_bytes_last() {
        let (table, silent) = entry(100, 100);
        table.sweep();
        let later = enter(&table);
        (0..3).for_each(|_| table.sweep());
        let moving = enter(&table);
        [&silent, &later, &moving].into_iter().for_each(|live| live.story().arrive(None));
        let undecided = enter(&table);
        assert_eq!((silent.is_moving(), later.is_moving(), moving.is_moving()), (false, false, true));
        let entries = [&undecided, &silent, &later, &moving];
        for may_stay in [4, 3, 3, 2, 0] {
            for live in table.first_to_go(may_stay) {
                live.stop(Reason::Drained);
            }
            let stopped: Vec<_> = entries.iter().map(|live| live.stop_reason().is_some()).collect();
            assert_eq!(stopped, (0..4).map(|place| place < 4 - may_stay).collect::<Vec<_>>(), "{may_stay} may stay");
        }
        assert!(table.first_to_go(0).is_empty(), "each is told once");
    }

    #[test]
    fn only_who_is_drained_is_cut() {
        let (table, drained) = entry(100, 100);
        let [idle, polite] = [enter(&table), enter(&table)];
        [&drained, &idle].into_iter().for_each(|live| live.note_cut());
        idle.stop(Reason::IdleTimeout);
        polite.stop(Reason::Drained);
        drained.stop(Reason::Drained);
        drained.count(Side::Client, 1);
        assert_eq!(table.cut(), 0, "not before it ends");
        drop((drained, idle, polite));
        assert_eq!(table.cut(), 1);
    }
}
