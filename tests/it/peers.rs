//! The arithmetic and the drawing of the benchmark against other proxies.

#[allow(dead_code)] // the benchmark itself uses the rest
#[path = "../../benches/peers"]
mod bench {
    pub(crate) mod chart;
    pub(crate) mod figures;
    pub(crate) mod report;
}

use std::time::Duration;

use bench::chart::draw;
use bench::figures::{Ticks, median, memory, paired_ratio, percentile, processor_time, pss, with_descendants};
use bench::report::{Column, Figure, Role, Table, number};

#[test]
fn medians() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0]), Some(3.0));
    assert_eq!(median(&[9.0, 1.0]), Some(5.0));
    assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
}

#[test]
fn percentiles() {
    let hundred: Vec<u32> = (1..=100).collect();
    assert_eq!(percentile(&[], 0.5), None);
    assert_eq!(percentile(&[7], 0.99), Some(7));
    assert_eq!(percentile(&hundred, 0.0), Some(1));
    assert_eq!(percentile(&hundred, 0.5), Some(50));
    assert_eq!(percentile(&hundred, 0.99), Some(99));
    assert_eq!(percentile(&hundred, 1.0), Some(100));
}

#[test]
fn ratios_pair_the_rounds() {
    let base = [Some(1.0), Some(10.0), None, Some(100.0)];
    let values = [Some(2.0), Some(20.0), Some(5.0), Some(300.0)];
    assert_eq!(paired_ratio(&values, &base), Some(2.0));
    assert_eq!(paired_ratio(&[Some(1.0)], &[Some(0.0)]), None);
    assert_eq!(paired_ratio(&[None], &[Some(1.0)]), None);
}

#[test]
fn ticks_leave_idle_and_waiting_out() {
    let then = Ticks::of("cpu  10 20 30 400 50 6 7 8 9 9\ncpu0 1 1 1 1\n");
    assert_eq!(then, Ticks { busy: 10 + 20 + 30 + 6 + 7 + 8, all: 531 });
    let now = Ticks { busy: then.busy + 25, all: then.all + 100 };
    assert!((now.busy_since(then) - 0.25).abs() < 1e-9);
}

#[test]
fn memory_of_a_rollup() {
    assert_eq!(pss("Rss:   2 kB\nPss:                 161 kB\nPss_Dirty:  3 kB\n"), Some(161 * 1024));
    assert_eq!(pss(""), None);
}

#[test]
fn this_process_has_time_and_memory() {
    let me = [std::process::id()];
    assert!(processor_time(&me) > Duration::ZERO);
    assert!(memory(&me) > 0);
    assert!(with_descendants(me[0]).starts_with(&me));
}

const TIME: Figure = Figure { title: "CPU", unit: "µs", more: false };
const RATE: Figure = Figure { title: "rate", unit: "/s", more: true };

fn example() -> Table {
    let columns = [("direct", Role::Floor), ("ours", Role::Base), ("ours again", Role::Again), ("theirs", Role::Peer)];
    let columns = columns.map(|(title, role)| Column { title, role }).to_vec();
    let mut table = Table { columns, ..Table::default() };
    for round in 0..3 {
        for (column, value) in [1.0, 10.0, 10.5, 20.0].into_iter().enumerate().skip(1) {
            table.add("echo <1>", TIME, column, round, value);
            table.add("echo <1>", RATE, column, round, 123_456.0 / value);
        }
        table.add("echo <1>", RATE, 0, round, 1_234_567.0);
        table.add("bulk", TIME, 0, round, f64::NAN);
        table.add("bulk", TIME, 1, round, 2.0);
        table.add("bulk", TIME, 3, round, 1.0);
    }
    table.add("echo <1>", Figure { title: "failures", unit: "", more: false }, 3, 1, 7.0);
    table
}

#[test]
fn a_table() {
    let expected = "\
| load     | figure   |    direct |       ours | ours again |         theirs |
|----------|----------|----------:|-----------:|-----------:|---------------:|
| echo <1> | CPU, µs  |         – |   **10.0** | 10.5 (1.05) |    20.0 (2.00) |
";
    let text = example().markdown();
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let lines: Vec<_> = text.lines().map(cells).collect();
    assert_eq!(lines[0], cells(expected.lines().next().unwrap()));
    assert_eq!(lines[2], cells(expected.lines().nth(2).unwrap()));
    assert_eq!(lines[3][1..3], ["", "rate, /s"]);
    assert_eq!(lines[3][3], "1,234,567 (100.00)");
    assert_eq!(lines[4][2..], ["failures", "–", "–", "–", "**7.00**", ""]);
    assert_eq!(lines[5][1..], ["bulk", "CPU, µs", "–", "2.00", "–", "**1.00** (0.50)", ""]);
    let width = text.lines().next().unwrap().chars().count();
    assert!(text.lines().all(|line| line.chars().count() == width), "{text}");
}

#[test]
fn noise_is_the_distance_of_the_same_from_itself() {
    let (middle, largest) = example().noise().unwrap();
    assert!((middle - 0.05).abs() < 0.003 && (largest - 0.05).abs() < 0.003, "{middle} {largest}");
    assert_eq!(Table::default().noise(), None);
}

#[test]
fn numbers() {
    let cases = [
        (0.0, "0.000"),
        (0.1234, "0.123"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (1234.4, "1,234"),
        (999.9, "1,000"),
        (1_234_567.0, "1,234,567"),
        (-1234.0, "-1,234"),
    ];
    for (value, expected) in cases {
        assert_eq!(number(value), expected);
    }
}

#[test]
fn a_chart_has_a_bar_for_each_contestant_and_shape() {
    let svg = draw(&example(), "Ours & theirs", "here");
    // two shapes, two contestants, and their two squares in the legend
    assert_eq!(svg.matches("<rect").count(), 6, "{svg}");
    assert!(svg.contains("<title>Ours &amp; theirs</title>"));
    assert!(svg.contains("echo &lt;1&gt;") && !svg.contains("<1>"));
    assert!(svg.contains("20.0 (2.00)") && svg.contains("1.00 (0.50)"));
    assert!(svg.contains("prefers-color-scheme: dark"));
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
}

#[test]
fn long_bars_are_cut_and_keep_their_numbers() {
    let mut table = example();
    for round in 0..3 {
        table.add("bulk", TIME, 3, round, 200.0);
    }
    let svg = draw(&table, "t", "s");
    let longest = format!("width=\"{:.1}\"", 900.0 - 330.0 - 120.0);
    assert!(svg.contains(&longest) && svg.contains("200 (100.00)"), "{svg}");
}
