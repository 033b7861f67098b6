//! Names to addresses, by a DNS server of our own.

use crate::support::dns::{A, AAAA, DnsServer, REFUSED, Record, Reply, SERVER_FAILURE, SRV, addresses};
use crate::support::{PATIENCE, wait_for, wait_until};
use snigate::config::{Dns, EndpointAddress};
use snigate::upstream::names::{Names, Resolved, Unresolved};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use tempfile::TempDir;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

/// One host's files.
struct Host(TempDir);

impl Host {
    /// One whose DNS servers answer within a second or count as silent, and are asked once.
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        host.resolv_conf("");
        host.hosts("");
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn resolv_conf(&self, lines: &str) {
        let text = format!("search example.test\noptions timeout:1 attempts:1\n{lines}");
        fs::write(self.path("resolv.conf"), text).unwrap();
    }

    fn hosts(&self, text: &str) {
        fs::write(self.path("hosts"), text).unwrap();
    }

    fn names(&self, servers: &[&DnsServer]) -> Names {
        let config = Dns { servers: servers.iter().map(|server| server.address()).collect() };
        Names::on_files(&config, self.path("resolv.conf"), self.path("hosts"))
    }

    /// Resolves once, asking these servers.
    fn resolve(&self, what: &EndpointAddress, servers: &[&DnsServer]) -> Result<Vec<Resolved>, Unresolved> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let names = self.names(servers);
        runtime.block_on(async { timeout(PATIENCE, names.resolve(what)).await }).expect("an answer in time")
    }
}

fn name(name: &str) -> EndpointAddress {
    EndpointAddress::Name(name.into(), 6443)
}

fn service(name: &str) -> EndpointAddress {
    EndpointAddress::Service(name.into())
}

fn texts(resolved: &[Resolved]) -> Vec<String> {
    resolved.iter().map(|one| one.address.to_string()).collect()
}

/// Somebody who follows a name, on a thread of their own, until dropped.
struct Follower {
    told: Arc<Mutex<Vec<Vec<String>>>>,
    nudge: Arc<Notify>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    fn of(what: EndpointAddress, names: Names) -> Self {
        let (told, nudge) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let (stop, stopped) = oneshot::channel();
        let (telling, nudged) = (Arc::clone(&told), Arc::clone(&nudge));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let follow = names.follow(&what, &nudged, |resolved| telling.lock().unwrap().push(texts(&resolved)));
                tokio::select! {
                    _ = follow => {}
                    _ = stopped => {}
                }
            });
        });
        Self { told, nudge, stop: Some(stop), thread: Some(thread) }
    }

    /// Waits for what is told as number `index`, nudging.
    fn told(&self, index: usize) -> Vec<String> {
        wait_for(&format!("list {index}"), || {
            self.nudge.notify_one();
            self.told.lock().unwrap().get(index).cloned()
        })
    }

    /// How often something was told.
    fn count(&self) -> usize {
        self.told.lock().unwrap().len()
    }

    /// Waits until `server` was asked for the A record of `name` so many times more, nudging.
    fn until_asked(&self, server: &DnsServer, name: &str, times: usize) {
        let before = server.asked(name, A);
        wait_until("it is asked for again", || {
            self.nudge.notify_one();
            server.asked(name, A) >= before + times
        });
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().unwrap().join().is_err() && !thread::panicking() {
            panic!("the follower ended by a panic");
        }
    }
}

#[test]
fn both_families_of_a_name_are_told_in_a_fixed_order() {
    let (host, server) = (Host::new(), DnsServer::start());
    server.set("api.test.", A, addresses(&["192.0.2.9", "192.0.2.1", "0.0.0.0", "192.0.2.9"]));
    server.set("api.test.", AAAA, addresses(&["2001:db8::2", "2001:db8::1"]));
    let resolved = host.resolve(&name("api.test"), &[&server]).unwrap();
    let expected = ["[2001:db8::1]:6443", "[2001:db8::2]:6443", "192.0.2.1:6443", "192.0.2.9:6443"];
    assert_eq!(texts(&resolved), expected);
    assert!(resolved.iter().all(|one| &*one.target == "api.test:6443" && (one.weight, one.priority) == (1, 0)));
}

