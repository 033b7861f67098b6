//! What stands beside the decisions: listeners, timeouts, limits, DNS.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::doors::Door;
use super::notes::Notes;
use super::routes::{Entry, EntryKind, Settings, free};
use super::sections::{Kind, Proxy, Section};
use super::servers::Server;
use super::table::{Listener, Table};
use super::words;

/// Adds the listeners of `doors`, and gives back their names.
pub(super) fn listeners(proxy: &Proxy<'_>, doors: &[&Door<'_>], table: &mut Table, notes: &mut Notes) -> Vec<String> {
    let hello_timeout = hello_timeout(proxy, notes);
    let mut names = Vec::new();
    for door in doors {
        let address = door.address();
        if let Some(first) = table.listeners.iter().find(|listener| listener.address == address) {
            notes.say(door.line, format!("`{address}` is left out, since line {} has it already", first.line));
            continue;
        }
        let wanted = door.name.as_deref().unwrap_or(proxy.name);
        let name = free(wanted, |name| table.listeners.iter().any(|listener| listener.name == name));
        names.push(name.clone());
        table.listeners.push(Listener {
            line: door.line.number,
            name,
            address,
            v6_only: door.v6_only,
            hello_timeout,
            trusted: door.trusted.clone(),
        });
    }
    names
}

fn hello_timeout(proxy: &Proxy<'_>, notes: &mut Notes) -> Option<Duration> {
    let line = proxy.last(&["tcp-request", "inspect-delay"])?;
    notes.carried(line);
    let time = words::time(line.word(2))?;
    let within = time.clamp(Duration::from_millis(10), Duration::from_secs(60));
    if within != time {
        notes.say(line, "`client_hello_timeout` goes from 10ms to 1m");
    }
    Some(within)
}

/// Routes of all listeners need not name them; and of `:6443` for both families, one leaves IPv4 to the other.
pub(super) fn names_of_listeners(table: &mut Table, entries: &mut [Entry]) {
    let all = table.listeners.len();
    for entry in entries.iter_mut() {
        entry.listeners = entry.listeners.take().filter(|names| names.len() != all);
    }
    let every_v4 = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    let addresses: Vec<SocketAddr> = table.listeners.iter().map(|listener| listener.address).collect();
    for listener in &mut table.listeners {
        let dual = listener.address.is_ipv6() && listener.address.ip().is_unspecified();
        listener.v6_only |= dual && addresses.contains(&every_v4(listener.address.port()));
    }
}

/// Timeouts and limits of a frontend's routes.
pub(super) fn of_routes(front: &Proxy<'_>, proxies: &[Proxy<'_>], entries: &mut [Entry], notes: &mut Notes) {
    let most = front.last(&["maxconn"]).filter(|_| entries.len() == 1);
    let connections = most.and_then(|line| {
        notes.carried(line);
        line.word(1).parse().ok().filter(|most| *most > 0)
    });
    for entry in entries.iter_mut().filter(|entry| entry.kind != EntryKind::Keeps) {
        let back = proxies.iter().find(|proxy| proxy.serves() && proxy.name == entry.target.backend);
        entry.settings = Settings {
            idle_timeout: idle_timeout(front, back, notes),
            half_close_timeout: half_close_timeout(front, back, notes),
            connections,
        };
    }
}

/// A timeout of a section, its line carried over.
fn timeout(proxy: &Proxy<'_>, name: &str, notes: &mut Notes) -> Option<(Duration, usize)> {
    let line = proxy.last(&["timeout", name])?;
    notes.carried(line);
    Some((words::time(line.word(2))?, line.number))
}

/// That of established connections, which HAProxy calls tunnels; else the shorter of both sides'.
fn idle_timeout(front: &Proxy<'_>, back: Option<&Proxy<'_>>, notes: &mut Notes) -> Option<Duration> {
    const LONGEST: Duration = Duration::from_hours(30 * 24);
    const QUIET: Duration = Duration::from_hours(1);
    let client = timeout(front, "client", notes);
    let server = back.and_then(|back| timeout(back, "server", notes));
    let tunnel = back.and_then(|back| timeout(back, "tunnel", notes));
    let (time, line) = tunnel.or_else(|| client.into_iter().chain(server).min()).filter(|(time, _)| !time.is_zero())?;
    if time > LONGEST {
        notes.say_of(line, "`idle_timeout` goes up to 30 days");
    }
    if time < QUIET {
        let why = "is kept as `idle_timeout`, and cuts `kubectl exec` and `logs -f` that are silent for so long: 24h, the \
                   default, suits them";
        notes.say_of(line, why);
    }
    Some(time.min(LONGEST).max(Duration::from_millis(10)))
}

fn half_close_timeout(front: &Proxy<'_>, back: Option<&Proxy<'_>>, notes: &mut Notes) -> Option<Duration> {
    let client = timeout(front, "client-fin", notes);
    let server = back.and_then(|back| timeout(back, "server-fin", notes));
    let (time, _) = client.into_iter().chain(server).max()?;
    (!time.is_zero()).then(|| time.clamp(Duration::from_millis(10), Duration::from_hours(24)))
}

/// Who is asked for names: the one section that servers name.
pub(super) fn resolvers(
    sections: &[Section],
    servers: &HashMap<&str, Vec<Server<'_>>>,
    table: &mut Table,
    notes: &mut Notes,
) {
    let mut used: Vec<&str> =
        servers.values().flatten().filter_map(|server| server.options.resolvers.as_deref()).collect();
    used.sort_unstable();
    used.dedup();
    for section in sections.iter().filter(|section| section.kind == Kind::Resolvers) {
        let name = section.head.word(1);
        if used != [name] {
            let why = match used.contains(&name) {
                true => "one set of DNS servers serves all names here: write those that know all of them under `dns`",
                false => "no server line names these resolvers",
            };
            notes.say(&section.head, why);
            section.lines.iter().for_each(|line| notes.carried(line));
            continue;
        }
        for line in &section.lines {
            match line.keyword() {
                "nameserver" => match server(line.word(2)) {
                    Some(address) => {
                        notes.carried(line);
                        table.dns.push(address);
                    }
                    None => notes.say(line, "is no IP address and port: write one under `dns`"),
                },
                "parse-resolv-conf" => {
                    notes.say(line, "without `dns`, those of /etc/resolv.conf are asked; with it they are not");
                }
                _ => {}
            }
        }
        table.dns.dedup();
    }
}

fn server(text: &str) -> Option<SocketAddr> {
    const DNS: u16 = 53;
    let text = text.split_once('@').map_or(text, |(_, rest)| rest);
    text.parse().ok().or_else(|| text.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, DNS)))
}
