//! Where users reach the gate.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::server_name::ServerName;

/// The host of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// A name, which clients send as their server name.
    Name(ServerName),
    /// An address, in whose place they send nothing.
    Ip(IpAddr),
}

/// `HOST` or `HOST:PORT`, as `--server` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublicAddress {
    pub(super) host: Host,
    pub(super) port: Option<NonZeroU16>,
}

impl Host {
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        text.parse().map(Self::Name).map_err(|error| format!("the host {text:?} {error}"))
    }
}

/// As in a URL.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Ip(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl FromStr for PublicAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // An IPv6 address may come bare when no port follows.
        if let Ok(address) = text.parse() {
            return Ok(Self { host: Host::Ip(address), port: None });
        }
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, rest)) => {
                let address = address.parse().map_err(|_| format!("{address:?} is no IPv6 address"))?;
                let port =
                    if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or("expected HOST:PORT")?) };
                (Host::Ip(IpAddr::V6(address)), port)
            }
            None => {
                let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
                (Host::parse(host)?, port)
            }
        };
        let number = |port: &str| port.parse().map_err(|_| format!("{port:?} is no port from 1 to 65535"));
        Ok(Self { host, port: port.map(number).transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_a_port() {
        for (text, host, port) in [
            ("Kube.Example.com.", "kube.example.com", None),
            ("kube:443", "kube", Some(443)),
            ("203.0.113.10", "203.0.113.10", None),
            ("203.0.113.10:6443", "203.0.113.10", Some(6443)),
            ("2001:db8::1", "[2001:db8::1]", None),
            ("[2001:db8::1]", "[2001:db8::1]", None),
            ("[2001:db8::1]:6443", "[2001:db8::1]", Some(6443)),
        ] {
            let read: PublicAddress = text.parse().unwrap();
            assert_eq!((read.host.to_string().as_str(), read.port.map(NonZeroU16::get)), (host, port), "{text}");
        }
        for wrong in
            ["", ":6443", "a:", "a:0", "a:65536", "a:b:1", "[::1]6443", "[1.2.3.4]:1", "https://a", "a b", "1.2"]
        {
            assert!(wrong.parse::<PublicAddress>().is_err(), "{wrong}");
        }
    }
}
