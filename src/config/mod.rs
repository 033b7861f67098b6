//! The configuration: YAML text → [`Config`] of parsed types, or every mistake at once.
//!
//! Read top to bottom: `tree` turns text into a YAML tree, `document` reads the tree's sections key by key (with
//! `section` for mappings and `values` for single values), `check` compares the parts with one another and builds the
//! route tables, `warnings` looks for what is allowed and yet probably not meant. None of them stops at the first
//! mistake. (`admin`, `drain`, `health_check`, `limits`, `power` and `proxy_protocol` are sections of `document`; `credentials`
//! reads the PEM files that one of them names, and `files` notices when files change.)
//! `print` is the way back: a [`Config`] displays as the YAML that it is in effect. `kubeconfig` is about the file of
//! another program, which users of a route have.

mod admin;
mod check;
pub mod credentials;
mod difference;
mod document;
mod drain;
pub mod explain;
pub mod files;
mod health_check;
pub mod kubeconfig;
mod limits;
mod mistakes;
mod paths;
mod power;
mod print;
mod proxy_protocol;
mod section;
#[cfg(test)]
mod tests;
mod tree;
mod upstream;
mod values;
mod warnings;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

pub use admin::{Admin, AdminAddress, Host};
pub use difference::Difference;
pub use drain::Drain;
pub use health_check::{Authorities, ClientFiles, HealthCheck, HttpQuestion, Pin, Question, TlsQuestion};
pub use limits::Limits;
pub use mistakes::{LoadError, Mistake, Mistakes};
pub(crate) use mistakes::{counted, suggestion};
pub use power::{Power, Sandbox, User};
pub(crate) use print::quoted;
pub use proxy_protocol::TrustedProxies;
pub use warnings::Warning;

use crate::proxy_protocol::Version;
pub use crate::routing::Established;
use crate::routing::{Route, RouteTable, SourceList};

/// A duration as a configuration would write it.
pub(crate) fn span(duration: Duration) -> impl fmt::Display {
    values::Span(duration)
}

/// Everything the operator decided, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients are accepted.
    pub listeners: Vec<Listener>,
    /// Which clients go where.
    pub routes: Vec<Arc<Route>>,
    /// Where they can go; [`crate::routing::UpstreamId`] counts in this list.
    pub upstreams: Vec<Upstream>,
    /// What becomes of connections that another configuration refuses, where their route says nothing else.
    pub on_route_change: Established,
    /// How much there may be of everything.
    pub limits: Limits,
    /// How long it takes its leave.
    pub drain: Drain,
    /// Who is asked for names.
    pub dns: Dns,
    /// Where it answers questions about itself, if it does.
    pub admin: Option<Admin>,
    /// What is logged, and how.
    pub log: Log,
    /// How many worker threads there are.
    pub workers: NonZeroUsize,
    /// What power the process keeps.
    pub power: Power,
    /// Where a newer process finds this one, to take its listening sockets over; without it none can.
    pub upgrade_socket: Option<PathBuf>,
    /// What is allowed and yet probably not meant.
    pub warnings: Vec<Warning>,
    /// The networks of each route, as written: its source list keeps only what follows from them.
    route_networks: Vec<Networks>,
}

/// A bound address on which clients are accepted.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name in log, metrics and messages.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: ListenAddress,
    /// Whether an IPv6 socket leaves IPv4 clients alone.
    pub v6_only: bool,
    /// How clients learn that they are refused.
    pub reject: Reject,
    /// How long a client may take from accept to a complete ClientHello.
    pub client_hello_timeout: Duration,
    /// The longest ClientHello, in bytes.
    pub max_client_hello: usize,
    /// Who may connect if a PROXY header has to come first; without it none may come.
    pub proxy_protocol: Option<TrustedProxies>,
    /// The sources it accepts at all, whatever the routes say.
    pub sources: SourceList,
    /// Its routes.
    pub table: Arc<RouteTable>,
    networks: Networks,
}

