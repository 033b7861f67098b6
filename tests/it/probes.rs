//! Probes of real endpoints: who is believed, what counts as well, and what a connection is kept for.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use snigate::config::{Config, HealthCheck};
use snigate::upstream::certificate::Certificate;
use snigate::upstream::health::Health;
use snigate::upstream::probe::{Identity, Probe, ProbeFailure, Prober, Refusal, Report, Stage, watch};
use tokio::net::TcpListener;
use tokio::time::{advance, pause, resume, timeout};
use tokio_rustls::TlsAcceptor;

use crate::support::PATIENCE;
use crate::support::certs::{self, Authority};
use crate::support::tcp::{End, Refusing, Unanswering, Upstream};
use crate::support::tls::{Service, TLS12, TLS13, Talk, classic};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CUT_SHORT: Duration = Duration::from_millis(300);

/// The check that this text configures. Probes may take their time, since a busy machine may too.
fn check(text: &str) -> HealthCheck {
    let config = Config::parse(&format!(
        "listeners: [{{ address: ':1' }}]\nroutes: [{{ server_names: [a.test], upstream: u }}]\n\
         upstreams: {{ u: {{ endpoints: ['10.0.0.7:1'], health_check: {{ interval: 1h, timeout: 30s, {text} }} }} }}\n"
    ));
    config.unwrap_or_else(|mistakes| panic!("{text}\n{mistakes}")).upstreams[0].health_check.clone().unwrap()
}

fn impatient(text: &str) -> HealthCheck {
    HealthCheck { timeout: CUT_SHORT, ..check(text) }
}

fn probe(check: &HealthCheck, address: SocketAddr) -> Probe {
    Prober::new(check, None, &[]).endpoint(address)
}

async fn ask(check: &HealthCheck, address: SocketAddr) -> Report {
    probe(check, address).run().await
}

/// The keys that believe `authority` and want to meet `a.test`.
fn believing(authority: &Authority) -> String {
    format!("ca_file: '{}', server_name: a.test", authority.file().display())
}

fn script<'a>(identity: &'a certs::Identity, texts: &[&str]) -> Service<'a> {
    let talk = Talk::Script(texts.iter().map(ToString::to_string).collect());
    Service { talk, alpn: &["h2", "http/1.1"], ..Service::echo(identity) }
}

