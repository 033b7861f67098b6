//! A part of the long run that `cargo bench --bench soak` makes.

use std::sync::atomic::Ordering;

use crate::support::soak::{Plan, Soak};

#[test]
fn two_gigabytes_with_stops_and_every_end_arrive_unchanged_and_leave_nothing_behind() {
    let plan = Plan { first: 700_000_000, more: 15, seed: 1 };
    let soak = Soak::set(plan);
    soak.run();
    let compared = soak.compared.load(Ordering::Relaxed);
    assert!(compared >= 2_000_000_000, "only {compared} bytes");
    soak.expect_rest();
}
