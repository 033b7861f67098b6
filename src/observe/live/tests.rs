//! Silence, word and stops; and what an entry takes.

use super::*;
use crate::observe::ids::Ids;
use crate::observe::story::{Door, Doorplate};
use crate::outcome::Phase;
use std::net::Ipv4Addr;
use std::ops::ControlFlow;

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

/// A table with connections in every third of so many places.
fn sparse(places: usize) -> (Rc<LiveTable>, Vec<LiveEntry>) {
    let table = Rc::new(LiveTable::new(Ids::of_worker(3), Arc::default()));
    let mut entries: Vec<_> = (0..places).map(|_| enter(&table)).collect();
    entries.retain(|entry| entry.story().number().is_multiple_of(3));
    (table, entries)
}

#[test]
fn pages_show_every_connection_once_and_are_short() {
    for places in [0, 1, SLICE, SLICE + 1, 10 * SLICE] {
        let (table, entries) = sparse(places);
        let (mut shown, mut from, mut pages) = (Vec::new(), Some(0), 0);
        while let Some(place) = from {
            let (rows, next) = table.page(place);
            assert!(rows.len() <= SLICE);
            shown.extend(rows.into_iter().map(|row| row.id));
            (from, pages) = (next, pages + 1);
        }
        assert_eq!(shown, entries.iter().map(LiveEntry::id).collect::<Vec<_>>());
        assert_eq!(pages, table.places().div_ceil(SLICE).max(1));
    }
}

/// Asks for the one that is called so in one part of the table after the other.
fn close(table: &LiveTable, id: &str) -> bool {
    let mut from = 0;
    loop {
        match table.close(id, from) {
            ControlFlow::Break(found) => return found,
            ControlFlow::Continue(next) => from = next,
        }
    }
}

#[test]
fn a_connection_is_closed_by_its_name_and_no_other() {
    let (table, entries) = sparse(3 * SLICE);
    let gone = enter(&table).id();
    for id in [String::new(), gone, Ids::of_worker(4).name(0), entries[0].id() + "0"] {
        assert!(!close(&table, &id), "{id:?}");
    }
    assert!(entries.iter().all(|entry| entry.stop_reason().is_none()));
    for chosen in [0, entries.len() / 2, entries.len() - 1] {
        assert!(close(&table, &entries[chosen].id()));
        assert_eq!(entries[chosen].stop_reason(), Some(Reason::ClosedByAdmin));
    }
    assert_eq!(entries.iter().filter(|entry| entry.stop_reason().is_some()).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_row_says_how_a_connection_stands() {
    let table = Rc::new(LiveTable::default());
    let live = enter(&table);
    let row = || table.page(0).0.remove(0);
    assert_eq!((row().state, row().route, row().endpoint, row().closing), (State::Undecided, None, None, None));
    live.story().decide(&crate::snapshot::tests::config().routes[0]);
    assert_eq!((row().state, row().route.as_deref()), (State::Connecting, Some("a.test")));
    live.story().arrive(Some(5));
    live.heed(Arc::new(Notice::at("192.0.2.1:443".parse().unwrap())));
    live.limit_silence(Duration::from_secs(3600), Duration::from_secs(60));
    live.count(Side::Client, 100);
    live.count_spliced(Side::Upstream, 1000);
    for _ in 0..7 {
        tokio::time::advance(TICK).await;
        table.sweep();
    }
    let shown = row();
    assert_eq!((shown.state, shown.local_port), (State::Relaying, Some(5)));
    assert_eq!(shown.endpoint, Some("192.0.2.1:443".parse().unwrap()));
    assert_eq!((shown.age, shown.idle), (7 * TICK, 7 * TICK));
    assert_eq!((shown.sent, shown.received, shown.spliced), (100, 1000, 1000));
    live.half_close();
    live.stop(Reason::RouteChanged);
    assert_eq!((row().state, row().closing), (State::HalfClosed, Some(Reason::RouteChanged)));
    assert_eq!(State::HalfClosed.label(), "half_closed");
}
