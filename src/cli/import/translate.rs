//! A whole configuration of HAProxy → the routing table that leads the same clients to the same places.

use std::collections::{BTreeMap, HashMap};

use super::criteria::Files;
use super::decisions::{AllRules, Judge, Part, Target};
use super::doors::{self, Door};
use super::names;
use super::notes::Notes;
use super::routes::{self, Entry};
use super::rules::{Action, Reader, Rules};
use super::sections::{self, Kind, Mistake, Proxy, Section};
use super::servers::{self, Server};
use super::settings;
use super::table::Table;
use super::upstreams::{self, Surroundings};
use super::words::Environment;

/// The configuration of an HAProxy, and what it leans on.
pub struct Source<'s> {
    /// What it is called in comments.
    pub name: &'s str,
    /// Its text.
    pub text: &'s str,
    /// The folder that it is in, absolute.
    pub folder: &'s str,
    /// The files that it names, by these names.
    pub files: &'s Files,
    /// The values of environment variables.
    pub environment: &'s Environment<'s>,
}

/// What is known of the whole file while it is translated.
struct Work<'s> {
    proxies: &'s [Proxy<'s>],
    servers: HashMap<&'s str, Vec<Server<'s>>>,
    rules: AllRules<'s>,
    notes: Notes,
    mistakes: Vec<Mistake>,
}

/// The files that a configuration names in maps and conditions, each with the line that does so first.
///
/// # Errors
/// Every line that cannot be read.
pub fn files_named(text: &str, environment: &Environment<'_>) -> Result<Vec<(usize, String)>, Vec<Mistake>> {
    let sections = sections::read(text, environment)?;
    Ok(super::rules::named_files(sections.iter().flat_map(|section| &section.lines)))
}

/// Translates a configuration.
///
/// # Errors
/// Every line that cannot be read, or that names what does not exist.
pub fn translate(source: &Source<'_>) -> Result<Table, Vec<Mistake>> {
    let sections = sections::read(source.text, source.environment)?;
    let proxies = sections::proxies(&sections)?;
    let mut table = Table { source: source.name.to_owned(), ..Table::default() };
    let mut notes = Notes::default();
    let mut around = Surroundings { folder: source.folder.to_owned(), ..Surroundings::default() };
    let unverified = globals(&sections, &mut table, &mut around, &mut notes);
    let mut work =
        Work { proxies: &proxies, servers: HashMap::new(), rules: AllRules::new(), notes, mistakes: Vec::new() };
    let fronts = work.read(source, unverified);
    let mut entries = Vec::new();
    for (proxy, rules, doors) in &fronts {
        entries.extend(work.front(proxy, rules, doors, &mut table));
    }
    settings::names_of_listeners(&mut table, &mut entries);
    work.upstreams(&entries, &around, &mut table);
    settings::resolvers(&sections, &work.servers, &mut table, &mut work.notes);
    if !work.mistakes.is_empty() {
        work.mistakes.sort_by_key(|mistake| mistake.line);
        return Err(work.mistakes);
    }
    table.notes = work.notes.finish(&sections);
    Ok(table)
}

/// What `global` says; whether servers need not prove who they are by default.
fn globals(sections: &[Section], table: &mut Table, around: &mut Surroundings, notes: &mut Notes) -> bool {
    let mut unverified = false;
    for line in sections.iter().filter(|section| section.kind == Kind::Global).flat_map(|section| &section.lines) {
        match line.keyword() {
            "maxconn" => {
                table.max_connections =
                    line.word(1).parse().ok().filter(|most| *most > 0).map(|most| (most, line.number));
            }
            "ca-base" => around.ca_base = Some(line.word(1).to_owned()),
            "ssl-server-verify" => unverified = line.word(1) == "none",
            "setenv" | "presetenv" => {}
            _ => continue,
        }
        notes.carried(line);
    }
    unverified
}

const WITHOUT_TLS: &str = "is left out: it serves HTTP without TLS, which has no server name to route by";

type Front<'w, 's> = (&'w Proxy<'s>, Rules<'s>, Vec<Door<'s>>);

