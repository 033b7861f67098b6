//! Writing one family of figures after another.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;

use crate::observe::metrics::Distribution;

/// Names and values of a figure's labels.
pub(super) type Labels<'l, const N: usize> = [(&'static str, &'l str); N];

/// What is written so far, and what follows.
pub(super) struct Families<'e>(pub(super) DescriptorEncoder<'e>);

/// No exemplars: they would say more of single connections than anybody asked for.
type NoExemplar = [(&'static str, &'static str); 0];

impl Families<'_> {
    fn family<'l, const N: usize, T>(
        &mut self,
        (name, help): (&str, &str),
        kind: MetricType,
        rows: impl IntoIterator<Item = (Labels<'l, N>, T)>,
        write: impl Fn(&mut MetricEncoder<'_>, T) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in rows {
            match N {
                0 => write(&mut family, value)?,
                _ => write(&mut family.encode_family(&labels)?, value)?,
            }
        }
        Ok(())
    }

    /// What only grows.
    pub(super) fn counter<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'l, N>, u64)>,
    ) -> fmt::Result {
        self.family((name, help), MetricType::Counter, rows, |figure, value| {
            figure.encode_counter::<NoExemplar, u64, f64>(&value, None)
        })
    }

    /// Seconds that only grow.
    pub(super) fn seconds<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'l, N>, f64)>,
    ) -> fmt::Result {
        self.family((name, help), MetricType::Counter, rows, |figure, value| {
            figure.encode_counter::<NoExemplar, f64, f64>(&value, None)
        })
    }

    /// What comes and goes.
    pub(super) fn gauge<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'l, N>, f64)>,
    ) -> fmt::Result {
        self.family((name, help), MetricType::Gauge, rows, |figure, value| figure.encode_gauge(&value))
    }

    /// One figure that comes and goes.
    pub(super) fn one(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauge(name, help, [([], value)])
    }

    /// Words, as labels.
    pub(super) fn words<const N: usize>(&mut self, name: &str, help: &str, words: Labels<'_, N>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        family.encode_info(&words)
    }

    /// How values are distributed.
    pub(super) fn histogram<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'l, N>, Distribution)>,
    ) -> fmt::Result {
        self.family((name, help), MetricType::Histogram, rows, |figure, seen| {
            figure.encode_histogram::<NoExemplar>(seen.sum(), seen.count(), &seen.buckets(), None)
        })
    }
}

/// Numbers are shown as floating point ones; up to 2⁵³ they are exact.
#[allow(clippy::cast_precision_loss)]
pub(super) fn float(number: impl TryInto<u64>) -> f64 {
    number.try_into().unwrap_or(u64::MAX) as f64
}
