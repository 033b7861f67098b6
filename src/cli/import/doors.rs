//! `bind` lines → the sockets that a frontend accepts on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::conditions::{Entrance, Test};
use super::criteria::{self, Files};
use super::notes::Notes;
use super::sections::{Line, Proxy};
use super::sources::SourceSet;
use super::words::{self, Environment};

/// One socket.
#[derive(Clone, Debug)]
pub(super) struct Door<'s> {
    pub(super) line: &'s Line,
    pub(super) entrance: Entrance,
    pub(super) v6_only: bool,
    /// Its own name, where it has one.
    pub(super) name: Option<String>,
    /// HAProxy knew the names of its certificates, and refused others.
    pub(super) strict: bool,
    /// HAProxy let nobody in who had no certificate.
    pub(super) certificates: bool,
    /// Who is believed in a PROXY header.
    pub(super) trusted: Option<Vec<IpNet>>,
}

impl Door<'_> {
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.entrance.ip, self.entrance.port)
    }
}

/// Parameters of `bind` that a word follows.
const WITH_VALUE: &[&str] = &[
    "crt",
    "crt-list",
    "ca-file",
    "ca-verify-file",
    "ca-sign-file",
    "ca-sign-pass",
    "crl-file",
    "ca-ignore-err",
    "crt-ignore-err",
    "verify",
    "alpn",
    "npn",
    "ciphers",
    "ciphersuites",
    "curves",
    "ecdhe",
    "sigalgs",
    "client-sigalgs",
    "ssl-min-ver",
    "ssl-max-ver",
    "tls-ticket-keys",
    "ocsp-update",
    "name",
    "id",
    "interface",
    "backlog",
    "maxconn",
    "process",
    "thread",
    "shards",
    "nice",
    "mode",
    "user",
    "uid",
    "group",
    "gid",
    "level",
    "severity-output",
    "expose-fd",
    "mss",
    "tcp-ut",
    "proto",
    "namespace",
    "accept-netscaler-cip",
    "guid-prefix",
    "label",
];
/// Of these, what only shapes how HAProxy ended TLS.
const TLS_ONLY: &[&str] = &[
    "crt",
    "crt-list",
    "ca-verify-file",
    "ca-sign-file",
    "ca-sign-pass",
    "ca-ignore-err",
    "crt-ignore-err",
    "alpn",
    "npn",
    "ciphers",
    "ciphersuites",
    "curves",
    "ecdhe",
    "sigalgs",
    "client-sigalgs",
    "ssl-min-ver",
    "ssl-max-ver",
    "tls-ticket-keys",
    "ocsp-update",
    "allow-0rtt",
    "generate-certificates",
    "prefer-client-ciphers",
    "ssl",
    "no-alpn",
];

const ENDED: &str = "no certificate and key are needed any more, and no TLS settings: TLS goes through to the upstream. \
                     Clients see its certificate now, so it has to cover the name that they ask for, and they have to \
                     trust its authority (`certificate-authority` and, for another name, `tls-server-name` of a \
                     kubeconfig). Tokens pass unseen, and client certificates reach the upstream";

/// What the words after the address of one `bind` say.
#[derive(Default)]
struct Told<'l> {
    ended: bool,
    proxied: bool,
    v6_only: bool,
    strict: bool,
    verify: &'l str,
    name: Option<&'l str>,
    /// What narrows whom HAProxy accepts, in a way that is not there.
    narrowed: Option<&'l str>,
    unknown: Vec<&'l str>,
}

/// The sockets of a frontend.
pub(super) fn read<'s>(proxy: &Proxy<'s>, environment: &Environment<'_>, notes: &mut Notes) -> Vec<Door<'s>> {
    let mut doors: Vec<Door<'s>> = Vec::new();
    for line in proxy.all(&["bind"]) {
        let told = told(line);
        notes.carried(line);
        remark(line, &told, notes);
        if let Some(narrowed) = told.narrowed {
            let why = format!("left out, since `{narrowed}` narrows whom it accepts: bind the address that is meant");
            notes.say(line, why);
            continue;
        }
        let expanded = words::expanded(line.word(1), environment).unwrap_or_else(|why| {
            notes.say(line, why);
            String::new()
        });
        for text in expanded.split(',').filter(|text| !text.is_empty()) {
            let found = match addresses(text) {
                Ok(found) => found,
                Err(why) => {
                    notes.say(line, format!("`{text}` is left out: {why}"));
                    continue;
                }
            };
            for (ip, port) in found {
                if doors.iter().any(|door| door.address() == SocketAddr::new(ip, port)) {
                    continue;
                }
                doors.push(Door {
                    line,
                    entrance: Entrance { ip, port, ended: told.ended, proxied: told.proxied },
                    v6_only: told.v6_only && ip.is_ipv6(),
                    name: told.name.map(str::to_owned),
                    strict: told.ended && told.strict,
                    certificates: told.ended && told.verify == "required",
                    trusted: told.proxied.then(|| SourceSet::everybody().networks().to_vec()),
                });
            }
        }
    }
    expect_proxy(proxy, &mut doors, notes);
    doors
}