#[test]
fn aliases_are_followed_and_long_answers_come_by_tcp() {
    let (host, server) = (Host::new(), DnsServer::start());
    let alias = Record::Alias("node.test.");
    let node = Record::Address("192.0.2.1".parse().unwrap());
    server.set("whole.test.", A, Reply::Records(600, vec![alias.clone(), node]));
    server.set("part.test.", A, Reply::Records(600, vec![alias]));
    server.set("node.test.", A, addresses(&["192.0.2.1"]));
    for alias in ["whole.test", "part.test"] {
        assert_eq!(texts(&host.resolve(&name(alias), &[&server]).unwrap()), ["192.0.2.1:6443"], "{alias}");
    }
    assert_eq!(server.asked_by_tcp(), 0);
    let many = (1..=200).map(|number| Record::Address([192, 0, 2, number].into())).collect();
    server.set("long.test.", A, Reply::TooLong(600, many));
    assert_eq!(host.resolve(&name("long.test"), &[&server]).unwrap().len(), 200);
    assert_eq!(server.asked_by_tcp(), 1);
}

#[test]
fn srv_records_give_hosts_ports_weights_and_priorities() {
    let (host, server) = (Host::new(), DnsServer::start());
    let record = |priority, weight, port, target| Record::Service { priority, weight, port, target };
    let records = vec![
        record(20, 1, 31_009, "spare.test."),
        record(10, 60, 31_005, "B.test."),
        record(10, 0, 31_001, "a.test."),
        record(10, 5, 31_002, "a.test."),
        record(10, 5, 31_003, "gone.test."),
        record(10, 5, 0, "a.test."),
        record(10, 5, 31_004, "."),
    ];
    server.set("_api._tcp.test.", SRV, Reply::Records(600, records));
    server.set("a.test.", A, addresses(&["192.0.2.1"]));
    server.set("a.test.", AAAA, addresses(&["2001:db8::1"]));
    server.set("b.test.", A, addresses(&["192.0.2.2"]));
    server.set("spare.test.", A, addresses(&["192.0.2.3"]));
    let resolved = host.resolve(&service("_api._tcp.test"), &[&server]).unwrap();
    let told: Vec<_> = resolved
        .iter()
        .map(|one| format!("{} {} of {} weighs {}", one.priority, one.address, one.target, one.weight))
        .collect();
    assert_eq!(
        told,
        [
            "10 [2001:db8::1]:31001 of a.test:31001 weighs 1",
            "10 192.0.2.1:31001 of a.test:31001 weighs 1",
            "10 [2001:db8::1]:31002 of a.test:31002 weighs 5",
            "10 192.0.2.1:31002 of a.test:31002 weighs 5",
            "10 192.0.2.2:31005 of b.test:31005 weighs 60",
            "20 192.0.2.3:31009 of spare.test:31009 weighs 1",
        ]
    );
    assert!(matches!(host.resolve(&service("_none._tcp.test"), &[&server]), Err(Unresolved::NoAddress)));
}

#[test]
fn many_hosts_of_a_service_are_all_looked_up() {
    let (host, server) = (Host::new(), DnsServer::start());
    let target = |number: u8| -> &'static str { Box::leak(format!("n{number}.test.").into_boxed_str()) };
    let records = (1..=100).map(|number| Record::Service { priority: 0, weight: 1, port: 1, target: target(number) });
    server.set("_api._tcp.test.", SRV, Reply::TooLong(600, records.collect()));
    for number in 1..=100 {
        server.set(target(number), A, addresses(&[&format!("192.0.2.{number}")]));
    }
    assert_eq!(host.resolve(&service("_api._tcp.test"), &[&server]).unwrap().len(), 100);
}

#[test]
fn short_names_are_searched_for_as_resolv_conf_says() {
    let (host, server) = (Host::new(), DnsServer::start());
    server.set("api.example.test.", A, addresses(&["192.0.2.1"]));
    assert_eq!(texts(&host.resolve(&name("api"), &[&server]).unwrap()), ["192.0.2.1:6443"]);
    assert_eq!(server.names_asked(), ["api.example.test."]);
    assert!(matches!(host.resolve(&name("api."), &[&server]), Err(Unresolved::NoAddress)));
    server.set("_api._tcp.example.test.", SRV, Reply::Referral);
    server.set("api.other.", A, Reply::Error(REFUSED));
    server.set("api.other.example.test.", A, addresses(&["192.0.2.2"]));
    // Where servers are broken the search goes on; that there is nothing is then not certain.
    assert_eq!(texts(&host.resolve(&name("api.other"), &[&server]).unwrap()), ["192.0.2.2:6443"]);
    server.forget("api.other.example.test.");
    assert!(matches!(host.resolve(&name("api.other"), &[&server]), Err(Unresolved::Trouble(_))));
    // A server that only refers to others does not say that there is nothing.
    assert!(matches!(host.resolve(&service("_api._tcp"), &[&server]), Err(Unresolved::Trouble(_))));
}

