//! Which endpoint a connection gets: balancing by weight, slow start, and the order of choice.
//!
//! Pure. A [`Chooser`] picks among equals; [`Tiers`] go from the best endpoints to those of last resort. Both are built
//! anew when membership or standing changes, are shared by all workers, and pick without a lock; what differs from
//! one connection to the next comes in as [`Circumstances`].

mod hash;
mod maglev;
mod shares;
#[cfg(test)]
mod tests;
mod tiers;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub use hash::key_of;
pub use tiers::{Standing, Tiers};

use crate::config::Balance;
use hash::{mix, unit};
use maglev::Maglev;
use shares::Shares;

/// Up to so many endpoints all are compared for the one with fewest connections. Among more, the better of two drawn
/// ones is nearly as good, and does not touch the counters of all of them, which other processors write.
const COMPARED: usize = 16;

/// How often a draw that hit a tried or starting endpoint is repeated before all are looked at.
const DRAWS: usize = 16;

/// The largest weight, which is that of SRV records (RFC 2782).
const HEAVIEST: u32 = 65_535;

/// What slow start begins with: enough for some connections, so that an endpoint shows at once what it is worth.
const FIRST_SHARE: f64 = 0.01;

/// An endpoint as balancing sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it is known by, the same in every process; see [`key_of`].
    pub key: u64,
    /// Its share relative to the other members, 1 to 65,535; what is outside counts as the nearer end.
    pub weight: u32,
}

/// What may differ from one pick to the next. Endpoints are numbered as the list they were given in.
#[derive(Clone, Copy)]
pub struct Circumstances<'c> {
    /// Where the client is.
    pub source: IpAddr,
    /// The endpoints that this connection must not get any more.
    pub tried: &'c [usize],
    /// The connections an endpoint has, or is getting.
    pub load: &'c dyn Fn(usize) -> usize,
    /// The part of its weight that an endpoint may use now, above 0 and up to 1; see [`ramp`].
    pub ramp: &'c dyn Fn(usize) -> f64,
}

/// A choice among endpoints that are equally good but for their weights.
///
/// While an untried endpoint is left, one is picked: slow start moves shares between endpoints and holds nobody up.
#[derive(Debug)]
pub struct Chooser {
    candidates: Box<[Candidate]>,
    method: Method,
    /// Counts draws: whose turn it is, how ties go, and what the dice show.
    turn: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// Its number in the list that the chooser was made of.
    at: usize,
    member: Member,
}

#[derive(Debug)]
enum Method {
    Least,
    LeastOfTwo(Shares),
    InTurn(Shares),
    ByLot(Shares),
    BySource(Maglev),
}

impl Chooser {
    /// A choice among `members`. Those with another `seed` begin elsewhere; [`any_seed`] tells processes apart.
    pub fn new(balance: Balance, members: &[Member], seed: usize) -> Self {
        Self::among(balance, members.iter().copied().enumerate(), seed)
    }

    /// A choice among members that are numbered already.
    fn among(balance: Balance, members: impl Iterator<Item = (usize, Member)>, seed: usize) -> Self {
        let candidate = |(at, member): (usize, Member)| {
            let member = Member { weight: member.weight.clamp(1, HEAVIEST), ..member };
            Candidate { at, member }
        };
        let candidates: Box<[_]> = members.map(candidate).collect();
        let members = || candidates.iter().map(|candidate| candidate.member);
        let shares = || Shares::new(members().map(|member| member.weight));
        let method = match balance {
            // There is nothing to prepare for a choice of one.
            _ if candidates.len() <= 1 => Method::Least,
            Balance::LeastConnections if candidates.len() <= COMPARED => Method::Least,
            Balance::LeastConnections => Method::LeastOfTwo(shares()),
            Balance::RoundRobin => Method::InTurn(shares()),
            Balance::Random => Method::ByLot(shares()),
            Balance::SourceHash => Method::BySource(Maglev::new(members())),
        };
        Self { candidates, method, turn: AtomicUsize::new(seed) }
    }

    /// The endpoint for the next attempt. `None`: all were tried.
    pub fn pick(&self, now: &Circumstances<'_>) -> Option<usize> {
        match &self.method {
            Method::Least => self.least(now),
            Method::LeastOfTwo(shares) => self.least_of_two(shares, now),
            Method::InTurn(shares) => self.draw(now, |turn| shares.in_turn(turn)),
            Method::ByLot(shares) => self.draw(now, |turn| shares.by_lot(mix(turn as u64))),
            Method::BySource(table) => self.by_source(table, now),
        }
    }

    fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn untried(&self, now: &Circumstances<'_>) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|candidate| !now.tried.contains(&candidate.at))
    }

