//! Single values: text → durations, sizes, addresses, networks, names. Every error says what was expected.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_yaml::Value;

use super::mistakes::suggestion;
use super::{EndpointAddress, ListenAddress};
use crate::server_name::{InvalidServerName, ServerName};

/// What stands there, for messages.
pub(super) fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing (leave the key out, or give it a value)".to_owned(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {text:?}"),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) | Value::Tagged(_) => "`key: value` lines".to_owned(),
    }
}

pub(super) fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Err(format!("expected text, found the number {number}: put it in quotes")),
        other => Err(format!("expected text, found {}", found(other))),
    }
}

/// Text that its type reads itself.
pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(value: &Value) -> Result<T, String> {
    let text = text(value)?;
    text.parse().map_err(|error| format!("{text:?} {error}"))
}

/// A name of the operator's choice.
pub(super) fn name(value: &Value) -> Result<Arc<str>, String> {
    let name = text(value)?;
    check_name(name).map(|()| name.into())
}

/// Names become labels in log and metrics, and arguments on command lines.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    // As long as the longest server name with `*.` before it, since that is a route's default name.
    if (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(format!("{name:?} is no usable name: write 1 to 255 visible ASCII characters, without spaces"))
}

pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("expected `true` or `false`, found {}", found(value)))
}

/// One word of a closed list.
pub(super) fn keyword<T: Copy>(words: &[(&str, T)]) -> impl Fn(&Value) -> Result<T, String> {
    move |value| {
        let word = text(value)?;
        let known = words.iter().find(|(known, _)| *known == word);
        known.map(|(_, meaning)| *meaning).ok_or_else(|| {
            format!("unknown value {word:?}; {}", suggestion(word, words.iter().map(|(known, _)| *known)))
        })
    }
}

/// A whole number from 1 to `most`.
pub(super) fn count<T: TryFrom<NonZeroUsize>>(most: usize) -> impl Fn(&Value) -> Result<T, String> {
    move |value| {
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        let within = number.filter(|number| *number <= most).and_then(NonZeroUsize::new);
        within
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| format!("expected a whole number from 1 to {most}, found {}", found(value)))
    }
}

/// A [`Duration`] as the configuration writes it: a number and a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span(pub(super) Duration);

impl FromStr for Span {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text).map(Self)
    }
}

impl fmt::Display for Span {
    /// In the largest unit that needs no fraction: `24h`, `90s`, `250ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.as_nanos();
        let units = [(3_600_000_000_000, "h"), (60_000_000_000, "m"), (1_000_000_000, "s"), (1_000_000, "ms")];
        match units.into_iter().find(|(unit, _)| nanoseconds > 0 && nanoseconds.is_multiple_of(*unit)) {
            Some((unit, suffix)) => write!(f, "{}{suffix}", nanoseconds / unit),
            None if nanoseconds == 0 => f.write_str("0s"),
            None => write!(f, "{nanoseconds}ns"),
        }
    }
}

/// A duration within a range.
pub(super) fn duration(shortest: Duration, longest: Duration) -> impl Fn(&Value) -> Result<Duration, String> {
    move |value| {
        let duration = span(value)?;
        if (shortest..=longest).contains(&duration) {
            return Ok(duration);
        }
        let written = value.as_str().unwrap_or("0");
        let months = if written.contains('M') { "; `M` means months, `m` minutes" } else { "" };
        Err(format!("{written:?} is not within {} to {}{months}", Span(shortest), Span(longest)))
    }
}

/// As [`duration`], and `0` for "off".
pub(super) fn duration_or_off(shortest: Duration, longest: Duration) -> impl Fn(&Value) -> Result<Duration, String> {
    move |value| match span(value)? {
        Duration::ZERO => Ok(Duration::ZERO),
        _ => duration(shortest, longest)(value).map_err(|message| format!("{message} (0 turns it off)")),
    }
}

fn span(value: &Value) -> Result<Duration, String> {
    match value {
        // The one number that needs no unit.
        Value::Number(number) if number.as_u64() == Some(0) => Ok(Duration::ZERO),
        Value::Number(number) if number.as_f64() > Some(0.0) => {
            Err(format!("needs a unit: write `{number}s` if seconds are meant"))
        }
        Value::String(text) => text.parse::<Span>().map(|span| span.0).map_err(|_| {
            format!("{text:?} is no duration: write a number and a unit, such as `500ms`, `5s`, `2m` or `24h`")
        }),
        other => Err(format!("expected a duration such as `5s`, found {}", found(other))),
    }
}

const SIZE_UNITS: [(&str, usize); 3] = [("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A size in bytes within a range.
pub(super) fn size(range: RangeInclusive<usize>) -> impl Fn(&Value) -> Result<usize, String> {
    move |value| {
        let size = match value {
            Value::Number(number) if number.is_u64() => {
                Err(format!("needs a unit: write `{number}B` if bytes are meant"))
            }
            Value::String(text) => parse_size(text)
                .ok_or_else(|| format!("{text:?} is no size: write a number and B, KiB or MiB, such as `16KiB`")),
            other => Err(format!("expected a size such as `16KiB`, found {}", found(other))),
        }?;
        if range.contains(&size) {
            return Ok(size);
        }
        let [size, smallest, largest] = [size, *range.start(), *range.end()].map(display_size);
        Err(format!("{size} is not within {smallest} to {largest}"))
    }
}

fn parse_size(text: &str) -> Option<usize> {
    let (number, unit) = SIZE_UNITS.into_iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))?;
    let digits = number.trim_end();
    // `usize` would also take a plus sign.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<usize>().ok()?.checked_mul(unit)).flatten()
}

