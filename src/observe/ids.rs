//! Names of connections.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Names connections: unique on this host, also across restarts.
#[derive(Debug, Default)]
pub struct Ids {
    /// What the names of one worker begin with: when it started, in microseconds since the epoch, and its number.
    prefix: String,
    next: Cell<u64>,
}

impl Ids {
    /// The names that one worker gives.
    pub fn of_worker(worker: usize) -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros();
        Self { prefix: format!("{start:x}-{worker:x}-"), next: Cell::new(0) }
    }

    pub(super) fn next(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        number
    }

    /// The number of the one that has this name, if it is one of these.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let number = u64::from_str_radix(name.strip_prefix(&self.prefix)?, 16).ok()?;
        // There is one way to write a number.
        (self.name(number) == name).then_some(number)
    }

    pub(super) fn name(&self, number: u64) -> String {
        format!("{}{number:x}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_numbers() {
        let (one, other) = (Ids::of_worker(0), Ids::of_worker(1));
        for number in [0, 9, 10, 0xabc, u64::MAX] {
            let name = one.name(number);
            assert_eq!((one.number(&name), other.number(&name)), (Some(number), None));
            for wrong in [name.to_uppercase() + "G", format!("{name} "), name.replace("-0-", "-0-0"), String::new()] {
                assert_eq!(one.number(&wrong), None, "{wrong:?}");
            }
        }
    }
}
