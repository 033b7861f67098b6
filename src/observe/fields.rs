//! One line of named fields, as JSON or as `key=value` text.

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use crate::config::LogFormat;

/// What a line usually takes.
const LENGTH: usize = 512;

/// A line that is being written, field by field. One without a value is `null` in JSON and not there in text.
#[derive(Debug)]
pub(super) struct Fields {
    format: LogFormat,
    line: Vec<u8>,
}

impl Fields {
    /// An empty line.
    pub(super) fn new(format: LogFormat) -> Self {
        Self { format, line: Vec::with_capacity(LENGTH) }
    }

    /// Any text: a JSON string, which in the text form stands for itself where that is clear.
    pub(super) fn text(&mut self, key: &str, value: Option<&str>) {
        let Some(value) = self.begin(key, value) else { return };
        if self.format == LogFormat::Text && is_plain(value) {
            self.line.extend_from_slice(value.as_bytes());
        } else {
            let written = serde_json::to_writer(&mut self.line, value);
            debug_assert!(written.is_ok(), "a vector takes every write");
        }
    }

    /// What is written without blanks, quotes, `=` or `\`, such as an address; a string in JSON.
    pub(super) fn word(&mut self, key: &str, value: Option<impl Display>) {
        let Some(value) = self.begin(key, value) else { return };
        match self.format {
            LogFormat::Json => self.write(format_args!("\"{value}\"")),
            LogFormat::Text => self.write(format_args!("{value}")),
        }
    }

    /// A number or a boolean.
    pub(super) fn value(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = self.begin(key, value) {
            self.write(format_args!("{value}"));
        }
    }

    /// A duration in milliseconds, to the microsecond: more digits would only look exact.
    pub(super) fn milliseconds(&mut self, key: &str, value: Option<Duration>) {
        let Some(value) = self.begin(key, value) else { return };
        let micros = (value.as_nanos() + 500) / 1000;
        let (whole, rest) = (micros / 1000, micros % 1000);
        match rest {
            _ if rest.is_multiple_of(100) => self.write(format_args!("{whole}.{}", rest / 100)),
            _ if rest.is_multiple_of(10) => self.write(format_args!("{whole}.{:02}", rest / 10)),
            _ => self.write(format_args!("{whole}.{rest:03}")),
        }
    }

    /// The line, its newline included.
    pub(super) fn finish(mut self) -> Vec<u8> {
        match (self.format, self.line.is_empty()) {
            (LogFormat::Json, true) => self.line.extend_from_slice(b"{}\n"),
            (LogFormat::Json, false) => self.line.extend_from_slice(b"}\n"),
            (LogFormat::Text, _) => self.line.push(b'\n'),
        }
        self.line
    }

    /// Writes what comes before the value, and returns the value if there is one to write.
    fn begin<T>(&mut self, key: &str, value: Option<T>) -> Option<T> {
        let first = self.line.is_empty();
        match self.format {
            LogFormat::Json => {
                self.line.extend_from_slice(if first { b"{\"" } else { b",\"" });
                self.line.extend_from_slice(key.as_bytes());
                self.line.extend_from_slice(if value.is_some() { b"\":" } else { b"\":null" });
            }
            LogFormat::Text if value.is_some() => {
                self.line.extend_from_slice(if first { b"" } else { b" " });
                self.line.extend_from_slice(key.as_bytes());
                self.line.push(b'=');
            }
            LogFormat::Text => {}
        }
        value
    }

    fn write(&mut self, value: std::fmt::Arguments<'_>) {
        let written = self.line.write_fmt(value);
        debug_assert!(written.is_ok(), "a vector takes every write");
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn fill(fields: &mut Fields) {
        fields.text("plain", Some("a.test"));
        fields.text("odd", Some("a \"b\"\t=\\\u{1}…"));
        fields.text("empty", Some(""));
        fields.text("no_text", None);
        fields.word("address", Some("[2001:db8::1]:443"));
        fields.word("no_word", None::<u8>);
        fields.value("number", Some(u64::MAX));
        fields.value("flag", Some(false));
        fields.value("no_value", None::<bool>);
        fields.milliseconds("took", Some(Duration::from_micros(1_500)));
        fields.milliseconds("not_took", None);
    }

    #[test]
    fn json_is_what_a_json_library_writes() {
        let mut fields = Fields::new(LogFormat::Json);
        fill(&mut fields);
        let expected = json!({
            "plain": "a.test", "odd": "a \"b\"\t=\\\u{1}…", "empty": "", "no_text": null,
            "address": "[2001:db8::1]:443", "no_word": null, "number": u64::MAX, "flag": false, "no_value": null,
            "took": 1.5, "not_took": null,
        });
        assert_eq!(String::from_utf8(fields.finish()).unwrap(), format!("{expected}\n"));
        assert_eq!(Fields::new(LogFormat::Json).finish(), b"{}\n");
    }

    #[test]
    fn text_quotes_what_must_be_and_leaves_out_what_is_not_there() {
        let mut fields = Fields::new(LogFormat::Text);
        fields.text("no_first", None);
        fill(&mut fields);
        assert_eq!(
            String::from_utf8(fields.finish()).unwrap(),
            concat!(
                r#"plain=a.test odd="a \"b\"\t=\\\u0001…" empty="" address=[2001:db8::1]:443 "#,
                "number=18446744073709551615 flag=false took=1.5\n"
            )
        );
    }

    #[test]
    fn durations_have_no_more_digits_than_they_need() {
        let line = |duration| {
            let mut fields = Fields::new(LogFormat::Json);
            fields.milliseconds("took", Some(duration));
            fields.finish()
        };
        let micros = (0..20_000).chain([999_999, 1_000_000, 86_400_000_000, 86_400_000_001]);
        for micros in micros {
            let value: Value = serde_json::from_slice(&line(Duration::from_micros(micros))).unwrap();
            assert_eq!(value["took"], json!(micros as f64 / 1e3));
            let expected = format!("{}\n", json!({ "took": micros as f64 / 1e3 }));
            assert_eq!(line(Duration::from_micros(micros)), expected.as_bytes());
        }
        assert_eq!(line(Duration::from_nanos(1_499)), line(Duration::from_micros(1)));
        assert_eq!(line(Duration::from_nanos(1_500)), line(Duration::from_micros(2)));
    }
}
