//! [`Table`] → YAML with comments.

use std::fmt::{self, Display, Formatter, Write};
use std::time::Duration;

use super::notes::Note;
use super::routes::listed;
use super::table::{Authorities, Check, Endpoint, Listener, Question, Route, Table, Upstream};
use crate::config::{self, span};

/// Columns of a comment.
const WIDTH: usize = 116;

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Made by `snigate import haproxy` from {}. Line numbers are those of that file.",
            plain(&self.source)
        )?;
        f.write_str("# Server names are the same in small letters and in capitals here, as with `-i` there.\n")?;
        write_notes(f, &self.notes)?;
        f.write_str("listeners:\n")?;
        self.listeners.iter().try_for_each(|listener| write_listener(f, listener))?;
        f.write_str("\nroutes:\n")?;
        for route in &self.routes {
            let mut text = String::new();
            write_route(&mut text, route)?;
            route.remarks.iter().try_for_each(|remark| comment(f, "  ", remark))?;
            let sign = if route.in_force { "" } else { "# " };
            text.lines().try_for_each(|line| writeln!(f, "  {sign}{line}"))?;
        }
        f.write_str("\nupstreams:\n")?;
        self.upstreams.iter().try_for_each(|upstream| write_upstream(f, upstream))?;
        if !self.dns.is_empty() {
            let servers: Vec<String> = self.dns.iter().map(quoted).collect();
            writeln!(f, "\ndns: {{ servers: [{}] }}", servers.join(", "))?;
        }
        if let Some((most, line)) = self.max_connections {
            writeln!(f, "\nlimits: {{ max_connections: {most} }} # line {line}")?;
        }
        Ok(())
    }
}

/// What became of lines, those of which the same is to be said together.
fn write_notes(f: &mut Formatter<'_>, notes: &[Note]) -> fmt::Result {
    let mut told: Vec<(&str, Vec<&Note>)> = Vec::new();
    for note in notes {
        match told.iter_mut().find(|(text, _)| *text == note.text) {
            Some((_, same)) => same.push(note),
            None => told.push((&note.text, vec![note])),
        }
    }
    if !told.is_empty() {
        f.write_str("#\n# What was not carried over as it is, and why:\n")?;
    }
    for (text, same) in told {
        let lines: Vec<usize> = same.iter().map(|note| note.line).collect();
        let mut quotes: Vec<String> = same.iter().map(|note| format!("`{}`", note.quoted)).collect();
        quotes.dedup();
        let more = if quotes.len() > 4 { ", …" } else { "" };
        quotes.truncate(4);
        comment(f, "", &format!("- {}, {}{more}: {text}.", listed(&lines), quotes.join(", ")))?;
    }
    f.write_str("\n")
}

/// A comment, as many lines as it takes.
fn comment(f: &mut dyn Write, indent: &str, text: &str) -> fmt::Result {
    let mut line = format!("{indent}#");
    let hanging = if text.starts_with("- ") { "  " } else { "" };
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH && !line.ends_with('#') {
            writeln!(f, "{line}")?;
            line = format!("{indent}#{hanging}");
        }
        write!(line, " {word}")?;
    }
    writeln!(f, "{line}")
}

fn write_listener(f: &mut dyn Write, listener: &Listener) -> fmt::Result {
    let Listener { line, name, address, v6_only, hello_timeout, trusted } = listener;
    writeln!(f, "  - name: {}", quoted(name))?;
    writeln!(f, "    address: {} # line {line}", quoted(address))?;
    if *v6_only {
        writeln!(f, "    v6_only: true")?;
    }
    if let Some(time) = hello_timeout {
        writeln!(f, "    client_hello_timeout: {}", span(*time))?;
    }
    if let Some(networks) = trusted {
        writeln!(f, "    proxy_protocol: {{ trusted: {} }}", list(networks))?;
    }
    Ok(())
}

