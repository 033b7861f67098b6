//! The access log: one line a connection, written when it has ended.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use super::fields::Fields;
use super::lines::Lines;
use crate::config::LogFormat;

/// Longest piece of client-chosen text in a line; the rest is cut.
pub const TEXT_LIMIT: usize = 256;

/// Where finished connections are written down; clones write to the same place.
#[derive(Clone, Debug)]
pub struct AccessLog {
    place: Option<(LogFormat, Lines)>,
}

impl AccessLog {
    /// A log that writes to `sink` from a thread of its own.
    ///
    /// # Errors
    /// When that thread cannot be started.
    pub fn new(format: LogFormat, sink: impl Write + Send + 'static) -> io::Result<Self> {
        Ok(Self { place: Some((format, Lines::to(sink)?)) })
    }

    /// No access log.
    pub fn off() -> Self {
        Self { place: None }
    }

    /// Whether lines go anywhere, and so whether it is worth making their costlier fields.
    pub fn is_on(&self) -> bool {
        self.place.is_some()
    }

    /// Writes one line. Never waits.
    pub fn write(&self, line: &Line<'_>) {
        if let Some((format, lines)) = &self.place {
            lines.push(&line.render(*format));
        }
    }

    /// Lines that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.place.as_ref().map_or(0, |(_, lines)| lines.dropped())
    }

    /// Waits until the lines so far are written, or the place has proved stuck.
    pub fn flush(&self) {
        if let Some((_, lines)) = &self.place {
            lines.flush();
        }
    }
}

/// What is told about one connection. Text that a client chose is escaped and cut before it comes here.
#[derive(Debug)]
pub struct Line<'a> {
    /// When the line was written: the end of the connection, RFC 3339 in UTC.
    pub time: SystemTime,
    /// Unique on this host, across restarts too.
    pub id: &'a str,
    /// The client's address, canonical (never v4-mapped).
    pub source: SocketAddr,
    /// The proxy that spoke for the client, where the listener requires one.
    pub balancer: Option<SocketAddr>,
    /// The listener's name.
    pub listener: &'a str,
    /// The server name in its normal form, or what was sent in its place, escaped.
    pub server_name: Option<&'a str>,
    /// The application protocols that the client offered, in its order.
    pub alpn: Option<&'a str>,
    /// The client's JA4 fingerprint.
    pub ja4: Option<&'a str>,
    /// Whether the hello carries an Encrypted Client Hello extension (often GREASE).
    pub ech: Option<bool>,
    /// The hello's length in bytes, without record headers.
    pub hello_bytes: Option<u32>,
    /// The TLS records it came in.
    pub hello_records: Option<u16>,
    /// The route's name.
    pub route: Option<&'a str>,
    /// The upstream's name.
    pub upstream: Option<&'a str>,
    /// The address connected to.
    pub endpoint: Option<SocketAddr>,
    /// Our own port of that connection.
    pub local_port: Option<u16>,
    /// From the decision to the established connection, failed attempts included.
    pub connect: Option<Duration>,
    /// From accept to the end.
    pub duration: Duration,
    /// Bytes delivered to the upstream.
    pub sent: u64,
    /// Bytes delivered to the client.
    pub received: u64,
    /// Of both, the bytes that were spliced: moved by the kernel alone.
    pub spliced: u64,
    /// The stage it ended in.
    pub phase: &'static str,
    /// Why it ended.
    pub reason: &'static str,
    /// Who ended it.
    pub closed_by: &'static str,
    /// What the operator or the client can do about it, where that is known.
    pub hint: Option<&'static str>,
}

impl Line<'_> {
    fn render(&self, format: LogFormat) -> Vec<u8> {
        let mut fields = Fields::new(format);
        fields.word("time", Some(humantime::format_rfc3339_millis(self.time)));
        fields.word("id", Some(self.id));
        fields.word("source", Some(self.source));
        fields.word("balancer", self.balancer);
        fields.text("listener", Some(self.listener));
        fields.text("server_name", self.server_name);
        fields.text("alpn", self.alpn);
        fields.text("ja4", self.ja4);
        fields.value("ech", self.ech);
        fields.value("hello_bytes", self.hello_bytes);
        fields.value("hello_records", self.hello_records);
        fields.text("route", self.route);
        fields.text("upstream", self.upstream);
        fields.word("endpoint", self.endpoint);
        fields.value("local_port", self.local_port);
        fields.milliseconds("connect_ms", self.connect);
        fields.milliseconds("duration_ms", Some(self.duration));
        fields.value("sent", Some(self.sent));
        fields.value("received", Some(self.received));
        fields.value("spliced", Some(self.spliced));
        fields.word("phase", Some(self.phase));
        fields.word("reason", Some(self.reason));
        fields.word("closed_by", Some(self.closed_by));
        if self.hint.is_some() {
            fields.text("hint", self.hint);
        }
        fields.finish()
    }
}

/// Client-chosen bytes as printable ASCII of bounded length.
pub fn escaped(raw: &[u8]) -> String {
    let mut text = raw[..raw.len().min(TEXT_LIMIT + 1)].escape_ascii().to_string();
    if text.len() > TEXT_LIMIT {
        text.truncate(TEXT_LIMIT);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line<'static> {
        Line {
            time: humantime::parse_rfc3339("2026-01-02T03:04:05.678Z").unwrap(),
            id: "1-2-3",
            source: "192.0.2.1:5000".parse().unwrap(),
            balancer: None,
            listener: "kube",
            server_name: Some("a\\x20b"),
            alpn: Some("h2,http/1.1"),
            ja4: None,
            ech: Some(false),
            hello_bytes: Some(517),
            hello_records: Some(1),
            route: None,
            upstream: None,
            endpoint: None,
            local_port: None,
            connect: None,
            duration: Duration::from_micros(1500),
            sent: 0,
            received: 0,
            spliced: 0,
            phase: "hello",
            reason: "server_name_invalid",
            closed_by: "snigate",
            hint: None,
        }
    }

    #[test]
    fn json_keeps_the_order_and_says_null() {
        let text = String::from_utf8(line().render(LogFormat::Json)).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"time":"2026-01-02T03:04:05.678Z","id":"1-2-3","source":"192.0.2.1:5000","balancer":null,"listener":"kube","#,
                r#""server_name":"a\\x20b","alpn":"h2,http/1.1","ja4":null,"ech":false,"hello_bytes":517,"#,
                r#""hello_records":1,"route":null,"upstream":null,"endpoint":null,"local_port":null,"#,
                r#""connect_ms":null,"duration_ms":1.5,"sent":0,"received":0,"spliced":0,"phase":"hello","#,
                r#""reason":"server_name_invalid","closed_by":"snigate"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn text_leaves_out_what_is_not_there_and_quotes_what_must_be() {
        let text = String::from_utf8(line().render(LogFormat::Text)).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"time=2026-01-02T03:04:05.678Z id=1-2-3 source=192.0.2.1:5000 listener=kube server_name="a\\x20b" "#,
                "alpn=h2,http/1.1 ech=false hello_bytes=517 hello_records=1 duration_ms=1.5 sent=0 received=0 spliced=0 ",
                "phase=hello reason=server_name_invalid closed_by=snigate\n"
            )
        );
    }

    #[test]
    fn client_text_is_escaped_and_cut() {
        assert_eq!(escaped(b"a\n\"b\xff"), r#"a\n\"b\xff"#);
        assert_eq!(escaped(&[b'x'; 1000]).chars().count(), TEXT_LIMIT + 1);
    }
}