    /// The one with fewest connections for its weight. Ties take turns.
    fn least(&self, now: &Circumstances<'_>) -> Option<usize> {
        let mut best: Option<(&Candidate, f64)> = None;
        let mut ties = 0;
        for candidate in self.untried(now) {
            let cost = candidate.cost(now);
            match best {
                Some((_, least)) if cost > least => {}
                Some((_, least)) if cost == least => ties += 1,
                _ => (best, ties) = (Some((candidate, cost)), 1),
            }
        }
        let (first, least) = best?;
        let turn = self.next_turn() % ties;
        if turn == 0 {
            return Some(first.at);
        }
        // Other workers may have changed the counters since.
        let tied = self.untried(now).filter(|candidate| candidate.cost(now) == least).nth(turn);
        Some(tied.unwrap_or(first).at)
    }

    /// The better of two drawn ones. It has the fewest connections but for a handful, however many endpoints there are.
    fn least_of_two(&self, shares: &Shares, now: &Circumstances<'_>) -> Option<usize> {
        let mut first: Option<&Candidate> = None;
        for _ in 0..DRAWS {
            let drawn = &self.candidates[shares.by_lot(mix(self.next_turn() as u64))];
            match first {
                _ if now.tried.contains(&drawn.at) => {}
                None => first = Some(drawn),
                Some(first) if first.at == drawn.at => {}
                Some(first) => return Some(if drawn.cost(now) < first.cost(now) { drawn.at } else { first.at }),
            }
        }
        self.least(now)
    }

    /// The first that `place` gives for the turns to come which may be taken. One that is starting is passed over as
    /// often as its ramp says.
    fn draw(&self, now: &Circumstances<'_>, place: impl Fn(usize) -> usize) -> Option<usize> {
        for _ in 0..DRAWS {
            let turn = self.next_turn();
            let drawn = self.candidates[place(turn)];
            // Other dice than those of `place`.
            if !now.tried.contains(&drawn.at) && unit(mix(!turn as u64)) <= (now.ramp)(drawn.at) {
                return Some(drawn.at);
            }
        }
        race(self.untried(now), now, mix(!self.next_turn() as u64))
    }

    /// The one that the table gives this source, or else the next for it. Of one that is starting the ramp decides which
    /// of its own sources find it already; none of them loses it again while the ramp rises.
    fn by_source(&self, table: &Maglev, now: &Circumstances<'_>) -> Option<usize> {
        let source = hash::of_ip(now.source);
        let first = &self.candidates[table.at(source)];
        let is_untried = !now.tried.contains(&first.at);
        if is_untried && unit(mix(source ^ !first.member.key)) <= (now.ramp)(first.at) {
            return Some(first.at);
        }
        let others = self.untried(now).filter(|candidate| candidate.at != first.at);
        race(others, now, source).or_else(|| is_untried.then_some(first.at))
    }
}

impl Candidate {
    /// Connections for its weight, the one to come included, so that idle endpoints compare by weight.
    fn cost(&self, now: &Circumstances<'_>) -> f64 {
        ((now.load)(self.at) as f64 + 1.0) / self.share(now)
    }

    fn share(&self, now: &Circumstances<'_>) -> f64 {
        f64::from(self.member.weight) * (now.ramp)(self.at)
    }
}

/// One of the candidates, each as probable over all values of `dice` as its share: of exponentially distributed times
/// the shortest wins. For one value the order is always the same, and who drops out leaves that of the others as it is.
fn race<'c>(candidates: impl Iterator<Item = &'c Candidate>, now: &Circumstances<'_>, dice: u64) -> Option<usize> {
    let time = |candidate: &&Candidate| {
        let time = unit(mix(dice ^ candidate.member.key)).ln().abs() / candidate.share(now);
        // In the order of the numbers, for none of them is negative.
        time.to_bits()
    };
    candidates.min_by_key(time).map(|winner| winner.at)
}

/// The part of its weight that an endpoint may use some time after it came back. Zero for `slow_start` turns it off.
pub fn ramp(back_for: Duration, slow_start: Duration) -> f64 {
    if back_for >= slow_start {
        return 1.0;
    }
    back_for.div_duration_f64(slow_start).max(FIRST_SHARE)
}

/// A seed that differs from process to process, lest those that start together all send their first clients to the
/// same endpoint.
pub fn any_seed() -> usize {
    #[allow(clippy::cast_possible_truncation)] // any of its bits will do
    let seed = RandomState::new().hash_one(()) as usize;
    seed
}

impl fmt::Debug for Circumstances<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Circumstances")
            .field("source", &self.source)
            .field("tried", &self.tried)
            .finish_non_exhaustive()
    }
}
