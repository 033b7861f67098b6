//! What of the answers is believed, and when to ask again.

use std::mem;
use std::time::Duration;

use tokio::time::Instant;

use super::Resolved;
use super::look_up::Answer;

/// An answer holds at least and at most so long, whatever its TTL says.
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(60);
/// For how long a name that had addresses must have none before that is believed.
const DOUBT: Duration = Duration::from_secs(30);
/// After trouble the wait doubles from one second to this.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// What a name is known to lead to.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// `None` until the first look-up is over.
    known: Option<Vec<Resolved>>,
    /// Since when DNS has said that there is nothing.
    none_since: Option<Instant>,
    /// Look-ups in a row that did not learn everything.
    troubles: u32,
}

/// What follows from an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// What was known, if something else is known now.
    pub(super) replaced: Option<Vec<Resolved>>,
    /// Whether things just went wrong, or right again.
    pub(super) outage: Option<Outage>,
    /// When to ask again.
    pub(super) wait: Duration,
}

/// A time in which not everything can be learnt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outage {
    Begins(String),
    Ends,
}

impl Memory {
    pub(super) fn known(&self) -> &[Resolved] {
        self.known.as_deref().unwrap_or_default()
    }

    /// Takes in what a look-up that ended `now` came to.
    pub(super) fn hear(&mut self, answer: Answer, now: Instant) -> Heard {
        let wait = match answer {
            Answer { trouble: Some(_), .. } => LONGEST_RETRY.min(Duration::from_secs(1 << self.troubles.min(5))),
            // Somebody may be starting right now, and TTLs of "none" are long.
            Answer { ref addresses, .. } if addresses.is_empty() => SHORTEST,
            Answer { ttl, .. } => ttl.clamp(SHORTEST, LONGEST),
        };
        let Answer { addresses, trouble, .. } = answer;
        let none = addresses.is_empty() && trouble.is_none();
        let outage = self.outage(trouble);
        self.none_since = none.then(|| self.none_since.unwrap_or(now));
        let doubtful = self.none_since.is_some_and(|since| now - since < DOUBT) && !self.known().is_empty();
        let changed = !doubtful && self.known.as_ref() != Some(&addresses);
        let replaced = changed.then(|| self.known.replace(addresses).unwrap_or_default());
        Heard { replaced, outage, wait }
    }

    fn outage(&mut self, trouble: Option<String>) -> Option<Outage> {
        match (trouble, mem::take(&mut self.troubles)) {
            (None, 0) => None,
            (None, _) => Some(Outage::Ends),
            (Some(trouble), before) => {
                self.troubles = before.saturating_add(1);
                (before == 0).then_some(Outage::Begins(trouble))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn addresses(hosts: &[u8]) -> Vec<Resolved> {
        let resolved = |&host: &u8| Resolved {
            address: ([192, 0, 2, host], 1).into(),
            target: "a.test:1".into(),
            weight: 1,
            priority: 0,
        };
        hosts.iter().map(resolved).collect()
    }

    fn answer(hosts: &[u8], ttl: u64) -> Answer {
        Answer { addresses: addresses(hosts), ttl: Duration::from_secs(ttl), trouble: None }
    }

    fn troubled(hosts: &[u8]) -> Answer {
        Answer { trouble: Some("lost".to_owned()), ..answer(hosts, 0) }
    }

    fn waits(answers: impl IntoIterator<Item = Answer>) -> Vec<u64> {
        let mut memory = Memory::default();
        answers.into_iter().map(|answer| memory.hear(answer, Instant::now()).wait.as_secs()).collect()
    }

    #[test]
    fn only_changes_are_told() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        assert_eq!(memory.hear(answer(&[1, 2], 9), now).replaced, Some(addresses(&[])));
        assert_eq!(memory.hear(answer(&[1, 2], 9), now).replaced, None);
        assert_eq!(memory.hear(answer(&[2, 3], 9), now).replaced, Some(addresses(&[1, 2])));
        assert_eq!(memory.known(), addresses(&[2, 3]));
    }

    #[test]
    fn an_answer_holds_for_its_ttl_within_bounds() {
        let ttls = [0, 4, 5, 30, 60, 61, u64::MAX];
        assert_eq!(waits(ttls.map(|ttl| answer(&[1], ttl))), [5, 5, 5, 30, 60, 60, 60]);
    }

    #[test]
    fn after_trouble_the_wait_doubles_until_all_is_well() {
        let answers = vec![troubled(&[1]); 8].into_iter().chain([answer(&[1], 9), troubled(&[1])]);
        assert_eq!(waits(answers), [1, 2, 4, 8, 16, 30, 30, 30, 9, 1]);
    }

    #[test]
    fn an_outage_begins_and_ends_once() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let mut hear = |answer| memory.hear(answer, now).outage;
        assert_eq!(hear(answer(&[1], 9)), None);
        assert_eq!(hear(troubled(&[1])), Some(Outage::Begins("lost".to_owned())));
        assert_eq!(hear(troubled(&[1])), None);
        assert_eq!(hear(answer(&[1], 9)), Some(Outage::Ends));
        assert_eq!(hear(answer(&[1], 9)), None);
    }

    #[test]
    fn a_first_look_up_that_brings_nothing_is_told_too() {
        for nothing in [answer(&[], 9), troubled(&[])] {
            let mut memory = Memory::default();
            assert_eq!(memory.hear(nothing.clone(), Instant::now()).replaced, Some(Vec::new()));
            assert_eq!(memory.hear(nothing, Instant::now()).replaced, None);
            assert_eq!(memory.hear(answer(&[1], 9), Instant::now()).replaced, Some(Vec::new()));
        }
    }

    #[test]
    fn that_there_is_none_is_believed_after_half_a_minute_of_it() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        memory.hear(answer(&[1], 9), start);
        for seconds in [10, 15, 39] {
            let heard = memory.hear(answer(&[], 3_600), start + seconds * SECOND);
            assert_eq!((heard.replaced, heard.wait.as_secs()), (None, 5), "{seconds}");
            assert_eq!(memory.known(), addresses(&[1]));
        }
        assert_eq!(memory.hear(answer(&[], 9), start + 40 * SECOND).replaced, Some(addresses(&[1])));
        assert_eq!(memory.known(), []);
    }

    #[test]
    fn half_a_minute_of_none_has_no_gap() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        memory.hear(answer(&[1], 9), start);
        for interrupted_by in [troubled(&[1]), answer(&[1], 9)] {
            assert_eq!(memory.hear(answer(&[], 9), start).replaced, None);
            assert_eq!(memory.hear(interrupted_by, start + 20 * SECOND).replaced, None);
            assert_eq!(memory.hear(answer(&[], 9), start + 40 * SECOND).replaced, None);
        }
    }
}
