//! What `/metrics` shows: read by a strict reader, and by that of Prometheus itself.

use crate::support::gate::{GateProcess, routing};
use crate::support::hello::hello;
use crate::support::http::get_with;
use crate::support::metrics::{classic, figures, open_metrics};
use crate::support::tcp::{self, Refusing, Upstream};
use crate::support::{tools, wait_for, wait_until};
use rustix::process::Signal;
use snigate::outcome::Reason;
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

const ADMIN: &str = "admin: { address: \"127.0.0.1:0\" }\n";

/// A client that has sent a hello for this name, and bytes behind it.
fn client(gate: &GateProcess, name: &str, more: &[u8]) -> TcpStream {
    let mut client = tcp::connect(gate.address());
    client.write_all(&[&hello(name), more].concat()).unwrap();
    client
}

/// A figure that is a whole number.
fn whole(figure: f64) -> usize {
    figure.to_string().parse().unwrap()
}

#[test]
fn every_connection_is_counted_from_accept_to_its_end() {
    let (upstream, refusing) = (Upstream::echo(), Refusing::new());
    let gate = GateProcess::start(&format!(
        "{ADMIN}workers: 2\n{}",
        routing([("a.test", upstream.address()), ("b.test", refusing.address())])
    ));
    let length = hello("a.test").len();
    let mut held: Vec<_> = (0..3).map(|_| client(&gate, "a.test", b"four")).collect();
    held.iter_mut().for_each(|client| drop(tcp::read_exactly(client, length + 4)));
    let silent = tcp::connect(gate.address());
    drop(tcp::read_to_end(&mut client(&gate, "b.test", b"")));
    drop(tcp::read_to_end(&mut client(&gate, "c.test", b"")));
    tcp::finish(&held[0]);
    tcp::read_to_end(&mut held[0]);

    let bytes = 3 * (length + 4);
    let seen = wait_for("the ends and the bytes are shown", || {
        let seen = figures(&gate);
        let sum = |beginning| whole(seen.sum(beginning));
        let shown = sum("snigate_connections_ended_total") == 3 && sum("snigate_bytes_total") == 2 * bytes;
        (shown && seen.value("snigate_connections_open{state=\"relaying\"}") == Some(2.0)).then_some(seen)
    });
    let value = |series: &str| whole(seen.value(series).unwrap_or_else(|| panic!("no {series} in {seen:#?}")));
    assert_eq!(value("snigate_connections_accepted_total{listener=\"gate\"}"), 6);
    for (route, reason) in [("a.test", "client_closed"), ("b.test", "connect_refused"), ("", "unknown_server_name")] {
        let labels = format!("listener=\"gate\",route=\"{route}\",reason=\"{reason}\"");
        assert_eq!(value(&format!("snigate_connections_ended_total{{{labels}}}")), 1);
    }
    assert_eq!(value("snigate_connections_routed_total{listener=\"gate\",route=\"a.test\"}"), 3);
    assert_eq!(value("snigate_route_connections_open{route=\"a.test\"}"), 2);
    assert_eq!(value("snigate_connections_open{state=\"undecided\"}"), 1);
    assert_eq!(value("snigate_bytes_total{route=\"a.test\",direction=\"sent\"}"), bytes);
    assert_eq!(value("snigate_bytes_total{route=\"a.test\",direction=\"received\"}"), bytes);
    assert_eq!(value("snigate_hello_size_bytes_count"), 5);
    assert_eq!(value("snigate_connect_duration_seconds_count{upstream=\"up0\"}"), 3);
    assert_eq!(value("snigate_connection_duration_seconds_count"), 3);
    let endpoint =
        |address| format!("upstream=\"up{}\",endpoint=\"{address}\"", usize::from(address == refusing.address()));
    let [good, bad] = [upstream.address(), refusing.address()].map(endpoint);
    assert_eq!(value(&format!("snigate_endpoint_connects_total{{{good}}}")), 3);
    assert_eq!(value(&format!("snigate_endpoint_connections_open{{{good}}}")), 2);
    assert_eq!(value(&format!("snigate_endpoint_connect_failures_total{{{bad}}}")), 1);
    assert_eq!(value(&format!("snigate_endpoint_state{{{good},state=\"up\"}}")), 1);
    assert_eq!(seen.sum("snigate_worker_connections_open"), 3.0);
    drop(silent);
}

#[test]
fn bulk_is_shown_while_it_moves_and_pipes_with_it() {
    const MUCH: usize = 16 << 20;
    let greeting = hello("a.test");
    let upstream = Upstream::answering(greeting.len() + 1, vec![7; MUCH]);
    let gate = GateProcess::start(&format!("{ADMIN}{}", routing([("a.test", upstream.address())])));
    let mut connection = client(&gate, "a.test", b"!");
    assert!(tcp::read_exactly(&mut connection, MUCH) == vec![7; MUCH]);
    wait_until("all of it is shown", || {
        let seen = figures(&gate);
        let bytes = seen.value("snigate_bytes_total{route=\"a.test\",direction=\"received\"}");
        bytes == Some(MUCH as f64) && seen.value("snigate_spliced_bytes_total") > Some(0.0)
    });
    assert!(figures(&gate).value("snigate_pipes_open") > Some(0.0));
}

