//! Who gets clients while probes say who is well and who is who, over real TLS.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use rustls::ClientConfig;

use crate::support::certs::{Authority, Identity};
use crate::support::gate::{Gate, GateProcess, routing};
use crate::support::hello::hello;
use crate::support::kube_api::KubeApi;
use crate::support::tcp::{self, End, Refusing, Unanswering, Upstream};
use crate::support::tls::{self, Client, Service, Session, Talk, TlsServer};
use crate::support::wait_until;

/// One probe decides. It may take two seconds: a busy machine needs time for a handshake.
const RHYTHM: &str = "interval: 2s, timeout: 2s, rise: 1, fall: 1";
/// So many clients would not by chance all get the same one of two.
const MANY: usize = 20;

/// A server with a certificate of its own, by which clients know it.
struct Api {
    server: TlsServer,
    identity: Identity,
    ready: Arc<AtomicBool>,
}

impl Api {
    fn start(identity: Identity) -> Self {
        let ready = Arc::new(AtomicBool::new(true));
        let talk = Talk::Ready(Arc::clone(&ready));
        Self { server: Service { talk, ..Service::echo(&identity) }.start(), identity, ready }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn be_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    fn serves(&self, session: &Session) -> bool {
        session.certificate() == self.identity.certificate
    }
}

/// An authority, a file of authorities to change, and clients of `a.test`.
struct Stage {
    authority: Authority,
    client: Arc<ClientConfig>,
}

impl Stage {
    fn new() -> Self {
        let authority = Authority::new();
        let client = Client::trusting(&authority).config();
        fs::copy(authority.file(), authority.folder().join("believed.pem")).unwrap();
        Self { authority, client }
    }

    fn api(&self) -> Api {
        Api::start(self.authority.server(&["a.test"]))
    }

    /// What endpoints are verified with.
    fn believed(&self) -> PathBuf {
        self.authority.folder().join("believed.pem")
    }

