//! [`RouteLimits`]: how many connections a route takes, and how fast.

use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::str::FromStr;
use std::time::Duration;

/// What a route takes; without a limit, any number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteLimits {
    /// Connections at once.
    pub connections: Option<NonZeroUsize>,
    /// Connections at once from one source.
    pub per_source: Option<NonZeroUsize>,
    /// New connections.
    pub rate: Option<Rate>,
}

/// So many in so much time, written `50/s`, `600/m` or `1000/h`. As many may come at once after a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// In which time.
    pub per: Duration,
}

/// A time whose letter a rate may have behind its slash.
const UNITS: [(&str, Duration); 3] =
    [("s", Duration::from_secs(1)), ("m", Duration::from_secs(60)), ("h", Duration::from_hours(1))];
/// More than any machine accepts in a second.
const MOST: u32 = 1_000_000;

/// Text that is no rate.
#[derive(Debug, thiserror::Error)]
#[error("is no rate: write a whole number from 1 to {MOST} and a time, such as `50/s`, `600/m` or `1000/h`")]
pub struct InvalidRate;

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let (count, unit) = text.split_once('/').ok_or(InvalidRate)?;
        let (_, per) = UNITS.into_iter().find(|(known, _)| *known == unit).ok_or(InvalidRate)?;
        // The type would also take a plus sign.
        let digits = count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|count: &NonZeroU32| digits && count.get() <= MOST);
        Ok(Self { count: count.ok_or(InvalidRate)?, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, per)| *per == self.per) {
            Some((unit, _)) => write!(f, "{}/{unit}", self.count),
            None => write!(f, "{} in {:?}", self.count, self.per),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_a_number_and_a_time() {
        for (text, count, seconds) in [("50/s", 50, 1), ("600/m", 600, 60), ("1000000/h", 1_000_000, 3600)] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.count.get(), rate.per.as_secs(), rate.to_string()), (count, seconds, text.to_owned()));
        }
        for wrong in ["", "50", "/s", "0/s", "-1/s", "+1/s", "1.5/s", "50/", "50/ms", "50 / s", "50/S", "1000001/s"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