fn write_route(f: &mut dyn Write, route: &Route) -> fmt::Result {
    writeln!(f, "- name: {} # {}", quoted(&route.name), listed(&route.lines))?;
    if !route.server_names.is_empty() {
        writeln!(f, "  server_names: {}", list(&route.server_names))?;
    }
    if route.no_server_name {
        writeln!(f, "  no_server_name: true")?;
    }
    if let Some(names) = &route.listeners {
        writeln!(f, "  listeners: {}", list(names))?;
    }
    if !route.allow.is_empty() {
        writeln!(f, "  allow: {}", list(&route.allow))?;
    }
    if !route.deny.is_empty() {
        writeln!(f, "  deny: {}", list(&route.deny))?;
    }
    writeln!(f, "  upstream: {}", quoted(&route.upstream))?;
    if let Some(time) = route.idle_timeout {
        writeln!(f, "  idle_timeout: {}", span(time))?;
        if time < Duration::from_secs(60) {
            writeln!(f, "  allow_short_idle: true")?;
        }
    }
    if let Some(time) = route.half_close_timeout {
        writeln!(f, "  half_close_timeout: {}", span(time))?;
    }
    if let Some(most) = route.connections {
        writeln!(f, "  limits: {{ connections: {most} }}")?;
    }
    Ok(())
}

fn write_upstream(f: &mut dyn Write, upstream: &Upstream) -> fmt::Result {
    writeln!(f, "  {}: # {}", quoted(&upstream.name), listed(&upstream.lines))?;
    upstream.remarks.iter().try_for_each(|remark| comment(f, "    ", remark))?;
    writeln!(f, "    endpoints:")?;
    upstream.endpoints.iter().try_for_each(|endpoint| write_endpoint(f, endpoint))?;
    if let Some(balance) = upstream.balance {
        writeln!(f, "    balance: {balance}")?;
    }
    if let Some(time) = upstream.connect_timeout {
        writeln!(f, "    connect_timeout: {}", span(time))?;
    }
    if let Some(attempts) = upstream.attempts {
        writeln!(f, "    attempts: {attempts}")?;
    }
    if let Some(version) = upstream.header {
        writeln!(f, "    proxy_protocol: {version}")?;
    }
    upstream.check.iter().try_for_each(|check| write_check(f, check))
}

fn write_endpoint(f: &mut dyn Write, endpoint: &Endpoint) -> fmt::Result {
    let key = if endpoint.service { "srv" } else { "address" };
    write!(f, "      - {{ {key}: {}", quoted(&endpoint.address))?;
    if endpoint.weight != 1 && !endpoint.service {
        write!(f, ", weight: {}", endpoint.weight)?;
    }
    if endpoint.backup {
        f.write_str(", backup: true")?;
    }
    writeln!(f, " }} # line {}", endpoint.line)
}

fn write_check(f: &mut dyn Write, check: &Check) -> fmt::Result {
    f.write_str("    health_check:\n")?;
    let mut inner = String::new();
    let name = match &check.question {
        Question::Tcp => "tcp",
        Question::Tls => "tls",
        Question::Https { path, statuses } => {
            writeln!(inner, "        path: {}", quoted(path))?;
            if *statuses != [200] {
                let statuses: Vec<String> = statuses.iter().map(u16::to_string).collect();
                writeln!(inner, "        statuses: [{}]", statuses.join(", "))?;
            }
            "https"
        }
    };
    match &check.authorities {
        None => {}
        Some(Authorities::File(path)) => writeln!(inner, "        ca_file: {}", quoted(path))?,
        Some(Authorities::System) => writeln!(inner, "        system_roots: true")?,
    }
    if let Some(name) = &check.server_name {
        writeln!(inner, "        server_name: {}", quoted(name))?;
    }
    match inner.is_empty() {
        true => writeln!(f, "      {name}: {{}}")?,
        false => write!(f, "      {name}:\n{inner}")?,
    }
    for (key, time) in [("interval", check.interval), ("timeout", check.timeout)] {
        if let Some(time) = time {
            writeln!(f, "      {key}: {}", span(time))?;
        }
    }
    for (key, times) in [("rise", check.rise), ("fall", check.fall)] {
        if let Some(times) = times {
            writeln!(f, "      {key}: {times}")?;
        }
    }
    Ok(())
}

fn list<T: Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

/// In double quotes where YAML could take it for something else.
fn quoted(text: impl Display) -> String {
    let text = text.to_string();
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        // Words that mean something else.
        && !["true", "false", "yes", "no", "on", "off", "null", "y", "n"].contains(&text.to_ascii_lowercase().as_str());
    if plain {
        return text;
    }
    config::quoted(text)
}

/// Text that cannot end a comment.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}