#[test]
fn a_silent_server_ends_the_search_and_a_second_one_is_asked_in_its_place() {
    let (host, silent, server) = (Host::new(), DnsServer::start(), DnsServer::start());
    for kind in [A, AAAA] {
        silent.set("api.test.", kind, Reply::Silence);
    }
    server.set("api.test.", A, addresses(&["192.0.2.1"]));
    let trouble = host.resolve(&name("api.test"), &[&silent]).unwrap_err().to_string();
    assert!(trouble.contains("timed out") && trouble.contains(&silent.address().to_string()), "{trouble}");
    assert_eq!(silent.names_asked(), ["api.test."], "another name may not stand in for one that nobody spoke of");
    assert_eq!(texts(&host.resolve(&name("api.test"), &[&silent, &server]).unwrap()), ["192.0.2.1:6443"]);
}

#[test]
fn servers_are_asked_in_their_order_and_the_first_that_says_none_is_believed() {
    let (host, inside, outside) = (Host::new(), DnsServer::start(), DnsServer::start());
    outside.set("api.test.", A, addresses(&["198.51.100.1"]));
    for _ in 0..20 {
        let resolved = host.resolve(&name("api.test."), &[&inside, &outside]);
        assert!(matches!(resolved, Err(Unresolved::NoAddress)), "{resolved:?}");
    }
    assert!(outside.names_asked().is_empty());
    inside.set("api.test.", A, Reply::Error(SERVER_FAILURE));
    let resolved = host.resolve(&name("api.test."), &[&inside, &outside]).unwrap();
    assert_eq!(texts(&resolved), ["198.51.100.1:6443"]);
}

#[test]
fn the_hosts_file_and_localhost_need_no_server() {
    let (host, server) = (Host::new(), DnsServer::start());
    host.hosts("192.0.2.7 api.test # by hand\n2001:db8::7 six.test\n");
    for (text, expected) in [
        ("api.test", &["192.0.2.7:6443"][..]),
        ("api.test.", &["192.0.2.7:6443"]),
        ("six.test", &["[2001:db8::7]:6443"]),
        ("localhost", &["[::1]:6443", "127.0.0.1:6443"]),
    ] {
        assert_eq!(texts(&host.resolve(&name(text), &[&server]).unwrap()), expected, "{text}");
    }
    host.hosts("127.0.0.1 localhost\n");
    assert_eq!(texts(&host.resolve(&name("localhost"), &[&server]).unwrap()), ["127.0.0.1:6443"]);
    assert!(server.names_asked().is_empty());
}

#[test]
fn changes_are_told_and_shuffled_answers_are_none() {
    let (host, server) = (Host::new(), DnsServer::start());
    server.set("api.test.", A, addresses(&["192.0.2.1", "192.0.2.2"]));
    let follower = Follower::of(name("api.test"), host.names(&[&server]));
    assert_eq!(follower.told(0), ["192.0.2.1:6443", "192.0.2.2:6443"]);
    server.set("api.test.", A, addresses(&["192.0.2.2", "192.0.2.1"]));
    follower.until_asked(&server, "api.test.", 2);
    assert_eq!(follower.count(), 1);
    server.set("api.test.", A, addresses(&["192.0.2.3"]));
    assert_eq!(follower.told(1), ["192.0.2.3:6443"]);
    server.set("api.test.", AAAA, addresses(&["2001:db8::1"]));
    assert_eq!(follower.told(2), ["[2001:db8::1]:6443", "192.0.2.3:6443"]);
}

#[test]
fn the_last_good_answer_outlives_failures_silence_and_a_while_of_nothing() {
    let (host, server) = (Host::new(), DnsServer::start());
    server.set("api.test.", A, addresses(&["192.0.2.1"]));
    server.set("api.test.", AAAA, addresses(&["2001:db8::1"]));
    let follower = Follower::of(name("api.test"), host.names(&[&server]));
    assert_eq!(follower.told(0), ["[2001:db8::1]:6443", "192.0.2.1:6443"]);
    for reply in [Reply::Error(SERVER_FAILURE), Reply::Silence, Reply::NoData] {
        for kind in [A, AAAA] {
            server.set("api.test.", kind, reply.clone());
        }
        follower.until_asked(&server, "api.test.", 2);
    }
    server.forget("api.test.");
    follower.until_asked(&server, "api.test.", 2);
    assert_eq!(follower.count(), 1);
    server.set("api.test.", A, addresses(&["192.0.2.2"]));
    assert_eq!(follower.told(1), ["192.0.2.2:6443"]);
}

