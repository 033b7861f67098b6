//! Less power: whose a running gate is, what it may do, and that what it may not do fails.
//!
//! The sandbox holds for a thread and for those that it starts: so a thread of this process can enter it, and try.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{self, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::{self, Command};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;

use rustix::process::{Pid, Resource, Rlimit, Signal, Uid, getppid, getuid, kill_process, prlimit, test_kill_process};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use snigate::config::Config;
use snigate::power;
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::certs::Authority;
use crate::support::dns::{A, AAAA, DnsServer, Record, Reply, addresses};
use crate::support::gate::{GateProcess, routing};
use crate::support::hello::hello;
use crate::support::tcp::{self, End, Refusing, Upstream};
use crate::support::tools::{self, Run, lack, require};
use crate::support::{PATIENCE, wait_until};

/// CAP_NET_BIND_SERVICE, as /proc shows sets of capabilities.
const BINDING: &str = "0000000000000400";
const NOTHING: &str = "0000000000000000";

fn is_root() -> bool {
    let root = getuid().is_root();
    if !root {
        lack("only root can become another user");
    }
    root
}

/// What /proc says of every thread of a process, by thread; of each field the words behind its name.
fn of_every_thread(pid: u32, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // A thread may end between the listing and the look at it.
    let status = |task: io::Result<fs::DirEntry>| fs::read_to_string(task.unwrap().path().join("status")).ok();
    let value = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':').map(str::trim));
        line.unwrap_or_else(|| panic!("{field} in {status}")).replace('\t', " ")
    };
    let found: Vec<_> = tasks.filter_map(status).map(value).collect();
    assert!(!found.is_empty(), "process {pid} has threads");
    found
}

/// Loopback has addresses enough for one that nobody else uses, where the port can be chosen.
fn of_our_own(port: u16) -> SocketAddr {
    let [.., high, low] = process::id().to_be_bytes();
    SocketAddr::from(([127, 77, high, low], port))
}

/// One client through a gate to an upstream that answers.
fn is_served(address: SocketAddr, name: &str) {
    let mut client = tcp::connect(address);
    client.write_all(&hello(name)).unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (b"answer".to_vec(), End::Eof));
}

fn answering() -> Upstream {
    Upstream::answering(hello("a.test").len(), "answer")
}

