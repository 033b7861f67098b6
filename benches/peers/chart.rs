//! The chart: for each shape one figure, every contestant's bar measured in the base's. Drawn as SVG, in colours that
//! show on white and on black.

use std::fmt::Write;

use super::report::{Role, Row, Table, number};

/// Colours of the contestants, the base first.
const COLOURS: [&str; 7] = ["#2f9e63", "#3b82d6", "#8fb8e8", "#e08a2e", "#a86fd1", "#c9a227", "#8a8f98"];
const WIDTH: f64 = 900.0;
const LEFT: f64 = 330.0;
const RIGHT: f64 = 120.0;
const BAR: f64 = 10.0;
const GAP: f64 = 16.0;
/// Where long bars are cut, so that the short ones can be told apart; the numbers at their ends stay true.
const LONGEST: f64 = 4.0;

/// Draws the table. The text below the title says what machine it was.
pub(crate) fn draw(table: &Table, title: &str, subtitle: &str) -> String {
    let columns: Vec<usize> =
        (0..table.columns.len()).filter(|i| matches!(table.columns[*i].role, Role::Base | Role::Peer)).collect();
    let rows = charted(table);
    let top = 92.0;
    let height = top + rows.len() as f64 * (columns.len() as f64 * BAR + GAP) + 20.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\" role=\"img\">\n<title>{title}</title>\n<style>\n\
         text {{ fill: #24292f }} .faint {{ fill: #6a737d }} .rule {{ stroke: #8a8f98; stroke-opacity: .45 }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #e6edf3 }} .faint {{ fill: #9aa4af }} }}\n</style>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\">{title}</text>\n\
         <text x=\"16\" y=\"46\" class=\"faint\">{subtitle}</text>\n",
        title = escape(title),
        subtitle = escape(subtitle),
    );
    legend(&mut svg, table, &columns);
    let scale = (WIDTH - LEFT - RIGHT) / LONGEST;
    for tick in 0_u32..=4 {
        let x = LEFT + f64::from(tick) * scale;
        let _ = writeln!(
            svg,
            "<line class=\"rule\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{:.0}\"/>\
             <text x=\"{x:.1}\" y=\"{:.0}\" class=\"faint\" text-anchor=\"middle\">{tick}×</text>",
            height - 18.0,
            height - 4.0
        );
    }
    let mut y = top + 6.0;
    for row in rows {
        group(&mut svg, table, row, &columns, y, scale);
        y += columns.len() as f64 * BAR + GAP;
    }
    svg + "</svg>\n"
}

/// One row a shape: its first figure, but not the median delay, which says less than the tail.
fn charted(table: &Table) -> Vec<&Row> {
    let mut rows: Vec<&Row> = Vec::new();
    for row in table.rows.iter().filter(|row| row.figure.title != "p50") {
        if rows.last().is_none_or(|last| last.shape != row.shape) {
            rows.push(row);
        }
    }
    rows
}

fn legend(svg: &mut String, table: &Table, columns: &[usize]) {
    let mut x = 16.0;
    for (index, column) in columns.iter().enumerate() {
        let title = table.columns[*column].title;
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.0}\" y=\"60\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{:.0}\" y=\"70\">{}</text>",
            COLOURS[index % COLOURS.len()],
            x + 17.0,
            escape(title)
        );
        x += 40.0 + 7.0 * title.chars().count() as f64;
    }
}

fn group(svg: &mut String, table: &Table, row: &Row, columns: &[usize], top: f64, scale: f64) {
    let middle = top + columns.len() as f64 * BAR / 2.0;
    let _ = writeln!(
        svg,
        "<text x=\"{x:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
         <text x=\"{x:.0}\" y=\"{:.1}\" text-anchor=\"end\" class=\"faint\" font-size=\"10\">{}</text>",
        middle - 1.0,
        escape(row.shape),
        middle + 11.0,
        escape(&format!("{}, {}", row.figure.title, row.figure.unit)),
        x = LEFT - 10.0,
    );
    for (index, column) in columns.iter().enumerate() {
        let (Some(value), Some(ratio)) = (row.median(*column), table.ratio(row, *column)) else { continue };
        let y = top + index as f64 * BAR;
        let length = ratio.clamp(0.0, LONGEST) * scale;
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{:.1}\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"9\" class=\"faint\">{} ({ratio:.2})</text>",
            BAR - 1.5,
            COLOURS[index % COLOURS.len()],
            LEFT + length + 4.0,
            y + BAR - 2.5,
            number(value)
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