#[tokio::test]
async fn tcp_asks_whether_an_endpoint_accepts() {
    let upstream = Upstream::recording();
    let report = ask(&check("tcp: {}"), upstream.address()).await;
    assert!(report.outcome.is_ok(), "{report:?}");
    assert_eq!((report.identity, report.certificate), (Identity::NotAsked, None));
    assert_eq!(upstream.visit(0).wait_for_end(), End::Eof);

    let report = ask(&check("tcp: {}"), Refusing::new().address()).await;
    assert!(matches!(report.outcome, Err(ProbeFailure::Connect(_))), "{report:?}");
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_costs_the_timeout_and_says_where() {
    let (full, silent) = (Unanswering::new(), Upstream::silent());
    let authority = Authority::new();
    let identity = authority.server(&["a.test"]);
    let mute = script(&identity, &["", OK]).start();
    let believing = believing(&authority);
    for (text, address, stage, identity) in [
        ("tcp: {}".to_owned(), full.address(), Stage::Connecting, Identity::NotAsked),
        (format!("tls: {{ {believing} }}"), full.address(), Stage::Connecting, Identity::NotSeen),
        (format!("tls: {{ {believing} }}"), silent.address(), Stage::Handshaking, Identity::NotSeen),
    ] {
        let report = ask(&impatient(&text), address).await;
        let Err(ProbeFailure::TimedOut { stage: found, limit }) = report.outcome else { panic!("{report:?}") };
        assert_eq!((found, limit, report.identity), (stage, CUT_SHORT, identity), "{text}");
    }
    // Who it is has been seen by then. How long a handshake takes here is not known, so the timeout grows until it fits.
    let mut check = impatient(&format!("https: {{ path: /, {believing} }}"));
    loop {
        let report = ask(&check, mute.address()).await;
        let Err(ProbeFailure::TimedOut { stage, .. }) = report.outcome else { panic!("{report:?}") };
        if stage == Stage::Asking {
            assert_eq!(report.identity, Identity::Verified);
            return;
        }
        check.timeout *= 2;
        assert!(check.timeout < PATIENCE, "no handshake within {:?}", check.timeout);
    }
}

#[tokio::test]
async fn what_is_no_tls_is_not_well_and_says_nothing_about_identity() {
    let authority = Authority::new();
    let check = check(&format!("tls: {{ {} }}", believing(&authority)));
    for upstream in [Upstream::answering(1, "SSH-2.0-OpenSSH_9.2\r\n"), Upstream::resetting(1)] {
        let report = ask(&check, upstream.address()).await;
        assert!(matches!(report.outcome, Err(ProbeFailure::Handshake { .. })), "{report:?}");
        assert_eq!(report.identity, Identity::NotSeen);
    }
}

#[tokio::test]
async fn a_good_certificate_is_believed_and_the_session_closed_properly() {
    let authority = Authority::new();
    let identity = authority.server(&["a.test", "*.b.test", "127.0.0.1"]);
    let server = Service::echo(&identity).start();
    let mut probe = probe(&check(&format!("tls: {{ {} }}", believing(&authority))), server.address());
    let report = probe.run().await;
    assert!(report.outcome.is_ok(), "{report:?}");
    assert_eq!(report.identity, Identity::Verified);
    assert_eq!(report.certificate.as_deref(), Certificate::read(&identity.certificate).as_ref());
    let names: Vec<_> = report.certificate.unwrap().names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a.test", "*.b.test", "127.0.0.1"]);
    assert_eq!(server.facts(0).server_name.as_deref(), Some("a.test"));
    assert_eq!(server.facts(0).alpn, None);
    // Servers take their time to close: clients may wait for the verdict.
    assert_eq!(server.upstream.visit(0).end(), End::Open);
    probe.part().await;
    // A RST would mean that we closed with the server's last words unread.
    assert_eq!(server.upstream.visit(0).wait_for_end(), End::Eof);

    let by_address = format!("tls: {{ ca_file: '{}', server_name: 127.0.0.1 }}", authority.file().display());
    let report = ask(&check(&by_address), server.address()).await;
    assert_eq!(report.identity, Identity::Verified);
    assert_eq!(server.facts(1).server_name, None);
}

#[tokio::test]
async fn others_are_refused_by_their_certificate() {
    let (authority, other) = (Authority::new(), Authority::new());
    let check = check(&format!("https: {{ path: /, {} }}", believing(&authority)));
    for (identity, refusal) in [
        (authority.expired(&["a.test"]), Refusal::Expired),
        (authority.server(&["b.test"]), Refusal::WrongName("a.test".to_owned())),
        (authority.self_signed("a.test"), Refusal::UnknownIssuer),
        (other.server(&["a.test"]), Refusal::UnknownIssuer),
    ] {
        let server = script(&identity, &[OK]).start();
        let report = ask(&check, server.address()).await;
        assert!(matches!(&report.outcome, Err(ProbeFailure::Refused(why)) if *why == refusal), "{report:?}");
        assert_eq!(report.passed(), None);
        assert_eq!(report.identity, Identity::Refused(refusal));
        // It is told to the operator all the same.
        assert_eq!(report.certificate.as_deref(), Certificate::read(&identity.certificate).as_ref());
        assert_eq!(server.handshakes(), 0, "nothing was asked of it");
    }
}

#[tokio::test]
async fn who_shows_a_certificate_without_its_key_is_refused() {
    let authority = Authority::new();
    let (identity, thief) = (authority.server(&["a.test"]), authority.server(&["b.test"]));
    let pin = Certificate::read(&identity.certificate).unwrap().key;
    let key = classic().key_provider.load_private_key(thief.key()).unwrap();
    let stolen = CertifiedKey::new(identity.chain(), key);
    for versions in [TLS12, TLS13] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = ServerConfig::builder_with_provider(classic()).with_protocol_versions(versions).unwrap();
        let config = config.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(stolen.clone())));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let serving = tokio::spawn(async move {
            loop {
                // It fails, and the client says why.
                let _ = acceptor.accept(listener.accept().await.unwrap().0).await;
            }
        });
        for text in [format!("tls: {{ {} }}", believing(&authority)), format!("tls: {{ pins: ['{pin}'] }}")] {
            let report = ask(&check(&text), address).await;
            let refusal = Refusal::Other("it does not hold the certificate's key".to_owned());
            assert_eq!(report.identity, Identity::Refused(refusal), "{text}");
        }
        serving.abort();
    }
}

#[tokio::test]
async fn without_authorities_any_certificate_will_do() {
    let authority = Authority::new();
    let identity = authority.expired(&["b.test"]);
    let server = Service::echo(&identity).start();
    let report = ask(&check("tls: { server_name: a.test }"), server.address()).await;
    assert!(report.outcome.is_ok(), "{report:?}");
    assert_eq!(report.identity, Identity::NotAsked);
    assert_eq!(report.certificate.as_deref(), Certificate::read(&identity.certificate).as_ref());
}

