//! Hosts with cables between them: network namespaces and veth pairs, for what happens between machines. They are gone with
//! whoever holds them.

use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::{io, panic, thread};

use nix::sched::{CloneFlags, setns, unshare};

use super::gate::GateProcess;
use super::tcp::{self, Upstream, Visit};
use super::tools;

/// The port of everything that listens: each host has its own.
pub const PORT: u16 = 6443;

/// A host: a network namespace, which lives as long as somebody holds it.
pub struct Host(File);

impl Host {
    fn new() -> io::Result<Self> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let host = Self(made.join().unwrap()?);
        host.ip("link set lo up");
        Ok(host)
    }

    /// Does something on this host: sockets opened and programs started by it are there for good.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                what()
            });
            there.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Lets ip(8) do these lines.
    pub fn ip(&self, lines: &str) {
        self.tell(Command::new("ip").args(["-batch", "-"]), lines);
    }

    /// From now on exactly these rules hold for the packets of this host, whatever held before: chains of nft(8) for IPv4
    /// and IPv6.
    pub fn filter(&self, chains: &str) {
        let rules = format!("table inet faults\ndelete table inet faults\ntable inet faults {{\n{chains}\n}}\n");
        self.tell(Command::new("nft").args(["-f", "-"]), &rules);
    }

    /// Packets that come to this host with the port of a service, on either side, get this verdict.
    pub fn on_arrival(&self, verdict: &str) {
        self.filter(&format!(
            "chain arriving {{ type filter hook input priority 0; meta l4proto tcp th dport {PORT} {verdict}; \
             meta l4proto tcp th sport {PORT} {verdict}; }}"
        ));
    }

    /// Packets come and go as they like.
    pub fn clear_filter(&self) {
        self.filter("");
    }

    fn tell(&self, command: &mut Command, lines: &str) {
        let told = self.run(|| tools::run(command, lines));
        assert!(told.status.success(), "{lines}\n{}{}", told.stdout, told.stderr);
    }

    /// Sets a kernel parameter below `/proc/sys/net`.
    pub fn sysctl(&self, name: &str, value: &str) {
        self.run(|| fs::write(format!("/proc/sys/net/{name}"), value))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// A client socket of this host.
    pub fn connect(&self, address: SocketAddr) -> TcpStream {
        self.run(|| tcp::connect(address))
    }

    /// A server on this host, at [`PORT`] of every address.
    pub fn serve(&self, script: impl Fn(TcpStream, &Visit) + Send + Sync + 'static) -> Upstream {
        self.run(|| Upstream::serve(TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap(), script))
    }
}

/// A gate on a host of its own, with a cable to each of the others. No other way leads from one to another.
pub struct Network {
    pub gate: Host,
    pub client: Host,
    pub upstreams: [Host; 2],
}

/// One of the cables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    ToClient,
    ToUpstream(usize),
}

impl Cable {
    fn number(self) -> usize {
        match self {
            Self::ToClient => 0,
            Self::ToUpstream(index) => 1 + index,
        }
    }

    /// The address of the gate's end.
    pub fn near(self, ipv6: bool) -> SocketAddr {
        self.address(1, ipv6)
    }

    /// The address of the other end.
    pub fn far(self, ipv6: bool) -> SocketAddr {
        self.address(2, ipv6)
    }

    fn address(self, host: u8, ipv6: bool) -> SocketAddr {
        let number = u8::try_from(self.number()).unwrap();
        match ipv6 {
            false => (Ipv4Addr::new(10, 80, number, host), PORT).into(),
            true => (Ipv6Addr::new(0xfd80, number.into(), 0, 0, 0, 0, 0, host.into()), PORT).into(),
        }
    }
}

impl Network {
    const CABLES: [Cable; 3] = [Cable::ToClient, Cable::ToUpstream(0), Cable::ToUpstream(1)];

    /// Sets it up; `None`, said aloud, where that is not possible.
    ///
    /// With `SNIGATE_REQUIRE_TOOLS=1` that is a failure.
    pub fn set_up() -> Option<Self> {
        let _tools = (tools::require("ip")?, tools::require("nft")?);
        let hosts = Host::new().and_then(|gate| Ok((gate, Host::new()?, [Host::new()?, Host::new()?])));
        match hosts {
            Ok((gate, client, upstreams)) => {
                let network = Self { gate, client, upstreams };
                Self::CABLES.into_iter().for_each(|cable| network.lay(cable));
                Some(network)
            }
            Err(error) => {
                tools::lack(&format!("no network namespace, for which it takes root: {error}"));
                None
            }
        }
    }

    /// Its ends are `eth0` at the far host and `eth` with its number at the gate. What is sent over it is paced by nothing:
    /// cubic, not whatever this machine has.
    fn lay(&self, cable: Cable) {
        let number = cable.number();
        let gate = format!("/proc/{}/fd/{}", std::process::id(), self.gate.0.as_raw_fd());
        self.far(cable).ip(&format!("link add eth0 type veth peer name eth{number} netns {gate}"));
        let ends = [(self.far(cable), "eth0".to_owned(), 2), (&self.gate, format!("eth{number}"), 1)];
        for (host, name, own) in ends {
            host.ip(&format!(
                "address add 10.80.{number}.{own}/24 dev {name}
                 address add fd80:{number}::{own}/64 dev {name} nodad
                 link set {name} up
                 route replace 10.80.{number}.0/24 dev {name} proto kernel scope link src 10.80.{number}.{own} congctl cubic
                 route replace fd80:{number}::/64 dev {name} proto kernel metric 256 congctl cubic"
            ));
        }
    }

    fn far(&self, cable: Cable) -> &Host {
        match cable {
            Cable::ToClient => &self.client,
            Cable::ToUpstream(index) => &self.upstreams[index],
        }
    }

    /// Pulls a cable out at its far end.
    pub fn cut(&self, cable: Cable) {
        self.far(cable).ip("link set eth0 down");
    }

    /// Puts it in again.
    pub fn mend(&self, cable: Cable) {
        self.far(cable).ip("link set eth0 up");
    }

    /// From now on a cable carries packets of no more than this many bytes, and none is joined to larger ones on the way.
    pub fn narrow(&self, cable: Cable, mtu: u16) {
        for (host, name) in [(self.far(cable), "eth0".to_owned()), (&self.gate, format!("eth{}", cable.number()))] {
            host.ip(&format!("link set {name} mtu {mtu} gso_max_segs 1"));
            host.filter(&format!("chain arriving {{ type filter hook input priority 0; meta length > {mtu} drop; }}"));
        }
    }

    /// A gate of this configuration on its host, with a listener for each family.
    pub fn start_gate(&self, routes_and_upstreams: &str) -> GateProcess {
        let yaml = format!(
            "workers: 2\nlisteners: [{{ address: '0.0.0.0:{PORT}', name: ipv4 }}, \
             {{ address: '[::]:{PORT}', name: ipv6, v6_only: true }}]\n{routes_and_upstreams}"
        );
        self.gate.run(|| GateProcess::start(&yaml))
    }
}
