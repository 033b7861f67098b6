//! Weights laid end to end, for draws.

/// The draws of one cycle, of which each member has as many as its weight.
#[derive(Debug)]
pub(super) struct Shares {
    /// Where the share of each member ends, and that of the next begins.
    ends: Box<[u64]>,
    total: u64,
    /// How far it is from one turn to the next.
    step: u64,
}

impl Shares {
    /// Of weights that are at least 1.
    pub(super) fn new(weights: impl Iterator<Item = u32> + Clone) -> Self {
        let common = weights.clone().fold(0, |common, weight| greatest_common_divisor(common, u64::from(weight)));
        let end = |sum: &mut u64, weight| {
            *sum += u64::from(weight) / common;
            Some(*sum)
        };
        let ends: Box<[_]> = weights.scan(0, end).collect();
        let total = ends.last().copied().unwrap_or_default();
        let is_even = total == ends.len() as u64;
        Self { step: if is_even { 1 } else { spreading_step(total) }, ends, total }
    }

    /// The member for a random number.
    pub(super) fn by_lot(&self, random: u64) -> usize {
        self.owner(random % self.total)
    }

    /// The member whose turn it is: in `total` turns each has exactly its share, and has it evenly spread.
    pub(super) fn in_turn(&self, turn: usize) -> usize {
        let product = u128::from(turn as u64 % self.total) * u128::from(self.step);
        #[allow(clippy::cast_possible_truncation)] // it is less than `total`
        self.owner((product % u128::from(self.total)) as u64)
    }

    fn owner(&self, draw: u64) -> usize {
        self.ends.partition_point(|end| *end <= draw)
    }
}

/// A step that visits each of `total` places before it comes to one again, and leaves gaps of nearly the same size all
/// the way: the golden ratio does, for no fraction is near to it, but of the whole numbers near to its part some are
/// better than others.
fn spreading_step(total: u64) -> u64 {
    const GOLDEN: u128 = 0x9e37_79b9_7f4a_7c15; // of 2^64
    const NEAR: u64 = 64;
    #[allow(clippy::cast_possible_truncation)] // it is less than `total`
    let golden = ((u128::from(total) * GOLDEN) >> 64) as u64;
    let near = golden.saturating_sub(NEAR).max(1)..total.min(golden + NEAR);
    near.min_by_key(|step| unevenness(*step, total)).unwrap_or(1)
}

/// How large the gaps between steps may differ: the sum of the quotients in Euclid's algorithm, the partial quotients
/// of `step / total`, bounds it.
fn unevenness(step: u64, total: u64) -> u64 {
    let (mut a, mut b, mut quotients) = (total, step, 0);
    while b > 0 {
        quotients += a / b;
        (a, b) = (b, a % b);
    }
    // With a common divisor it never visits some places.
    if a == 1 { quotients } else { u64::MAX }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}
