//! Who belongs to an upstream and how each stands: what the news say, decided without I/O.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::balance::Standing;
use super::choice::{Choice, Placed};
use super::ejection::Ejection;
use super::endpoint::Endpoint;
use super::health::{Health, State};
use super::names::Resolved;
use crate::config::{self, EndpointAddress, Established, Upstream};
use crate::outcome::Reason;

/// Something that may change how an endpoint stands.
#[derive(Debug)]
pub(super) enum News {
    /// A configured endpoint has these addresses now.
    Resolved { of: EndpointAddress, addresses: Vec<Resolved> },
    /// What is thought of an endpoint after a probe, and what speaks against it.
    Probed { address: SocketAddr, state: State, failure: Option<String> },
    /// A client's connect failed.
    Failed { address: SocketAddr },
    /// A client's connect went well, after one that had failed.
    Reached { address: SocketAddr },
}

/// The members of an upstream.
#[derive(Debug)]
pub(super) struct Roster {
    config: Upstream,
    seed: usize,
    /// Of each configured endpoint the addresses, once they are known.
    resolved: Vec<Option<Vec<Resolved>>>,
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

/// An address, as a member of its upstream.
struct Found {
    address: SocketAddr,
    target: Arc<str>,
    weight: u32,
    backup: bool,
}

/// What a configured endpoint's addresses are as members. SRV records bring their own weights, and those of any priority
/// but the first are backups.
fn found(endpoint: &config::Endpoint, resolved: Option<&Vec<Resolved>>) -> Vec<Found> {
    let first = resolved.into_iter().flatten().map(|one| one.priority).min();
    let is_service = matches!(endpoint.address, EndpointAddress::Service(_));
    let one = |Resolved { address, target, weight, priority }: &Resolved| Found {
        address: *address,
        target: Arc::clone(target),
        weight: if is_service { *weight } else { endpoint.weight },
        backup: endpoint.backup || Some(*priority) > first,
    };
    resolved.into_iter().flatten().map(one).collect()
}

/// What is known of each configured endpoint without looking anything up: addresses are what they are, and what is known
/// of names `remembered` says.
fn known(
    config: &Upstream,
    mut remembered: impl FnMut(&EndpointAddress) -> Option<Vec<Resolved>>,
) -> Vec<Option<Vec<Resolved>>> {
    let known = |endpoint: &config::Endpoint| match &endpoint.address {
        EndpointAddress::Ip(address) => Some(vec![Resolved::of_address(*address)]),
        name => remembered(name),
    };
    config.endpoints.iter().map(known).collect()
}

impl Roster {
    /// The addresses that are configured as such; names have none yet.
    pub(super) fn new(config: &Upstream, seed: usize) -> Self {
        let mut roster = Self { config: config.clone(), seed, resolved: known(config, |_| None), members: Vec::new() };
        roster.gather(None);
        roster
    }

    /// From now on the upstream is configured so. Members that are still there keep their connections and ejection, and
    /// their health unless they are asked something else now.
    pub(super) fn change(&mut self, config: &Upstream, now: Instant) {
        let before = std::mem::replace(&mut self.config, config.clone());
        let asked = |config: &Upstream| config.health_check.as_ref().map(|check| check.question.clone());
        if asked(&before) != asked(config) {
            self.members.iter_mut().for_each(|member| member.health = Probed::not_yet(config));
        }
        let mut resolved = std::mem::take(&mut self.resolved);
        self.resolved = known(config, |address| {
            let at = before.endpoints.iter().position(|endpoint| endpoint.address == *address)?;
            resolved[at].take()
        });
        self.gather(Some(now));
        self.close_owed();
    }

    /// Takes news in. Whether the choice has changed by it.
    pub(super) fn hear(&mut self, news: News, now: Instant) -> bool {
        let changed = match news {
            News::Resolved { of, addresses } => self.find(&of, addresses, now),
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
        let is_young = self.resolved.contains(&None) || self.members.iter().any(waits);
        let placed = self.members.iter().map(placed).collect();
        Choice::new(self.config.balance, self.config.slow_start, placed, is_young, self.seed)
    }

    /// The endpoints of the members, and what probes have shown of each.
    pub(super) fn probed(&self) -> impl Iterator<Item = (&Arc<Endpoint>, Option<State>)> {
        let probed = |member: &Member| member.health.at_all.then_some(member.health.state);
        self.members.iter().map(move |member| (&member.endpoint, probed(member)))
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
                tracing::info!(upstream = %self.config.name, endpoint = %member.endpoint.address, "endpoint is tried again");
            }
        }
        self.close_owed();
        changed
    }

    fn find(&mut self, of: &EndpointAddress, addresses: Vec<Resolved>, now: Instant) -> bool {
        let at = self.config.endpoints.iter().position(|endpoint| endpoint.address == *of);
        // It may have been taken out while it was looked up.
        let Some(at) = at else { return false };
        let was_known = self.resolved[at].replace(addresses).is_some();
        // Those that are there from the beginning have no others to spare them.
        self.gather(was_known.then_some(now)) || !was_known
    }

    /// Makes members of all addresses; those that were there stay what they were, whatever name leads to them now, others
    /// come back at `newcomers`. Two configured endpoints may have one address: the first has it. Whether anything changed.
    fn gather(&mut self, newcomers: Option<Instant>) -> bool {
        let mut before = std::mem::take(&mut self.members);
        let (count, mut kept) = (before.len(), 0);
        for found in self
            .config
            .endpoints
            .iter()
            .zip(&self.resolved)
            .flat_map(|(endpoint, resolved)| found(endpoint, resolved.as_ref()))
        {
            if self.members.iter().any(|member| member.endpoint.address == found.address) {
                continue;
            }
            let known = before.iter().position(|member| member.endpoint.address == found.address);
            let known = known.map(|at| before.swap_remove(at));
            let is_as_before = |member: &Member| {
                (&member.target, member.weight, member.backup) == (&found.target, found.weight, found.backup)
            };
            kept += usize::from(known.as_ref().is_some_and(is_as_before));
            let mut member = known.unwrap_or_else(|| Member::new(&found, Probed::not_yet(&self.config), newcomers));
            (member.target, member.weight, member.backup) = (found.target, found.weight, found.backup);
            self.members.push(member);
        }
        if self.config.on_removed == Established::Close {
            before.iter().for_each(|member| member.endpoint.retire(Reason::EndpointRemoved));
        }
        kept != count || kept != self.members.len()
    }

    fn probe(&mut self, address: SocketAddr, state: State, failure: Option<String>, now: Instant) -> bool {
        let (upstream, closes) = (Arc::clone(&self.config.name), self.config.on_unhealthy == Established::Close);
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
        let name = Arc::clone(&self.config.name);
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

impl Probed {
    fn not_yet(config: &Upstream) -> Self {
        let state = Health::new(config.health_check.as_ref()).state();
        Self { state, at_all: false, failure: None, owes_closing: false }
    }
}

impl Member {
    fn new(found: &Found, health: Probed, back_since: Option<Instant>) -> Self {
        Self {
            endpoint: Arc::new(Endpoint::new(found.address)),
            target: Arc::clone(&found.target),
            weight: found.weight,
            backup: found.backup,
            health,
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