/// `allow` and `deny` as written.
#[derive(Clone, Debug)]
struct Networks {
    allow: Option<Vec<IpNet>>,
    deny: Vec<IpNet>,
}

/// An IP address and port to listen on; `:6443` stands for `[::]:6443`, which takes IPv4 as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress(SocketAddr);

/// How clients learn that they are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// By a TLS alert where it helps them, else by a close.
    Alert,
    /// By a FIN.
    Close,
    /// By a RST.
    Reset,
}

/// A named set of endpoints, and how they are connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its name in routes, log and metrics.
    pub name: Arc<str>,
    /// Its endpoints; never none.
    pub endpoints: Vec<Endpoint>,
    /// Which of them a connection gets.
    pub balance: Balance,
    /// How long an endpoint that came back takes to its full share; zero gives it at once.
    pub slow_start: Duration,
    /// How long one connect may take.
    pub connect_timeout: Duration,
    /// How many endpoints are tried at most for one client.
    pub attempts: NonZeroUsize,
    /// How many connects may be under way at once.
    pub max_connecting: NonZeroUsize,
    /// How long sent bytes may stay unacknowledged; zero leaves it to the kernel.
    pub user_timeout: Duration,
    /// The addresses of this host that connections come from, in turn; none leaves it to the kernel.
    pub source_addresses: Vec<IpAddr>,
    /// The PROXY header that endpoints get before the client's own bytes.
    pub proxy_protocol: Option<Version>,
    /// What becomes of connections to an endpoint that its name no longer leads to.
    pub on_removed: Established,
    /// How endpoints are asked whether they are well; without it only connecting shows that.
    pub health_check: Option<HealthCheck>,
    /// What becomes of the connections of an endpoint that is no longer well.
    pub on_unhealthy: Established,
}

/// How connections are shared out among endpoints, each by its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// To the one with fewest connections.
    LeastConnections,
    /// In turn.
    RoundRobin,
    /// By lot.
    Random,
    /// By the client's address, so that a client finds the same one again, through any instance.
    SourceHash,
}

/// One entry of an upstream's endpoints. A name stands for all its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: EndpointAddress,
    /// Its share of the connections, 1 to 256, relative to the other endpoints; SRV records bring their own.
    pub weight: u32,
    /// Whether it is used only when no other endpoint can be.
    pub backup: bool,
}

/// Where an endpoint is, as written. Names are in lower case, with the dot at their end if they were written with one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// An IP address and a port, never zero.
    Ip(SocketAddr),
    /// A host name and a port, never zero.
    Name(Box<str>, u16),
    /// The name of SRV records, which say hosts, ports and weights.
    Service(Box<str>),
}

/// Who is asked for names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// In place of the servers of `/etc/resolv.conf`, unless there is none here.
    pub servers: Vec<SocketAddr>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// The least level of messages.
    pub level: tracing::Level,
    /// Whether each connection leaves a line.
    pub access: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        let collector = mistakes::Collector::default();
        let document = tree::read(text, &collector).and_then(|tree| document::read(&tree, &collector));
        let config = document.map(|document| check::assemble(document, &collector));
        let mut config = collector.finish(config)?;
        config.warnings = warnings::of(&config);
        Ok(config)
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// Why there is no text, or everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let text =
            std::fs::read_to_string(path).map_err(|reason| LoadError::Unreadable { path: path.to_owned(), reason })?;
        Self::parse(&text).map_err(|mistakes| LoadError::Wrong { path: path.to_owned(), mistakes })
    }
}

impl ListenAddress {
    /// The address to bind.
    pub fn socket_addr(&self) -> SocketAddr {
        self.0
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SocketAddr::V6(address) if address.ip().is_unspecified() => write!(f, ":{}", address.port()),
            address => write!(f, "{address}"),
        }
    }
}

impl EndpointAddress {
    /// Its port, unless SRV records say that.
    fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => Some(address.port()),
            Self::Name(_, port) => Some(*port),
            Self::Service(_) => None,
        }
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Service(name) => f.write_str(name),
        }
    }
}
