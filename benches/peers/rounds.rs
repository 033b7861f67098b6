//! The rounds: every subject in turn, and again where others disturbed it.

use std::io;
use std::path::Path;

use super::report::{Column, Table, number};
use super::shapes::{Bench, Measured, Shape};
use super::subjects::{self, Running, Subject};

/// The share of the machine that others may use without spoiling a measurement.
const NOISY: f64 = 0.15;

/// Measures shape after shape and keeps the numbers.
pub(crate) struct Rounds {
    pub(crate) table: Table,
    /// For each measurement the share of the machine that others used.
    pub(crate) foreign: Vec<f64>,
    rounds: usize,
    patience: usize,
}

impl Rounds {
    pub(crate) fn new(rounds: usize, patience: usize, columns: Vec<Column>) -> Self {
        Self { table: Table { columns, rows: Vec::new() }, foreign: Vec::new(), rounds, patience }
    }

    /// Measures one shape: every subject in every round, each round beginning with another one.
    pub(crate) fn measure(&mut self, shape: &Shape, subjects: &[Subject], bench: &Bench<'_>, directory: &Path) {
        eprintln!("{}", shape.title);
        let start = |subject: &Subject| {
            let started = subject.start(bench.sink, directory);
            started.inspect_err(|error| eprintln!("  skipped: {error}")).ok()
        };
        let fresh = shape.wants_fresh();
        let running: Vec<Option<Running>> =
            subjects.iter().map(|subject| if fresh { None } else { start(subject) }).collect();
        for round in 0..self.rounds {
            for turn in 0..subjects.len() {
                let index = (turn + round) % subjects.len();
                let subject = &subjects[index];
                let measured = match &running[index] {
                    Some(running) => self.measure_quietly(shape, running, bench),
                    None if fresh && subject.key != subjects::DIRECT => {
                        start(subject).map_or(Err(io::ErrorKind::NotFound.into()), |fresh| shape.measure(&fresh, bench))
                    }
                    None => continue,
                };
                self.note(shape, subject, index, round, measured);
            }
        }
    }

    /// Measures, and again while the machine is busy with something else.
    fn measure_quietly(&self, shape: &Shape, running: &Running, bench: &Bench<'_>) -> io::Result<Measured> {
        let mut quietest = shape.measure(running, bench)?;
        for _ in 0..self.patience {
            if quietest.foreign < NOISY {
                break;
            }
            let next = shape.measure(running, bench)?;
            if next.foreign < quietest.foreign {
                quietest = next;
            }
        }
        Ok(quietest)
    }

    fn note(&mut self, shape: &Shape, subject: &Subject, index: usize, round: usize, measured: io::Result<Measured>) {
        let mut words = String::new();
        match measured {
            Ok(measured) => {
                self.foreign.push(measured.foreign);
                for (figure, value) in measured.values {
                    if value.is_finite() {
                        words += &format!("  {} {} {}", figure.title, number(value), figure.unit);
                    }
                    self.table.add(shape.title, figure, index, round, value);
                }
            }
            Err(error) => words = format!("  {error}"),
        }
        eprintln!("  {}/{} {:<20}{words}", round + 1, self.rounds, subject.title);
    }
}
