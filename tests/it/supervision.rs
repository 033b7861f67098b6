//! A gate that a service manager started: it accepts from the sockets that it was given, and says how it is.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{Signal, getuid};
use snigate::config::Config;

use crate::support::gate::{GateProcess, routing};
use crate::support::hello::hello;
use crate::support::supervisor::Supervisor;
use crate::support::tcp::{self, End, Upstream};
use crate::support::{tools, wait_for};

/// The units of the package, each with its name; they start the program under test.
fn units(folder: &Path) -> Vec<(PathBuf, String)> {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    let unit = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let text = fs::read_to_string(entry.path()).unwrap();
        let text = text.replace("/usr/local/bin/snigate", env!("CARGO_BIN_EXE_snigate"));
        // A template is known by its instances.
        let path = folder.join(entry.file_name().into_string().unwrap().replace("@.", "@a."));
        fs::write(&path, &text).unwrap();
        (path, text)
    };
    fs::read_dir(units).unwrap().map(unit).collect()
}

/// What a unit says after `key=`.
fn said<'u>(unit: &'u str, key: &str) -> Vec<&'u str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn systemd_finds_no_fault_with_the_units() {
    let Some(analyze) = tools::require("systemd-analyze") else { return };
    let folder = tempfile::tempdir().unwrap();
    let units = units(folder.path());
    assert_eq!(units.len(), 3);
    let run = tools::run(Command::new(analyze).arg("verify").args(units.iter().map(|(path, _)| path)), "");
    assert!(run.status.success() && run.stderr.is_empty(), "{run:?}");
}

#[test]
fn the_units_start_what_there_is_and_give_what_the_example_listens_on() {
    let folder = tempfile::tempdir().unwrap();
    let units = units(folder.path());
    for start in units.iter().flat_map(|(_, unit)| said(unit, "ExecStart")) {
        let mut words = start.split_whitespace();
        let run = tools::run(Command::new(words.next().unwrap()).args(words).arg("--help"), "");
        assert!(run.status.success(), "{start}: {run:?}");
    }
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/snigate.example.yaml");
    let listener = &Config::load(&example).unwrap().listeners[0];
    let (_, socket) = units.iter().find(|(path, _)| path.extension().is_some_and(|kind| kind == "socket")).unwrap();
    let given = (said(socket, "FileDescriptorName")[0], format!(":{}", said(socket, "ListenStream")[0]));
    assert_eq!(given, (&*listener.name, listener.address.to_string()));
    assert_eq!(said(socket, "BindIPv6Only"), [if listener.v6_only { "ipv6-only" } else { "both" }]);
}

/// As much as can be given up by whoever runs the tests.
fn powerless() -> &'static str {
    if getuid().is_root() { "user: nobody\nsandbox: require\n" } else { "sandbox: require\n" }
}

fn answering() -> Upstream {
    Upstream::answering(hello("a.test").len(), "answer")
}

/// A client that finds somebody who listens, and is served.
fn is_served(address: SocketAddr) {
    // Nobody listens before the launcher does.
    let mut client = wait_for("somebody listens", || TcpStream::connect(address).ok());
    client.write_all(&hello("a.test")).unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (b"answer".to_vec(), End::Eof));
}

/// What starts a gate with these listening sockets, once somebody connects to one of them.
fn launcher(sockets: &[(&str, SocketAddr)]) -> Option<Command> {
    let mut launcher = Command::new(tools::require("systemd-socket-activate")?);
    let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
    launcher.arg(format!("--fdname={}", names.join(":")));
    sockets.iter().for_each(|(_, address)| _ = launcher.arg(format!("--listen={address}")));
    Some(launcher)
}

/// A configuration with these listeners.
fn listening(listeners: &[(&str, SocketAddr)], upstream: SocketAddr) -> String {
    let listener = |(name, address): &(&str, SocketAddr)| {
        format!("{{ address: \"{address}\", name: {name}, client_hello_timeout: 60s }}")
    };
    let listeners: Vec<_> = listeners.iter().map(listener).collect();
    let yaml = routing([("a.test", upstream)]);
    let (_, rest) = yaml.split_once('\n').unwrap();
    format!("listeners: [{}]\n{rest}workers: 2\n", listeners.join(", "))
}

