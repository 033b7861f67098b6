//! `drain`.

use super::*;

#[test]
fn drain_has_its_defaults_and_means_what_it_says() {
    let seconds = Duration::from_secs;
    let default = Drain { grace: seconds(5), spread: seconds(10), deadline: seconds(25) };
    for text in ["", "drain: {}", "drain: { grace: 5s }"] {
        assert_eq!(valid(&with_top(text)).drain, default, "{text}");
    }
    let text = with_top("drain: { grace: 0, spread: 1500ms, deadline: 2m }");
    let drain = Drain { grace: Duration::ZERO, spread: Duration::from_millis(1500), deadline: seconds(120) };
    assert_eq!(valid(&text).drain, drain);
    assert_prints_back(&text);
    assert_eq!(valid(&with_top("drain: { grace: 5s, spread: 20s }")).drain.spread, seconds(20), "it just fits");
}

#[test]
fn a_drain_that_does_not_fit_is_a_mistake() {
    assert_mistakes(&[
        (
            with_top("drain: { deadline: 10s }"),
            &["drain: `grace: 5s` and `spread: 10s` do not fit into `deadline: 10s`: raise that to 15s at least, or \
               shorten them"][..],
        ),
        (
            with_top("drain: { grace: 20s, spread: 5001ms }"),
            &["drain: `grace: 20s` and `spread: 5001ms` do not fit into `deadline: 25s`: raise that to 25001ms at \
               least, or shorten them"],
        ),
        (
            with_top("drain: { grace: 2h, deadline: 25, wait: 5s }"),
            &[
                "drain.grace: \"2h\" is not within 10ms to 1h (0 turns it off)",
                "drain.deadline: needs a unit: write `25s` if seconds are meant",
                "drain.wait: unknown key; known here: `grace`, `spread`, `deadline`",
            ],
        ),
        (with_top("drain: 5s"), &["drain: expected `key: value` lines, found the text \"5s\""]),
    ]);
}
