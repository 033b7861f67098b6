//! Another configuration for a running gate: nobody who is connected notices, and nobody who comes is lost.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Signal, getuid};

use crate::support::descriptors::memory;
use crate::support::gate::{Gate, GateProcess};
use crate::support::hello::hello;
use crate::support::tcp::{self, End, Upstream};
use crate::support::{tools, wait_until};

/// A gate's configuration: listeners, and of each server name its upstream.
fn yaml(listeners: &str, routes: &[(&str, SocketAddr)]) -> String {
    let route = |(name, _): &(&str, _)| format!("{{ server_names: [{name}], upstream: {name} }}");
    let upstream = |(name, address): &(&str, SocketAddr)| format!("{name}: {{ endpoints: ['{address}'] }}");
    format!(
        "listeners: [{listeners}]\nroutes: [{}]\nupstreams: {{ {} }}\nworkers: 2\n",
        routes.iter().map(route).collect::<Vec<_>>().join(", "),
        routes.iter().map(upstream).collect::<Vec<_>>().join(", ")
    )
}

/// One listener on a port that the kernel chooses, and chose.
const ONE: &str = "{ address: '127.0.0.1:0', name: one, client_hello_timeout: 60s }";

/// A client of this name, whose hello was echoed.
fn client(gate: SocketAddr, name: &str) -> io::Result<TcpStream> {
    let mut client = tcp::connect(gate);
    client.write_all(&hello(name))?;
    client.read_exact(&mut vec![0; hello(name).len()])?;
    Ok(client)
}

fn is_alive(client: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    client.write_all(b"still").is_ok() && client.read_exact(&mut back).is_ok() && &back == b"still"
}

#[test]
fn routes_and_endpoints_change_for_those_who_come() {
    let (first, second) = (Upstream::echo(), Upstream::echo());
    let mut gate = Gate::start(&yaml(ONE, &[("a.test", first.address()), ("b.test", first.address())]));
    let address = gate.address();
    let mut clients: Vec<_> = ["a.test", "b.test"].iter().map(|name| client(address, name).unwrap()).collect();
    let (before, reached) = (first.visits().len(), second.visits().len());

    let changed = gate.reload(&yaml(ONE, &[("a.test", second.address()), ("c.test", first.address())])).unwrap();
    assert_eq!(
        changed.to_string(),
        "1 route added (`c.test`), 1 route removed (`b.test`), 1 upstream added (`c.test`), \
         1 upstream changed (`a.test`), 1 upstream removed (`b.test`)"
    );
    assert_eq!(gate.address(), address);
    clients.push(client(address, "a.test").unwrap());
    assert_eq!((first.visits().len(), second.visits().len()), (before, reached + 1));
    clients.push(client(address, "c.test").unwrap());
    assert_eq!(first.visits().len(), before + 1);
    let mut refused = tcp::connect(address);
    refused.write_all(&hello("b.test")).unwrap();
    assert_eq!(tcp::read_to_end(&mut refused).1, End::Eof);
    assert_eq!(gate.log.line_of(refused.local_addr().unwrap())["reason"], "unknown_server_name");
    assert!(clients.iter_mut().all(is_alive), "whoever is connected stays, its route gone or its endpoint another");
    assert_eq!(
        gate.reload(&yaml(ONE, &[("a.test", second.address()), ("c.test", first.address())])).unwrap().to_string(),
        "nothing changed"
    );
}

#[test]
fn a_listener_may_come_go_and_be_called_otherwise() {
    let upstream = Upstream::echo();
    let with = |listeners: &str| yaml(listeners, &[("a.test", upstream.address())]);
    let [one, two] = [tcp::free_address(), tcp::free_address()];
    let first = format!("{{ address: '{one}', name: first }}");
    let mut gate = Gate::start(&with(&first));
    let mut early = client(one, "a.test").unwrap();

    gate.reload(&with(&format!("{first}, {{ address: '{two}' }}"))).unwrap();
    let mut later = client(two, "a.test").unwrap();
    // The same sockets by another name, and with another limit.
    gate.reload(&with(&format!("{{ address: '{one}', name: other, max_client_hello: 1KiB }}"))).unwrap();
    assert_eq!(gate.address_of("other"), one);
    wait_until("nobody listens there any more", || TcpStream::connect(two).is_err());
    let named = client(one, "a.test").unwrap();
    let source = named.local_addr().unwrap();
    drop(named);
    assert_eq!(gate.log.line_of(source)["listener"], "other");
    assert!(is_alive(&mut early) && is_alive(&mut later));
}

