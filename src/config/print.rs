//! [`Config`] → the YAML that it is in effect, every default filled in.

use std::fmt::{self, Display, Formatter, Write};

use super::document::{LOG_FORMAT, LOG_LEVEL, REJECT};
use super::power::SANDBOX;
use super::proxy_protocol::ANNOUNCED;
use super::upstream::{BALANCE, ESTABLISHED};
use super::values::{Span, display_size};
use super::{
    Admin, Authorities, Config, Drain, EndpointAddress, HealthCheck, Limits, Listener, Networks, Question, TlsQuestion,
    Upstream,
};
use crate::routing::{Route, RouteLimits};

impl Display for Config {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("listeners:\n")?;
        self.listeners.iter().try_for_each(|listener| write_listener(f, listener))?;
        f.write_str("routes:\n")?;
        for (route, networks) in self.routes.iter().zip(&self.route_networks) {
            write_route(f, route, networks, &self.upstreams[route.upstream.0])?;
        }
        f.write_str("upstreams:\n")?;
        self.upstreams.iter().try_for_each(|upstream| write_upstream(f, upstream))?;
        writeln!(f, "on_route_change: {}", word(&ESTABLISHED, &self.on_route_change))?;
        write_limits(f, &self.limits)?;
        let Drain { grace, spread, deadline } = self.drain;
        let [grace, spread, deadline] = [grace, spread, deadline].map(Span);
        writeln!(f, "drain:\n  grace: {grace}\n  spread: {spread}\n  deadline: {deadline}")?;
        match self.dns.servers.as_slice() {
            [] => writeln!(f, "# dns: as in /etc/resolv.conf")?,
            servers => writeln!(f, "dns:\n  servers: {}", list(servers))?,
        }
        match &self.admin {
            None => writeln!(f, "# admin: off")?,
            Some(admin) => write_admin(f, admin)?,
        }
        let (format, level) = (word(&LOG_FORMAT, &self.log.format), word(&LOG_LEVEL, &self.log.level));
        writeln!(f, "log:\n  format: {format}\n  level: {level}\n  access: {}", self.log.access)?;
        writeln!(f, "workers: {}", self.workers)?;
        match &self.power.user {
            None => writeln!(f, "# user: whoever starts it")?,
            Some(user) => writeln!(f, "user: {}", quoted(user))?,
        }
        writeln!(f, "sandbox: {}", word(&SANDBOX, &self.power.sandbox))?;
        writeln!(f, "sandbox_ports: {}", self.power.sandbox_ports)?;
        match &self.upgrade_socket {
            None => writeln!(f, "# upgrade_socket: none"),
            Some(path) => writeln!(f, "upgrade_socket: {}", quoted(path.display())),
        }
    }
}

pub(super) fn write_listener(f: &mut dyn Write, listener: &Listener) -> fmt::Result {
    writeln!(f, "  - name: {}", quoted(&listener.name))?;
    writeln!(f, "    address: {}", quoted(listener.address))?;
    writeln!(f, "    v6_only: {}", listener.v6_only)?;
    writeln!(f, "    reject: {}", word(&REJECT, &listener.reject))?;
    writeln!(f, "    client_hello_timeout: {}", Span(listener.client_hello_timeout))?;
    writeln!(f, "    max_client_hello: {}", display_size(listener.max_client_hello))?;
    match &listener.proxy_protocol {
        None => writeln!(f, "    # proxy_protocol: none may come")?,
        Some(trusted) => writeln!(f, "    proxy_protocol: {{ trusted: {} }}", list(&trusted.networks))?,
    }
    write_networks(f, &listener.networks)
}