#[test]
fn sockets_that_are_given_are_accepted_from_by_the_listeners_with_their_names() {
    let [one, two, own] = [(); 3].map(|()| tcp::free_address());
    let Some(mut launcher) = launcher(&[("two", two), ("one", one)]) else { return };
    let upstream = answering();
    let yaml = listening(&[("one", one), ("two", two), ("own", own)], upstream.address());
    // There before the gate is.
    let first = thread::spawn(move || is_served(one));
    let mut gate = GateProcess::start_by(&mut launcher, &format!("{yaml}{}", powerless()));
    first.join().unwrap();
    for address in [one, two, own] {
        (0..20).for_each(|_| is_served(address));
    }
    for (name, address) in [("one", one), ("two", two), ("own", own)] {
        let told = format!("\"listener\":\"{name}\",\"address\":\"{address}\"");
        gate.lines.wait("where it listens", |line| line.contains(&told));
    }
    // A listener that goes is closed here, and the other side is to close it too.
    fs::write(gate.config(), listening(&[("two", two)], upstream.address()) + powerless()).unwrap();
    gate.signal(Signal::HUP);
    let told = gate.lines.wait("what is left to do", |line| line.contains("the service manager still listens there"));
    assert!(told.contains(&one.to_string()), "{told}");
    is_served(two);
    assert_eq!(gate.stop(Signal::TERM).code(), Some(0));
}

#[test]
fn sockets_that_nobody_wants_are_a_mistake_with_a_remedy() {
    let upstream = answering();
    let [given, other] = [(); 2].map(|()| tcp::free_address());
    for (name, address, told) in [
        (
            "nobody",
            given,
            "as \"nobody\", and no listener is called so: write FileDescriptorName= with the `name` of one of",
        ),
        ("kube", other, "make the two the same"),
    ] {
        let Some(mut launcher) = launcher(&[(name, given)]) else { return };
        let client = thread::spawn(move || wait_for("somebody listens", || TcpStream::connect(given).ok()));
        let run = GateProcess::run_by(&mut launcher, &listening(&[("kube", address)], upstream.address()));
        client.join().unwrap();
        assert_eq!(run.status.code(), Some(1), "{run:?}");
        assert!(run.stderr.contains(told) && run.stderr.contains(&given.to_string()), "{run:?}");
    }
}

/// So often a gate says that it is alive that it takes a moment only to see whether it does.
const WATCHDOG: Duration = Duration::from_millis(400);

#[test]
fn the_service_manager_hears_every_stage_from_inside_the_sandbox() {
    for supervisor in [Supervisor::new(), Supervisor::without_a_file()] {
        hears_every_stage(&supervisor);
    }
}

fn hears_every_stage(supervisor: &Supervisor) {
    let upstream = answering();
    let yaml = format!("{}{}", routing([("a.test", upstream.address())]), powerless());
    let mut gate = GateProcess::start_by(&mut supervisor.starter(WATCHDOG), &yaml);
    assert_eq!(supervisor.wait_for("READY=1"), "READY=1\nSTATUS=serving");
    (0..3).for_each(|_| assert_eq!(supervisor.wait_for("WATCHDOG=1"), "WATCHDOG=1"));

    gate.signal(Signal::HUP);
    let reloading = supervisor.wait_for("RELOADING=1");
    let since: f64 = reloading.lines().nth(1).unwrap().strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
    let up = fs::read_to_string("/proc/uptime").unwrap();
    let up: f64 = up.split_whitespace().next().unwrap().parse().unwrap();
    // The kernel rounds the latter to hundredths.
    assert!(since > 0.0 && since < (up + 0.02) * 1e6, "{since} µs of {up} s");
    assert_eq!(supervisor.wait_for("READY=1"), "READY=1\nSTATUS=serving");
    fs::write(gate.config(), "listeners: [").unwrap();
    gate.signal(Signal::HUP);
    supervisor.wait_for("RELOADING=1");
    assert!(supervisor.wait_for("READY=1").contains("the new one was not taken over"));

    is_served(gate.address());
    gate.signal(Signal::TERM);
    assert_eq!(supervisor.wait_for("STOPPING=1"), "STOPPING=1\nSTATUS=stopping: SIGTERM");
    assert_eq!(gate.wait().code(), Some(0));
    assert!(!gate.lines.all().iter().any(|line| line.contains("WARN")), "{:?}", gate.lines.all());
}

