//! How each proxy is told to route by server name: two threads, no logs, and what its documentation advises for that.

use rustix::process::{Resource, getrlimit};

use super::ends::Protocol;

/// Ports that a configuration names.
pub(crate) struct Ports {
    /// Where the proxy listens.
    pub(crate) listen: u16,
    /// Where the upstream serves each of [`Protocol::ROUTED`].
    pub(crate) upstream: [u16; Protocol::ROUTED.len()],
}

impl Ports {
    fn routed(&self) -> impl Iterator<Item = (Protocol, u16)> {
        Protocol::ROUTED.into_iter().zip(self.upstream)
    }
}

/// Threads or worker processes of every proxy.
pub(crate) const THREADS: usize = 2;
/// Connections that each proxy must hold at most.
const CONNECTIONS: usize = 9300;
/// Pipes that HAProxy may use.
const PIPES: usize = 500;

/// Connections that each proxy is set to hold: each takes two descriptors, and so does a pipe.
pub(crate) fn connections() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.and_then(|limit| limit.try_into().ok()).unwrap_or(usize::MAX);
    (descriptors.saturating_sub(2 * PIPES + 200) / 2).min(CONNECTIONS)
}

pub(crate) fn snigate(ports: &Ports, access_log: bool, workers: usize) -> String {
    let mut text = format!("listeners:\n  - address: \"127.0.0.1:{}\"\nroutes:\n", ports.listen);
    for (protocol, _) in ports.routed() {
        text += &format!("  - {{ server_names: [{}], upstream: {} }}\n", protocol.server_name(), protocol.label());
    }
    text += "upstreams:\n";
    for (protocol, port) in ports.routed() {
        text += &format!("  {}: {{ endpoints: [\"127.0.0.1:{port}\"] }}\n", protocol.label());
    }
    text + &format!("log: {{ level: warn, access: {access_log} }}\nworkers: {workers}\n")
}

/// The rules for `req.ssl_sni` are those of the HAProxy manual. `splice-auto` alone hardly ever splices here (its
/// heuristics want a stream that began fast), so the others are on as well: the best that HAProxy can do for bulk.
pub(crate) fn haproxy(ports: &Ports, splice: bool) -> String {
    let splice = match splice {
        true => "    option splice-auto\n    option splice-request\n    option splice-response\n",
        false => "",
    };
    let mut text = format!(
        "global
    nbthread {THREADS}
    maxconn {}
    maxpipes {PIPES}
defaults
    mode tcp
{splice}    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend tls
    bind 127.0.0.1:{} backlog 4096
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    tcp-request content reject
",
        connections(),
        ports.listen
    );
    for (protocol, _) in ports.routed() {
        text += &format!("    use_backend {} if {{ req.ssl_sni -i {} }}\n", protocol.label(), protocol.server_name());
    }
    for (protocol, port) in ports.routed() {
        text += &format!("backend {}\n    server one 127.0.0.1:{port}\n", protocol.label());
    }
    text
}

/// The map from names to upstreams is that of nginx's `ngx_stream_ssl_preread_module`; `tcp_nodelay` is on by default
/// and `proxy_buffer_size` stays at its documented 16 KiB.
pub(crate) fn nginx(ports: &Ports, module: Option<&str>, root: bool) -> String {
    let module = module.map_or_else(String::new, |path| format!("load_module {path};\n"));
    let user = if root { "user root;\n" } else { "" };
    let mut text = format!(
        "{module}{user}daemon off;
pid nginx.pid;
error_log stderr error;
worker_processes {THREADS};
events {{
    use epoll;
    worker_connections {};
}}
stream {{
    access_log off;
    map $ssl_preread_server_name $chosen {{
        hostnames;
",
        2 * connections() + 100
    );
    for (protocol, _) in ports.routed() {
        text += &format!("        {} {};\n", protocol.server_name(), protocol.label());
    }
    text += "    }\n";
    for (protocol, port) in ports.routed() {
        text += &format!("    upstream {} {{ server 127.0.0.1:{port}; }}\n", protocol.label());
    }
    text + &format!(
        "    server {{
        listen 127.0.0.1:{} reuseport backlog=4096;
        ssl_preread on;
        tcp_nodelay on;
        proxy_buffer_size 16k;
        proxy_connect_timeout 5s;
        proxy_timeout 1h;
        proxy_pass $chosen;
    }}
}}
",
        ports.listen
    )
}

/// The listener filter and the filter chains are those of Envoy's TLS inspector. A cluster admits 1,024 connections
/// unless told otherwise.
pub(crate) fn envoy(ports: &Ports) -> String {
    let address = |port: u16| format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}");
    let mut text = format!(
        "static_resources:
  listeners:
  - name: tls
    address: {}
    enable_reuse_port: true
    tcp_backlog_size: 4096
    listener_filters:
    - name: envoy.filters.listener.tls_inspector
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector
    filter_chains:
",
        address(ports.listen)
    );
    for (protocol, _) in ports.routed() {
        text += &format!(
            "    - filter_chain_match: {{ server_names: [{}] }}
      filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: {name}
          cluster: {name}
",
            protocol.server_name(),
            name = protocol.label()
        );
    }
    text += "  clusters:\n";
    for (protocol, port) in ports.routed() {
        text += &format!(
            "  - name: {name}
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {{ thresholds: [ {{ max_connections: 100000, max_pending_requests: 100000 }} ] }}
    load_assignment:
      cluster_name: {name}
      endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {} }} }} ] }} ]
",
            address(port),
            name = protocol.label()
        );
    }
    text
}
