//! What HAProxy decides for everybody: its rules, asked in its order, for one socket and one region of names, with what
//! is known of the sources only. Where it cannot be told, it is in doubt.

use std::collections::HashMap;

use super::conditions::{Condition, Selected};
use super::doors::Door;
use super::names::Share;
use super::rules::{Action, Lookup, Rule, Rules};
use super::sections::Proxy;
use super::sources::SourceSet;
use crate::routing::Claim;
use crate::server_name::ServerNamePattern;

/// Where clients go: a backend, or one of its servers alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Target {
    pub(super) backend: String,
    pub(super) server: Option<String>,
}

/// What becomes of some clients.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    To(Target),
    /// Rules before might have decided otherwise for some of them: those of these lines.
    Doubted(Target, Vec<usize>),
}

/// Some sources, what becomes of them, and the line that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) sources: SourceSet,
    pub(super) fate: Fate,
    pub(super) line: usize,
}

/// The rules of every frontend and backend, by its name.
pub(super) type AllRules<'s> = HashMap<&'s str, Rules<'s>>;

/// One frontend's decisions.
pub(super) struct Judge<'j, 's> {
    pub(super) frontend: &'j Proxy<'s>,
    pub(super) rules: &'j Rules<'s>,
    pub(super) backends: &'j AllRules<'s>,
    /// What is in doubt whoever comes: backends that clients of this frontend cannot use, and why, as a line.
    pub(super) unusable: &'j HashMap<Target, usize>,
}

/// Sources that may have been decided about by a line.
type Doubts = Vec<(SourceSet, usize)>;

impl Judge<'_, '_> {
    /// What becomes of those who send a name of `region` to `door`; whoever is not in it is refused.
    pub(super) fn judge(&self, door: &Door<'_>, region: &Claim) -> Vec<Part> {
        let everybody = SourceSet::everybody();
        let mut doubts = Doubts::new();
        if door.certificates {
            doubts.push((everybody.clone(), door.line.number));
        }
        if door.strict {
            match region {
                Claim::NoServerName => return Vec::new(),
                Claim::Pattern(ServerNamePattern::Exact(_)) => {}
                Claim::Pattern(_) => doubts.push((everybody.clone(), door.line.number)),
            }
        }
        let open = admitted(self.rules, door, region, everybody, &mut doubts);
        let mut parts = self.chosen(door, region, open, &mut doubts);
        parts = parts.into_iter().flat_map(|part| self.within_backend(door, region, part, &mut doubts)).collect();
        for part in &mut parts {
            if let Fate::To(target) = &part.fate
                && let Some(line) = self.unusable.get(target)
            {
                doubts.push((part.sources.clone(), *line));
            }
        }
        parts.into_iter().flat_map(|part| doubted(part, &doubts)).collect()
    }

    /// The backends that rules choose for `rest`.
    fn chosen(&self, door: &Door<'_>, region: &Claim, mut rest: SourceSet, doubts: &mut Doubts) -> Vec<Part> {
        let mut parts = Vec::new();
        // Who left the rules early, for the default.
        let mut left = SourceSet::nobody();
        for rule in &self.rules.backends {
            let selected = within(&rule.condition, door, region, &rest);
            let mut unsure = selected.perhaps.without(&selected.surely);
            let mut taken = selected.surely;
            match &rule.action {
                Action::Backend(backend) => push(&mut parts, &taken, backend, rule.line.number),
                Action::Lookup(lookup) => match self.looked_up(lookup, door, region) {
                    Found::Backend(backend) => push(&mut parts, &taken, &backend, rule.line.number),
                    Found::Nothing => left = left.or(&taken),
                    Found::Unsure => {
                        unsure = unsure.or(&taken);
                        taken = SourceSet::nobody();
                    }
                },
                _ => {
                    unsure = unsure.or(&taken);
                    taken = SourceSet::nobody();
                }
            }
            rest = rest.without(&taken);
            if !unsure.is_empty() {
                doubts.push((unsure, rule.line.number));
            }
        }
        let rest = rest.or(&left);
        match &self.rules.default {
            Some((line, backend)) => push(&mut parts, &rest, backend, line.number),
            None if self.frontend.serves() => push(&mut parts, &rest, self.frontend.name, self.frontend.head.number),
            None => {}
        }
        parts
    }