#[test]
fn a_service_manager_that_cannot_be_told_is_worth_a_line() {
    let upstream = answering();
    for (socket, told) in [("/nonexistent/notify", "No such file"), ("vsock:2:1", "neither a path nor")] {
        let mut starter = Command::new("env");
        starter.env("NOTIFY_SOCKET", socket);
        let gate = GateProcess::start_by(&mut starter, &routing([("a.test", upstream.address())]));
        let line = gate.lines.wait("about it", |line| line.contains("the service manager cannot be told anything"));
        assert!(line.contains(told), "{line}");
        is_served(gate.address());
    }
}

/// The thread of this name.
fn thread_of(process: u32, name: &str) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let mut numbers = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
    let is_it = |number: &String| {
        fs::read_to_string(format!("/proc/{process}/task/{number}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    Pid::from_raw(numbers.find(is_it).unwrap().parse().unwrap())
}

/// A thread that stands still, as a debugger has it, while the others go on. It is let go also when a test fails: its
/// process could not end otherwise.
struct Stopped(Pid);

impl Stopped {
    /// Stops this thread, and waits until that is told. `None`, said aloud, where it is not possible.
    fn at(gate: &GateProcess, name: &str) -> Option<Self> {
        let thread = thread_of(gate.pid(), name);
        if let Err(error) = ptrace::seize(thread, ptrace::Options::empty()) {
            tools::skip(&format!("no thread can be stopped here: {error}"));
            return None;
        }
        let stopped = Self(thread);
        ptrace::interrupt(thread).unwrap();
        let stuck = format!("\"threads\":\"{name}\"");
        gate.lines.wait("who is stuck", |line| line.contains(&stuck) && line.contains("does not get to its work"));
        Some(stopped)
    }

    /// Waits until it was ended where it stands. Its process is not gone before it is known here.
    fn wait_for_end(&self) {
        while !matches!(waitpid(self.0, Some(WaitPidFlag::__WALL)).unwrap(), WaitStatus::Exited(..)) {}
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}

#[test]
fn the_watchdog_is_told_nothing_while_one_thread_is_stuck() {
    let (supervisor, upstream) = (Supervisor::new(), answering());
    let yaml = format!("{}workers: 3\n{}", routing([("a.test", upstream.address())]), powerless());
    let gate = GateProcess::start_by(&mut supervisor.starter(WATCHDOG), &yaml);
    for name in ["worker-1", "control"] {
        supervisor.wait_for("WATCHDOG=1");
        let Some(stopped) = Stopped::at(&gate, name) else { return };
        supervisor.wait_for_silence(2 * WATCHDOG);
        drop(stopped);
        supervisor.wait_for("WATCHDOG=1");
        gate.lines.wait("that it goes on", |line| line.contains("every thread gets to its work again"));
    }
}

#[test]
fn a_thread_that_is_stuck_keeps_neither_a_signal_nor_the_end_waiting() {
    let (upstream, hello) = (Upstream::echo(), hello("a.test"));
    let yaml = routing([("a.test", upstream.address())]);
    let yaml = format!("{yaml}workers: 1\ndrain: {{ grace: 0s, spread: 0s, deadline: 1s }}\n{}", powerless());
    for (name, code) in [("worker-0", 3), ("control", 0)] {
        let supervisor = Supervisor::new();
        let mut gate = GateProcess::start_by(&mut supervisor.starter(WATCHDOG), &yaml);
        let mut client = TcpStream::connect(gate.address()).unwrap();
        client.write_all(&hello).unwrap();
        client.read_exact(&mut vec![0; hello.len()]).unwrap();
        let Some(stopped) = Stopped::at(&gate, name) else { return };
        // A reload has to wait for the control thread.
        gate.signal(Signal::HUP);
        supervisor.wait_for("RELOADING=1");
        gate.signal(Signal::TERM);
        gate.lines.wait("that it ends", |line| line.contains("a thread does not end: stopped without it"));
        stopped.wait_for_end();
        assert_eq!(gate.wait().code(), Some(code), "{:?}", gate.lines.all());
    }
}
