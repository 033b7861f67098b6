//! What is printed: the routing table that comes of an import, and what is to be said of it.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::notes::Note;
use crate::server_name::ServerNamePattern;

/// A routing table made from the configuration of another proxy.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// What the source is called.
    pub source: String,
    /// What became of lines of the source.
    pub notes: Vec<Note>,
    pub(super) listeners: Vec<Listener>,
    pub(super) routes: Vec<Route>,
    pub(super) upstreams: Vec<Upstream>,
    pub(super) max_connections: Option<(usize, usize)>,
    pub(super) dns: Vec<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) v6_only: bool,
    pub(super) hello_timeout: Option<Duration>,
    pub(super) trusted: Option<Vec<IpNet>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The lines that say so.
    pub(super) lines: Vec<usize>,
    /// What is to be known of it.
    pub(super) remarks: Vec<String>,
    /// Whether it holds; else it is printed as a comment.
    pub(super) in_force: bool,
    pub(super) name: String,
    pub(super) server_names: Vec<ServerNamePattern>,
    pub(super) no_server_name: bool,
    pub(super) listeners: Option<Vec<String>>,
    pub(super) allow: Vec<IpNet>,
    pub(super) deny: Vec<IpNet>,
    pub(super) upstream: String,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) half_close_timeout: Option<Duration>,
    pub(super) connections: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upstream {
    pub(super) lines: Vec<usize>,
    pub(super) remarks: Vec<String>,
    pub(super) name: String,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) balance: Option<&'static str>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) attempts: Option<u32>,
    pub(super) header: Option<&'static str>,
    pub(super) check: Option<Check>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) line: usize,
    /// Whether the address is the name of SRV records.
    pub(super) service: bool,
    pub(super) address: String,
    pub(super) weight: u32,
    pub(super) backup: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) question: Question,
    pub(super) authorities: Option<Authorities>,
    pub(super) server_name: Option<String>,
    pub(super) interval: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) rise: Option<u32>,
    pub(super) fall: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Tcp,
    Tls,
    Https { path: String, statuses: Vec<u16> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Authorities {
    File(String),
    System,
}

impl Table {
    /// How many routes hold, and how many are comments for want of knowledge.
    pub fn routes(&self) -> (usize, usize) {
        let in_force = self.routes.iter().filter(|route| route.in_force).count();
        (in_force, self.routes.len() - in_force)
    }

    /// The listeners and the upstreams, counted.
    pub fn parts(&self) -> (usize, usize) {
        (self.listeners.len(), self.upstreams.len())
    }
}