#[tokio::test]
async fn a_key_can_be_pinned_beside_an_authority_or_instead() {
    let authority = Authority::new();
    let (identity, renewed) = (authority.self_signed("a.test"), authority.server(&["a.test"]));
    let pin = |identity: &certs::Identity| Certificate::read(&identity.certificate).unwrap().key.to_string();
    let (alone, signed) = (Service::echo(&identity).start(), Service::echo(&renewed).start());
    let own = check(&format!("tls: {{ pins: ['{}'] }}", pin(&identity)));
    assert_eq!(ask(&own, alone.address()).await.identity, Identity::Verified);
    assert_eq!(ask(&own, signed.address()).await.identity, Identity::Refused(Refusal::OtherKey));
    let both = |pin: String| check(&format!("tls: {{ {}, pins: ['{pin}'] }}", believing(&authority)));
    assert_eq!(ask(&both(pin(&renewed)), signed.address()).await.identity, Identity::Verified);
    assert_eq!(ask(&both(pin(&identity)), signed.address()).await.identity, Identity::Refused(Refusal::OtherKey));
    assert_eq!(ask(&both(pin(&identity)), alone.address()).await.identity, Identity::Refused(Refusal::UnknownIssuer));
}

#[tokio::test]
async fn authorities_are_read_again_when_their_file_changes() {
    let (old, new) = (Authority::new(), Authority::new());
    let file = old.folder().join("rotated.pem");
    fs::copy(old.file(), &file).unwrap();
    let check = check(&format!("https: {{ path: /, ca_file: '{}', server_name: a.test }}", file.display()));
    let (before, after) = (old.server(&["a.test"]), new.server(&["a.test"]));
    let (before, after) = (script(&before, &[OK; 9]).start(), script(&after, &[OK; 9]).start());
    let prober = Prober::new(&check, None, &[]);
    let (mut kept, mut later) = (prober.endpoint(before.address()), prober.endpoint(after.address()));
    assert_eq!(kept.run().await.identity, Identity::Verified);
    assert_eq!(later.run().await.identity, Identity::Refused(Refusal::UnknownIssuer));

    // Half a file keeps what was there; so does none.
    let whole = fs::read_to_string(new.file()).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(kept.run().await.outcome.is_ok());
    assert_eq!(later.run().await.identity, Identity::Refused(Refusal::UnknownIssuer));
    fs::remove_file(&file).unwrap();
    assert_eq!(prober.endpoint(before.address()).run().await.identity, Identity::Verified);

    // Replaced as a rename does it.
    fs::write(old.folder().join("next.pem"), whole).unwrap();
    fs::rename(old.folder().join("next.pem"), &file).unwrap();
    assert_eq!(later.run().await.identity, Identity::Verified);
    // A connection that was verified with the old authority is worth nothing any more.
    assert_eq!(kept.run().await.identity, Identity::Refused(Refusal::UnknownIssuer));
}

#[tokio::test]
async fn files_that_were_never_readable_let_nobody_through() {
    let authority = Authority::new();
    let identity = authority.server(&["a.test"]);
    let server = Service::echo(&identity).start();
    let file = authority.folder().join("late.pem");
    fs::copy(authority.file(), &file).unwrap();
    let check = check(&format!("tls: {{ ca_file: '{}', server_name: a.test }}", file.display()));
    fs::remove_file(&file).unwrap();
    let mut probe = probe(&check, server.address());
    let report = probe.run().await;
    assert!(matches!(report.outcome, Err(ProbeFailure::Files(_))), "{report:?}");
    assert_eq!(report.identity, Identity::NotSeen);
    fs::copy(authority.file(), &file).unwrap();
    assert_eq!(probe.run().await.identity, Identity::Verified);
}

#[tokio::test]
async fn statuses_say_what_counts_as_well() {
    let authority = Authority::new();
    let identity = authority.server(&["a.test"]);
    let believing = believing(&authority);
    for (answer, statuses, expected) in [
        (OK, "[200]", Ok(())),
        ("HTTP/1.1 204 No Content\r\n\r\n", "[200]", Err(204)),
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "[200, 401]", Ok(())),
        ("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 3\r\n\r\nnot", "[200]", Err(500)),
        ("HTTP/1.1 302 Found\r\nlocation: /\r\nconnection: close\r\n\r\n", "[200]", Err(302)),
    ] {
        let server = script(&identity, &[answer; 2]).start();
        let check = check(&format!("https: {{ path: /readyz, statuses: {statuses}, {believing} }}"));
        let report = ask(&check, server.address()).await;
        let outcome = report.outcome.map_err(|failure| match failure {
            ProbeFailure::Status(status) => status,
            other => panic!("{other}"),
        });
        // Who answers "not ready" has still proved who it is.
        assert_eq!((outcome, report.identity), (expected, Identity::Verified), "{answer:?}");
        assert_eq!(server.facts(0).alpn.as_deref(), Some("http/1.1"));
    }
}