#[test]
fn every_thread_of_a_running_gate_has_given_its_power_up() {
    if !is_root() {
        return;
    }
    let (upstream, dns) = (answering(), DnsServer::start());
    dns.set("up.test.", A, addresses(&["127.0.0.1"]));
    dns.set("up.test.", AAAA, Reply::NoData);
    let routes = routing([("a.test", upstream.address())]);
    let routes = routes.replace("\"127.0.0.1:", "\"up.test:").replace("\"up.test:0\"", "\"127.0.0.1:0\"");
    let gate = GateProcess::start(&format!(
        "{routes}workers: 3\nuser: '60905:60906'\nsandbox: require\ndns: {{ servers: [\"{}\"] }}\n",
        dns.address()
    ));
    for _ in 0..20 {
        is_served(gate.address(), "a.test");
    }
    let names: BTreeSet<String> = of_every_thread(gate.pid(), "Name").into_iter().collect();
    for name in ["control", "log", "snigate", "worker-0", "worker-1", "worker-2"] {
        assert!(names.contains(name), "{name} in {names:?}");
    }
    for (field, expected) in [
        ("Uid", "60905 60905 60905 60905"),
        ("Gid", "60906 60906 60906 60906"),
        ("Groups", ""),
        ("CapInh", NOTHING),
        ("CapPrm", BINDING),
        ("CapEff", BINDING),
        ("CapAmb", NOTHING),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        let found = of_every_thread(gate.pid(), field);
        assert!(found.len() >= 6 && found.iter().all(|found| found == expected), "{field}: {found:?}");
    }
    let told = gate.lines.wait("what was given up", |line| line.contains("power given up"));
    assert!(told.contains(r#""user":"60905:60906","sandbox":"capabilities, no_new_privs, Landlock "#), "{told}");
    assert!(!gate.lines.all().iter().any(|line| line.contains("WARN")), "{:?}", gate.lines.all());
}

#[test]
fn nobody_serves_port_443() {
    if !is_root() {
        return;
    }
    let upstream = answering();
    let address = of_our_own(443);
    let routes = routing([("a.test", upstream.address())]).replace("127.0.0.1:0", &address.to_string());
    let gate = GateProcess::start(&format!("{routes}user: nobody\nsandbox: require\n"));
    assert_eq!(gate.address(), address);
    is_served(address, "a.test");
    assert!(of_every_thread(gate.pid(), "Uid").iter().all(|uid| !uid.starts_with("0 ")));
}

#[test]
fn without_a_user_root_keeps_no_capability_either_and_is_told() {
    if !is_root() {
        return;
    }
    let upstream = answering();
    let routes = routing([("a.test", upstream.address())]);
    let gate = GateProcess::start(&routes);
    is_served(gate.address(), "a.test");
    assert!(of_every_thread(gate.pid(), "CapEff").iter().all(|kept| kept == BINDING));
    assert!(of_every_thread(gate.pid(), "Seccomp").iter().all(|mode| mode == "2"));
    gate.lines.wait("the advice", |line| line.contains("runs as root: `user: nobody`"));

    let gate = GateProcess::start(&format!("{routes}sandbox: off\nuser: root\n"));
    is_served(gate.address(), "a.test");
    let all = of_every_thread(process::id(), "CapEff").remove(0);
    assert!(of_every_thread(gate.pid(), "CapEff").iter().all(|kept| *kept == all));
    assert!(of_every_thread(gate.pid(), "NoNewPrivs").iter().all(|none| none == "0"));
    assert!(!gate.lines.all().iter().any(|line| line.contains("runs as root")), "it is meant");
}

#[test]
fn another_user_keeps_one_capability_without_the_sandbox_as_well() {
    if !is_root() {
        return;
    }
    let routes = routing([("a.test", SocketAddr::from(([127, 0, 0, 1], 1)))]);
    let gate = GateProcess::start(&format!("{routes}sandbox: off\nuser: nobody\n"));
    for field in ["CapPrm", "CapEff"] {
        let found = of_every_thread(gate.pid(), field);
        assert!(found.iter().all(|kept| kept == BINDING), "{field}: {found:?}");
    }
    assert!(of_every_thread(gate.pid(), "Seccomp").iter().all(|none| none == "0"));
}

#[test]
fn another_user_is_in_no_group_of_the_one_before() {
    if !is_root() {
        return;
    }
    let Some(setpriv) = require("setpriv") else { return };
    let routes = routing([("a.test", SocketAddr::from(([127, 0, 0, 1], 1)))]);
    let mut starter = Command::new(setpriv);
    starter.args(["--groups", "60907,60908"]);
    let gate = GateProcess::start_by(&mut starter, &format!("{routes}sandbox: off\nuser: '60905:60906'\n"));
    for (field, expected) in [("Uid", "60905 60905 60905 60905"), ("Gid", "60906 60906 60906 60906"), ("Groups", "")] {
        let found = of_every_thread(gate.pid(), field);
        assert!(found.iter().all(|found| found == expected), "{field}: {found:?}");
    }
}

#[test]
fn a_user_that_cannot_be_taken_is_a_mistake_with_a_remedy() {
    let routes = routing([("a.test", SocketAddr::from(([127, 0, 0, 1], 1)))]);
    let run = GateProcess::run(&format!("{routes}user: nobody-of-this-name\n"));
    assert_eq!(run.status.code(), Some(78), "{run:?}");
    assert!(run.stderr.contains("/etc/passwd has no `nobody-of-this-name`: write another, or its numbers"), "{run:?}");
    if !is_root() {
        return;
    }
    let run = GateProcess::run_as(Uid::from_raw(60_905), &format!("{routes}user: nobody\n"));
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    assert!(run.stderr.contains("cannot become `nobody` (start as root, with CAP_SETUID"), "{run:?}");
}

#[test]
fn what_a_reload_could_not_read_shows_at_the_start() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("snigate.yaml");
    let routes = routing([("a.test", SocketAddr::from(([127, 0, 0, 1], 1)))]);
    fs::write(&config, format!("{routes}user: nobody\n")).unwrap();
    fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
    let run = tools::run(Command::new(env!("CARGO_BIN_EXE_snigate")).arg("run").arg("--config").arg(&config), "");
    assert_eq!(run.status.code(), Some(78), "{run:?}");
    assert!(run.stderr.contains("must be readable with the power that it keeps: cannot read"), "{run:?}");
    assert!(run.stderr.contains("Permission denied"), "{run:?}");
}

/// A folder with a configuration that requires the sandbox.
struct Inside(tempfile::TempDir);

impl Inside {
    /// `None`, said aloud, if this kernel lacks a part of it.
    fn with(listener: SocketAddr, more: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let routes = routing([("a.test", SocketAddr::from(([127, 0, 0, 1], 1)))]);
        let routes = routes.replace("127.0.0.1:0", &listener.to_string());
        fs::write(folder.path().join("snigate.yaml"), format!("{routes}sandbox: require\n{more}\n")).unwrap();
        let inside = Self(folder);
        let lacking = inside.try_run(|| ()).err();
        if let Some(lacking) = &lacking {
            lack(lacking);
        }
        lacking.is_none().then_some(inside)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// What `act` comes to in a thread that gave its power up.
    fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.try_run(act).unwrap()
    }

    fn try_run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T, String> {
        let enter = || {
            let path = self.path("snigate.yaml");
            power::give_up(&Config::load(&path).unwrap(), &path).map_err(|lacking| lacking.to_string())?;
            Ok(act())
        };
        thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }
}

fn kind<T>(result: io::Result<T>) -> Result<(), ErrorKind> {
    result.map(drop).map_err(|error| error.kind())
}

#[test]
fn neither_shadow_nor_a_program_nor_a_file_for_writing_can_be_opened() {
    let Some(inside) = Inside::with(of_our_own(1), "") else { return };
    let config = inside.path("snigate.yaml");
    let parent = getppid().unwrap().as_raw_pid();
    let attempts = || {
        vec![
            ("its configuration", kind(fs::read(&config)), Ok(())),
            ("names", kind(fs::read("/etc/hosts")), Ok(())),
            ("itself", kind(fs::read("/proc/self/status")), Ok(())),
            ("passwords", kind(fs::File::open("/etc/shadow")), Err(ErrorKind::PermissionDenied)),
            ("by a detour", kind(fs::File::open("/proc/self/root/etc/shadow")), Err(ErrorKind::PermissionDenied)),
            ("users", kind(fs::File::open("/etc/passwd")), Err(ErrorKind::PermissionDenied)),
            ("a process", kind(fs::File::open(format!("/proc/{parent}/environ"))), Err(ErrorKind::PermissionDenied)),
            ("a program", kind(fs::File::open("/bin/sh")), Err(ErrorKind::PermissionDenied)),
            ("all of /etc", kind(fs::read_dir("/etc")), Err(ErrorKind::PermissionDenied)),
            ("a change", kind(OpenOptions::new().append(true).open(&config)), Err(ErrorKind::PermissionDenied)),
            ("a new file", kind(fs::write(inside.path("new"), "")), Err(ErrorKind::PermissionDenied)),
            ("a new folder", kind(fs::create_dir(inside.path("folder"))), Err(ErrorKind::Unsupported)),
            ("another name", kind(fs::rename(&config, inside.path("other"))), Err(ErrorKind::Unsupported)),
            ("no file", kind(fs::remove_file(&config)), Err(ErrorKind::Unsupported)),
        ]
    };
    let (here, there) = inside.run(|| (attempts(), thread::scope(|scope| scope.spawn(attempts).join().unwrap())));
    for (what, found, expected) in here.into_iter().chain(there) {
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn nothing_is_executed_signalled_or_spoken_to_but_by_tcp_and_udp() {
    let Some(inside) = Inside::with(of_our_own(1), "") else { return };
    // Outlived by the test, so that its number is not somebody else's.
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = Pid::from_child(&child);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let limits = Rlimit { current: Some(100), maximum: Some(100) };
    let stream = |protocol| kind(Socket::new(Domain::IPV4, Type::STREAM, Some(protocol)));
    let raw = |protocol| kind(Socket::new(Domain::IPV4, Type::RAW, Some(protocol)));
    let family = |family: i32| kind(Socket::new(family.into(), Type::RAW, None));
    let attempts = || {
        vec![
            ("a child", kind(Command::new("/bin/true").spawn()), Err(ErrorKind::Unsupported)),
            // Would it succeed, this would be the end of the test, and with an error.
            ("in our place", Err(Command::new("/bin/false").exec().kind()), Err(ErrorKind::Unsupported)),
            ("a signal", kind(kill_process(pid, Signal::TERM).map_err(Into::into)), Err(ErrorKind::Unsupported)),
            (
                "limits",
                kind(prlimit(Some(pid), Resource::Nofile, limits).map_err(Into::into)),
                Err(ErrorKind::Unsupported),
            ),
            ("packets", family(libc::AF_PACKET), Err(ErrorKind::Unsupported)),
            ("netlink", family(libc::AF_NETLINK), Err(ErrorKind::Unsupported)),
            ("a daemon of this host", kind(UnixStream::connect("/run/docker.sock")), Err(ErrorKind::Unsupported)),
            ("a log", kind(UnixDatagram::unbound()), Err(ErrorKind::Unsupported)),
            ("several ways at once", stream(Protocol::MPTCP), Err(ErrorKind::Unsupported)),
            ("raw packets", raw(Protocol::ICMPV4), Err(ErrorKind::Unsupported)),
            ("a pair that reaches daemons", kind(UnixDatagram::pair()), Err(ErrorKind::Unsupported)),
            ("a pair within", kind(UnixStream::pair()), Ok(())),
            ("a listener", kind(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))), Ok(())),
            ("a client", kind(TcpStream::connect(listener.local_addr().unwrap())), Ok(())),
            ("a datagram", kind(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))), Ok(())),
            ("a thread", kind(thread::Builder::new().spawn(|| ())), Ok(())),
        ]
    };
    for (what, found, expected) in inside.run(attempts) {
        assert_eq!(found, expected, "{what}");
    }
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn without_seccomp_too_nobody_outside_can_be_signalled_or_spoken_to_by_name() {
    /// The version that knows scopes.
    const SCOPED: &str = "Landlock knows scopes since Linux 6.12";
    let Some(inside) = Inside::with(of_our_own(1), "") else { return };
    let text = fs::read_to_string(inside.path("snigate.yaml")).unwrap();
    fs::write(inside.path("snigate.yaml"), text.replace("sandbox: require", "sandbox: auto")).unwrap();
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = Pid::from_child(&child);
    let name = net::SocketAddr::from_abstract_name(format!("snigate-test-{}", process::id())).unwrap();
    let _daemon = UnixListener::bind_addr(&name).unwrap();
    let attempts = || {
        let own = kind(test_kill_process(rustix::process::getpid()).map_err(Into::into));
        let other = kind(kill_process(pid, Signal::TERM).map_err(Into::into));
        (own, other, kind(UnixStream::connect_addr(&name)))
    };
    let (own, other, daemon) = without(&[libc::SYS_seccomp], || inside.run(attempts));
    let scoped = rustix::system::uname().release().to_str().is_ok_and(|release| is_since(release, (6, 12)));
    if scoped {
        assert_eq!((own, other, daemon), (Ok(()), Err(ErrorKind::PermissionDenied), Err(ErrorKind::PermissionDenied)));
        assert_eq!(child.try_wait().unwrap(), None);
    } else {
        lack(SCOPED);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Whether a release such as `6.12.3-amd64` is this version of Linux or a newer one.
fn is_since(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split('.').map_while(|number| number.parse().ok());
    (numbers.next(), numbers.next()) >= (Some(version.0), Some(version.1))
}

#[test]
fn a_panic_unwinds_in_the_sandbox_too() {
    let Some(inside) = Inside::with(of_our_own(1), "") else { return };
    // Looking for what to print of it may fail there; it must not end more than what panicked.
    let caught = inside.run(|| catch_unwind(|| panic!("this one is meant")).is_err());
    assert!(caught);
}

#[test]
fn files_that_others_are_renamed_to_can_be_read() {
    let Some(inside) = Inside::with(of_our_own(1), "") else { return };
    let authority = Authority::new();
    let (old, new) = (inside.path("..1"), inside.path("..2"));
    // As ConfigMaps are mounted: links to a folder by way of a link that is replaced.
    for folder in [&old, &new] {
        fs::create_dir(folder).unwrap();
        fs::copy(authority.file(), folder.join("ca.pem")).unwrap();
        fs::copy(inside.path("snigate.yaml"), folder.join("snigate.yaml")).unwrap();
    }
    fs::remove_file(inside.path("snigate.yaml")).unwrap();
    symlink("..1", inside.path("..data")).unwrap();
    for file in ["snigate.yaml", "ca.pem"] {
        symlink(Path::new("..data").join(file), inside.path(file)).unwrap();
    }
    // An authority elsewhere, behind links to a folder elsewhere.
    let elsewhere = tempfile::tempdir().unwrap();
    let place = |name: &str| elsewhere.path().join(name);
    for folder in ["live", "archive"] {
        fs::create_dir(place(folder)).unwrap();
    }
    fs::copy(authority.file(), place("archive/1.pem")).unwrap();
    fs::copy(authority.file(), place("archive/2.pem")).unwrap();
    symlink("../archive/1.pem", place("live/ca.pem")).unwrap();
    let check = |ca: &Path| format!("health_check: {{ tls: {{ ca_file: '{}', server_name: a.test }} }}", ca.display());
    let text = fs::read_to_string(inside.path("snigate.yaml")).unwrap();
    let with = |ca: &Path| text.replace("endpoints:", &format!("{}, endpoints:", check(ca)));
    fs::write(old.join("snigate.yaml"), with(&place("live/ca.pem"))).unwrap();
    fs::write(new.join("snigate.yaml"), with(&inside.path("ca.pem"))).unwrap();

    let load = || Config::load(&inside.path("snigate.yaml")).map(|config| config.to_string()).unwrap();
    let (entered, enters) = channel();
    let (swapped, swaps) = channel();
    let swaps = Mutex::new(swaps);
    let sandboxed = || {
        inside.run(|| {
            let first = load();
            entered.send(()).unwrap();
            swaps.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            (first, load(), kind(fs::read(place("live/ca.pem"))))
        })
    };
    let (first, second, renewed) = thread::scope(|scope| {
        let sandboxed = scope.spawn(sandboxed);
        enters.recv_timeout(PATIENCE).unwrap();
        symlink("..2", inside.path("swap")).unwrap();
        fs::rename(inside.path("swap"), inside.path("..data")).unwrap();
        symlink("../archive/2.pem", place("swap")).unwrap();
        fs::rename(place("swap"), place("live/ca.pem")).unwrap();
        swapped.send(()).unwrap();
        sandboxed.join().unwrap()
    });
    assert!(first.contains("live/ca.pem"), "{first}");
    assert!(second.contains(inside.path("ca.pem").to_str().unwrap()), "{second}");
    assert_eq!(renewed, Ok(()));
}

#[test]
fn sandboxed_ports_are_those_of_the_configuration() {
    let address = of_our_own(6443);
    let Some(inside) = Inside::with(address, "sandbox_ports: true") else { return };
    let (upstream, stranger) = (answering(), answering());
    let routes = routing([("a.test", upstream.address())]).replace("127.0.0.1:0", &address.to_string());
    let gate = GateProcess::start(&format!("{routes}sandbox: require\nsandbox_ports: true\n"));
    is_served(address, "a.test");
    drop(gate);

    let text = fs::read_to_string(inside.path("snigate.yaml")).unwrap();
    let ours = upstream.address().to_string();
    fs::write(inside.path("snigate.yaml"), text.replace("127.0.0.1:1\"", &format!("{ours}\""))).unwrap();
    let to = stranger.address().into();
    let (to_ours, to_stranger, at_once, bind_ours, bind_other, datagram) = inside.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        (
            kind(TcpStream::connect(upstream.address())),
            kind(TcpStream::connect(stranger.address())),
            kind(socket.send_to_with_flags(b"data", &to, libc::MSG_FASTOPEN)),
            kind(TcpListener::bind(address)),
            kind(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))),
            kind(
                UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.connect((Ipv4Addr::LOCALHOST, 53))),
            ),
        )
    });
    assert_eq!((to_ours, to_stranger), (Ok(()), Err(ErrorKind::PermissionDenied)));
    assert!(at_once.is_err(), "a first segment with data is a connect as well");
    assert_eq!((bind_ours, bind_other), (Ok(()), Err(ErrorKind::PermissionDenied)));
    assert_eq!(datagram, Ok(()));
}

