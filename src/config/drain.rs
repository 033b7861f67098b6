//! `drain`: how long the process takes its leave when it is told to stop.

use std::time::Duration;

use super::document::{DAY, SHORTEST};
use super::section::Node;
use super::values::{self, Span};

/// How long the process takes its leave when it is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// For how long it accepts still, not being ready any more, so that balancers notice.
    pub grace: Duration,
    /// Over how long it closes what is open still.
    pub spread: Duration,
    /// How long all of it may take.
    pub deadline: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        // All of it within the 30 s after which most of those who stop processes kill them.
        Self { grace: Duration::from_secs(5), spread: Duration::from_secs(10), deadline: Duration::from_secs(25) }
    }
}

/// More of it is a slip of the unit.
const HOUR: Duration = Duration::from_hours(1);

pub(super) fn read(node: &Node<'_>) -> Option<Drain> {
    let default = Drain::default();
    let drain = node.section(|keys| Drain {
        grace: keys.value("grace", default.grace, values::duration_or_off(SHORTEST, HOUR)),
        spread: keys.value("spread", default.spread, values::duration_or_off(SHORTEST, HOUR)),
        deadline: keys.value("deadline", default.deadline, values::duration_or_off(SHORTEST, DAY)),
    })?;
    let least = drain.grace + drain.spread;
    if least > drain.deadline {
        let [grace, spread, deadline, least] = [drain.grace, drain.spread, drain.deadline, least].map(Span);
        node.mistaken(format!(
            "`grace: {grace}` and `spread: {spread}` do not fit into `deadline: {deadline}`: raise that to {least} at \
             least, or shorten them"
        ));
    }
    Some(drain)
}