fn told(line: &Line) -> Told<'_> {
    let mut told = Told::default();
    let mut rest = line.words.iter().skip(2);
    while let Some(word) = rest.next() {
        let value = if WITH_VALUE.contains(&word.as_str()) { rest.next().map(String::as_str) } else { None };
        let value = value.unwrap_or_default();
        match word.as_str() {
            "ssl" => told.ended = true,
            "accept-proxy" => told.proxied = true,
            "v6only" => told.v6_only = true,
            "strict-sni" => told.strict = true,
            "verify" => told.verify = value,
            "name" => told.name = Some(value),
            "interface" | "namespace" | "accept-netscaler-cip" => told.narrowed = Some(word),
            "v4v6" | "ca-file" | "crl-file" | "defer-accept" | "id" => {}
            other if TLS_ONLY.contains(&other) || other.starts_with("no-") || other.starts_with("force-") => {}
            other => told.unknown.push(other),
        }
    }
    told
}

fn remark(line: &Line, told: &Told<'_>, notes: &mut Notes) {
    if told.ended {
        notes.say(line, ENDED);
    }
    if told.proxied {
        let why = "HAProxy believed every PROXY header: write the networks of your balancers under `trusted`, or any \
                   client can pass for another";
        notes.say(line, why);
    }
    match told.verify {
        "required" => notes.say(
            line,
            "HAProxy let in only clients with a certificate; here the upstream has to. Routes from here are left out until \
             you know that it does",
        ),
        "optional" => notes.say(line, "clients' certificates reach the upstream, which has to ask for them itself"),
        _ => {}
    }
    if told.ended && told.strict {
        let why = "`strict-sni` let in only names that its certificates cover: routes for exact names are the same, \
                   wider ones are left out";
        notes.say(line, why);
    }
    if !told.unknown.is_empty() {
        notes.say(line, format!("`{}` has no counterpart here", told.unknown.join("`, `")));
    }
}

/// `tcp-request connection expect-proxy layer4 if { src … }`: the same as `accept-proxy` from these sources.
fn expect_proxy(proxy: &Proxy<'_>, doors: &mut [Door<'_>], notes: &mut Notes) {
    for line in proxy.all(&["tcp-request", "connection", "expect-proxy"]) {
        let inner: Vec<String> = line.words.iter().skip(6).take_while(|word| *word != "}").cloned().collect();
        let test = criteria::read(&inner, &Files::new(), &mut Vec::new());
        let (true, Ok(Test::Source(sources))) =
            (line.begins(&["tcp-request", "connection", "expect-proxy", "layer4", "if"]), test)
        else {
            notes.say(line, "left out: write the balancers under `proxy_protocol: { trusted: […] }` of the listener");
            continue;
        };
        let why = "with `proxy_protocol` a header is required, and only these sources may connect: give others a listener \
                   of their own";
        notes.say(line, why);
        for door in doors.iter_mut() {
            door.trusted = Some(sources.networks().to_vec());
            door.entrance.proxied = true;
        }
    }
}

/// The IP addresses and ports that a word of `bind` stands for.
fn addresses(text: &str) -> Result<Vec<(IpAddr, u16)>, &'static str> {
    const MOST: u16 = 64;
    let (family, text) = match text.split_once('@') {
        Some((family @ ("ipv4" | "tcp4" | "tcp"), rest)) => (family, rest),
        Some((family @ ("ipv6" | "tcp6"), rest)) => (family, rest),
        Some(_) => return Err("sockets other than of TCP are not listened on"),
        None if text.starts_with('/') => return Err("sockets other than of TCP are not listened on"),
        None => ("", text),
    };
    let (host, ports) = text.rsplit_once(':').ok_or("it has no port")?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let ip = match host {
        "" | "*" if family.ends_with('6') => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        "" | "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        host => host.parse().map_err(|_| "its host is a name: write the address that it stands for")?,
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let port =
        |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or("its port is no number from 1 to 65535");
    let (first, last) = (port(first)?, port(last)?);
    if last.checked_sub(first).ok_or("its ports end before they begin")? >= MOST {
        return Err("it has more than 64 ports: write the listeners that are needed");
    }
    Ok((first..=last).map(|port| (ip, port)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_haproxy_binds() {
        for (text, expected) in [
            (":6443", &["0.0.0.0:6443"][..]),
            ("*:6443", &["0.0.0.0:6443"]),
            ("10.0.0.1:6443", &["10.0.0.1:6443"]),
            ("[::]:6443", &["[::]:6443"]),
            (":::6443", &["[::]:6443"]),
            ("2001:db8::1:6443", &["[2001:db8::1]:6443"]),
            ("ipv6@:6443", &["[::]:6443"]),
            ("ipv4@10.0.0.1:1-3", &["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"]),
        ] {
            let found: Vec<_> =
                addresses(text).unwrap().into_iter().map(|(ip, port)| SocketAddr::new(ip, port).to_string()).collect();
            assert_eq!(found, expected, "{text}");
        }
        for text in ["unix@/run/x", "/run/x", "6443", "host:6443", ":0", ":1-99999", ":1-100", "fd@3"] {
            assert!(addresses(text).is_err(), "{text}");
        }
    }
}
