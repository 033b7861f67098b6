//! `admin`: where the gate answers questions about itself, and whom.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_yaml::Value;

use super::document::{ListenerEntry, each_once};
use super::mistakes::Collector;
use super::section::Node;
use super::values;
use crate::server_name::ServerName;

/// Where the gate answers questions about itself, and whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub address: AdminAddress,
    /// The file with the token that whoever asks has to send, but for health.
    pub token_file: Option<PathBuf>,
    /// Names and addresses by which it may be asked, beside its own address and `localhost`.
    pub hosts: Vec<Host>,
}

/// A place to listen that not everybody has to be able to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A local socket at this path.
    Unix(PathBuf),
}

/// A host as a URL names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// By name.
    Name(ServerName),
    /// By address.
    Ip(IpAddr),
}

const UNIX: &str = "unix:";

impl AdminAddress {
    /// Whether only this host can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => super::ListenAddress(*address).fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

pub(super) fn read(node: &Node<'_>) -> Option<Admin> {
    let admin = node.section(|keys| {
        let address = keys.needed("address").and_then(|node| node.read(address));
        let token_file = keys.optional("token_file").map(|node| node.read(absolute_path));
        let hosts = keys.optional("hosts").map_or_else(Vec::new, |node| each_once(&node.items(), host));
        (address, token_file, hosts)
    })?;
    let (Some(address), token_file, hosts) = admin else { return None };
    if !address.is_local() && token_file.is_none() {
        let remedy = "name a `token_file`, or listen on `127.0.0.1` or at `unix:/path`";
        node.mistaken(format!("`{address}` can be reached from elsewhere, and without a token by anybody: {remedy}"));
    }
    Some(Admin { address, token_file: token_file.flatten(), hosts })
}

/// Whether a listener is in the way.
pub(super) fn check(admin: Option<&Admin>, listeners: &[ListenerEntry], collector: &Collector) {
    let Some(AdminAddress::Tcp(own)) = admin.map(|admin| &admin.address) else { return };
    for listener in listeners {
        let Some(address) = listener.address.map(|address| address.socket_addr()) else { continue };
        let meet = address.ip() == own.ip() || address.ip().is_unspecified() || own.ip().is_unspecified();
        if own.port() != 0 && own.port() == address.port() && meet {
            collector.add("admin.address", format!("is taken by {} already: choose another port", listener.path));
        }
    }
}

fn address(value: &Value) -> Result<AdminAddress, String> {
    match value.as_str().and_then(|text| text.strip_prefix(UNIX)) {
        Some(path) if Path::new(path).is_absolute() => Ok(AdminAddress::Unix(path.into())),
        Some(path) => Err(format!("{path:?} is no absolute path: write one such as `unix:/run/snigate/admin.sock`")),
        None => values::listen_address(value).map(|address| AdminAddress::Tcp(address.socket_addr())),
    }
}

fn absolute_path(value: &Value) -> Result<PathBuf, String> {
    let text = values::text(value)?;
    let path = Path::new(text);
    if path.is_absolute() { Ok(path.to_owned()) } else { Err(format!("{text:?} is no absolute path")) }
}

fn host(value: &Value) -> Result<Host, String> {
    let text = values::text(value)?;
    if let Ok(address) = text.parse() {
        return Ok(Host::Ip(address));
    }
    text.parse().map(Host::Name).map_err(|error| format!("{text:?} is no host (write it without a port): it {error}"))
}