    /// Replaces that as careful people do.
    fn believe(&self, text: &str) {
        let beside = self.authority.folder().join("believed.new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.believed()).unwrap();
    }

    /// A gate in front of these, that asks them by TLS or HTTPS, with further keys of the upstream.
    fn gate(&self, endpoints: &[SocketAddr], asking: &str, keys: &str) -> Gate {
        Gate::start(&self.yaml(endpoints, asking, keys))
    }

    fn yaml(&self, endpoints: &[SocketAddr], asking: &str, keys: &str) -> String {
        let endpoints: Vec<String> = endpoints.iter().map(|address| format!("'{address}'")).collect();
        let path = if asking == "https" { "path: /readyz, " } else { "" };
        format!(
            "
            listeners: [{{ address: '127.0.0.1:0', client_hello_timeout: 60s }}]
            routes: [{{ server_names: [a.test], upstream: up }}]
            upstreams:
              up:
                {{ endpoints: [{}], balance: round_robin, slow_start: 0s, {keys} health_check:
                {{ {asking}: {{ {path}ca_file: '{}', server_name: a.test }}, {RHYTHM} }} }}",
            endpoints.join(", "),
            self.believed().display(),
        )
    }

    fn visit(&self, gate: SocketAddr) -> io::Result<Session> {
        let mut session = tls::connect(&self.client, "a.test", gate)?;
        assert_eq!(session.echo(b"words")?, b"words");
        Ok(session)
    }

    /// A client that `api` serves, among those that come one after another.
    fn visit_to(&self, gate: SocketAddr, api: &Api) -> Session {
        (0..MANY)
            .map(|_| self.visit(gate).unwrap())
            .find(|session| api.serves(session))
            .expect("one of many clients gets there")
    }

    fn all_go_to(&self, gate: SocketAddr, api: &Api) -> bool {
        (0..MANY).all(|_| api.serves(&self.visit(gate).unwrap()))
    }

    fn some_go_to(&self, gate: SocketAddr, api: &Api) -> bool {
        (0..MANY).any(|_| api.serves(&self.visit(gate).unwrap()))
    }
}

/// Why a client is sent away; it is told nothing but a plain close, since it may pass.
fn refused_for(gate: &Gate) -> String {
    let mut client = tcp::connect(gate.address());
    client.write_all(&hello("a.test")).unwrap();
    assert_eq!(tcp::read_to_end(&mut client), (Vec::new(), End::Eof));
    gate.log.line_of(client.local_addr().unwrap())["reason"].as_str().unwrap().to_owned()
}

#[test]
fn who_is_not_ready_gets_no_new_clients_and_keeps_those_it_has() {
    let stage = Stage::new();
    let (first, second) = (stage.api(), stage.api());
    let gate = stage.gate(&[first.address(), second.address()], "https", "");
    wait_until("both are verified", || {
        stage.some_go_to(gate.address(), &first) && stage.some_go_to(gate.address(), &second)
    });
    let mut kept = stage.visit_to(gate.address(), &first);

    first.be_ready(false);
    wait_until("new clients go to the other", || stage.all_go_to(gate.address(), &second));
    assert_eq!(kept.echo(b"still here").unwrap(), b"still here");

    second.be_ready(false);
    wait_until("all are down, so any may serve", || stage.some_go_to(gate.address(), &first));
    assert!(stage.some_go_to(gate.address(), &second));

    second.be_ready(true);
    wait_until("who is ready serves alone", || stage.all_go_to(gate.address(), &second));
    first.be_ready(true);
    wait_until("it is used again", || stage.some_go_to(gate.address(), &first));
    assert_eq!(kept.echo(b"still here").unwrap(), b"still here");
    for facts in (0..first.server.handshakes()).map(|index| first.server.facts(index)) {
        assert_ne!(facts.alpn.as_deref(), Some("h2"), "{facts:?}");
    }
}

#[test]
fn who_is_not_ready_loses_its_clients_if_told_so_once_another_can_take_them() {
    let stage = Stage::new();
    let (first, second) = (stage.api(), stage.api());
    let gate = stage.gate(&[first.address(), second.address()], "https", "on_unhealthy: close,");
    wait_until("both are verified", || {
        stage.some_go_to(gate.address(), &first) && stage.some_go_to(gate.address(), &second)
    });
    let (mut leaving, mut staying) = (stage.visit_to(gate.address(), &first), stage.visit_to(gate.address(), &second));
    first.be_ready(false);
    let client = leaving.local_address();
    wait_until("its connection ends", || leaving.echo(b"words").is_err());
    assert_eq!(gate.log.line_of(client)["reason"], "endpoint_unhealthy");
    assert_eq!(staying.echo(b"still here").unwrap(), b"still here");

    first.be_ready(true);
    wait_until("it is used again", || stage.some_go_to(gate.address(), &first));
    let mut back = stage.visit_to(gate.address(), &first);
    second.be_ready(false);
    wait_until("the other's connection ends", || staying.echo(b"words").is_err());
    assert_eq!(back.echo(b"still here").unwrap(), b"still here");
}

#[test]
fn whoever_cannot_prove_who_it_is_gets_nobody_whatever_else_fails() {
    let (stage, strangers) = (Stage::new(), Authority::new());
    let own = &stage.authority;
    for (who, identity) in [
        ("expired", own.expired(&["a.test"])),
        ("for another name", own.server(&["b.test"])),
        ("signed by itself", own.self_signed("a.test")),
        ("signed by others", strangers.server(&["a.test"])),
    ] {
        let (wrong, right) = (Api::start(identity), stage.api());
        for asking in ["tls", "https"] {
            let gate = stage.gate(&[wrong.address(), right.address()], asking, "");
            wait_until("the right one is verified", || stage.visit(gate.address()).is_ok());
            assert!(stage.all_go_to(gate.address(), &right), "{who}");
        }
        let refusing = Refusing::new();
        let gate = stage.gate(&[wrong.address(), refusing.address()], "tls", "");
        assert_eq!(refused_for(&gate), "endpoint_unverified", "{who}");
        let probes = wrong.server.upstream.visits().len();
        wait_until("another probe", || wrong.server.upstream.visits().len() > probes);
        assert_eq!(refused_for(&gate), "endpoint_unverified", "{who}");
    }
}

#[test]
fn authorities_are_exchanged_while_clients_come() {
    let (stage, others) = (Stage::new(), Authority::new());
    let right = fs::read_to_string(stage.believed()).unwrap();
    let wrong = fs::read_to_string(others.file()).unwrap();
    let api = stage.api();
    stage.believe(&wrong);
    let gate = stage.gate(&[api.address()], "tls", "");
    assert_eq!(refused_for(&gate), "endpoint_unverified");
    stage.believe(&right);
    wait_until("it is verified", || stage.visit(gate.address()).is_ok());

    stage.believe("no certificate");
    for _ in 0..2 {
        let probes = api.server.handshakes();
        wait_until("another probe", || api.server.handshakes() > probes);
    }
    assert!(stage.visit(gate.address()).is_ok(), "a file that is none changes nothing");

    stage.believe(&wrong);
    wait_until("it is not believed any more", || stage.visit(gate.address()).is_err());
    assert_eq!(refused_for(&gate), "endpoint_unverified");
}

#[test]
fn a_client_waits_for_the_first_verdict() {
    let stage = Stage::new();
    // The backlog accepts, and nobody answers until the test says so.
    let listener = Refusing::new().open();
    let address = listener.local_addr().unwrap();
    let gate = Gate::start(&stage.yaml(&[address], "tls", "").replace(RHYTHM, "interval: 60s, timeout: 30s"));
    let hello = hello("a.test");
    let mut early = tcp::connect(gate.address());
    early.write_all(&hello).unwrap();
    assert!(tcp::wait_until_read(&early), "it is not sent away");
    let identity = stage.authority.server(&["a.test"]);
    let server = Service::echo(&identity).serve(listener);
    wait_until("the probe and the client are served", || server.upstream.visits().len() == 2);
    assert_eq!(server.facts(0).server_name.as_deref(), Some("a.test"));
    let visits = server.upstream.visits();
    wait_until("the client's hello arrives after the probe", || visits[1].bytes() == hello);
}

#[test]
fn who_does_not_answer_is_left_out_however_it_falls_silent() {
    let stage = Stage::new();
    let (mute, full, api) = (Upstream::silent(), Unanswering::new(), stage.api());
    // Passes on to a server of its own, and can be stopped as a process.
    let behind = stage.api();
    let mut process = GateProcess::start(&routing([("a.test", behind.address())]));
    let endpoints = [mute.address(), full.address(), process.address(), api.address()];
    let gate = GateProcess::start(&stage.yaml(&endpoints, "tls", ""));
    wait_until("who answers serves", || stage.visit(gate.address()).is_ok());
    wait_until("so does who passes on", || stage.some_go_to(gate.address(), &behind));
    let not_well = |address: SocketAddr, why: &str| {
        let address = address.to_string();
        gate.lines.wait(&format!("{address}: {why}"), |line| {
            line.contains("endpoint is not well") && line.contains(&address) && line.contains(why)
        });
    };
    not_well(mute.address(), "it accepts, but does not complete a TLS handshake");
    not_well(full.address(), "it does not accept");
    process.signal(Signal::STOP);
    not_well(process.address(), "it accepts, but does not complete a TLS handshake");
    assert!(stage.all_go_to(gate.address(), &api));
    process.signal(Signal::CONT);
    wait_until("it serves again", || stage.some_go_to(gate.address(), &behind));
    // Sessions of probes may be open, and just used.
    assert!(matches!(process.stop(Signal::TERM).code(), Some(0 | 3)));
}

#[test]
fn the_first_client_after_all_were_down_is_served() {
    let authority = Authority::new();
    let user = authority.client("jane", "developers");
    let mut api = KubeApi::start(&authority.server(&["a.test"]), &authority);
    let gate = GateProcess::start(&format!(
        "
        listeners: [{{ address: '127.0.0.1:0', client_hello_timeout: 60s }}]
        routes: [{{ server_names: [a.test], upstream: up }}]
        upstreams:
          up:
            endpoints: ['{}']
            health_check: {{ {RHYTHM}, https: {{ path: /readyz, ca_file: '{}', server_name: a.test,
                             client_certificate: '{}', client_key: '{}' }} }}",
        api.address(),
        authority.file().display(),
        user.certificate_file.display(),
        user.key_file.display(),
    ));
    let client = Client { identity: Some(&user), ..Client::trusting(&authority) }.config();
    let visit = || tls::connect(&client, "a.test", gate.address());
    wait_until("it is verified", || visit().is_ok());
    for times in 1..=2 {
        api.stop();
        let told = || gate.lines.all().iter().filter(|line| line.contains("cannot connect: ")).count();
        wait_until("probes fail", || told() >= times);
        for _ in 0..10 {
            assert!(visit().is_err(), "nobody is there");
        }
        api.start_again();
        assert!(visit().is_ok(), "neither probe nor ejection keeps the only endpoint from its first client");
        let well = || gate.lines.all().iter().filter(|line| line.contains("endpoint is well")).count();
        wait_until("probes see it too", || well() > times);
    }
}

#[test]
fn what_probes_see_is_told() {
    let stage = Stage::new();
    let identity = stage.authority.server(&["a.test", "b.test"]);
    let (api, strange) = (Api::start(identity), Api::start(Authority::new().server(&["a.test"])));
    let yaml = stage.yaml(&[api.address(), strange.address()], "https", "");
    let yaml = yaml.replace("upstream: up }]", "upstream: up }, { server_names: [b.test], upstream: other }]");
    let gate = GateProcess::start(&format!("{yaml}\n              other: {{ endpoints: ['127.0.0.1:1'] }}"));
    let line = |what: &str| gate.lines.wait(what, |line| line.contains(what));
    let seen = line("\"message\":\"endpoint shows a certificate\",");
    assert!(seen.contains("\"upstream\":\"up\""), "{seen}");
    let well = line("endpoint is well");
    assert!(well.contains(&api.address().to_string()), "{well}");
    let warned = line("also covers b.test, which another route leads elsewhere");
    assert!(warned.contains("\"level\":\"WARN\"") && warned.contains(&api.address().to_string()), "{warned}");
    let refused = line("endpoint is not well");
    assert!(refused.contains("is signed by nobody who is believed") && refused.contains("unverified"), "{refused}");
    assert!(refused.contains(&strange.address().to_string()), "{refused}");
}