#[test]
fn a_configuration_that_cannot_be_put_in_force_changes_nothing() {
    let (upstream, taken) = (Upstream::echo(), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let mut gate = Gate::start(&yaml(ONE, &[("a.test", upstream.address())]));
    let taken = taken.local_addr().unwrap();
    let free = tcp::free_address();
    let listeners = format!("{ONE}, {{ address: '{free}' }}, {{ address: '{taken}' }}");
    let error = gate.reload(&yaml(&listeners, &[("b.test", upstream.address())])).unwrap_err();
    let expected = format!("listener {taken}: cannot listen on {taken} (another process listens there");
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert!(client(gate.address(), "a.test").is_ok() && client(gate.address(), "b.test").is_err());
    assert!(TcpStream::connect(free).is_err(), "what was bound for it is not any more");
}

#[test]
fn what_is_counted_stays_counted() {
    let upstream = Upstream::echo();
    let with = |keys: &str| {
        yaml(ONE, &[("a.test", upstream.address())])
            .replace("[a.test], upstream", &format!("[a.test], limits: {{ {keys} }}, upstream"))
    };
    let mut gate = Gate::start(&with("connections: 2"));
    let address = gate.address();
    let mut held: Vec<_> = (0..2).map(|_| client(address, "a.test").unwrap()).collect();
    assert!(client(address, "a.test").is_err());
    gate.reload(&with("connections: 3, per_source: 9")).unwrap();
    held.push(client(address, "a.test").unwrap());
    assert!(client(address, "a.test").is_err(), "those from before count");
    held.truncate(1);
    wait_until("there is room again", || client(address, "a.test").is_ok());
}

/// How many reloads a storm goes through, and how many clients come at least.
const RELOADS: usize = 100;
const CLIENTS: usize = 2_000;

#[test]
fn a_storm_of_clients_loses_nobody_to_reloads() {
    let upstream = Upstream::echo();
    let address = tcp::free_address();
    let kept = format!("{{ address: '{address}', name: kept, client_hello_timeout: 60s }}");
    let with = |round: usize| {
        let listeners =
            if round.is_multiple_of(2) { kept.clone() } else { format!("{kept}, {{ address: '127.0.0.2:0' }}") };
        let names: Vec<String> = (0..round % 5).map(|name| format!("n{name}.test")).collect();
        let mut routes = vec![("a.test", upstream.address())];
        routes.extend(names.iter().map(|name| (&**name, upstream.address())));
        yaml(&listeners, &routes)
    };
    let mut gate = Gate::start(&with(0));
    let mut held: Vec<_> = (0..100).map(|_| client(address, "a.test").unwrap()).collect();
    let (served, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    client(address, "a.test").unwrap();
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 1..=RELOADS {
            gate.reload(&with(round)).unwrap();
        }
        wait_until("many were served", || served.load(Ordering::Relaxed) > CLIENTS);
        over.store(true, Ordering::Relaxed);
    });
    assert!(held.iter_mut().all(is_alive));
}

/// A gate in a process of its own, and what it said last of its configuration.
struct Stage {
    gate: GateProcess,
    upstream: Upstream,
}

impl Stage {
    fn new() -> Self {
        let upstream = Upstream::echo();
        let gate = GateProcess::start(&yaml(ONE, &[("a.test", upstream.address())]));
        Self { gate, upstream }
    }

    fn with(&self, names: &[&str]) -> String {
        let routes: Vec<_> = names.iter().map(|name| (*name, self.upstream.address())).collect();
        yaml(ONE, &routes)
    }

    fn serves(&self, name: &str) -> bool {
        client(self.gate.address(), name).is_ok()
    }

    fn said(&self, what: &str) -> usize {
        self.gate.lines.all().iter().filter(|line| line.contains(what)).count()
    }
}

const TAKEN_OVER: &str = "configuration taken over";
const NOT_TAKEN_OVER: &str = "not taken over: the configuration from before stays in force";

