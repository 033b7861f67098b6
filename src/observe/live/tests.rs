//! Silence, word and stops; and what an entry takes.

use super::*;
use crate::observe::story::{Door, Doorplate};
use crate::outcome::Phase;
use std::net::Ipv4Addr;

/// Enters a connection of which nothing matters but that it is there.
pub(crate) fn enter(table: &Rc<LiveTable>) -> LiveEntry {
    let plate = Arc::new(Doorplate { door: Door(0), listener: "any".into() });
    table.enter((Ipv4Addr::LOCALHOST, 1).into(), plate, Phase::Hello)
}

#[test]
fn an_entry_fits_into_a_gap() {
    // See the test of the story's size; two counters of references come along with it.
    let size = size_of::<Live>() + 2 * size_of::<usize>();
    assert!(size <= 104, "{size}");
}

pub(super) fn entry(idle: u64, half_closed: u64) -> (Rc<LiveTable>, LiveEntry) {
    let table = Rc::new(LiveTable::default());
    let entry = enter(&table);
    entry.limit_silence(Duration::from_secs(idle), Duration::from_secs(half_closed));
    (table, entry)
}

fn stopped(live: &Live) -> Option<Reason> {
    live.poll_stop(&Context::from_waker(Waker::noop()))
}

#[test]
fn silence_ends_a_connection_and_a_byte_saves_it() {
    let (table, live) = entry(3, 60);
    for _ in 0..3 {
        table.sweep();
    }
    assert_eq!(stopped(&live), None, "three ticks may be a little less than three seconds");
    live.count(Side::Upstream, 1);
    for _ in 0..3 {
        table.sweep();
    }
    assert_eq!(stopped(&live), None);
    table.sweep();
    assert_eq!(stopped(&live), Some(Reason::IdleTimeout));
}

#[test]
fn a_half_closed_connection_has_its_own_limit_counted_anew() {
    let (table, live) = entry(100, 2);
    for _ in 0..50 {
        table.sweep();
    }
    live.half_close();
    table.sweep();
    table.sweep();
    assert_eq!(stopped(&live), None);
    table.sweep();
    assert_eq!(stopped(&live), Some(Reason::HalfCloseTimeout));
}

#[tokio::test(start_paused = true)]
async fn a_notice_closes_all_of_its_connections_one_after_another() {
    let (table, first) = entry(100, 100);
    let endpoint = "192.0.2.1:443".parse().unwrap();
    let others: Vec<_> = (0..19).map(|_| enter(&table)).collect();
    let (notice, other) = (Arc::new(Notice::at(endpoint)), enter(&table));
    assert_eq!(first.endpoint(), None);
    others.iter().chain([&first]).for_each(|live| live.heed(Arc::clone(&notice)));
    table.sweep();
    assert_eq!(stopped(&first), None);
    notice.give(Reason::EndpointRemoved);
    let mut closed = Vec::new();
    for _ in 0..10 {
        table.sweep();
        closed.push(others.iter().chain([&first]).filter(|live| live.stop_reason().is_some()).count());
        tokio::time::advance(TICK).await;
    }
    assert_eq!(closed, (1..=10).map(|tick| 2 * tick).collect::<Vec<_>>());
    assert_eq!((stopped(&first), stopped(&other)), (Some(Reason::EndpointRemoved), None));
}

#[test]
fn before_it_relays_no_silence_ends_it() {
    let table = Rc::new(LiveTable::default());
    let live = enter(&table);
    for _ in 0..100_000 {
        table.sweep();
    }
    assert_eq!(stopped(&live), None);
}

#[test]
fn the_first_reason_to_stop_stands_and_entries_leave_on_drop() {
    let (table, live) = entry(1, 1);
    table.stop_all(Reason::Drained);
    live.stop(Reason::IdleTimeout);
    assert_eq!(stopped(&live), Some(Reason::Drained));
    assert_eq!(stopped(&enter(&table)), Some(Reason::Drained));
    assert_eq!(table.len(), 1);
    drop(live);
    assert!(table.is_empty());
}

#[test]
fn durations_round_up_to_ticks() {
    assert_eq!(ticks(Duration::from_millis(1)), 1);
    assert_eq!(ticks(Duration::from_secs(60)), 60);
    assert_eq!(ticks(Duration::MAX), u32::MAX);
}
