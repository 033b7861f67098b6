//! Who belongs to an upstream and how each stands: what the news say, decided without I/O.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::balance::Standing;
use super::choice::{Choice, Placed};
use super::ejection::Ejection;
use super::endpoint::Endpoint;
use super::health::State;
use crate::config::{Balance, Established, Upstream};
use crate::outcome::Reason;

/// Something that may change how an endpoint stands.
#[derive(Debug)]
pub(super) enum News {
    /// One of the configured endpoints has these addresses now.
    Found { entry: usize, addresses: Vec<Found> },
    /// What is thought of an endpoint after a probe, and what speaks against it.
    Probed { address: SocketAddr, state: State, failure: Option<String> },
    /// A client's connect failed.
    Failed { address: SocketAddr },
    /// A client's connect went well, after one that had failed.
    Reached { address: SocketAddr },
}

/// An address that was found for a configured endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) address: SocketAddr,
    pub(super) target: Arc<str>,
    pub(super) weight: u32,
    pub(super) backup: bool,
}

/// The members of an upstream.
#[derive(Debug)]
pub(super) struct Roster {
    name: Arc<str>,
    balance: Balance,
    slow_start: Duration,
    seed: usize,
    on_removed: Established,
    on_unhealthy: Established,
    /// What is thought of a member before its first probe.
    unprobed: State,
    /// Of each configured endpoint the addresses, once they are known.
    found: Vec<Option<Vec<Found>>>,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    endpoint: Arc<Endpoint>,
    target: Arc<str>,
    weight: u32,
    backup: bool,
    health: Probed,
    ejection: Ejection,
    back_since: Option<Instant>,
}

/// What probes said of a member.
#[derive(Clone, Debug)]
struct Probed {
    state: State,
    /// There was one.
    at_all: bool,
    /// What spoke against it the last time.
    failure: Option<String>,
    /// It went down while no other was up: its connections close when another is.
    owes_closing: bool,
}

impl Roster {
    /// Nobody yet. `unprobed` is what is thought of a member before its first probe.
    pub(super) fn new(config: &Upstream, unprobed: State, seed: usize) -> Self {
        Self {
            name: Arc::clone(&config.name),
            balance: config.balance,
            slow_start: config.slow_start,
            seed,
            on_removed: config.on_removed,
            on_unhealthy: config.on_unhealthy,
            unprobed,
            found: vec![None; config.endpoints.len()],
            members: Vec::new(),
        }
    }

    /// Takes news in. Whether the choice has changed by it.
    pub(super) fn hear(&mut self, news: News, now: Instant) -> bool {
        let changed = match news {
            News::Found { entry, addresses } => self.find(entry, addresses, now),
            News::Probed { address, state, failure } => self.probe(address, state, failure, now),
            News::Failed { address } => self.fail(address, now),
            News::Reached { address } => self.reach(address, now),
        };
        self.close_owed();
        changed
    }

    /// The endpoints as they stand.
    pub(super) fn choice(&self) -> Choice {
        let placed = |member: &Member| Placed {
            endpoint: Arc::clone(&member.endpoint),
            target: Arc::clone(&member.target),
            weight: member.weight,
            backup: member.backup,
            standing: member.standing(),
            back_since: member.back_since,
        };
        let waits = |member: &Member| !member.health.at_all && !member.health.state.verified;
        let is_young = self.found.contains(&None) || self.members.iter().any(waits);
        let placed = self.members.iter().map(placed).collect();
        Choice::new(self.balance, self.slow_start, placed, is_young, self.seed)
    }