/// A size in the largest unit that needs no fraction.
pub(super) fn display_size(size: usize) -> String {
    let unit = SIZE_UNITS.into_iter().find(|(_, unit)| size > 0 && size.is_multiple_of(*unit));
    let (suffix, unit) = unit.unwrap_or(("B", 1));
    format!("{}{suffix}", size / unit)
}

/// A network, or one address.
pub(super) fn network(value: &Value) -> Result<IpNet, String> {
    let text = text(value)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let network: IpNet = text
        .parse()
        .map_err(|_| format!("{text:?} is no network: write `203.0.113.0/24`, `2001:db8::/32` or a single address"))?;
    if network.addr() != network.network() {
        let (meant, host) = (network.trunc(), network.addr());
        return Err(format!(
            "{text:?} has address bits behind its prefix: write `{meant}`, or `{host}` for that host alone"
        ));
    }
    Ok(network)
}

/// Where to listen: `:6443`, `10.0.0.1:6443` or `[2001:db8::1]:6443`.
pub(super) fn listen_address(value: &Value) -> Result<ListenAddress, String> {
    if let Value::Number(port) = value {
        return Err(format!("a port alone is not enough: write `\":{port}\"` for every address"));
    }
    let text = text(value)?;
    let address = match text.strip_prefix(':') {
        Some(port) => parse_port(port).map(|port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
        None => text.parse().ok(),
    };
    match address {
        Some(SocketAddr::V6(address)) if address.ip().to_ipv4_mapped().is_some() => {
            Err(format!("{text:?} is an IPv4 address in its IPv6 form: write it as IPv4"))
        }
        Some(address) => Ok(ListenAddress(address)),
        None => Err(format!(
            "{text:?} is no address to listen on: write `:6443` for every address, or an IP address and a port, such \
             as `10.0.0.1:6443` or `[2001:db8::1]:6443`"
        )),
    }
}

/// Where to connect: `host:port`, the host a name or an IP address.
pub(super) fn endpoint_address(value: &Value) -> Result<EndpointAddress, String> {
    let text = text(value)?;
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} has no port: write `{text}:6443`"))?;
    if text.contains("://") {
        return Err(format!("{text:?} is a URL: write `host:port`"));
    }
    if text.parse::<Ipv6Addr>().is_ok() || host.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("{text:?} needs brackets around its IPv6 address, as in `[2001:db8::1]:6443`"));
    }
    let port = parse_port(port).filter(|port| *port != 0);
    let port = port.ok_or_else(|| format!("{text:?} does not end in a port from 1 to 65535"))?;
    endpoint_at(host, port).map_err(|reason| format!("{text:?} is no endpoint: its host {reason}"))
}

fn endpoint_at(host: &str, port: u16) -> Result<EndpointAddress, String> {
    let ip = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => Some(inner.parse::<Ipv6Addr>().map_err(|_| "has brackets, but no IPv6 address in them")?.into()),
        None => host.parse::<IpAddr>().ok(),
    };
    match ip {
        Some(ip) if is_connectable(ip) => Ok(EndpointAddress::Ip(SocketAddr::new(ip, port))),
        Some(_) => Err("is no address that one can connect to".to_owned()),
        None => Ok(EndpointAddress::Name(resolvable(host).map_err(|error| error.to_string())?, port)),
    }
}

/// A name for the resolver. The dot at its end keeps search domains away, so it stays.
fn resolvable(text: &str) -> Result<Box<str>, InvalidServerName> {
    let name: ServerName = text.parse()?;
    let dot = if text.ends_with('.') { "." } else { "" };
    Ok(format!("{name}{dot}").into())
}

fn is_connectable(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}

/// An address of this host to connect from.
pub(super) fn source_address(value: &Value) -> Result<IpAddr, String> {
    let text = text(value)?;
    let address = text.parse::<IpAddr>().ok().filter(|address| is_connectable(*address));
    address.map(|address| address.to_canonical()).ok_or_else(|| {
        format!("{text:?} is no address to connect from: write an IP address of this host, such as `10.0.0.8`, without a port")
    })
}

/// The name of SRV records.
pub(super) fn service(value: &Value) -> Result<EndpointAddress, String> {
    let text = text(value)?;
    if let Some((name, _)) = text.split_once(':') {
        return Err(format!("{text:?} has a port, which SRV records say themselves: write `{name}`"));
    }
    let name = resolvable(text).map_err(|error| match error {
        InvalidServerName::IpLiteral => format!("{text:?} is an IP address: write `address` for it, with a port"),
        error => format!("{text:?} is no name of SRV records: it {error}"),
    })?;
    Ok(EndpointAddress::Service(name))
}

/// Where names are asked for: an IP address, and a port unless it is that of DNS.
pub(super) fn dns_server(value: &Value) -> Result<SocketAddr, String> {
    const DNS: u16 = 53;
    let text = text(value)?;
    let address = text.parse().or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, DNS)));
    address.ok().filter(|address| is_connectable(address.ip()) && address.port() != 0).ok_or_else(|| {
        format!(
            "{text:?} is no address of a DNS server: write an IP address (a name would have to be resolved itself) and \
             its port, such as `10.0.0.2:53` or `[2001:db8::1]:53`"
        )
    })
}

fn parse_port(text: &str) -> Option<u16> {
    // `u16` would also take a plus sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
