//! However connections end, the gate lets go of both their sockets.

use crate::support::descriptors;
use crate::support::gate::GateProcess;
use crate::support::hello::hello;
use crate::support::tcp::{self, End, Refusing, Unanswering, Upstream};
use crate::support::wait_until;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::thread;

/// How often each way to end is taken.
const ROUNDS: usize = 8;

/// Upstreams of every temper, each with its route.
struct Stage {
    recording: Upstream,
    echo: Upstream,
    answering: Upstream,
    resetting: Upstream,
    silent: Upstream,
    refusing: Refusing,
    unreading: Upstream,
    unanswering: Unanswering,
    sending: Upstream,
}

/// What the longer transfers move, each way.
const MUCH: usize = 4 * 1024 * 1024;

impl Stage {
    fn set() -> Self {
        Self {
            recording: Upstream::recording(),
            echo: Upstream::echo(),
            answering: Upstream::answering(hello("answering.test").len(), "the answer"),
            resetting: Upstream::resetting(hello("resetting.test").len()),
            silent: Upstream::silent(),
            refusing: Refusing::new(),
            unreading: Upstream::unreading(),
            unanswering: Unanswering::new(),
            sending: Upstream::answering(hello("sending.test").len() + MUCH, vec![7; MUCH]),
        }
    }

    fn configuration(&self) -> String {
        const SHORT_IDLE: &str = ", idle_timeout: 1s, allow_short_idle: true";
        // Each with what its route and its upstream have beyond the rest.
        let routes: [(&str, String, &str, &str); 12] = [
            ("recording", self.recording.address().to_string(), "", ""),
            ("echo", self.echo.address().to_string(), "", ""),
            ("answering", self.answering.address().to_string(), "", ""),
            ("resetting", self.resetting.address().to_string(), "", ""),
            ("silent", self.silent.address().to_string(), ", half_close_timeout: 1s", ""),
            ("refusing", self.refusing.address().to_string(), "", ""),
            ("sending", self.sending.address().to_string(), "", ""),
            ("idle", self.recording.address().to_string(), SHORT_IDLE, ""),
            ("unreading", self.unreading.address().to_string(), "", ", user_timeout: 500ms"),
            ("unanswering", self.unanswering.address().to_string(), "", ", connect_timeout: 500ms"),
            ("patient", self.unanswering.address().to_string(), "", ", connect_timeout: 60s"),
            ("nowhere", "nowhere.invalid:6443".to_owned(), "", ", connect_timeout: 1s"),
        ];
        let mut yaml =
            String::from("workers: 2\nlisteners: [{ address: \"127.0.0.1:0\", client_hello_timeout: 2s }]\nroutes:\n");
        for (name, _, more, _) in &routes {
            yaml.push_str(&format!("  - {{ server_names: [{name}.test], upstream: {name}{more} }}\n"));
        }
        yaml.push_str("upstreams:\n");
        for (name, address, _, more) in &routes {
            yaml.push_str(&format!("  {name}: {{ endpoints: [\"{address}\"]{more} }}\n"));
        }
        yaml
    }
}

/// A client that has sent these bytes.
fn client(gate: &GateProcess, bytes: &[u8]) -> TcpStream {
    let mut client = tcp::connect(gate.address());
    client.write_all(bytes).unwrap();
    client
}

/// Sends a FIN and reads to the end.
fn finish(mut client: TcpStream) -> (Vec<u8>, End) {
    tcp::finish(&client);
    tcp::read_to_end(&mut client)
}