    /// The endpoints of the members.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.members.iter().map(|member| &member.endpoint)
    }

    /// When the next ejection ends.
    pub(super) fn next_release(&self) -> Option<Instant> {
        self.members.iter().filter_map(|member| member.ejection.until()).min()
    }

    /// Ends the ejections whose time is over. Whether there was one.
    pub(super) fn release(&mut self, now: Instant) -> bool {
        let mut changed = false;
        for member in &mut self.members {
            if member.ejection.release(now) {
                member.back_since = Some(now);
                changed = true;
                tracing::info!(upstream = %self.name, endpoint = %member.endpoint.address, "endpoint is tried again");
            }
        }
        self.close_owed();
        changed
    }

    /// Members that are still there keep their connections, health and ejection, whatever name leads to them now. Two
    /// configured endpoints may have one address: the first has it.
    fn find(&mut self, entry: usize, addresses: Vec<Found>, now: Instant) -> bool {
        let was_known = self.found[entry].replace(addresses).is_some();
        let mut before = std::mem::take(&mut self.members);
        let (count, mut kept) = (before.len(), 0);
        for found in self.found.iter().flatten().flatten() {
            if self.endpoints().any(|endpoint| endpoint.address == found.address) {
                continue;
            }
            let known = before.iter().position(|member| member.endpoint.address == found.address);
            let known = known.map(|at| before.swap_remove(at));
            let is_as_before = |member: &Member| {
                (&member.target, member.weight, member.backup) == (&found.target, found.weight, found.backup)
            };
            kept += usize::from(known.as_ref().is_some_and(is_as_before));
            // Those that are there from the beginning have no others to spare them.
            let mut member = known.unwrap_or_else(|| Member::new(found, self.unprobed, was_known.then_some(now)));
            (member.target, member.weight, member.backup) = (Arc::clone(&found.target), found.weight, found.backup);
            self.members.push(member);
        }
        if self.on_removed == Established::Close {
            before.iter().for_each(|member| member.endpoint.retire(Reason::EndpointRemoved));
        }
        !was_known || kept != count || kept != self.members.len()
    }

    fn probe(&mut self, address: SocketAddr, state: State, failure: Option<String>, now: Instant) -> bool {
        let (upstream, closes) = (Arc::clone(&self.name), self.on_unhealthy == Established::Close);
        let Some(member) = self.member(address) else { return false };
        let before =
            std::mem::replace(&mut member.health, Probed { state, at_all: true, failure, owes_closing: false });
        let (is_well, was_well) = (state.is_well(), before.state.is_well());
        if is_well && !was_well {
            // What connects said while it was down is history.
            member.ejection = Ejection::default();
            if before.at_all {
                member.back_since = Some(now);
            }
            tracing::info!(%upstream, endpoint = %address, "endpoint is well");
        } else if !is_well {
            member.health.owes_closing = closes && (was_well || before.owes_closing);
            let standing = member.standing();
            if let Some(why) =
                member.health.failure.as_ref().filter(|&why| was_well || before.failure.as_ref() != Some(why))
            {
                tracing::warn!(%upstream, endpoint = %address, %standing, why, "endpoint is not well");
            }
        }
        !before.at_all || state != before.state
    }

    /// Closes the connections of members that went down, as soon as another can take them.
    fn close_owed(&mut self) {
        if self.members.iter().any(|member| member.standing() == Standing::Up) {
            for member in self.members.iter_mut().filter(|member| member.health.owes_closing) {
                member.health.owes_closing = false;
                member.endpoint.dismiss(Reason::EndpointUnhealthy);
            }
        }
    }

    fn fail(&mut self, address: SocketAddr, now: Instant) -> bool {
        let name = Arc::clone(&self.name);
        let up = self.members.iter().filter(|member| member.standing() == Standing::Up).count();
        let Some(member) = self.member(address) else { return false };
        let is_last = up <= 1 && member.standing() == Standing::Up;
        if !member.ejection.fail() || is_last {
            return false;
        }
        let time = member.ejection.eject(now);
        tracing::warn!(upstream = %name, endpoint = %address, ?time, "endpoint ejected: connects fail one after another");
        true
    }

    fn reach(&mut self, address: SocketAddr, now: Instant) -> bool {
        let Some(member) = self.member(address) else { return false };
        let ended = member.ejection.succeed();
        if ended {
            member.back_since = Some(now);
        }
        ended
    }

    fn member(&mut self, address: SocketAddr) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.endpoint.address == address)
    }
}

impl Member {
    fn new(found: &Found, unprobed: State, back_since: Option<Instant>) -> Self {
        Self {
            endpoint: Arc::new(Endpoint::new(found.address)),
            target: Arc::clone(&found.target),
            weight: found.weight,
            backup: found.backup,
            health: Probed { state: unprobed, at_all: false, failure: None, owes_closing: false },
            ejection: Ejection::default(),
            back_since,
        }
    }

    fn standing(&self) -> Standing {
        match self.health.state {
            State { verified: false, .. } => Standing::Unverified,
            State { up: false, .. } => Standing::Down,
            _ if self.ejection.is_out() => Standing::Down,
            _ => Standing::Up,
        }
    }
}

#[cfg(test)]
mod tests;