/// Whether there is such a program.
fn which(program: &Path) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[test]
fn both_formats_say_the_same_and_prometheus_reads_them() {
    let upstream = Upstream::echo();
    let gate = GateProcess::start(&format!("{ADMIN}{}", routing([("a.test", upstream.address())])));
    drop(tcp::read_exactly(&mut client(&gate, "a.test", b""), 1));
    drop(tcp::read_to_end(&mut client(&gate, "b.test", b"")));
    wait_until("both have ended", || figures(&gate).sum("snigate_connections_ended_total") == 2.0);
    let [new, old] = ["application/openmetrics-text", "text/plain"]
        .map(|accept| get_with(gate.admin(), "/metrics", &format!("Accept: {accept}\r\n")).body);
    let names = |series: std::collections::BTreeMap<String, f64>| series.into_keys().collect::<BTreeSet<_>>();
    assert_eq!(names(open_metrics(&new).series), names(classic(&old).series));

    let script = "import sys\ntry:\n import prometheus_client.parser as p, prometheus_client.openmetrics.parser as o\n\
                  except ImportError: sys.exit(77)\n\
                  new, old = sys.stdin.read().split('\\0')\n\
                  count = lambda read, text: sum(len(f.samples) for f in read(text))\n\
                  print(count(o.text_string_to_metric_families, new), count(p.text_string_to_metric_families, old))";
    // The second one is that of the system, where another comes first.
    let pythons = ["python3", "/usr/bin/python3"].into_iter().map(Path::new).filter(|python| which(python));
    let read = |python| tools::run(Command::new(python).args(["-c", script]), &format!("{new}\0{old}"));
    let Some(run) = pythons.map(read).find(|run| run.status.code() != Some(77)) else {
        return tools::lack("prometheus_client of Python is not installed");
    };
    let count = open_metrics(&new).series.len();
    assert_eq!(run.stdout, format!("{count} {count}\n"), "{}", run.stderr);
}

#[test]
fn what_clients_send_becomes_no_label() {
    let upstream = Upstream::echo();
    let gate = GateProcess::start(&format!("{ADMIN}{}", routing([("a.test", upstream.address())])));
    let mut hostile = hello("aaaaaaaaaaaaaaaaaaaaaaaaaaaaa.test");
    let place = hostile.windows(10).position(|window| window == b"aaaaaaaaaa").unwrap();
    hostile[place..place + 14].copy_from_slice(b"evil\"} 1\n# EO\n");
    for bytes in [hello("evil.test"), hostile] {
        let mut client = tcp::connect(gate.address());
        client.write_all(&bytes).unwrap();
        tcp::read_to_end(&mut client);
    }
    wait_until("their ends are counted", || figures(&gate).sum("snigate_connections_ended_total") == 2.0);
    let text = get_with(gate.admin(), "/metrics", "").body;
    assert!(!text.contains("evil"), "{text}");
}

#[test]
fn reloads_are_counted_and_removed_routes_stay_until_the_next() {
    let upstream = Upstream::echo();
    let yaml = |routes: &[&str]| format!("{ADMIN}{}", routing(routes.iter().map(|name| (*name, upstream.address()))));
    let gate = GateProcess::start(&yaml(&["a.test", "b.test"]));
    let mut held = client(&gate, "a.test", b"");
    drop(tcp::read_exactly(&mut held, 1));
    drop(tcp::read_exactly(&mut client(&gate, "b.test", b""), 1));
    let before = figures(&gate);
    let hash = |series: &std::collections::BTreeMap<String, f64>| {
        series.keys().find(|series| series.starts_with("snigate_config_info")).unwrap().clone()
    };
    let reload = |text: &str, result: &str, count: f64| {
        fs::write(gate.config(), text).unwrap();
        gate.signal(Signal::HUP);
        let series = format!("snigate_config_reloads_total{{result=\"{result}\"}}");
        wait_until("the reload is counted", || figures(&gate).value(&series) >= Some(count));
        figures(&gate)
    };
    let wrong = reload("listeners: []", "refused", 1.0);
    assert_eq!(wrong.value("snigate_config_last_reload_successful"), Some(0.0));
    assert_eq!(hash(&wrong.series), hash(&before.series));
    let ended = "snigate_connections_ended_total{listener=\"gate\",route=\"b.test\"";
    let taken_over = reload(&yaml(&["c.test"]), "taken_over", 1.0);
    assert_ne!(hash(&taken_over.series), hash(&before.series));
    assert_eq!(taken_over.value("snigate_config_last_reload_successful"), Some(1.0));
    assert_eq!(taken_over.sum(ended), 1.0);
    reload(&yaml(&["d.test"]), "taken_over", 2.0);
    wait_until("who was removed before is forgotten, unless it is connected", || {
        let seen = figures(&gate);
        seen.sum(ended) == 0.0 && seen.value("snigate_route_connections_open{route=\"a.test\"}") == Some(1.0)
    });
}

#[test]
fn the_readme_lists_every_figure_and_no_other() {
    let upstream = Upstream::echo();
    let gate = GateProcess::start(&format!("{ADMIN}{}", routing([("a.test", upstream.address())])));
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Count what it does\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let listed = rows.flat_map(|row| {
        let cell = row.split('|').nth(1).unwrap();
        cell.split('`').skip(1).step_by(2).map(|name| name.split('{').next().unwrap().to_owned()).collect::<Vec<_>>()
    });
    let shown: BTreeSet<_> = classic(&get_with(gate.admin(), "/metrics", "").body).families.into_keys().collect();
    assert_eq!(listed.collect::<BTreeSet<_>>(), shown);
}

#[test]
fn a_reason_is_a_label_of_the_list() {
    let gate = GateProcess::start(&format!("{ADMIN}{}", routing([("a.test", ([127, 0, 0, 1], 1).into())])));
    drop(tcp::connect(gate.address()));
    let seen = wait_for("its end is counted", || {
        let seen = figures(&gate);
        (seen.sum("snigate_connections_ended_total") == 1.0).then_some(seen)
    });
    let ended = seen.series.keys().find(|series| series.starts_with("snigate_connections_ended_total")).unwrap();
    assert!(Reason::ALL.iter().any(|reason| ended.contains(&format!("reason=\"{}\"", reason.label()))), "{ended}");
}
