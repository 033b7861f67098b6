//! Counts that one thread writes and others read, alone and in buckets.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread changes and others read: a plain store, since nobody else could have changed it meanwhile.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts so many more.
    pub fn add(&self, more: u64) {
        self.set(self.read() + more);
    }

    /// From now on it is so many.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The upper ends of a histogram's buckets, in whole units of which each is so much of what is shown.
#[derive(Debug)]
pub struct Scale {
    upper: &'static [u64],
    unit: f64,
}

/// Buckets of any scale, the last one without an upper end included.
const MOST: usize = 14;

impl Scale {
    const fn new(upper: &'static [u64], unit: f64) -> Self {
        assert!(upper.len() < MOST, "buckets have no room for this scale");
        Self { upper, unit }
    }

    /// Bytes of ClientHellos: most have 517 and more, and with keys against quantum computers some 1,800.
    pub const HELLO_BYTES: &Self =
        &Self::new(&[256, 512, 768, 1024, 1536, 2048, 4096, 8192, 16_384, 32_768, 65_536], 1.0);
    /// TLS records that they come in.
    pub const HELLO_RECORDS: &Self = &Self::new(&[1, 2, 4, 8, 16, 64], 1.0);
    /// Microseconds from accept to a complete hello.
    pub const HELLO_TIME: &Self = &Self::new(
        &[1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000],
        1e-6,
    );
    /// Microseconds from a decision to an upstream connection.
    pub const CONNECT_TIME: &Self = &Self::new(
        &[250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 3_000_000, 9_000_000],
        1e-6,
    );
    /// Microseconds from accept to the end.
    pub const DURATION: &Self = &Self::new(
        &[
            10_000,
            100_000,
            1_000_000,
            10_000_000,
            60_000_000,
            300_000_000,
            1_800_000_000,
            3_600_000_000,
            21_600_000_000,
            86_400_000_000,
        ],
        1e-6,
    );
}

/// How values are distributed, as one thread saw them.
#[derive(Debug)]
pub struct Histogram {
    scale: &'static Scale,
    buckets: [Count; MOST],
    sum: Count,
}

impl Histogram {
    /// Nothing seen yet.
    pub fn of(scale: &'static Scale) -> Self {
        Self { scale, buckets: Default::default(), sum: Count::default() }
    }

    /// Takes a value in.
    pub fn note(&self, value: u64) {
        let bucket = self.scale.upper.iter().position(|upper| value <= *upper);
        self.buckets[bucket.unwrap_or(self.scale.upper.len())].add(1);
        self.sum.add(value);
    }

    /// Adds what was seen to `all`, which is of the same scale.
    pub fn add_to(&self, all: &mut Distribution) {
        for (total, bucket) in all.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.read();
        }
        all.sum += self.sum.read();
    }
}

/// What several histograms of one scale have seen.
#[derive(Clone, Debug)]
pub struct Distribution {
    scale: &'static Scale,
    buckets: [u64; MOST],
    sum: u64,
}

impl Distribution {
    /// Nothing.
    pub fn of(scale: &'static Scale) -> Self {
        Self { scale, buckets: [0; MOST], sum: 0 }
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// What they come to together.
    #[allow(clippy::cast_precision_loss)] // microseconds of 285 years have room
    pub fn sum(&self) -> f64 {
        self.sum as f64 * self.scale.unit
    }

    /// Each bucket's upper end, and how many values lie in it and in none before.
    #[allow(clippy::cast_precision_loss)] // upper ends are small
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        // Divided by a whole number: multiplied by a millionth, a thousandth would not look like one.
        let shown =
            |upper: &u64| if self.scale.unit < 1.0 { *upper as f64 / self.scale.unit.recip() } else { *upper as f64 };
        self.scale.upper.iter().map(shown).chain([f64::INFINITY]).zip(self.buckets).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_in_the_first_bucket_with_room_for_them() {
        let histogram = Histogram::of(Scale::HELLO_RECORDS);
        for value in [0, 1, 2, 3, 4, 5, 1000] {
            histogram.note(value);
        }
        let mut all = Distribution::of(Scale::HELLO_RECORDS);
        histogram.add_to(&mut all);
        histogram.add_to(&mut all);
        let ends = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, f64::INFINITY];
        assert_eq!(all.buckets(), ends.into_iter().zip([4, 2, 4, 2, 0, 0, 2]).collect::<Vec<_>>());
        assert_eq!((all.count(), all.sum()), (14, 2030.0));
    }

    #[test]
    fn times_are_shown_in_seconds() {
        let all = Distribution::of(Scale::CONNECT_TIME);
        assert_eq!(all.buckets()[..3].iter().map(|(upper, _)| *upper).collect::<Vec<_>>(), [0.00025, 0.0005, 0.001]);
    }
}