#[test]
fn a_family_that_cannot_be_learnt_keeps_its_addresses_and_holds_the_other_up_for_a_moment_only() {
    let (host, server) = (Host::new(), DnsServer::start());
    host.resolv_conf("options timeout:30 attempts:5\n");
    server.set("api.test.", A, addresses(&["192.0.2.1"]));
    server.set("api.test.", AAAA, Reply::Silence);
    assert_eq!(texts(&host.resolve(&name("api.test"), &[&server]).unwrap()), ["192.0.2.1:6443"]);
    server.set("api.test.", AAAA, addresses(&["2001:db8::1"]));
    let follower = Follower::of(name("api.test"), host.names(&[&server]));
    assert_eq!(follower.told(0), ["[2001:db8::1]:6443", "192.0.2.1:6443"]);
    server.set("api.test.", AAAA, Reply::Error(SERVER_FAILURE));
    server.set("api.test.", A, addresses(&["192.0.2.2"]));
    assert_eq!(follower.told(1), ["[2001:db8::1]:6443", "192.0.2.2:6443"]);
}

#[test]
fn a_host_of_a_service_that_cannot_be_learnt_keeps_its_addresses() {
    let (host, server) = (Host::new(), DnsServer::start());
    let record = |target| Record::Service { priority: 0, weight: 1, port: 1, target };
    server.set("_api._tcp.test.", SRV, Reply::Records(600, vec![record("a.test."), record("b.test.")]));
    server.set("a.test.", A, addresses(&["192.0.2.1"]));
    server.set("b.test.", A, addresses(&["192.0.2.2"]));
    let follower = Follower::of(service("_api._tcp.test"), host.names(&[&server]));
    assert_eq!(follower.told(0), ["192.0.2.1:1", "192.0.2.2:1"]);
    server.set("a.test.", A, Reply::Error(SERVER_FAILURE));
    server.set("b.test.", A, addresses(&["192.0.2.3"]));
    assert_eq!(follower.told(1), ["192.0.2.1:1", "192.0.2.3:1"]);
    server.set("_api._tcp.test.", SRV, Reply::Records(600, vec![record("b.test.")]));
    assert_eq!(follower.told(2), ["192.0.2.3:1"]);
}

#[test]
fn a_name_without_an_answer_is_told_as_nothing_and_then_as_it_comes() {
    let (host, server) = (Host::new(), DnsServer::start());
    server.set("api.test.", A, Reply::Error(SERVER_FAILURE));
    let follower = Follower::of(name("api.test"), host.names(&[&server]));
    assert!(follower.told(0).is_empty());
    server.set("api.test.", A, addresses(&["192.0.2.1"]));
    assert_eq!(follower.told(1), ["192.0.2.1:6443"]);
}

#[test]
fn changed_files_are_read_again() {
    let (host, server) = (Host::new(), DnsServer::start());
    server.set("api.example.test.", A, addresses(&["192.0.2.1"]));
    server.set("api.other.test.", A, addresses(&["192.0.2.2"]));
    let follower = Follower::of(name("api"), host.names(&[&server]));
    assert_eq!(follower.told(0), ["192.0.2.1:6443"]);
    host.resolv_conf("search other.test\n");
    assert_eq!(follower.told(1), ["192.0.2.2:6443"]);
    host.hosts("192.0.2.3 api\n");
    assert_eq!(follower.told(2), ["192.0.2.3:6443"]);
}

#[test]
fn what_a_file_said_stays_when_another_in_its_place_cannot_be_read() {
    let (host, server) = (Host::new(), DnsServer::start());
    server.set("api.example.test.", A, addresses(&["192.0.2.1"]));
    let follower = Follower::of(name("api"), host.names(&[&server]));
    assert_eq!(follower.told(0), ["192.0.2.1:6443"]);
    // Even root cannot read a folder.
    fs::remove_file(host.path("resolv.conf")).unwrap();
    fs::create_dir(host.path("resolv.conf")).unwrap();
    follower.until_asked(&server, "api.example.test.", 2);
    server.set("api.example.test.", A, addresses(&["192.0.2.2"]));
    assert_eq!(follower.told(1), ["192.0.2.2:6443"]);
    fs::remove_dir(host.path("resolv.conf")).unwrap();
    host.resolv_conf("search other.test\n");
    server.set("api.other.test.", A, addresses(&["192.0.2.3"]));
    assert_eq!(follower.told(2), ["192.0.2.3:6443"]);
}