/// Puts this configuration into the gate's file and asks for it; what the log says of it, up to its last word.
fn refused_reload(gate: &GateProcess, yaml: &str) -> Vec<String> {
    let before = gate.lines.all().len();
    let beside = gate.config().with_extension("new");
    fs::write(&beside, yaml).unwrap();
    fs::set_permissions(&beside, Permissions::from_mode(0o644)).unwrap();
    fs::rename(&beside, gate.config()).unwrap();
    gate.signal(Signal::HUP);
    let is_last = |line: &String| line.contains("not taken over");
    wait_until("the refusal", || gate.lines.all()[before..].iter().any(is_last));
    gate.lines.all().split_off(before)
}

#[test]
fn what_a_reload_names_outside_the_sandbox_needs_a_restart_and_says_so() {
    if !is_root() {
        return;
    }
    let (upstream, authority) = (answering(), Authority::new());
    let routes = routing([("a.test", upstream.address())]);
    let yaml = format!("{routes}user: nobody\nsandbox: require\n");
    let gate = GateProcess::start(&yaml);
    let with = |ca: &Path| {
        let check = format!("health_check: {{ tls: {{ ca_file: '{}', server_name: a.test }} }}", ca.display());
        yaml.replace("endpoints:", &format!("{check}, endpoints:"))
    };
    let elsewhere = tempfile::tempdir().unwrap();
    fs::set_permissions(elsewhere.path(), Permissions::from_mode(0o755)).unwrap();
    let copied = |folder: &Path, mode| {
        let copy = folder.join("ca.pem");
        fs::copy(authority.file(), &copy).unwrap();
        fs::set_permissions(&copy, Permissions::from_mode(mode)).unwrap();
        copy
    };
    let outside = copied(elsewhere.path(), 0o644);
    let said = refused_reload(&gate, &with(&outside));
    let needs_restart = |said: &[String], what: &str| {
        said.iter().filter(|line| line.contains("a restart is needed") && line.contains(what)).count()
    };
    let told = format!("{} lies outside the sandbox", outside.display());
    assert_eq!((needs_restart(&said, &told), needs_restart(&said, "")), (1, 1), "{said:?}");
    // A link that leads there lies within, and is of no more use.
    let link = gate.config().with_file_name("link.pem");
    symlink(&outside, &link).unwrap();
    let said = refused_reload(&gate, &with(&link));
    assert_eq!(needs_restart(&said, &format!("{} lies outside", link.display())), 1, "{said:?}");
    // One that is only not for our eyes would be no better off after a restart.
    let within = copied(gate.config().parent().unwrap(), 0o600);
    let said = refused_reload(&gate, &with(&within));
    assert!(said.iter().any(|line| line.contains("cannot be read: Permission denied")), "{said:?}");
    assert_eq!(needs_restart(&said, ""), 0, "{said:?}");
    is_served(gate.address(), "a.test");
    drop(gate);

    // A restart is all that it takes.
    drop(GateProcess::start(&with(&outside)));
}

