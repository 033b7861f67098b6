//! Out of descriptors: accepting pauses, complains no more than once a second, and goes on as soon as it can.

use std::io::Write;
use std::time::Instant;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::descriptors;
use crate::support::gate::{GateProcess, routing};
use crate::support::hello::hello;
use crate::support::tcp::{self, Upstream};
use crate::support::wait_until;

/// Descriptors that the gate may take beyond those it has at rest.
const SPARE: u64 = 6;

#[test]
fn running_out_of_descriptors_pauses_accepting_and_loses_no_client_that_waits() {
    let upstream = Upstream::echo();
    let gate = GateProcess::start(&format!("workers: 1\n{}", routing([("a.test", upstream.address())])));
    let pid = Pid::from_raw(gate.pid().cast_signed()).unwrap();
    let sockets_at_rest = descriptors::sockets(gate.pid());
    let at_rest = std::fs::read_dir(format!("/proc/{}/fd", gate.pid())).unwrap().count() as u64;
    let limit = Some(at_rest + SPARE);
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();

    let begin = Instant::now();
    let complained = || gate.lines.all().iter().any(|line| line.contains("cannot accept connections"));
    let mut holding = Vec::new();
    wait_until("a complaint", || {
        complained() || {
            holding.push(tcp::connect(gate.address()));
            false
        }
    });
    let mut waiting = tcp::connect(gate.address());
    drop(holding);
    descriptors::wait_for_baseline(gate.pid(), sockets_at_rest + 1);

    let greeting = hello("a.test");
    waiting.write_all(&greeting).unwrap();
    assert_eq!(tcp::read_exactly(&mut waiting, greeting.len()), greeting, "the one that waited is served");
    let complaints = gate.lines.all().iter().filter(|line| line.contains("cannot accept connections")).count();
    assert!(complaints as u64 <= begin.elapsed().as_secs() + 1, "{complaints} complaints");
}