impl<'s> Work<'s> {
    /// Reads rules, servers and sockets of everything that serves clients of TLS.
    fn read(&mut self, source: &Source<'_>, unverified: bool) -> Vec<Front<'s, 's>> {
        let (live, idle): (Vec<_>, Vec<_>) =
            self.proxies.iter().partition(|proxy| !proxy.lines.iter().any(|line| line.keyword() == "disabled"));
        idle.into_iter().for_each(|proxy| self.leave(proxy, "is disabled, and left out"));
        let backends: Vec<&str> = live.iter().filter(|proxy| proxy.serves()).map(|proxy| proxy.name).collect();
        let mut fronts = Vec::new();
        for proxy in live {
            let mut doors =
                if proxy.accepts() { doors::read(proxy, source.environment, &mut self.notes) } else { Vec::new() };
            if proxy.accepts() && proxy.speaks_http() {
                let (ended, plain): (Vec<_>, _) = doors.into_iter().partition(|door| door.entrance.ended);
                if ended.is_empty() {
                    self.leave(proxy, WITHOUT_TLS);
                    continue;
                }
                plain.iter().for_each(|door| self.notes.say(door.line, WITHOUT_TLS));
                doors = ended;
            }
            proxy.all(&["mode", "tcp"]).for_each(|line| self.notes.carried(line));
            let mut reader = Reader {
                files: source.files,
                backends: &backends,
                notes: &mut self.notes,
                mistakes: &mut self.mistakes,
            };
            let rules = reader.read(proxy);
            if let Some((line, backend)) = &rules.default
                && proxy.accepts()
                && !backends.contains(&backend.as_str())
            {
                let message = format!("there is no backend `{backend}`: write its name right, or leave the line out");
                self.mistakes.push(Mistake { line: line.number, message });
            }
            if proxy.serves() {
                let servers = servers::read(proxy, unverified, source.environment, &mut self.notes);
                self.servers.insert(proxy.name, servers);
                self.rules.insert(proxy.name, rules.clone());
            }
            if proxy.accepts() {
                fronts.push((proxy, rules, doors));
            }
        }
        fronts
    }

    /// Says why a whole section is not there, in place of its lines.
    fn leave(&mut self, proxy: &Proxy<'_>, why: &str) {
        self.notes.say(proxy.head, why);
        proxy.own_lines().for_each(|line| self.notes.carried(line));
    }

