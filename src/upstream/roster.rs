//! Who belongs to an upstream and how each stands: what the news say, decided without I/O.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::balance::Standing;
use super::choice::{Choice, Placed};
use super::ejection::Ejection;
use super::endpoint::Endpoint;
use crate::config::{Balance, Established};
use crate::outcome::Reason;

/// Something that may change how an endpoint stands.
#[derive(Debug)]
pub(super) enum News {
    /// One of the configured endpoints has these addresses now.
    Found { entry: usize, addresses: Vec<Found> },
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

#[derive(Debug)]
struct Member {
    endpoint: Arc<Endpoint>,
    /// Which configured endpoint it came from.
    entry: usize,
    ejection: Ejection,
    back_since: Option<Instant>,
}

/// The members of an upstream.
#[derive(Debug)]
pub(super) struct Roster {
    name: Arc<str>,
    balance: Balance,
    slow_start: Duration,
    seed: usize,
    on_removed: Established,
    members: Vec<Member>,
    /// Of each configured endpoint whether its addresses are known.
    known: Vec<bool>,
}

impl Roster {
    pub(super) fn new(
        name: Arc<str>,
        (balance, slow_start, seed): (Balance, Duration, usize),
        on_removed: Established,
        entries: usize,
    ) -> Self {
        Self { name, balance, slow_start, seed, on_removed, members: Vec::new(), known: vec![false; entries] }
    }

    /// Takes news in. Whether the choice has changed by it.
    pub(super) fn hear(&mut self, news: News, now: Instant) -> bool {
        match news {
            News::Found { entry, addresses } => self.find(entry, &addresses, now),
            News::Failed { address } => self.fail(address, now),
            News::Reached { address } => self.reach(address, now),
        }
    }

    /// The endpoints as they stand.
    pub(super) fn choice(&self) -> Choice {
        let placed = |member: &Member| Placed {
            endpoint: Arc::clone(&member.endpoint),
            standing: member.standing(),
            back_since: member.back_since,
        };
        let is_young = self.known.contains(&false);
        let placed = self.members.iter().map(placed).collect();
        Choice::new(self.balance, self.slow_start, placed, is_young, self.seed)
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
        changed
    }

