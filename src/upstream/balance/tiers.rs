//! The order of choice: who is asked before whom.

use std::fmt;

use super::{Chooser, Circumstances, Member};
use crate::config::Balance;

/// Whether an endpoint may get new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Up,
    /// It does not answer, or not as it should, or was ejected: only if there is no other.
    Down,
    /// It has not proved who it is: never.
    Unverified,
    /// It is being taken away: never.
    Draining,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unverified => "unverified",
            Self::Draining => "draining",
        })
    }
}

/// From the best to the last resort. Whoever is [down](Standing::Down) may still be better than nobody: when all seem
/// to be, the fault may be with who looked.
const ORDER: [(Standing, bool); 4] =
    [(Standing::Up, false), (Standing::Up, true), (Standing::Down, false), (Standing::Down, true)];

/// The choice among all endpoints of an upstream: primaries that are up, then backups that are up, then primaries that
/// are down, then backups that are down.
#[derive(Debug)]
pub struct Tiers(Box<[Chooser]>);

impl Tiers {
    /// Of each endpoint its standing, and whether it is a backup.
    pub fn new(balance: Balance, endpoints: &[(Member, Standing, bool)], seed: usize) -> Self {
        let tier = |tier: (Standing, bool)| {
            let numbered = endpoints.iter().enumerate();
            let in_it = numbered.filter(move |(_, (_, standing, backup))| (*standing, *backup) == tier);
            in_it.map(|(at, (member, ..))| (at, *member))
        };
        let filled = ORDER.into_iter().filter(|place| tier(*place).next().is_some());
        Self(filled.map(|place| Chooser::among(balance, tier(place), seed)).collect())
    }

    /// The endpoint for the next attempt. `None`: no other may be tried.
    pub fn pick(&self, now: &Circumstances<'_>) -> Option<usize> {
        self.0.iter().find_map(|chooser| chooser.pick(now))
    }
}