#[test]
fn what_is_renamed_to_a_place_in_a_wide_directory_needs_a_restart_and_says_so() {
    let Some(inside) = Inside::with(of_our_own(1), "") else { return };
    // Too much lies in /tmp for all of it to be opened up.
    let place = &*Path::new("/tmp").join(format!("snigate-test-{}.yaml", process::id()));
    let text = fs::read(inside.path("snigate.yaml")).unwrap();
    fs::write(place, &text).unwrap();
    let (entered, enters) = channel();
    let (renamed, renames) = channel();
    let sandboxed = move || {
        let load = || Config::load(place);
        let given_up = power::give_up(&load().unwrap(), place).unwrap();
        let before = given_up.beyond_reach(&load());
        entered.send(()).unwrap();
        renames.recv_timeout(PATIENCE).unwrap();
        (before, given_up.beyond_reach(&load()))
    };
    let (before, after) = thread::scope(|scope| {
        let sandboxed = scope.spawn(sandboxed);
        enters.recv_timeout(PATIENCE).unwrap();
        fs::write(inside.path("new"), &text).unwrap();
        // Within a file system it would be a rename.
        fs::remove_file(place).unwrap();
        fs::copy(inside.path("new"), place).unwrap();
        renamed.send(()).unwrap();
        sandboxed.join().unwrap()
    });
    fs::remove_file(place).unwrap();
    assert_eq!(before, [""; 0]);
    assert!(after.len() == 1 && after[0].starts_with(&format!("{} lies outside the sandbox: ", place.display())));
}