    fn looked_up(&self, lookup: &Lookup, door: &Door<'_>, region: &Claim) -> Found {
        if lookup.ended != door.entrance.ended || *region == Claim::NoServerName {
            return Found::Nothing;
        }
        let mut found = lookup.default.as_deref();
        for (name, backend) in &lookup.entries {
            match name.share(region) {
                Share::Nothing => {}
                Share::Part => return Found::Unsure,
                Share::All => {
                    found = Some(backend);
                    break;
                }
            }
        }
        // A backend that does not exist means the default.
        match found.filter(|name| self.backends.contains_key(name)) {
            Some(backend) => Found::Backend(backend.to_owned()),
            None => Found::Nothing,
        }
    }

    /// What the backend's own rules make of those who were led there.
    fn within_backend(&self, door: &Door<'_>, region: &Claim, part: Part, doubts: &mut Doubts) -> Vec<Part> {
        let Fate::To(target) = &part.fate else { return vec![part] };
        let Some(rules) = self.backends.get(target.backend.as_str()) else { return vec![part] };
        let own = self.frontend.serves() && self.frontend.name == target.backend;
        let mut rest = match own {
            // Its rules were asked already.
            true => part.sources.clone(),
            false => admitted(rules, door, region, part.sources.clone(), doubts),
        };
        let mut parts = Vec::new();
        for rule in &rules.servers {
            let Action::Server(server) = &rule.action else { continue };
            let selected = within(&rule.condition, door, region, &rest);
            let target = Target { backend: target.backend.clone(), server: Some(server.clone()) };
            if !selected.surely.is_empty() {
                let fate = Fate::To(target);
                parts.push(Part { sources: selected.surely.clone(), fate, line: rule.line.number });
            }
            let unsure = selected.perhaps.without(&selected.surely);
            rest = rest.without(&selected.surely);
            if !unsure.is_empty() {
                doubts.push((unsure, rule.line.number));
            }
        }
        if !rest.is_empty() {
            parts.push(Part { sources: rest, ..part });
        }
        parts
    }
}

enum Found {
    Backend(String),
    Nothing,
    Unsure,
}

/// Who of `open` gets past the rules that accept and reject.
fn admitted(rules: &Rules<'_>, door: &Door<'_>, region: &Claim, open: SourceSet, doubts: &mut Doubts) -> SourceSet {
    let mut open = open;
    for kind in &rules.admission {
        let mut asked = open.clone();
        for rule in kind {
            let selected = within(&rule.condition, door, region, &asked);
            match rule.action {
                // Who may have been accepted is asked on: that admits fewer.
                Action::Accept => asked = asked.without(&selected.surely),
                Action::Reject => {
                    doubt(selected.perhaps.without(&selected.surely), rule, doubts);
                    asked = asked.without(&selected.surely);
                    open = open.without(&selected.surely);
                }
                _ => doubt(selected.perhaps, rule, doubts),
            }
        }
    }
    open
}

fn doubt(sources: SourceSet, rule: &Rule<'_>, doubts: &mut Doubts) {
    if !sources.is_empty() {
        doubts.push((sources, rule.line.number));
    }
}

/// Whom a condition selects of `sources`.
fn within(condition: &Option<Condition>, door: &Door<'_>, region: &Claim, sources: &SourceSet) -> Selected {
    let all = Selected::everybody();
    let selected = condition.as_ref().map_or(all, |condition| condition.select(region, &door.entrance));
    Selected { surely: selected.surely.and(sources), perhaps: selected.perhaps.and(sources) }
}

fn push(parts: &mut Vec<Part>, sources: &SourceSet, backend: &str, line: usize) {
    if !sources.is_empty() {
        let target = Target { backend: backend.to_owned(), server: None };
        parts.push(Part { sources: sources.clone(), fate: Fate::To(target), line });
    }
}

/// `part`, cut where doubts begin.
fn doubted(part: Part, doubts: &Doubts) -> Vec<Part> {
    let mut parts = vec![part];
    for (sources, line) in doubts {
        let cut = |part: Part| {
            let (inside, outside) = (part.sources.and(sources), part.sources.without(sources));
            let fate = match &part.fate {
                Fate::To(target) => Fate::Doubted(target.clone(), vec![*line]),
                Fate::Doubted(target, lines) if lines.contains(line) => Fate::Doubted(target.clone(), lines.clone()),
                Fate::Doubted(target, lines) => Fate::Doubted(target.clone(), [&lines[..], &[*line]].concat()),
            };
            let inside = Part { sources: inside, fate, line: part.line };
            [inside, Part { sources: outside, ..part }].into_iter().filter(|part| !part.sources.is_empty())
        };
        parts = parts.into_iter().flat_map(cut).collect();
    }
    parts
}
