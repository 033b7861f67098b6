//! Decisions → routes: who is led to the same place, in one; and those that keep clients from a wider one.

use super::decisions::{Fate, Part, Target};
use super::doors::Door;
use super::names;
use super::sources::SourceSet;
use super::table::Route;
use crate::routing::Claim;
use crate::server_name::ServerNamePattern;

/// A route in the making.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) frontend: String,
    pub(super) kind: EntryKind,
    pub(super) target: Target,
    pub(super) claims: Vec<Claim>,
    pub(super) sources: SourceSet,
    pub(super) lines: Vec<usize>,
    /// The names of its listeners; `None` for all that there are.
    pub(super) listeners: Option<Vec<String>>,
    /// The ports of its listeners.
    pub(super) ports: Vec<u16>,
    pub(super) settings: Settings,
}

/// What a route says beside whom it takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) idle_timeout: Option<std::time::Duration>,
    pub(super) half_close_timeout: Option<std::time::Duration>,
    pub(super) connections: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EntryKind {
    Leads,
    /// Nobody is let in, and nobody comes to a wider route.
    Keeps,
    /// A comment: these lines may have decided otherwise.
    Doubted(Vec<usize>),
}

/// The routes of a frontend's listeners that all decide alike.
pub(super) fn of(
    frontend: &str,
    regions: &[Claim],
    decisions: &[Vec<Part>],
    listeners: &[String],
    doors: &[&Door<'_>],
) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (region, parts) in regions.iter().zip(decisions) {
        // One that was passed over below has the decisions of its own outer region.
        let outer = names::around(region, regions)
            .and_then(|outer| regions.iter().position(|other| other == outer))
            .map(|place| &decisions[place]);
        if outer.is_some_and(|outer| outer == parts) {
            continue;
        }
        for part in parts {
            let (kind, target) = match &part.fate {
                Fate::To(target) => (EntryKind::Leads, target),
                Fate::Doubted(target, lines) => (EntryKind::Doubted(lines.clone()), target),
            };
            add(&mut entries, kind, target, region, part);
        }
        if led(parts).is_none()
            && let Some((outer, target)) = outer.and_then(|outer| led(outer))
        {
            let nobody = Part { sources: SourceSet::nobody(), ..parts.first().unwrap_or(outer).clone() };
            add(&mut entries, EntryKind::Keeps, target, region, &nobody);
        }
    }
    for entry in &mut entries {
        frontend.clone_into(&mut entry.frontend);
        entry.listeners = Some(listeners.to_vec());
        entry.ports = doors.iter().map(|door| door.entrance.port).collect();
        entry.ports.dedup();
        entry.lines.sort_unstable();
        entry.lines.dedup();
    }
    entries.sort_by_key(|entry| (entry.lines.clone(), entry.kind.clone()));
    entries
}

/// Adds `region` to the route that leads the same sources to the same place, or as a new one.
fn add(entries: &mut Vec<Entry>, kind: EntryKind, target: &Target, region: &Claim, part: &Part) {
    let same = |entry: &&mut Entry| {
        // Where those would go whom it keeps away makes no difference.
        let to = entry.target == *target || kind == EntryKind::Keeps;
        entry.kind == kind && to && entry.sources == part.sources
    };
    if let Some(entry) = entries.iter_mut().find(same) {
        entry.claims.push(region.clone());
        entry.lines.push(part.line);
        return;
    }
    entries.push(Entry {
        frontend: String::new(),
        kind,
        target: target.clone(),
        claims: vec![region.clone()],
        sources: part.sources.clone(),
        lines: vec![part.line],
        listeners: None,
        ports: Vec::new(),
        settings: Settings::default(),
    });
}

/// Some of these clients that are led somewhere, and where, if there are any.
fn led(parts: &[Part]) -> Option<(&Part, &Target)> {
    parts.iter().find_map(|part| match &part.fate {
        Fate::To(target) => Some((part, target)),
        Fate::Doubted(..) => None,
    })
}

/// `name`, or the first of `name-2`, `name-3`… that is free.
pub(super) fn free(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let mut candidates = std::iter::once(name.to_owned()).chain((2_usize..).map(|number| format!("{name}-{number}")));
    candidates.find(|candidate| !taken(candidate)).unwrap_or_default()
}

impl Entry {
    /// The first whole name among those that it takes.
    pub(super) fn public_name(&self) -> Option<String> {
        self.claims.iter().find_map(|claim| match claim {
            Claim::Pattern(ServerNamePattern::Exact(name)) => Some(name.to_string()),
            _ => None,
        })
    }

    /// The route to the upstream called so, which may not be there, beside the others.
    pub(super) fn route(&self, upstream: String, there: bool, others: &[Route]) -> Route {
        let base = match &self.kind {
            EntryKind::Keeps => format!("{}-refused", self.frontend),
            _ => upstream.clone(),
        };
        let (allow, deny) = networks(&self.sources);
        let server_names: Vec<_> = self
            .claims
            .iter()
            .filter_map(|claim| match claim {
                Claim::Pattern(pattern) => Some(pattern.clone()),
                Claim::NoServerName => None,
            })
            .collect();
        Route {
            lines: self.lines.clone(),
            remarks: self.remarks(there),
            in_force: there && !matches!(self.kind, EntryKind::Doubted(_)),
            name: free(&base, |name| others.iter().any(|other| other.name == name)),
            no_server_name: self.claims.contains(&Claim::NoServerName),
            server_names,
            listeners: self.listeners.clone(),
            allow,
            deny,
            upstream,
            idle_timeout: self.settings.idle_timeout,
            half_close_timeout: self.settings.half_close_timeout,
            connections: self.settings.connections,
        }
    }

    fn remarks(&self, there: bool) -> Vec<String> {
        let any = Claim::Pattern(ServerNamePattern::Any);
        let mut remarks = Vec::new();
        let mut say = |remark: &str| remarks.push(remark.to_owned());
        match &self.kind {
            EntryKind::Doubted(lines) => say(&format!(
                "Left out: by {}, some of these clients may have gone elsewhere, or cannot go here now; the remarks at the \
                 top say why. Take the comment signs away if all of them are to go this way.",
                listed(lines)
            )),
            _ if !there => say("Left out: its upstream has no endpoint."),
            EntryKind::Keeps => say(
                "Nobody, and that is meant: HAProxy led these clients elsewhere or nowhere, and a wider route would take \
                 them.",
            ),
            EntryKind::Leads => {
                if self.claims.contains(&any) {
                    say("Any name that no other route has, as HAProxy did: better write your own in place of `\"*\"`.");
                }
                if self.claims.contains(&Claim::NoServerName) {
                    say("Clients that send no name came here too, such as `curl -k https://<address>`: leave \
                         `no_server_name` out once all of them send one.");
                }
            }
        }
        remarks
    }
}

/// `line 3`, `lines 3, 4`.
pub(super) fn listed(lines: &[usize]) -> String {
    let numbers: Vec<String> = lines.iter().map(usize::to_string).collect();
    format!("line{} {}", if lines.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

/// A set of sources as `allow` or as `deny`, whichever is shorter.
fn networks(sources: &SourceSet) -> (Vec<ipnet::IpNet>, Vec<ipnet::IpNet>) {
    let rest = SourceSet::everybody().without(sources);
    if sources.is_empty() || rest.networks().len() < sources.networks().len() {
        (Vec::new(), rest.networks().to_vec())
    } else if sources.is_everybody() {
        (Vec::new(), Vec::new())
    } else {
        (sources.networks().to_vec(), Vec::new())
    }
}