#[test]
fn a_reload_that_names_other_ports_than_the_sandbox_left_needs_a_restart_and_says_so() {
    let address = of_our_own(6444);
    if Inside::with(address, "sandbox_ports: true").is_none() {
        return;
    }
    let (upstream, other) = (answering(), answering());
    let with = |listener: SocketAddr, upstream: &Upstream| {
        let routes = routing([("a.test", upstream.address())]).replace("127.0.0.1:0", &listener.to_string());
        format!(
            "{routes}sandbox: require
sandbox_ports: true
"
        )
    };
    let gate = GateProcess::start(&with(address, &upstream));
    let port = other.address().port();
    for (yaml, told) in [
        (with(of_our_own(6445), &upstream), "port 6445 of a listener is none".to_owned()),
        (with(address, &other), format!("port {port} of an endpoint or of DNS is none")),
    ] {
        let said = refused_reload(&gate, &yaml);
        let line = said.iter().find(|line| line.contains("a restart is needed")).unwrap();
        assert!(line.contains(&told), "{said:?}");
    }
    is_served(address, "a.test");
}

/// Does something in a thread, and processes that it starts, for which these system calls are not there.
fn without<T: Send>(calls: &[libc::c_long], act: impl FnOnce() -> T + Send) -> T {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, absent, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    let enter = || {
        apply_filter(&program).unwrap();
        act()
    };
    thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

#[test]
fn a_kernel_that_lacks_a_part_gets_a_line_and_with_require_no_gate() {
    let upstream = answering();
    let routes = routing([("a.test", upstream.address())]);
    let landlock = [libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self];
    for (calls, told, held) in [
        (&landlock[..], "any file can be opened: no Landlock here", "capabilities, no_new_privs, seccomp"),
        (&[libc::SYS_seccomp], "any system call can be made: no seccomp filters here", "no_new_privs, Landlock"),
    ] {
        let (gate, run): (GateProcess, Run) =
            without(calls, || (GateProcess::start(&routes), GateProcess::run(&format!("{routes}sandbox: require\n"))));
        is_served(gate.address(), "a.test");
        let line = gate.lines.wait("what is missing", |line| line.contains("not in the sandbox"));
        assert!(line.contains("WARN") && line.contains(told), "{line}");
        gate.lines.wait("what holds", |line| line.contains(held));
        assert_eq!(run.status.code(), Some(1), "{run:?}");
        assert!(run.stderr.contains(&format!("`sandbox: require` cannot be kept: {told}")), "{run:?}");
        assert_eq!(run.stdout, "");
    }
}

/// The C library tries this for each thread, and turns to clone, as it is meant to.
const TRIED_IN_VAIN: &str = "clone3(";

#[test]
fn nothing_that_a_gate_needs_is_refused() {
    let Some(strace) = require("strace") else { return };
    // So much that it is spliced.
    const MUCH: usize = 1 << 20;
    let much = Upstream::answering(hello("a.test").len(), tcp::pattern(MUCH));
    let (echo, dns) = (Upstream::echo(), DnsServer::start());
    let resetting = Upstream::resetting(hello("reset.test").len());
    let refused = Refusing::new();
    dns.set("much.test.", A, Reply::TooLong(5, vec![Record::Address(much.address().ip())]));
    dns.set("much.test.", AAAA, Reply::NoData);
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut starter = Command::new(strace);
    // -D: the gate stays our child.
    starter.args(["-D", "-f", "-q", "-o"]).arg(&trace);
    let yaml = routing([
        ("a.test", much.address()),
        ("b.test", echo.address()),
        ("reset.test", resetting.address()),
        ("no.test", refused.address()),
    ]);
    let yaml = yaml.replace(&much.address().to_string(), &format!("much.test:{}", much.address().port()));
    let user = if getuid().is_root() { "user: nobody\n" } else { "" };
    let mut gate = GateProcess::start_by(
        &mut starter,
        &format!("{yaml}sandbox: require\n{user}dns: {{ servers: [\"{}\"] }}\n", dns.address()),
    );
    for (name, answer) in [("a.test", MUCH), ("reset.test", 0), ("no.test", 0), ("unknown.test", 7)] {
        let mut client = tcp::connect(gate.address());
        client.write_all(&hello(name)).unwrap();
        assert_eq!(tcp::read_to_end(&mut client).0.len(), answer, "{name}");
    }
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("b.test")).unwrap();
    tcp::read_exactly(&mut client, hello("b.test").len());
    wait_until("a log line for each that ended", || gate.log().len() == 4);
    assert!(gate.log().iter().any(|line| line["spliced"].as_u64() > Some(0)), "{:?}", gate.log());
    assert_eq!(gate.stop(Signal::TERM).code(), Some(3), "one had just been served");
    let pid = gate.pid().to_string();
    let is_end = |line: &str| line.split_whitespace().next() == Some(&pid) && line.ends_with("+++ exited with 3 +++");
    wait_until("the end of the trace", || fs::read_to_string(&trace).unwrap().lines().any(is_end));
    let trace = fs::read_to_string(&trace).unwrap();
    let (_, inside) = trace.split_once("seccomp(SECCOMP_SET_MODE_FILTER").expect("it enters the sandbox");
    let refused = ["= -1 ENOSYS", "= -1 EPERM", "= -1 EACCES"];
    let failed = inside.lines().filter(|line| refused.iter().any(|errno| line.contains(errno)));
    let failed: Vec<_> =
        failed.filter(|line| !line.contains(TRIED_IN_VAIN) && !line.contains("clone3 resumed")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(inside.contains("splice("));
}
