//! The two text formats of metrics, and which of them somebody understands.

use std::fmt::Write as _;

/// A format of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    OpenMetrics,
    /// The text format of Prometheus before OpenMetrics, which everything understands.
    Classic,
}

const OPEN_METRICS: &str = "application/openmetrics-text";
const CLASSIC: &str = "text/plain";

impl Format {
    /// The one that an `Accept` header prefers.
    pub(super) fn preferred(accept: Option<&str>) -> Self {
        let quality = |wanted: &str| {
            let ranges = accept.unwrap_or_default().split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let fits = parts.next()?.eq_ignore_ascii_case(wanted);
                let quality =
                    parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |text| text.parse().ok());
                quality.filter(|_| fits)
            });
            ranges.fold(0.0, f32::max)
        };
        let open_metrics = quality(OPEN_METRICS);
        if open_metrics > 0.0 && open_metrics >= quality(CLASSIC) { Self::OpenMetrics } else { Self::Classic }
    }

    /// What `Content-Type` says.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// OpenMetrics, written in this format.
    pub(super) fn of(self, open_metrics: String) -> String {
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Classic => classic(&open_metrics),
        }
    }
}

/// There, counters and information are called in their descriptions as in their samples, information is a gauge, and there
/// is no mark of the end.
fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            // Its name depends on the type, which follows.
            help = described.split_once(' ').map(|(_, words)| words);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            // A string takes everything.
            let _ = writeln!(text, "# HELP {name}{suffix} {}", help.take().unwrap_or_default());
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if line != "# EOF" {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_understands_both_says_which() {
        for (accept, format) in [
            (None, Format::Classic),
            (Some("*/*"), Format::Classic),
            (Some("text/html, text/plain;q=0.9"), Format::Classic),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some("application/openmetrics-text; version=1.0.0;q=0"), Format::Classic),
            (Some("application/openmetrics-text;q=x, text/plain;q=0.1"), Format::Classic),
            // As Prometheus 2 and 3 ask.
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                Format::OpenMetrics,
            ),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=1.0.0;q=0.3,\
                      */*;q=0.2",
                ),
                Format::OpenMetrics,
            ),
            (Some("text/plain;version=0.0.4, application/openmetrics-text;q=0.5"), Format::Classic),
        ] {
            assert_eq!(Format::preferred(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn the_classic_format_names_types_as_samples() {
        let open_metrics = "# HELP a Of a.\n# TYPE a counter\na_total{x=\"# EOF\"} 1\n# HELP b Of b.\n# TYPE b info\n\
                            b_info{v=\"1\"} 1\n# HELP c Of c.\n# TYPE c gauge\nc 2\n# EOF\n";
        let classic = "# HELP a_total Of a.\n# TYPE a_total counter\na_total{x=\"# EOF\"} 1\n# HELP b_info Of b.\n\
                       # TYPE b_info gauge\nb_info{v=\"1\"} 1\n# HELP c Of c.\n# TYPE c gauge\nc 2\n";
        assert_eq!(Format::Classic.of(open_metrics.to_owned()), classic);
        assert_eq!(Format::OpenMetrics.of(open_metrics.to_owned()), open_metrics);
    }
}
