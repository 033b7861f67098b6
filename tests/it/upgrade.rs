//! A newer process in the place of a running one: whoever connects meanwhile is served by one of the two.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Signal, Uid, getuid};
use tempfile::TempDir;

use crate::support::gate::GateProcess;
use crate::support::hello::hello;
use crate::support::http::{ask, get_with, request};
use crate::support::tcp::{self, Upstream};
use crate::support::{tools, wait_until};

/// An upstream, and a configuration for gates that can take over from each other.
struct Stage {
    upstream: Upstream,
    address: SocketAddr,
    folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        let address = tcp::free_address();
        Self { upstream: Upstream::echo(), address, folder: tempfile::tempdir().unwrap() }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("upgrade.sock")
    }

    /// The configuration, with more listeners and keys.
    fn yaml(&self, listeners: &str, keys: &str) -> String {
        format!(
            "listeners: [{{ address: '{}', name: kube, client_hello_timeout: 60s }}{listeners}]
routes: [{{ server_names: [a.test], upstream: up }}]
upstreams: {{ up: {{ endpoints: ['{}'] }} }}
workers: 2
drain: {{ grace: 10s, spread: 1s, deadline: 30s }}
upgrade_socket: {}
{keys}",
            self.address,
            self.upstream.address(),
            self.socket().display(),
        )
    }

    /// What becomes of one client.
    fn client(&self) -> Result<(), ErrorKind> {
        let mut client = TcpStream::connect(self.address).map_err(|error| error.kind())?;
        let hello = hello("a.test");
        let mut served = || {
            client.write_all(&hello)?;
            client.read_exact(&mut vec![0; hello.len()])
        };
        served().map_err(|error| error.kind())
    }

    /// A client that stays.
    fn hold(&self) -> TcpStream {
        let (mut client, hello) = (tcp::connect(self.address), hello("a.test"));
        client.write_all(&hello).unwrap();
        assert_eq!(tcp::read_exactly(&mut client, hello.len()), hello);
        client
    }

    /// Clients, one after the other in several threads, while `act` goes on: none may be refused, reset or cut. Returns how many
    /// were served.
    fn storm(&self, act: impl FnOnce()) -> usize {
        let (served, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        self.client().unwrap_or_else(|error| panic!("{error} after {served:?} clients"));
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            act();
            over.store(true, Ordering::Relaxed);
        });
        served.into_inner()
    }

    /// So many upgrades in a storm of clients.
    fn upgrade_in_a_storm(&self, upgrades: usize, keys: &str) {
        let mut gate = GateProcess::start(&self.yaml("", keys));
        let served = self.storm(|| {
            for _ in 0..upgrades {
                let next = gate.start_next();
                assert_eq!(gate.wait().code(), Some(0), "{:?}", gate.lines.all());
                let told = gate.lines.wait("why it went", |line| line.contains("has taken its place"));
                assert!(told.contains("stopping"), "{told}");
                next.lines.wait("whose place it took", |line| line.contains("took the place of a running process"));
                let warned =
                    next.lines.all().into_iter().find(|line| line.contains("WARN") && !line.contains("as root"));
                assert_eq!(warned, None);
                gate = next;
            }
        });
        assert!(served > 10 * upgrades, "only {served} clients");
        self.client().unwrap();
    }
}

#[test]
fn nobody_is_refused_or_reset_by_upgrades() {
    Stage::new().upgrade_in_a_storm(10, "");
}

#[test]
fn nobody_in_the_sandbox_upgrades_as_well() {
    if !getuid().is_root() {
        return tools::skip("only root can become nobody");
    }
    Stage::new().upgrade_in_a_storm(10, "user: nobody\nsandbox: require\n");
}

#[test]
#[ignore = "takes minutes on a busy machine: the long form of the two before"]
fn a_hundred_upgrades_lose_nobody() {
    let keys = if getuid().is_root() { "user: nobody\nsandbox: require\n" } else { "sandbox: require\n" };
    Stage::new().upgrade_in_a_storm(100, keys);
}

#[test]
fn a_new_process_that_fails_changes_nothing() {
    let stage = Stage::new();
    let mut gate = GateProcess::start(&stage.yaml("", ""));
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let taken = TcpListener::bind(taken).unwrap();
    let more = format!(", {{ address: '{}', name: more }}", taken.local_addr().unwrap());
    let served = stage.storm(|| {
        for (yaml, code, told) in [
            ("listeners: [".to_owned(), 78, "snigate.yaml"),
            (stage.yaml(&more, ""), 1, "another process listens there"),
        ] {
            fs::write(gate.config(), yaml).unwrap();
            let run = gate.run_next();
            assert_eq!(run.status.code(), Some(code), "{run:?}");
            assert!(run.stderr.contains(told), "{run:?}");
        }
        gate.lines.wait("that one went away", |line| line.contains("a newer process did not take over"));
        fs::write(gate.config(), stage.yaml("", "")).unwrap();
        let next = gate.start_next();
        assert_eq!(gate.wait().code(), Some(0), "{:?}", gate.lines.all());
        gate = next;
    });
    assert!(served > 0);
    stage.client().unwrap();
}