    /// Members whose address is still there keep their connections, standing and ejection.
    fn find(&mut self, entry: usize, addresses: &[Found], now: Instant) -> bool {
        let was_known = std::mem::replace(&mut self.known[entry], true);
        let (mut own, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.members).into_iter().partition(|member| member.entry == entry);
        self.members = others;
        let before = own.len();
        let mut kept = 0;
        for found in addresses {
            // Two configured endpoints may have one address: the first has it.
            if self.members.iter().any(|member| member.endpoint.address == found.address) {
                continue;
            }
            let known = own.iter().position(|member| member.is(found)).map(|at| own.swap_remove(at));
            kept += usize::from(known.is_some());
            self.members.push(known.unwrap_or_else(|| Member {
                endpoint: Arc::new(Endpoint::new(found.address, Arc::clone(&found.target), found.weight, found.backup)),
                entry,
                ejection: Ejection::default(),
                // Those that are there from the beginning have no others to spare them.
                back_since: was_known.then_some(now),
            }));
        }
        if self.on_removed == Established::Close {
            own.iter().for_each(|member| member.endpoint.dismiss(Reason::EndpointRemoved));
        }
        !was_known || kept != before || kept != addresses.len()
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
    fn standing(&self) -> Standing {
        if self.ejection.is_out() { Standing::Down } else { Standing::Up }
    }

    fn is(&self, found: &Found) -> bool {
        let endpoint = &self.endpoint;
        let own = (endpoint.address, &endpoint.target, endpoint.weight, endpoint.backup);
        own == (found.address, &found.target, found.weight, found.backup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::{IpAddr, Ipv4Addr};

    const SLOW_START: Duration = Duration::from_secs(30);

    fn roster(entries: usize) -> Roster {
        Roster::new("test".into(), (Balance::RoundRobin, SLOW_START, 0), Established::Keep, entries)
    }

    fn address(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 1).into()
    }

    fn found(entry: usize, last: &[u8]) -> News {
        let one = |&last| Found { address: address(last), target: "host:1".into(), weight: 1, backup: entry == 9 };
        News::Found { entry, addresses: last.iter().map(one).collect() }
    }

    /// Whom clients get, over many picks.
    fn chosen(roster: &Roster) -> BTreeSet<SocketAddr> {
        let choice = roster.choice();
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        (0..10_000).filter_map(|_| choice.pick(source, &[]).map(|endpoint| endpoint.address)).collect()
    }

    fn set(last: &[u8]) -> BTreeSet<SocketAddr> {
        last.iter().copied().map(address).collect()
    }

    fn fail(roster: &mut Roster, last: u8, times: usize, now: Instant) -> Vec<bool> {
        (0..times).map(|_| roster.hear(News::Failed { address: address(last) }, now)).collect()
    }

    #[test]
    fn who_stays_keeps_its_connections_and_who_goes_gets_none() {
        let (mut roster, now) = (roster(1), Instant::now());
        assert!(roster.choice().is_young && chosen(&roster).is_empty());
        assert!(roster.hear(found(0, &[1, 2]), now));
        assert!(!roster.choice().is_young);
        let kept = Arc::clone(&roster.members[1].endpoint);
        assert!(!roster.hear(found(0, &[2, 1]), now), "the order says nothing");
        assert!(roster.hear(found(0, &[2, 3]), now));
        assert_eq!(chosen(&roster), set(&[2, 3]));
        assert!(roster.members.iter().any(|member| Arc::ptr_eq(&member.endpoint, &kept)));
        assert!(roster.hear(found(0, &[]), now));
        assert!(chosen(&roster).is_empty());
    }

    #[test]
    fn an_address_that_two_names_have_is_one_endpoint() {
        let (mut roster, now) = (roster(2), Instant::now());
        roster.hear(found(0, &[1, 2]), now);
        roster.hear(found(1, &[2, 3]), now);
        let addresses: Vec<_> = roster.members.iter().map(|member| member.endpoint.address).collect();
        assert_eq!(addresses, [1, 2, 3].map(address));
    }

    #[test]
    fn an_endpoint_that_fails_is_left_out_for_a_while() {
        let (mut roster, start) = (roster(1), Instant::now());
        roster.hear(found(0, &[1, 2]), start);
        assert_eq!(fail(&mut roster, 1, 3, start), [false, false, true]);
        assert_eq!(chosen(&roster), set(&[2]));
        let release = roster.next_release().unwrap();
        assert!(!roster.release(start) && roster.release(release));
        assert_eq!((chosen(&roster), roster.next_release()), (set(&[1, 2]), None));
        assert_eq!(fail(&mut roster, 1, 1, release), [true], "it is on probation");
        assert!(roster.hear(News::Reached { address: address(1) }, release));
        assert_eq!(chosen(&roster), set(&[1, 2]));
    }

    #[test]
    fn the_last_one_is_never_ejected() {
        let (mut roster, now) = (roster(1), Instant::now());
        roster.hear(found(0, &[1, 2]), now);
        fail(&mut roster, 1, 3, now);
        assert_eq!(fail(&mut roster, 2, 9, now), [false; 9]);
        assert_eq!(chosen(&roster), set(&[2]));
    }

    #[test]
    fn backups_come_before_primaries_that_are_down() {
        let (mut roster, now) = (roster(10), Instant::now());
        roster.hear(found(0, &[1]), now);
        roster.hear(found(9, &[9]), now);
        assert_eq!(chosen(&roster), set(&[1]));
        fail(&mut roster, 1, 3, now);
        assert_eq!(chosen(&roster), set(&[9]));
    }

    #[test]
    fn who_goes_tells_its_connections_if_they_are_to_close() {
        for (on_removed, told) in [(Established::Keep, None), (Established::Close, Some(Reason::EndpointRemoved))] {
            let balancing = (Balance::RoundRobin, SLOW_START, 0);
            let (mut roster, now) = (Roster::new("test".into(), balancing, on_removed, 1), Instant::now());
            roster.hear(found(0, &[1, 2]), now);
            let [stays, goes] = [0, 1].map(|at| Arc::clone(&roster.members[at].endpoint));
            roster.hear(found(0, &[1]), now);
            assert_eq!((stays.notice().reason(), goes.notice().reason()), (None, told));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_starts_slowly() {
        let (mut roster, now) = (roster(1), Instant::now());
        roster.hear(found(0, &[1, 2]), now);
        fail(&mut roster, 1, 3, now);
        roster.hear(News::Reached { address: address(1) }, now);
        let share = || {
            let choice = roster.choice();
            let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let own = |_: &usize| choice.pick(source, &[]).unwrap().address == address(1);
            (0..10_000).filter(own).count()
        };
        tokio::time::advance(SLOW_START / 10).await;
        assert!((300..1500).contains(&share()), "{}", share());
        tokio::time::advance(SLOW_START).await;
        assert!((4500..5500).contains(&share()), "{}", share());
    }
}