#[tokio::test]
async fn what_is_no_answer_is_not_well() {
    let authority = Authority::new();
    let identity = authority.server(&["a.test"]);
    let check = check(&format!("https: {{ path: /, {} }}", believing(&authority)));
    for texts in [&[][..], &["220 mail.test ESMTP\r\n\r\n"]] {
        let server = script(&identity, texts).start();
        let report = ask(&check, server.address()).await;
        assert!(matches!(report.outcome, Err(ProbeFailure::NoAnswer(_))), "{report:?}");
        assert_eq!(report.identity, Identity::Verified);
    }
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let authority = Authority::new();
    let identity = authority.server(&["a.test"]);
    let server = script(&identity, &[OK; 9]).start();
    let mut probe = probe(&check(&format!("https: {{ path: /, {} }}", believing(&authority))), server.address());
    for expected in [Identity::Verified, Identity::NotSeen, Identity::NotSeen] {
        let report = probe.run().await;
        assert!(report.outcome.is_ok(), "{report:?}");
        assert_eq!(report.identity, expected);
    }
    assert_eq!(server.handshakes(), 1);
}

#[tokio::test]
async fn after_a_minute_who_answers_is_looked_at_again() {
    let authority = Authority::new();
    let identity = authority.server(&["a.test"]);
    let server = script(&identity, &[OK; 9]).start();
    let mut probe = probe(&check(&format!("https: {{ path: /, {} }}", believing(&authority))), server.address());
    for (later, expected) in [(0, Identity::Verified), (40, Identity::NotSeen), (40, Identity::Verified)] {
        // Stands still only as long as nobody waits for a socket.
        pause();
        advance(Duration::from_secs(later)).await;
        resume();
        assert_eq!(probe.run().await.identity, expected);
    }
}

#[tokio::test]
async fn a_connection_that_the_server_closed_meanwhile_is_no_failure() {
    let authority = Authority::new();
    let identity = authority.server(&["a.test"]);
    // It says nothing of closing, and closes.
    let server = script(&identity, &[OK]).start();
    let mut probe = probe(&check(&format!("https: {{ path: /, {} }}", believing(&authority))), server.address());
    for handshakes in 1..=3 {
        let report = probe.run().await;
        assert!(report.outcome.is_ok(), "{report:?}");
        assert_eq!(report.identity, Identity::Verified);
        assert_eq!(server.handshakes(), handshakes);
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_one_is_wanted() {
    let authority = Authority::new();
    let (identity, client) = (authority.server(&["a.test"]), authority.client("probe", "snigate"));
    let server = Service { clients: Some(authority.roots()), ..script(&identity, &[OK]) }.start();
    let without = format!("https: {{ path: /, {} }}", believing(&authority));
    let report = ask(&check(&without), server.address()).await;
    assert!(matches!(report.outcome, Err(ProbeFailure::NoAnswer(_))), "{report:?}");
    assert_eq!(report.identity, Identity::Verified);

    let (certificate, key) = (client.certificate_file.display(), client.key_file.display());
    let with = format!(
        "https: {{ path: /, {}, client_certificate: '{certificate}', client_key: '{key}' }}",
        believing(&authority)
    );
    let report = ask(&check(&with), server.address()).await;
    assert!(report.outcome.is_ok(), "{report:?}");
    assert_eq!(server.facts(0).client_certificate.as_ref(), Some(&client.certificate));
}

#[tokio::test]
async fn a_watch_tells_of_an_endpoint_that_comes_and_goes() {
    let refusing = Refusing::new();
    let check = HealthCheck { interval: Duration::from_millis(20), ..check("tcp: {}") };
    let probe = probe(&check, refusing.address());
    let (changes, mut changed) = tokio::sync::mpsc::unbounded_channel();
    let mut before = true;
    let told = move |told: snigate::upstream::probe::Told<'_>| {
        if std::mem::replace(&mut before, told.state.up) != told.state.up {
            changes.send(told.state.up).unwrap();
        }
    };
    let watching = tokio::spawn(async move { watch(probe, Health::new(Some(&check)), told).await });
    assert_eq!(timeout(PATIENCE, changed.recv()).await.unwrap(), Some(false));
    let listener = refusing.open();
    assert_eq!(timeout(PATIENCE, changed.recv()).await.unwrap(), Some(true));
    drop(listener);
    assert_eq!(timeout(PATIENCE, changed.recv()).await.unwrap(), Some(false));
    watching.abort();
}

#[test]
fn probers_are_shared_by_threads() {
    fn assert_shared<T: Send + Sync>(_: &T) {}
    let prober: Arc<Prober> = Prober::new(&check("tcp: {}"), None, &[]);
    assert_shared(&prober);
}
