//! The PROXY protocol with HAProxy at the other end, in front of the gate and behind it.

use std::net::SocketAddr;

use snigate::config::Config;
use snigate::proxy_protocol::Version;
use snigate::upstream::probe::Prober;

use crate::support::certs::Authority;
use crate::support::gate::{Gate, routing};
use crate::support::haproxy::Haproxy;
use crate::support::tls::{self, Client, Service, TlsServer};
use crate::support::wait_for;

/// What HAProxy says of a connection: the client and its destination, as told or as they are, and what else it was told.
const LOG: &str =
    "    log-format \"told %ci:%cp to %[dst]:%[dst_port] authority %[fc_pp_authority] id %[fc_pp_unique_id] end\"";

struct Tls {
    authority: Authority,
    server: TlsServer,
}

impl Tls {
    fn start() -> Self {
        let authority = Authority::new();
        let server = Service::echo(&authority.server(&["here.test"])).start();
        Self { authority, server }
    }

    /// A whole session by way of `address`; the client's own address.
    fn session(&self, address: SocketAddr) -> SocketAddr {
        let config = Client::trusting(&self.authority).config();
        let mut session = tls::connect(&config, "here.test", address).unwrap();
        assert_eq!(session.echo(&[7; 100_000]).unwrap(), [7; 100_000]);
        let source = session.local_address();
        session.close().unwrap();
        source
    }
}

/// A gate that wants a header before it routes to `upstream`.
fn requiring(upstream: SocketAddr) -> String {
    routing([("here.test", upstream)]).replace("name: gate", "name: gate, proxy_protocol: { trusted: [127.0.0.1] }")
}

/// One that writes a header for `upstream`.
fn announcing(upstream: SocketAddr, version: &str) -> String {
    routing([("here.test", upstream)]).replace("up0: {", &format!("up0: {{ proxy_protocol: {version},"))
}

#[test]
fn its_headers_are_read() {
    let tls = Tls::start();
    for options in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c",
        "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id",
        "send-proxy-v2-ssl-cn",
    ] {
        let gate = Gate::start(&requiring(tls.server.address()));
        let more = "    unique-id-format %{+X}o-%ci-%cp-%rt";
        let Some(haproxy) = Haproxy::start("", more, gate.address(), options) else { return };
        let client = tls.session(haproxy.address());
        let line = gate.log.line(0);
        assert_eq!(line["source"], client.to_string(), "{options}: {line}");
        let balancer: SocketAddr = line["balancer"].as_str().unwrap().parse().unwrap();
        assert_ne!(balancer, client);
        assert_eq!((line["server_name"].as_str(), line["reason"].as_str()), (Some("here.test"), Some("client_closed")));
    }
}

#[test]
fn its_checks_are_its_own() {
    let tls = Tls::start();
    for send in ["send-proxy", "send-proxy-v2"] {
        let gate = Gate::start(&requiring(tls.server.address()));
        let options = format!("{send} check check-send-proxy inter 50ms");
        let Some(haproxy) = Haproxy::start("", "", gate.address(), &options) else { return };
        let line = gate.log.line(1);
        assert_eq!((&line["phase"], &line["source"]), (&"hello".into(), &line["balancer"]), "{line}");
        assert!(["no_bytes", "client_reset"].contains(&line["reason"].as_str().unwrap()), "{line}");
        // The gate is up for it.
        tls.session(haproxy.address());
    }
}

#[test]
fn a_check_without_a_header_is_refused() {
    let tls = Tls::start();
    let gate = Gate::start(&requiring(tls.server.address()));
    let Some(_haproxy) = Haproxy::start("", "", gate.address(), "check inter 50ms ssl verify none") else { return };
    let line = gate.log.line(0);
    assert_eq!((line["reason"].as_str(), line["phase"].as_str()), (Some("proxy_header_invalid"), Some("proxy_header")));
}

/// The line in which HAProxy tells of a connection.
fn told(haproxy: &Haproxy) -> Vec<String> {
    let line = haproxy.lines.wait("what it was told", |line| line.contains("told "));
    line[line.find("told ").unwrap()..].split(' ').map(str::to_owned).collect()
}

#[test]
fn it_reads_our_headers() {
    let tls = Tls::start();
    for version in ["v1", "v2"] {
        let Some(haproxy) = Haproxy::start("accept-proxy", LOG, tls.server.address(), "") else { return };
        let gate = Gate::start(&announcing(haproxy.address(), version));
        let client = tls.session(gate.address());
        let id = gate.log.line(0)["id"].as_str().unwrap().to_owned();
        let (authority, id) = if version == "v2" { ("here.test", &*id) } else { ("-", "-") };
        let (client, gate) = (client.to_string(), gate.address().to_string());
        let expected = ["told", &client, "to", &gate, "authority", authority, "id", id, "end"];
        assert_eq!(told(&haproxy), expected, "{version}");
    }
}

#[test]
fn a_client_is_known_at_the_end_of_a_chain() {
    let tls = Tls::start();
    for (send, version) in [("send-proxy", "v2"), ("send-proxy-v2", "v1")] {
        let Some(last) = Haproxy::start("accept-proxy", LOG, tls.server.address(), "") else { return };
        let announcing = announcing(last.address(), version);
        let gate =
            Gate::start(&announcing.replace("name: gate", "name: gate, proxy_protocol: { trusted: [127.0.0.1] }"));
        let Some(first) = Haproxy::start("", "", gate.address(), send) else { return };
        let client = tls.session(first.address());
        assert_eq!(told(&last)[1..4], [client.to_string(), "to".to_owned(), first.address().to_string()]);
    }
}

#[tokio::test]
async fn our_probes_are_heard_as_our_own() {
    let tls = Tls::start();
    let Some(haproxy) = Haproxy::start("accept-proxy", LOG, tls.server.address(), "") else { return };
    let yaml = routing([("here.test", haproxy.address())]);
    let asked = format!("ca_file: '{}', server_name: here.test", tls.authority.file().display());
    let yaml = yaml.replace("up0: {", &format!("up0: {{ health_check: {{ timeout: 5s, tls: {{ {asked} }} }},"));
    let check = Config::parse(&yaml).unwrap().upstreams[0].health_check.clone().unwrap();
    for (number, version) in [Version::V1, Version::V2].into_iter().enumerate() {
        let report = Prober::new(&check, Some(version), &[]).endpoint(haproxy.address()).run().await;
        assert!(report.outcome.is_ok(), "{report:?}");
        let line = wait_for("it tells of the probe", || {
            haproxy.lines.all().into_iter().filter(|line| line.contains("told ")).nth(number)
        });
        // The ends of the connection itself.
        assert!(line.contains("told 127.0.0.1:") && line.contains(&format!(" to {} ", haproxy.address())));
        assert!(line.ends_with("authority - id - end"), "{line}");
    }
    assert!(Prober::new(&check, None, &[]).endpoint(haproxy.address()).run().await.outcome.is_err());
}