#[test]
fn a_signal_or_another_content_of_the_file_is_a_reload() {
    let stage = Stage::new();
    let config = stage.gate.config();
    fs::write(&config, stage.with(&["a.test", "b.test"])).unwrap();
    wait_until("it is noticed", || stage.serves("b.test"));
    let beside = config.with_extension("new");
    fs::write(&beside, stage.with(&["a.test", "c.test"])).unwrap();
    fs::rename(&beside, &config).unwrap();
    wait_until("a rename too", || stage.serves("c.test") && !stage.serves("b.test"));
    wait_until("both are told", || stage.said(TAKEN_OVER) == 2);
    stage.gate.signal(Signal::HUP);
    wait_until("a signal needs no change", || stage.said("nothing changed") == 1);
    let line = stage.gate.lines.all().into_iter().find(|line| line.contains(TAKEN_OVER)).unwrap();
    assert!(
        line.contains("1 route added (`b.test`), 1 upstream added (`b.test`)") && line.contains("the file has changed"),
        "{line}"
    );
}

#[test]
fn a_mistake_is_told_and_changes_nothing() {
    let stage = Stage::new();
    let mut held = client(stage.gate.address(), "a.test").unwrap();
    let good = stage.with(&["a.test"]);
    let bad = [
        String::new(),
        "listeners: [".to_owned(),
        good.replace("upstream: a.test", "upstream: nobody"),
        good.replace("127.0.0.1:0", "192.0.2.77:1"),
    ];
    for round in 0..20 {
        fs::write(stage.gate.config(), &bad[round % bad.len()]).unwrap();
        stage.gate.signal(Signal::HUP);
        wait_until("it is refused", || stage.said(NOT_TAKEN_OVER) > round);
    }
    assert!(stage.said("no upstream is called `nobody`") > 0);
    assert!(stage.serves("a.test") && is_alive(&mut held));
    assert_eq!(stage.said(TAKEN_OVER), 0);
    fs::remove_file(stage.gate.config()).unwrap();
    stage.gate.signal(Signal::HUP);
    wait_until("a file that is not there too", || stage.said("cannot be read") > 0 || stage.said("No such file") > 0);
    assert!(stage.serves("a.test"));
    fs::write(stage.gate.config(), stage.with(&["b.test"])).unwrap();
    wait_until("the next good one counts", || stage.serves("b.test"));
}

#[test]
fn hundreds_of_reloads_leave_nothing_behind() {
    let stage = Stage::new();
    let mut held: Vec<_> = (0..50).map(|_| client(stage.gate.address(), "a.test").unwrap()).collect();
    let mut reload = |round: usize| {
        let (names, before) = (["a.test", "b.test", "c.test"], stage.said(TAKEN_OVER));
        fs::write(stage.gate.config(), stage.with(&names[..1 + round % 3])).unwrap();
        stage.gate.signal(Signal::HUP);
        wait_until("it is taken over", || stage.said(TAKEN_OVER) > before);
    };
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", stage.gate.pid())).unwrap().count();
    (0..50).for_each(&mut reload);
    let (open, used) = (descriptors(), memory(stage.gate.pid()));
    (50..300).for_each(&mut reload);
    assert!(held.iter_mut().all(is_alive));
    wait_until("no descriptor is left over", || descriptors() <= open);
    let grown = memory(stage.gate.pid()).saturating_sub(used);
    assert!(grown < 2 << 20, "{grown} bytes for 250 reloads");
}

#[test]
fn nobody_in_the_sandbox_takes_over_what_a_config_map_brings() {
    if !getuid().is_root() {
        return tools::lack("only root can become nobody");
    }
    let upstream = Upstream::echo();
    // Loopback has addresses enough for one that nobody else uses.
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = SocketAddr::from(([127, 78, high, low], 443));
    let sandboxed = |listeners: &str, name| {
        format!("{}user: nobody\nsandbox: require\n", yaml(listeners, &[(name, upstream.address())]))
    };
    let gate = GateProcess::start(&sandboxed(ONE, "a.test"));
    // From now on the file is what a ConfigMap's is: a link to a link that is exchanged.
    let folder = gate.config().parent().unwrap().to_owned();
    let version = |version: &str, text: &str| {
        fs::create_dir(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("snigate.yaml"), text).unwrap();
        symlink(version, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    version("..1", &sandboxed(ONE, "b.test"));
    symlink("..data/snigate.yaml", folder.join("link")).unwrap();
    fs::rename(folder.join("link"), gate.config()).unwrap();
    wait_until("the link is followed", || client(gate.address(), "b.test").is_ok());
    version("..2", &sandboxed(&format!("{ONE}, {{ address: '{address}' }}"), "b.test"));
    wait_until("its exchange too, and nobody binds port 443", || {
        TcpStream::connect(address).is_ok() && client(address, "b.test").is_ok()
    });
}