pub(super) fn write_route(f: &mut dyn Write, route: &Route, networks: &Networks, upstream: &Upstream) -> fmt::Result {
    writeln!(f, "  - name: {}", quoted(&route.name))?;
    // These keys have no word for what their absence means.
    match route.server_names.as_slice() {
        [] => writeln!(f, "    # server_names: none")?,
        names => writeln!(f, "    server_names: {}", list(names))?,
    }
    writeln!(f, "    no_server_name: {}", route.no_server_name)?;
    writeln!(f, "    upstream: {}", quoted(&upstream.name))?;
    match &route.listeners {
        None => writeln!(f, "    # listeners: all")?,
        Some(names) => writeln!(f, "    listeners: {}", list(names))?,
    }
    match route.alpn.as_slice() {
        [] => writeln!(f, "    # alpn: any")?,
        protocols => {
            let texts: Vec<_> = protocols.iter().map(|protocol| String::from_utf8_lossy(protocol.as_bytes())).collect();
            writeln!(f, "    alpn: {}", list(&texts))?;
        }
    }
    write_networks(f, networks)?;
    writeln!(f, "    idle_timeout: {}", Span(route.idle_timeout))?;
    writeln!(f, "    half_close_timeout: {}", Span(route.half_close_timeout))?;
    writeln!(f, "    allow_short_idle: {}", route.allow_short_idle)?;
    match &route.on_route_change {
        None => writeln!(f, "    # on_route_change: that of all routes")?,
        Some(established) => writeln!(f, "    on_route_change: {}", word(&ESTABLISHED, established))?,
    }
    write_route_limits(f, &route.limits)
}

fn write_route_limits(f: &mut dyn Write, limits: &RouteLimits) -> fmt::Result {
    if *limits == RouteLimits::default() {
        return writeln!(f, "    # limits: none");
    }
    writeln!(f, "    limits:")?;
    write_limit(f, "      ", "connections", limits.connections.as_ref())?;
    write_limit(f, "      ", "per_source", limits.per_source.as_ref())?;
    write_limit(f, "      ", "rate", limits.rate.as_ref())
}

fn write_limits(f: &mut dyn Write, limits: &Limits) -> fmt::Result {
    writeln!(f, "limits:")?;
    match limits.max_connections {
        None => writeln!(f, "  # max_connections: as many as open files allow")?,
        Some(most) => writeln!(f, "  max_connections: {most}")?,
    }
    writeln!(f, "  undecided: {}\n  undecided_per_source: {}", limits.undecided, limits.undecided_per_source)?;
    write_limit(f, "  ", "per_source", limits.per_source.as_ref())?;
    write_limit(f, "  ", "rate_per_source", limits.rate_per_source.as_ref())?;
    writeln!(f, "  relay_memory: {}", display_size(limits.relay_memory))
}

fn write_admin(f: &mut dyn Write, admin: &Admin) -> fmt::Result {
    writeln!(f, "admin:\n  address: {}", quoted(&admin.address))?;
    match &admin.token_file {
        None => writeln!(f, "  # token_file: none")?,
        Some(path) => writeln!(f, "  token_file: {}", quoted(path.display()))?,
    }
    writeln!(f, "  hosts: {}", list(&admin.hosts))
}

fn write_limit(f: &mut dyn Write, indent: &str, key: &str, limit: Option<&impl Display>) -> fmt::Result {
    match limit {
        None => writeln!(f, "{indent}# {key}: any number"),
        Some(most) => writeln!(f, "{indent}{key}: {most}"),
    }
}

fn write_networks(f: &mut dyn Write, networks: &Networks) -> fmt::Result {
    match &networks.allow {
        None => writeln!(f, "    # allow: every source")?,
        Some(allow) => writeln!(f, "    allow: {}", list(allow))?,
    }
    writeln!(f, "    deny: {}", list(&networks.deny))
}

