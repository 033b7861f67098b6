//! `user`, `sandbox` and `sandbox_ports`: what power the process keeps.

use std::fmt;
use std::str::FromStr;

use serde_yaml::Value;

use super::document::ListenerEntry;
use super::mistakes::Collector;
use super::section::Section;
use super::{EndpointAddress, Upstream, values};

/// What power the process keeps once it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Power {
    /// Whom a process that was started as root becomes; without it, it stays who it is.
    pub user: Option<User>,
    /// Whether it gives up what it does not need of the kernel.
    pub sandbox: Sandbox,
    /// Whether it also gives up the TCP ports that this configuration does not name.
    pub sandbox_ports: bool,
}

/// A user of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// As `/etc/passwd` knows it.
    Name(Box<str>),
    /// By the numbers of user and group.
    Numbers(u32, u32),
}

/// How much the process gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// What this kernel lets it give up.
    Auto,
    /// Nothing.
    Off,
    /// Everything, or it does not start.
    Require,
}

pub(super) const SANDBOX: [(&str, Sandbox); 3] =
    [("auto", Sandbox::Auto), ("off", Sandbox::Off), ("require", Sandbox::Require)];

/// useradd(8) makes no longer names.
const LONGEST_USER: usize = 32;

impl FromStr for User {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((user, group)) = text.split_once(':') {
            let numbers = number(user).zip(number(group)).map(|(user, group)| Self::Numbers(user, group));
            return numbers.ok_or("is no user: write a name, or the numbers of user and group, such as `65534:65534`");
        }
        if number(text).is_some() {
            return Err("lacks the group: write the numbers of both, such as `65534:65534`");
        }
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-$".contains(&byte);
        let is_name = (1..=LONGEST_USER).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(known);
        if is_name { Ok(Self::Name(text.into())) } else { Err("is no name of a user: write one such as `nobody`") }
    }
}

/// The number of a user or group. The largest means "leave it" to the kernel.
fn number(text: &str) -> Option<u32> {
    // `u32` would also take a plus sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|number| *number != u32::MAX)
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Numbers(user, group) => write!(f, "{user}:{group}"),
        }
    }
}

/// Reads the keys, which stand at the top.
pub(super) fn read(keys: &mut Section<'_>) -> Power {
    let user = keys.optional("user").and_then(|node| node.read(user));
    let sandbox = keys.value("sandbox", Sandbox::Auto, values::keyword(&SANDBOX));
    let sandbox_ports = keys.value("sandbox_ports", false, values::boolean);
    Power { user, sandbox, sandbox_ports }
}

/// Whether the ports are known that nothing but them is to be used.
pub(super) fn check(power: &Power, listeners: &[ListenerEntry], upstreams: &[Upstream], collector: &Collector) {
    const PLACE: &str = "sandbox_ports";
    if !power.sandbox_ports {
        return;
    }
    if power.sandbox == Sandbox::Off {
        collector.add(PLACE, "is a part of the sandbox, and that is off: keep one of the two keys");
    }
    let mut endpoints = upstreams.iter().flat_map(|upstream| &upstream.endpoints).map(|endpoint| &endpoint.address);
    if let Some(service) = endpoints.find(|address| matches!(address, EndpointAddress::Service(_))) {
        let remedy = "leave `sandbox_ports` out, or give that endpoint an `address`";
        collector.add(PLACE, format!("SRV records of `{service}` bring ports that are not known yet: {remedy}"));
    }
    let mut addresses = listeners.iter().filter_map(|listener| listener.address);
    if let Some(address) = addresses.find(|address| address.socket_addr().port() == 0) {
        let remedy = "leave `sandbox_ports` out, or choose a port";
        collector.add(PLACE, format!("port 0 of `{address}` stands for one that is not known yet: {remedy}"));
    }
}

fn user(value: &Value) -> Result<User, String> {
    match value {
        Value::Number(number) => Err(format!("lacks the group: write `{number}:{number}` if that is its number too")),
        other => values::parsed(other),
    }
}
