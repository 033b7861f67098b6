//! A backend → an upstream: endpoints, balancing, checks.

use std::collections::HashMap;
use std::time::Duration;

use super::checks;
use super::notes::Notes;
use super::sections::Proxy;
use super::servers::{Address, Server};
use super::table::{Endpoint, Upstream};
use super::words;

/// What the rest of the configuration says about a backend.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    /// The ports that its clients come to.
    pub(super) ports: Vec<u16>,
    /// The first exact name that its clients ask for.
    pub(super) public_name: Option<String>,
    /// `ca-base`.
    pub(super) ca_base: Option<String>,
    /// The folder of the source.
    pub(super) folder: String,
}

/// The upstream that a backend becomes, with these of its servers; `None` if none of them can be an endpoint.
pub(super) fn read(
    proxy: &Proxy<'_>,
    name: &str,
    servers: &[Server<'_>],
    around: &Surroundings,
    notes: &mut Notes,
) -> Option<Upstream> {
    let servers = alike(servers, notes);
    let endpoints = endpoints(&servers, around, notes);
    if endpoints.is_empty() {
        return None;
    }
    let mut upstream = Upstream {
        lines: vec![proxy.head.number],
        remarks: Vec::new(),
        name: name.to_owned(),
        balance: balance(proxy, endpoints.len(), notes),
        connect_timeout: connect_timeout(proxy, notes),
        attempts: attempts(proxy, notes),
        header: servers[0].options.header,
        check: None,
        endpoints,
    };
    upstream.check = checks::read(proxy, &servers, around, &mut upstream.remarks, notes);
    Some(upstream)
}

/// Those servers that get the same header before their bytes as the first: an upstream has one kind.
fn alike<'a, 's>(servers: &'a [Server<'s>], notes: &mut Notes) -> Vec<&'a Server<'s>> {
    let header = servers.first().and_then(|server| server.options.header);
    let same = |server: &&Server<'_>| {
        if server.options.header != header {
            let why = "left out: an upstream sends a PROXY header to all of its endpoints or to none; give those that differ \
                       one of their own";
            notes.say(server.line, why);
        }
        server.options.header == header
    };
    servers.iter().filter(same).collect()
}

fn endpoints(servers: &[&Server<'_>], around: &Surroundings, notes: &mut Notes) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for server in servers {
        let (service, address) = match &server.address {
            Address::Service(name) => (true, name.clone()),
            Address::Host(host, port) => {
                let Some(port) = port.or_else(|| own_port(server, around, notes)) else { continue };
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                (false, format!("{}:{port}", host.to_ascii_lowercase()))
            }
        };
        let weight = server.options.weight.unwrap_or(1);
        if weight == 0 {
            notes
                .say(server.line, "left out, since a weight of 0 gets no clients: add it to `endpoints` when it is to");
            continue;
        }
        let weight = weight.clamp(1, 256);
        if let Some(place) = places.get(&address) {
            let first: &mut Endpoint = &mut endpoints[*place];
            first.weight = (first.weight + weight).min(256);
            notes.say(server.line, format!("is the endpoint of line {} again: their weights are added", first.line));
            continue;
        }
        places.insert(address.clone(), endpoints.len());
        endpoints.push(Endpoint { line: server.line.number, service, address, weight, backup: server.options.backup });
    }
    endpoints
}

/// The port of a server that has none of its own.
fn own_port(server: &Server<'_>, around: &Surroundings, notes: &mut Notes) -> Option<u16> {
    match around.ports[..] {
        [port] => {
            notes.say(server.line, format!("has no port: {port} is the one that its clients come to"));
            Some(port)
        }
        _ => {
            notes.say(server.line, "left out: it has no port, and its clients come to more than one; write one");
            None
        }
    }
}

fn balance(proxy: &Proxy<'_>, endpoints: usize, notes: &mut Notes) -> Option<&'static str> {
    let Some(line) = proxy.last(&["balance"]) else {
        // What HAProxy does by itself, where it makes a difference.
        return (endpoints > 1).then_some("round_robin");
    };
    notes.carried(line);
    match line.word(1).split('(').next().unwrap_or_default() {
        "leastconn" => Some("least_connections"),
        "roundrobin" | "static-rr" => Some("round_robin"),
        "random" => Some("random"),
        "source" => Some("source_hash"),
        "hash" if line.word(2) == "src" => Some("source_hash"),
        "first" => {
            notes.say(
                line,
                "nothing fills endpoints one by one: `backup: true` makes one wait for the failure of others",
            );
            None
        }
        _ => {
            notes.say(line, "looks at what is inside TLS: `least_connections`, the default, is in its place");
            None
        }
    }
}

fn connect_timeout(proxy: &Proxy<'_>, notes: &mut Notes) -> Option<Duration> {
    let line = proxy.last(&["timeout", "connect"])?;
    notes.carried(line);
    let time = words::time(line.word(2))?;
    let within = time.clamp(Duration::from_millis(10), Duration::from_secs(60));
    if within != time {
        notes.say(line, "`connect_timeout` goes from 10ms to 1m");
    }
    Some(within)
}

fn attempts(proxy: &Proxy<'_>, notes: &mut Notes) -> Option<u32> {
    let line = proxy.last(&["retries"])?;
    notes.carried(line);
    let retries: u32 = line.word(1).parse().ok()?;
    Some(retries.saturating_add(1).min(10))
}