    /// The listeners and routes of one frontend.
    fn front(&mut self, proxy: &'s Proxy<'s>, rules: &Rules<'s>, doors: &[Door<'s>], table: &mut Table) -> Vec<Entry> {
        let used: Vec<&Rules<'_>> = self.targets(proxy, rules).filter_map(|name| self.rules.get(name)).collect();
        let all = used.into_iter().chain([rules]);
        let regions = names::regions(all.flat_map(Rules::names));
        let (plain, ended) = (self.unusable(false), self.unusable(true));
        if doors.is_empty() {
            self.notes.say(proxy.head, "no socket of it is carried over, so that no client comes");
        }
        let mut groups: Vec<(Vec<&Door<'_>>, Vec<Vec<Part>>)> = Vec::new();
        for door in doors {
            let unusable = if door.entrance.ended { &ended } else { &plain };
            let judge = Judge { frontend: proxy, rules, backends: &self.rules, unusable };
            let decisions: Vec<_> = regions.iter().map(|region| judge.judge(door, region)).collect();
            match groups.iter_mut().find(|(_, known)| *known == decisions) {
                Some((doors, _)) => doors.push(door),
                None => groups.push((vec![door], decisions)),
            }
        }
        let mut entries = Vec::new();
        for (doors, decisions) in &groups {
            let listeners = settings::listeners(proxy, doors, table, &mut self.notes);
            // Those of another frontend may have all of its addresses.
            if !listeners.is_empty() {
                entries.extend(routes::of(proxy.name, &regions, decisions, &listeners, doors));
            }
            self.remark(proxy, rules, &entries, doors);
        }
        settings::of_routes(proxy, self.proxies, &mut entries, &mut self.notes);
        entries
    }

    /// The backends that a frontend may lead to.
    fn targets<'r>(&self, proxy: &'r Proxy<'s>, rules: &'r Rules<'s>) -> impl Iterator<Item = &'r str> {
        let chosen = rules.backends.iter().flat_map(|rule| match &rule.action {
            Action::Backend(name) => vec![name.as_str()],
            Action::Lookup(lookup) => {
                let values = lookup.entries.iter().map(|(_, backend)| backend.as_str());
                values.chain(lookup.default.as_deref()).collect()
            }
            _ => Vec::new(),
        });
        let default = rules.default.as_ref().map(|(_, name)| name.as_str());
        chosen.chain(default).chain(proxy.serves().then_some(proxy.name))
    }

    /// What clients cannot be led to, and the line that is why.
    fn unusable(&mut self, ended: bool) -> HashMap<Target, usize> {
        let mut unusable = HashMap::new();
        for proxy in self.proxies.iter().filter(|proxy| proxy.serves()) {
            let Some(servers) = self.servers.get(proxy.name) else { continue };
            let target = |server| Target { backend: proxy.name.to_owned(), server };
            if servers.is_empty() {
                unusable.insert(target(None), proxy.head.number);
            }
            for server in servers.iter().filter(|server| ended && !server.options.ssl) {
                unusable.insert(target(None), server.line.number);
                unusable.insert(target(Some(server.name.clone())), server.line.number);
            }
        }
        // Servers that rules name and that were left out.
        for (backend, rules) in &self.rules {
            for rule in &rules.servers {
                let Action::Server(name) = &rule.action else { continue };
                let known =
                    self.servers.get(backend).is_some_and(|servers| servers.iter().any(|one| one.name == *name));
                if !known {
                    let target = Target { backend: (*backend).to_owned(), server: Some(name.clone()) };
                    unusable.insert(target, rule.line.number);
                }
            }
        }
        unusable
    }

    /// What is to be known of the way from a frontend to its servers.
    fn remark(&mut self, proxy: &Proxy<'_>, rules: &Rules<'_>, entries: &[Entry], doors: &[&Door<'_>]) {
        let ended = doors.iter().any(|door| door.entrance.ended);
        if !ended && !rules.asks_for_a_hello() {
            let why = match rules.names().next() {
                None => {
                    "HAProxy passed on whatever came, TLS or not: here a connection begins with a whole ClientHello"
                }
                Some(_) => {
                    "HAProxy was not told to wait for the ClientHello, and may have decided before it knew the name; here \
                     it is always waited for"
                }
            };
            doors.iter().for_each(|door| self.notes.say(door.line, why));
        }
        for entry in entries {
            let servers = self.servers.get(entry.target.backend.as_str()).into_iter().flatten();
            for server in servers {
                match (ended, server.options.ssl) {
                    (true, false) => self.notes.say(
                        server.line,
                        "HAProxy spoke to it without TLS. TLS goes through now, so it has to speak TLS itself: write the \
                         port where it does, and take the comment signs of its routes away",
                    ),
                    (false, true) => self.notes.say(
                        server.line,
                        "HAProxy began TLS of its own towards it; nothing does here, so clients have to speak TLS to it",
                    ),
                    _ => {}
                }
            }
        }
        if entries.is_empty() {
            self.notes.say(proxy.head, "no client of it is led anywhere");
        }
    }

    /// The upstreams that routes lead to, and the routes themselves.
    fn upstreams(&mut self, entries: &[Entry], around: &Surroundings, table: &mut Table) {
        let mut wanted: BTreeMap<&Target, Surroundings> = BTreeMap::new();
        for entry in entries {
            let known = wanted.entry(&entry.target).or_insert_with(|| around.clone());
            for port in entry.ports.iter().filter(|port| !known.ports.contains(port)).collect::<Vec<_>>() {
                known.ports.push(*port);
            }
            known.public_name = known.public_name.take().or_else(|| entry.public_name());
        }
        let mut names: HashMap<&Target, String> = HashMap::new();
        let taken: Vec<&str> = self.servers.keys().copied().collect();
        for (target, around) in wanted {
            let Some(proxy) = self.proxies.iter().find(|proxy| proxy.serves() && proxy.name == target.backend) else {
                continue;
            };
            let servers = self.servers.get(proxy.name).map(Vec::as_slice).unwrap_or_default();
            let mut chosen = servers.to_vec();
            if let Some(only) = &target.server {
                chosen.retain(|server| server.name == *only);
                // Rules choose a server whatever its weight.
                chosen.iter_mut().for_each(|server| server.options.weight = None);
            }
            let name = match &target.server {
                Some(server) => routes::free(&format!("{}-{server}", target.backend), |name| taken.contains(&name)),
                None => target.backend.clone(),
            };
            match upstreams::read(proxy, &name, &chosen, &around, &mut self.notes) {
                Some(upstream) => table.upstreams.push(upstream),
                None => self
                    .notes
                    .say(proxy.head, "left out, with the routes to it: none of its servers can be an endpoint"),
            }
            names.insert(target, name);
        }
        for entry in entries {
            let name = names.get(&entry.target).cloned().unwrap_or_default();
            let there = table.upstreams.iter().any(|upstream| upstream.name == name);
            let route = entry.route(name, there, &table.routes);
            table.routes.push(route);
        }
        for proxy in self.proxies.iter().filter(|proxy| proxy.kind == Kind::Backend) {
            if !entries.iter().any(|entry| entry.target.backend == proxy.name) {
                self.leave(proxy, "is left out: no client of a frontend that was carried over is led there");
            }
        }
    }
}