#[test]
fn who_asks_a_gate_about_itself_asks_the_newer_one_from_then_on() {
    let sandbox = if getuid().is_root() { "user: nobody\nsandbox: require" } else { "sandbox: require" };
    let stage = Stage::new();
    let address = tcp::free_address();
    let local = stage.folder.path().join("admin.sock");
    for admin in [address.to_string(), format!("unix:{}", local.display())] {
        let is_ready = || match admin.starts_with("unix:") {
            true => {
                ask(&mut UnixStream::connect(&local).unwrap(), &request("GET", "/readyz", "localhost", "")).status
                    == 200
            }
            false => get_with(address, "/readyz", "").status == 200,
        };
        let yaml = |rest: &str| stage.yaml("", &format!("{sandbox}\nadmin: {{ address: '{admin}' }}\n{rest}"));
        let mut gate = GateProcess::start(&yaml(""));
        // It stays open: the old process is there for as long as this is.
        let mut held = stage.hold();
        assert!(is_ready());
        for _ in 0..2 {
            fs::write(gate.config(), "listeners: [").unwrap();
            assert_eq!(gate.run_next().status.code(), Some(78));
            assert!(is_ready(), "one that fails changes nothing");
            fs::write(gate.config(), yaml("")).unwrap();
            let next = gate.start_next();
            gate.lines.wait("the old one goes", |line| line.contains("nobody new is accepted"));
            assert!(is_ready(), "not the old one, which is not");
            drop(held);
            assert_eq!(gate.wait().code(), Some(0), "{:?}", gate.lines.all());
            assert!(is_ready());
            held = stage.hold();
            gate = next;
        }
    }
}

#[test]
fn only_root_and_the_same_user_may_take_over() {
    if !getuid().is_root() {
        return tools::skip("only root can become another user");
    }
    let stage = Stage::new();
    let gate = GateProcess::start(&stage.yaml("", "sandbox: require\n"));
    let other = Uid::from_raw(60_905);
    fs::set_permissions(stage.folder.path(), Permissions::from_mode(0o755)).unwrap();
    let run = GateProcess::run_as(other, &stage.yaml("", ""));
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    assert!(run.stderr.contains("upgrade.sock is of no use: Permission denied"), "{run:?}");
    // Where it is let in, it is asked who it is.
    fs::set_permissions(stage.socket(), Permissions::from_mode(0o777)).unwrap();
    let run = GateProcess::run_as(other, &stage.yaml("", ""));
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    assert!(run.stderr.contains("upgrade.sock is of no use: the other side went away"), "{run:?}");
    gate.lines.wait("who it was", |line| line.contains("the other side runs as user 60905, and this one as 0"));
    stage.client().unwrap();
}

#[test]
fn another_gate_that_was_given_the_same_path_replaces_nobody() {
    let stage = Stage::new();
    let gate = GateProcess::start(&stage.yaml("", ""));
    let other = stage.yaml("", "").replace(&stage.address.to_string(), "127.0.0.1:0");
    let run = GateProcess::run(&other);
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    assert!(
        run.stderr.contains("none of these listeners, so it is another gate: give each a path of its own"),
        "{run:?}"
    );
    gate.lines.wait("that it stays", |line| line.contains("a newer process did not take over"));
    stage.client().unwrap();
}

#[test]
fn what_a_killed_process_left_is_no_obstacle() {
    let stage = Stage::new();
    let mut gate = GateProcess::start(&stage.yaml("", ""));
    gate.stop(Signal::KILL);
    assert!(stage.socket().exists());
    let mut again = gate.start_next();
    stage.client().unwrap();
    let next = again.start_next();
    assert_eq!(again.wait().code(), Some(0));
    stage.client().unwrap();
    drop(next);
}

#[test]
fn listeners_come_and_go_with_an_upgrade() {
    let stage = Stage::new();
    let other = tcp::free_address();
    let more = format!(", {{ address: '{other}', name: more }}");
    let mut gate = GateProcess::start(&stage.yaml("", ""));
    for (listeners, listens) in [(&*more, true), ("", false)] {
        fs::write(gate.config(), stage.yaml(listeners, "workers: 1\n").replacen("workers: 2\n", "", 1)).unwrap();
        let next = gate.start_next();
        assert_eq!(gate.wait().code(), Some(0), "{:?}", gate.lines.all());
        gate = next;
        stage.client().unwrap();
        wait_until("as configured", || TcpStream::connect(other).is_ok() == listens);
    }
}

#[test]
fn what_is_written_while_a_new_process_starts_is_taken_over() {
    let stage = Stage::new();
    let mut gate = GateProcess::start(&stage.yaml("", ""));
    // Where the socket was bound: it was renamed to its path later.
    let folder = format!("{}/", stage.folder.path().display());
    // The old process keeps the new one waiting, which has read its configuration already.
    gate.signal(Signal::STOP);
    let next = thread::scope(|scope| {
        let next = scope.spawn(|| gate.start_next());
        wait_until("the new process has come", || {
            let sockets = fs::read_to_string("/proc/net/unix").unwrap();
            sockets.lines().filter(|line| line.contains(&folder)).count() == 2
        });
        fs::write(gate.config(), stage.yaml("", "").replace("spread: 1s", "spread: 2s")).unwrap();
        gate.signal(Signal::CONT);
        next.join().unwrap()
    });
    next.lines.wait("it is taken over", |line| line.contains("`drain` changed"));
    assert_eq!(gate.wait().code(), Some(0), "{:?}", gate.lines.all());
    stage.client().unwrap();
}
