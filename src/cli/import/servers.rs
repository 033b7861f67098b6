//! `server`, `server-template` and `default-server` lines.

use std::net::IpAddr;
use std::time::Duration;

use super::notes::Notes;
use super::sections::{Line, Proxy};
use super::words::{self, Environment};

/// One server of a backend.
#[derive(Clone, Debug)]
pub(super) struct Server<'s> {
    pub(super) line: &'s Line,
    pub(super) name: String,
    /// Where it is; without a port, that which the client came to.
    pub(super) address: Address,
    pub(super) options: Options,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Host(String, Option<u16>),
    /// The name of SRV records.
    Service(String),
}

/// What the words after the address say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) weight: Option<u32>,
    pub(super) backup: bool,
    pub(super) disabled: bool,
    pub(super) check: bool,
    /// HAProxy speaks TLS to it.
    pub(super) ssl: bool,
    /// At least when it checks.
    pub(super) check_ssl: bool,
    /// Anybody is believed.
    pub(super) unverified: bool,
    pub(super) ca_file: Option<String>,
    pub(super) verify_host: Option<String>,
    pub(super) check_name: Option<String>,
    /// `v1` or `v2`.
    pub(super) header: Option<&'static str>,
    pub(super) interval: Option<Duration>,
    pub(super) rise: Option<u32>,
    pub(super) fall: Option<u32>,
    /// A check of another address or port.
    pub(super) check_elsewhere: bool,
    pub(super) resolvers: Option<String>,
}

/// Parameters that a word follows, and that have no counterpart.
const OTHERS: &[&str] = &[
    "agent-addr",
    "agent-inter",
    "agent-port",
    "agent-send",
    "alpn",
    "check-alpn",
    "check-proto",
    "ciphers",
    "ciphersuites",
    "cookie",
    "crl-file",
    "crt",
    "curves",
    "downinter",
    "error-limit",
    "fastinter",
    "force-tls",
    "id",
    "init-state",
    "log-proto",
    "maxconn",
    "maxqueue",
    "minconn",
    "namespace",
    "npn",
    "observe",
    "on-error",
    "on-marked-down",
    "on-marked-up",
    "pool-low-conn",
    "pool-max-conn",
    "pool-purge-delay",
    "proto",
    "redir",
    "set-proxy-v2-tlv-fmt",
    "shard",
    "sigalgs",
    "slowstart",
    "socks4",
    "source",
    "ssl-max-ver",
    "ssl-min-ver",
    "tcp-ut",
    "track",
    "usesrc",
    "proxy-v2-options",
    "ws",
];

/// The servers of a backend that can be endpoints.
pub(super) fn read<'s>(
    proxy: &Proxy<'s>,
    unverified: bool,
    environment: &Environment<'_>,
    notes: &mut Notes,
) -> Vec<Server<'s>> {
    let mut defaults = Options { unverified, ..Options::default() };
    let mut servers = Vec::new();
    for line in &proxy.lines {
        let place = match line.keyword() {
            "default-server" => {
                notes.carried(line);
                options(line, 1, &mut defaults, notes);
                continue;
            }
            "server" => 2,
            "server-template" => 3,
            _ => continue,
        };
        notes.carried(line);
        let mut own = defaults.clone();
        options(line, place + 1, &mut own, notes);
        let text = words::expanded(line.word(place), environment);
        let address = match text.and_then(|text| address(&text)) {
            Ok(address) => address,
            Err(why) => {
                notes.say(line, format!("left out: {why}"));
                continue;
            }
        };
        if line.keyword() == "server-template" {
            notes.say(line, "a name stands for all its addresses at any time, so that their number is not needed");
        }
        if own.disabled {
            notes.say(line, "left out, since it is disabled: add it to `endpoints` when it is to get clients");
            continue;
        }
        servers.push(Server { line, name: line.word(1).to_owned(), address, options: own });
    }
    servers
}