/// A way for a connection to end, with the reason that the log must give.
type Way = (&'static str, fn(&GateProcess));

const WAYS: &[Way] = &[
    ("client_closed", |gate| {
        assert_eq!(finish(client(gate, &hello("recording.test"))), (Vec::new(), End::Eof));
    }),
    ("client_closed", |gate| {
        let sent = [&hello("echo.test")[..], &[1; 100_000]].concat();
        let mut client = client(gate, &sent);
        assert_eq!(tcp::read_exactly(&mut client, sent.len()), sent);
        finish(client);
    }),
    ("upstream_closed", |gate| {
        let mut client = client(gate, &hello("answering.test"));
        assert_eq!(tcp::read_to_end(&mut client), (b"the answer".to_vec(), End::Eof));
    }),
    ("upstream_reset", |gate| {
        let mut client = client(gate, &[&hello("answering.test")[..], b"nobody reads this"].concat());
        assert_eq!(tcp::read_to_end(&mut client), (b"the answer".to_vec(), End::Reset));
    }),
    ("upstream_reset", |gate| {
        assert_eq!(tcp::read_to_end(&mut client(gate, &hello("resetting.test"))).1, End::Reset);
    }),
    ("client_reset", |gate| {
        let mut client = client(gate, &hello("echo.test"));
        tcp::read_exactly(&mut client, 1);
        tcp::reset(client);
    }),
    ("client_reset", |gate| {
        tcp::reset(client(gate, &hello("recording.test")[..20]));
    }),
    ("half_close_timeout", |gate| {
        assert_eq!(finish(client(gate, &hello("silent.test"))), (Vec::new(), End::Eof));
    }),
    ("connect_refused", |gate| {
        assert_eq!(tcp::read_to_end(&mut client(gate, &hello("refusing.test"))).0, b"");
    }),
    ("unknown_server_name", |gate| {
        assert_eq!(finish(client(gate, &hello("nobody.test"))).0.len(), 7);
    }),
    // The alert was sent, and the client neither reads on nor closes: ours to end.
    ("unknown_server_name", |gate| {
        let mut client = client(gate, &hello("nobody.test"));
        assert_eq!(tcp::read_exactly(&mut client, 7).len(), 7);
        assert_eq!(tcp::read_to_end(&mut client).0, b"");
    }),
    ("not_tls", |gate| {
        assert_eq!(tcp::read_to_end(&mut client(gate, b"GET / HTTP/1.1\r\n\r\n")).0, b"");
    }),
    ("upstream_closed", |gate| {
        let mut client = client(gate, &hello("sending.test"));
        client.write_all(&vec![7; MUCH]).unwrap();
        // Its FIN included: ours would come first otherwise, now and then.
        let (bytes, end) = tcp::read_to_end(&mut client);
        assert!(bytes == vec![7; MUCH] && end == End::Eof, "{} bytes, {end:?}", bytes.len());
    }),
    ("idle_timeout", |gate| {
        assert_eq!(tcp::read_to_end(&mut client(gate, &hello("idle.test"))), (Vec::new(), End::Eof));
    }),
    ("peer_timeout", |gate| {
        let mut client = client(gate, &hello("unreading.test"));
        wait_until("the upstream is given up", || client.write_all(&vec![7; MUCH]).is_err());
    }),
    ("connect_timeout", |gate| {
        assert_eq!(finish(client(gate, &hello("unanswering.test"))), (Vec::new(), End::Eof));
    }),
    ("client_reset", |gate| {
        let client = client(gate, &hello("patient.test"));
        assert!(tcp::wait_until_read(&client));
        tcp::reset(client);
    }),
    ("dns_unresolved", |gate| {
        assert_eq!(finish(client(gate, &hello("nowhere.test"))), (Vec::new(), End::Eof));
    }),
    ("hello_malformed", |gate| {
        assert_eq!(finish(client(gate, &[22, 3, 1, 0, 4, 2, 0, 0, 0])).0.len(), 7);
    }),
    ("hello_too_large", |gate| {
        assert_eq!(finish(client(gate, &[22, 3, 1, 0, 4, 1, 1, 0, 0])).0.len(), 7);
    }),
    ("no_bytes", |gate| {
        assert_eq!(finish(client(gate, b"")), (Vec::new(), End::Eof));
    }),
    ("no_bytes", |gate| {
        assert_eq!(tcp::read_to_end(&mut client(gate, b"")), (Vec::new(), End::Eof));
    }),
    ("hello_incomplete", |gate| {
        finish(client(gate, &hello("echo.test")[..20]));
    }),
    ("hello_timeout", |gate| {
        assert_eq!(tcp::read_to_end(&mut client(gate, &hello("echo.test")[..20])).0, b"");
    }),
];

#[test]
fn every_way_to_end_closes_both_sockets() {
    let stage = Stage::set();
    let mut gate = GateProcess::start(&stage.configuration());
    let baseline = descriptors::sockets(gate.pid());
    for (reason, way) in WAYS {
        eprintln!("{reason}");
        // Side by side, since some take a second of a deadline.
        thread::scope(|scope| (0..ROUNDS).for_each(|_| drop(scope.spawn(|| way(&gate)))));
        descriptors::wait_for_baseline(gate.pid(), baseline);
    }
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    for (reason, _) in WAYS {
        *expected.entry(reason).or_default() += ROUNDS;
    }
    wait_until("a line for every connection", || gate.log().len() == WAYS.len() * ROUNDS);
    let log = gate.log();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for line in &log {
        *reasons.entry(line["reason"].as_str().unwrap()).or_default() += 1;
    }
    assert_eq!(reasons, expected);
    assert_eq!(gate.stop(Signal::TERM).code(), Some(0));
}
