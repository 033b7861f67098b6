//! A reader of metrics, in both formats, that lets no mistake pass.

use super::gate::GateProcess;
use super::http::get_with;
use std::collections::{BTreeMap, BTreeSet};

/// What was read.
#[derive(Debug, Default)]
pub struct Figures {
    /// The type of each family, by its name in the description.
    pub families: BTreeMap<String, String>,
    /// The value of each series, as `name{label="value",…}`, labels in their order.
    pub series: BTreeMap<String, f64>,
}

impl Figures {
    /// The value of one series.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.series.get(series).copied()
    }

    /// The values of the series that begin like this, added up.
    pub fn sum(&self, beginning: &str) -> f64 {
        self.series.iter().filter(|(series, _)| series.starts_with(beginning)).map(|(_, value)| value).sum()
    }
}

/// What a gate shows, as OpenMetrics.
pub fn figures(gate: &GateProcess) -> Figures {
    let answer = get_with(gate.admin(), "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    open_metrics(&answer.body)
}

/// Reads OpenMetrics 1.0.
pub fn open_metrics(text: &str) -> Figures {
    let text = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("no end: {text}"));
    read(text, |kind| match kind {
        "counter" => &["_total"],
        "info" => &["_info"],
        "gauge" => &[""],
        "histogram" => &["_sum", "_count", "_bucket"],
        other => panic!("no type: {other}"),
    })
}

/// Reads the text format from before.
pub fn classic(text: &str) -> Figures {
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    read(text, |kind| match kind {
        "counter" | "gauge" => &[""],
        "histogram" => &["_sum", "_count", "_bucket"],
        other => panic!("no type: {other}"),
    })
}

fn read(text: &str, suffixes: fn(&str) -> &'static [&'static str]) -> Figures {
    let mut figures = Figures::default();
    let (mut family, mut lines) = (String::new(), text.lines());
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(is_name(name) && !words.is_empty(), "{line}");
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert!(figures.families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} is there twice");
            family = name.to_owned();
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) =
            series.split_once('{').map_or((series, ""), |(name, rest)| (name, rest.strip_suffix('}').unwrap()));
        let fits = suffixes(&figures.families[&family]).iter().any(|suffix| name == format!("{family}{suffix}"));
        assert!(fits, "{name} stands in {family}");
        check_labels(labels);
        let value = if value == "+Inf" { f64::INFINITY } else { value.parse().unwrap() };
        assert!(figures.series.insert(series.to_owned(), value).is_none(), "{series} is there twice");
    }
    check_histograms(&figures);
    figures
}

fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn check_labels(mut labels: &str) {
    let mut names = BTreeSet::new();
    while !labels.is_empty() {
        let (name, rest) = labels.split_once("=\"").unwrap();
        assert!(is_name(name) && names.insert(name), "{name}");
        let mut escaped = false;
        let end = rest.find(|letter| {
            let ends = letter == '"' && !escaped;
            escaped = letter == '\\' && !escaped;
            ends
        });
        labels = &rest[end.unwrap() + 1..];
        labels = labels.strip_prefix(',').unwrap_or(labels);
    }
}

/// Buckets grow up to the count.
fn check_histograms(figures: &Figures) {
    for (count, total) in figures.series.iter().filter(|(series, _)| series.contains("_count")) {
        let (name, labels) = count.split_once("_count").unwrap();
        let labels = labels.trim_start_matches('{').trim_end_matches('}');
        let bucket = |series: &str| series.starts_with(&format!("{name}_bucket{{")) && series.contains(labels);
        let mut buckets: Vec<f64> =
            figures.series.iter().filter(|(series, _)| bucket(series)).map(|(_, value)| *value).collect();
        buckets.sort_by(f64::total_cmp);
        assert_eq!(buckets.last(), Some(total), "{count}");
    }
}