/// Reads the words of `line` from `place` on over what holds so far.
fn options(line: &Line, place: usize, options: &mut Options, notes: &mut Notes) {
    let mut unknown = Vec::new();
    let mut rest = line.words.iter().skip(place).map(String::as_str).peekable();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().unwrap_or_default().to_owned();
        match word {
            "check" => options.check = true,
            "no-check" => options.check = false,
            "backup" => options.backup = true,
            "no-backup" => options.backup = false,
            "disabled" => options.disabled = true,
            "enabled" => options.disabled = false,
            "ssl" => options.ssl = true,
            "no-ssl" => options.ssl = false,
            "check-ssl" => options.check_ssl = true,
            "no-check-ssl" => options.check_ssl = false,
            "verify" => options.unverified = value() == "none",
            "ca-file" => options.ca_file = Some(value()),
            "verifyhost" => options.verify_host = Some(value()),
            "check-sni" => options.check_name = Some(value()),
            "sni" => sni(line, &value(), options, notes),
            "send-proxy" => options.header = Some("v1"),
            "send-proxy-v2" => options.header = Some("v2"),
            "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => {
                options.header = Some("v2");
                notes.say(line, "its PROXY header has the server name, and nothing of the TLS that goes through");
            }
            "no-send-proxy" | "no-send-proxy-v2" => options.header = None,
            "check-send-proxy" | "no-check-send-proxy" | "no-verifyhost" | "no-agent-check" => {}
            "weight" => options.weight = value().parse().ok(),
            "inter" => options.interval = words::time(&value()),
            "rise" => options.rise = value().parse().ok(),
            "fall" => options.fall = value().parse().ok(),
            "port" | "addr" => {
                value();
                options.check_elsewhere = true;
            }
            "resolvers" => options.resolvers = Some(value()),
            other => {
                let remark = remark(other);
                if remark.is_some() || OTHERS.contains(&other) {
                    value();
                }
                match remark {
                    Some(remark) => notes.say(line, format!("`{other}` {remark}")),
                    None => unknown.push(other),
                }
            }
        }
    }
    if !unknown.is_empty() {
        notes.say(line, format!("`{}` has no counterpart here", unknown.join("`, `")));
    }
}

/// What is to be said of a parameter with a value that means something else here, or nothing.
fn remark(word: &str) -> Option<&'static str> {
    match word {
        "crt" => Some(
            "is no longer shown: each client shows its own certificate, if it has one. For checks see `client_certificate`",
        ),
        "slowstart" => Some("is `slow_start` of an upstream here, 30s by default"),
        "init-addr" | "resolve-prefer" | "resolve-opts" | "resolve-net" => {
            Some("is not needed: nothing waits for DNS, and names are followed as they change")
        }
        "maxconn" | "minconn" | "maxqueue" => {
            Some("is not there for endpoints: see `limits` of a route, and `max_connecting`")
        }
        _ => None,
    }
}

/// The name that HAProxy sent to a server.
fn sni(line: &Line, expression: &str, options: &mut Options, notes: &mut Notes) {
    let literal = expression.strip_prefix("str(").and_then(|rest| rest.strip_suffix(')'));
    match literal {
        Some(name) => {
            options.check_name.get_or_insert_with(|| name.trim_matches(['\'', '"']).to_owned());
            let why = "clients now send their own server name to the upstream; this one stays for checks";
            notes.say(line, why);
        }
        None => notes.say(line, "`sni` is not needed: the upstream gets the server name that the client sends"),
    }
}

/// What HAProxy connects to, if it is a host and a port.
fn address(text: &str) -> Result<Address, String> {
    let text = match text.split_once('@') {
        Some(("ipv4" | "ipv6" | "tcp" | "tcp4" | "tcp6", rest)) => rest,
        Some(_) => return Err(format!("`{text}` is no TCP address")),
        None if text.starts_with('/') => return Err(format!("`{text}` is no TCP address")),
        None => text,
    };
    if text.starts_with('_') {
        return Ok(Address::Service(text.split(':').next().unwrap_or(text).to_owned()));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, port),
        _ => (text, ""),
    };
    let port = match port {
        "" | "0" => None,
        // `+1000` would be relative to the client's.
        port if !port.starts_with('+') && port.parse::<u16>().is_ok() => port.parse().ok(),
        port => return Err(format!("`{port}` is no port from 1 to 65535")),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match host.parse::<IpAddr>() {
        _ if host.is_empty() || host == "*" => {
            Err("clients choose no address here: write the one that is meant".to_owned())
        }
        Ok(ip) if ip.is_unspecified() => Err("clients choose no address here: write the one that is meant".to_owned()),
        _ => Ok(Address::Host(host.to_owned(), port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_and_ports() {
        let host = |host: &str, port| Ok(Address::Host(host.to_owned(), port));
        for (text, expected) in [
            ("10.0.0.7:6443", host("10.0.0.7", Some(6443))),
            ("10.0.0.7", host("10.0.0.7", None)),
            ("api.internal:6443", host("api.internal", Some(6443))),
            ("2001:db8::1:6443", host("2001:db8::1", Some(6443))),
            ("[2001:db8::1]:6443", host("2001:db8::1", Some(6443))),
            ("ipv6@[2001:db8::1]:6443", host("2001:db8::1", Some(6443))),
            ("_api._tcp.mesos", Ok(Address::Service("_api._tcp.mesos".to_owned()))),
        ] {
            assert_eq!(address(text), expected, "{text}");
        }
        for text in ["unix@/run/x", "/run/x", "*:6443", "0.0.0.0:6443", "10.0.0.7:+1000", "10.0.0.7:99999"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