pub(super) fn write_upstream(f: &mut dyn Write, upstream: &Upstream) -> fmt::Result {
    writeln!(f, "  {}:\n    endpoints:", quoted(&upstream.name))?;
    for endpoint in &upstream.endpoints {
        let (address, weight, backup) = (quoted(&endpoint.address), endpoint.weight, endpoint.backup);
        match endpoint.address {
            EndpointAddress::Service(_) => writeln!(f, "      - {{ srv: {address}, backup: {backup} }}")?,
            _ => writeln!(f, "      - {{ address: {address}, weight: {weight}, backup: {backup} }}")?,
        }
    }
    writeln!(f, "    balance: {}", word(&BALANCE, &upstream.balance))?;
    writeln!(f, "    slow_start: {}", Span(upstream.slow_start))?;
    writeln!(f, "    connect_timeout: {}", Span(upstream.connect_timeout))?;
    writeln!(f, "    attempts: {}", upstream.attempts)?;
    writeln!(f, "    max_connecting: {}", upstream.max_connecting)?;
    writeln!(f, "    user_timeout: {}", Span(upstream.user_timeout))?;
    if !upstream.source_addresses.is_empty() {
        writeln!(f, "    source_addresses: {}", list(&upstream.source_addresses))?;
    }
    writeln!(f, "    proxy_protocol: {}", word(&ANNOUNCED, &upstream.proxy_protocol))?;
    writeln!(f, "    on_removed: {}", word(&ESTABLISHED, &upstream.on_removed))?;
    match &upstream.health_check {
        None => writeln!(f, "    # health_check: none")?,
        Some(check) => write_health_check(f, check)?,
    }
    writeln!(f, "    on_unhealthy: {}", word(&ESTABLISHED, &upstream.on_unhealthy))
}

fn write_health_check(f: &mut dyn Write, check: &HealthCheck) -> fmt::Result {
    writeln!(f, "    health_check:")?;
    match &check.question {
        Question::Tcp => writeln!(f, "      tcp: {{}}")?,
        // Without a value at all it would be no mapping.
        Question::Tls(tls) if *tls == TlsQuestion::default() => writeln!(f, "      tls: {{}}")?,
        Question::Tls(tls) => {
            writeln!(f, "      tls:")?;
            write_tls_question(f, tls)?;
        }
        Question::Https(tls, http) => {
            writeln!(f, "      https:\n        path: {}", quoted(&http.path))?;
            let statuses: Vec<String> = http.statuses.iter().map(u16::to_string).collect();
            writeln!(f, "        statuses: [{}]", statuses.join(", "))?;
            write_tls_question(f, tls)?;
        }
    }
    writeln!(f, "      interval: {}", Span(check.interval))?;
    writeln!(f, "      timeout: {}", Span(check.timeout))?;
    writeln!(f, "      rise: {}\n      fall: {}", check.rise, check.fall)
}

fn write_tls_question(f: &mut dyn Write, tls: &TlsQuestion) -> fmt::Result {
    match &tls.authorities {
        None => writeln!(f, "        # ca_file: none, and no system_roots")?,
        Some(Authorities::File(path)) => writeln!(f, "        ca_file: {}", quoted(path.display()))?,
        Some(Authorities::System) => writeln!(f, "        system_roots: true")?,
    }
    match &tls.server_name {
        None => writeln!(f, "        # server_name: none")?,
        Some(name) => writeln!(f, "        server_name: {}", quoted(name.to_str()))?,
    }
    match &tls.client {
        None => writeln!(f, "        # client_certificate and client_key: none")?,
        Some(files) => {
            writeln!(f, "        client_certificate: {}", quoted(files.certificate.display()))?;
            writeln!(f, "        client_key: {}", quoted(files.key.display()))?;
        }
    }
    match tls.pins.as_slice() {
        [] => writeln!(f, "        # pins: none"),
        pins => writeln!(f, "        pins: {}", list(pins)),
    }
}

fn word<T: PartialEq>(words: &[(&'static str, T)], meaning: &T) -> &'static str {
    let written = words.iter().find(|(_, known)| known == meaning);
    written.map(|(word, _)| *word).unwrap_or_default()
}

fn list<T: Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

/// In double quotes, since `*` and `:` at the beginning mean something in YAML, and so do words such as `null`.
pub(crate) fn quoted(text: impl Display) -> String {
    let mut quoted = String::from('"');
    for character in text.to_string().chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            other => _ = write!(quoted, "\\U{:08X}", u32::from(other)),
        }
    }
    quoted.push('"');
    quoted
}
