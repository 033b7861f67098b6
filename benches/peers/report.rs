//! The table: medians of the rounds, and ratios of each round's pair.

use std::fmt::Write;

use super::figures::{median, paired_ratio};

/// A kind of number, with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    /// Whether more is better; else less is.
    pub(crate) more: bool,
}

/// What a column stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// No proxy: what the machine can do.
    Floor,
    /// What the others are compared with.
    Base,
    /// The same program again: its ratio is noise.
    Again,
    /// A variant of the base, not in the contest.
    Variant,
    Peer,
}

/// One subject of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) role: Role,
}

/// One figure of one shape.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) shape: &'static str,
    pub(crate) figure: Figure,
    /// For each column the value of each round, where there is one.
    pub(crate) values: Vec<Vec<Option<f64>>>,
}

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Row>,
}

impl Row {
    /// The median over the rounds.
    pub(crate) fn median(&self, column: usize) -> Option<f64> {
        median(&self.values[column].iter().copied().flatten().collect::<Vec<_>>())
    }
}

impl Table {
    /// Keeps a value if it is a number. The row comes into being with its first value, number or not, and keeps its place.
    pub(crate) fn add(&mut self, shape: &'static str, figure: Figure, column: usize, round: usize, value: f64) {
        let known = self.rows.iter().position(|row| row.shape == shape && row.figure == figure);
        let index = known.unwrap_or_else(|| {
            // a row that comes late, such as one of failures, still stands with its shape
            let after = self.rows.iter().rposition(|row| row.shape == shape).map_or(self.rows.len(), |last| last + 1);
            self.rows.insert(after, Row { shape, figure, values: vec![Vec::new(); self.columns.len()] });
            after
        });
        let values = &mut self.rows[index].values[column];
        values.resize(values.len().max(round + 1), None);
        values[round] = Some(value).filter(|value| value.is_finite());
    }

    pub(crate) fn base(&self) -> Option<usize> {
        self.columns.iter().position(|column| column.role == Role::Base)
    }

    /// What a column's figure is to the base's.
    pub(crate) fn ratio(&self, row: &Row, column: usize) -> Option<f64> {
        paired_ratio(&row.values[column], &row.values[self.base()?])
    }

    /// The column with the best median among the contestants.
    fn best(&self, row: &Row) -> Option<usize> {
        let contestants = (0..self.columns.len()).filter(|i| matches!(self.columns[*i].role, Role::Base | Role::Peer));
        let medians: Vec<(usize, f64)> = contestants.filter_map(|column| Some((column, row.median(column)?))).collect();
        let better = |a: &&(usize, f64), b: &&(usize, f64)| {
            if row.figure.more { b.1.total_cmp(&a.1) } else { a.1.total_cmp(&b.1) }
        };
        medians.iter().min_by(better).map(|(column, _)| *column)
    }

    /// How far the same program is from itself: the median and the largest distance of its ratios from 1.
    pub(crate) fn noise(&self) -> Option<(f64, f64)> {
        let again = self.columns.iter().position(|column| column.role == Role::Again)?;
        let distances: Vec<f64> =
            self.rows.iter().filter_map(|row| Some((self.ratio(row, again)? - 1.0).abs())).collect();
        Some((median(&distances)?, distances.iter().copied().fold(0.0, f64::max)))
    }

    /// The table as Markdown, padded so that it reads well as text too.
    pub(crate) fn markdown(&self) -> String {
        let mut lines = vec![["load", "figure"].map(str::to_owned).to_vec()];
        lines[0].extend(self.columns.iter().map(|column| column.title.to_owned()));
        let mut last = "";
        for row in &self.rows {
            let unit = if row.figure.unit.is_empty() { String::new() } else { format!(", {}", row.figure.unit) };
            let shape = if row.shape == last { "" } else { row.shape };
            last = row.shape;
            let mut line = vec![shape.to_owned(), format!("{}{unit}", row.figure.title)];
            let best = self.best(row);
            line.extend((0..self.columns.len()).map(|column| self.cell(row, column, best == Some(column))));
            lines.push(line);
        }
        pad(&lines)
    }

    fn cell(&self, row: &Row, column: usize, best: bool) -> String {
        let Some(value) = row.median(column) else { return "–".into() };
        let value = if best { format!("**{}**", number(value)) } else { number(value) };
        match self.ratio(row, column).filter(|_| self.base() != Some(column)) {
            Some(ratio) => format!("{value} ({ratio:.2})"),
            None => value,
        }
    }
}

/// Markdown from lines of cells, the first being the head. Numbers stand to the right.
fn pad(lines: &[Vec<String>]) -> String {
    let widths: Vec<usize> =
        (0..lines[0].len()).map(|i| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (i, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let padded = if i < 2 { format!("| {cell:<width$} ") } else { format!("| {cell:>width$} ") };
            text.push_str(&padded);
        }
        text.push_str("|\n");
        if number == 0 {
            for (i, width) in widths.iter().enumerate() {
                let rule = "-".repeat(width + 1);
                let _ = write!(text, "|{}", if i < 2 { format!("{rule}-") } else { format!("{rule}:") });
            }
            text.push_str("|\n");
        }
    }
    text
}

/// A number with three digits that matter, and commas between thousands.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        _ if size >= 100.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 1.0 => 2,
        _ => 3,
    };
    let plain = format!("{value:.decimals$}");
    let whole = plain.split('.').next().unwrap_or_default().trim_start_matches('-');
    if whole.len() <= 3 {
        return plain;
    }
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0.0 { format!("-{grouped}") } else { grouped }
}
