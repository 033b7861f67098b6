//! What a configuration changes in the one before it, for people.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use super::print::{write_listener, write_route, write_upstream};
use super::{Config, counted};

/// Names that are shown of each kind of change; the rest is counted.
const SHOWN: usize = 5;

/// What one configuration has changed in another. Displays as a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    listeners: Names,
    routes: Names,
    upstreams: Names,
    others: Vec<&'static str>,
    /// What changes only with a restart.
    pub needs_restart: Vec<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    added: Vec<Arc<str>>,
    changed: Vec<Arc<str>>,
    removed: Vec<Arc<str>>,
}

impl Difference {
    /// From `before` to `after`.
    pub fn between(before: &Config, after: &Config) -> Self {
        let mut others = Vec::new();
        if before.drain != after.drain {
            others.push("drain");
        }
        if before.dns != after.dns {
            others.push("dns");
        }
        if before.on_route_change != after.on_route_change {
            others.push("on_route_change");
        }
        if before.limits.counted() != after.limits.counted() {
            others.push("limits");
        }
        let restarts = [
            ("limits", before.limits.planned() != after.limits.planned()),
            ("admin", before.admin != after.admin),
            ("log", before.log != after.log),
            ("workers", before.workers != after.workers),
            ("user, sandbox or sandbox_ports", before.power != after.power),
            ("upgrade_socket", before.upgrade_socket != after.upgrade_socket),
        ];
        let needs_restart = restarts.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect();
        Self {
            listeners: Names::between(&listeners(before), &listeners(after)),
            routes: Names::between(&routes(before), &routes(after)),
            upstreams: Names::between(&upstreams(before), &upstreams(after)),
            others,
            needs_restart,
        }
    }
}

impl Config {
    /// Takes over from the configuration before what cannot change in a running process.
    pub fn keep_what_needs_a_restart(&mut self, before: &Self) {
        self.admin = before.admin.clone();
        self.log = before.log.clone();
        self.workers = before.workers;
        self.power = before.power.clone();
        self.upgrade_socket = before.upgrade_socket.clone();
        self.limits.max_connections = before.limits.max_connections;
        self.limits.undecided = before.limits.undecided;
        self.limits.relay_memory = before.limits.relay_memory;
    }
}

type Texts = BTreeMap<Arc<str>, String>;

fn listeners(config: &Config) -> Texts {
    let text = |listener| written(|text| write_listener(text, listener));
    config.listeners.iter().map(|listener| (Arc::clone(&listener.name), text(listener))).collect()
}

fn routes(config: &Config) -> Texts {
    let routes = config.routes.iter().zip(&config.route_networks);
    let text = |(route, networks): (&Arc<_>, _)| {
        written(|text| write_route(text, route, networks, &config.upstreams[route.upstream.0]))
    };
    routes.map(|route| (Arc::clone(&route.0.name), text(route))).collect()
}

fn upstreams(config: &Config) -> Texts {
    let text = |upstream| written(|text| write_upstream(text, upstream));
    config.upstreams.iter().map(|upstream| (Arc::clone(&upstream.name), text(upstream))).collect()
}

fn written(write: impl FnOnce(&mut dyn fmt::Write) -> fmt::Result) -> String {
    let mut text = String::new();
    // A string takes everything.
    let _ = write(&mut text);
    text
}

impl Names {
    fn between(before: &Texts, after: &Texts) -> Self {
        let names = |texts: &Texts, wanted: &dyn Fn(&Arc<str>, &String) -> bool| {
            texts.iter().filter(|(name, text)| wanted(name, text)).map(|(name, _)| Arc::clone(name)).collect()
        };
        Self {
            added: names(after, &|name, _| !before.contains_key(name)),
            changed: names(after, &|name, text| before.get(name).is_some_and(|before| before != text)),
            removed: names(before, &|name, _| !after.contains_key(name)),
        }
    }

    fn tell(&self, what: &str, told: &mut Vec<String>) {
        for (names, how) in [(&self.added, "added"), (&self.changed, "changed"), (&self.removed, "removed")] {
            if names.is_empty() {
                continue;
            }
            let shown = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let more = if names.len() > SHOWN { ", …" } else { "" };
            told.push(format!("{} {how} ({shown}{more})", counted(names.len(), what)));
        }
    }
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut told = Vec::new();
        self.listeners.tell("listener", &mut told);
        self.routes.tell("route", &mut told);
        self.upstreams.tell("upstream", &mut told);
        told.extend(self.others.iter().map(|key| format!("`{key}` changed")));
        told.extend(self.needs_restart.iter().map(|key| format!("`{key}` needs a restart to change")));
        if told.is_empty() { f.write_str("nothing changed") } else { f.write_str(&told.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "
        listeners: [{ address: ':1', name: one }, { address: ':2', name: two }]
        routes: [{ server_names: [a.test], upstream: u }, { server_names: [b.test], upstream: v }]
        upstreams: { u: { endpoints: ['10.0.0.1:1'] }, v: { endpoints: ['10.0.0.2:1'] } }";

    fn told(changes: &[(&str, &str)]) -> String {
        let after = changes.iter().fold(BEFORE.to_owned(), |text, (from, to)| text.replace(from, to));
        let [before, after] = [BEFORE, &after].map(|text| Config::parse(text).unwrap());
        Difference::between(&before, &after).to_string()
    }

    #[test]
    fn every_change_is_told() {
        assert_eq!(told(&[]), "nothing changed");
        assert_eq!(told(&[("':2', name: two", "':3', name: two")]), "1 listener changed (`two`)");
        assert_eq!(
            told(&[("':2', name: two", "':3', name: three"), ("b.test", "b.test, c.test")]),
            "1 listener added (`three`), 1 listener removed (`two`), 1 route changed (`b.test`)"
        );
        assert_eq!(
            told(&[("upstream: v", "upstream: w"), ("v: {", "w: {")]),
            "1 route changed (`b.test`), 1 upstream added (`w`), 1 upstream removed (`v`)"
        );
        let rest = "upstreams: { u: { balance: random,";
        let log = "log: { level: debug }\n        drain: { grace: 0 }\n        dns: { servers: ['10.0.0.53:53'] }\n        workers: 77\n        ";
        assert_eq!(told(&[("routes:", "on_route_change: close\n        routes:")]), "`on_route_change` changed");
        let on_route_change = ("upstream: v", "upstream: v, on_route_change: close");
        assert_eq!(told(&[on_route_change]), "1 route changed (`b.test`)");
        assert_eq!(
            told(&[("upstreams: { u: {", &format!("{log}upgrade_socket: /a\n        {rest}"))]),
            "1 upstream changed (`u`), `drain` changed, `dns` changed, `log` needs a restart to change, `workers` needs a restart to \
             change, `upgrade_socket` needs a restart to change"
        );
    }

    #[test]
    fn many_names_are_counted() {
        let names: String = (0..9).map(|n| format!(", {{ server_names: [n{n}.test], upstream: u }}")).collect();
        let names = format!("upstream: v }}{names}]");
        assert_eq!(
            told(&[("upstream: v }]", &names)]),
            "9 routes added (`n0.test`, `n1.test`, `n2.test`, `n3.test`, `n4.test`, …)"
        );
    }

    #[test]
    fn a_route_that_leads_elsewhere_has_changed() {
        assert_eq!(told(&[("upstream: v", "upstream: u")]), "1 route changed (`b.test`)");
        let swapped = [("u: { endpoints: ['10.0.0.1", "v: { endpoints: ['10.0.0.2")];
        assert!(told(&swapped[..0]).contains("nothing"));
    }
}
