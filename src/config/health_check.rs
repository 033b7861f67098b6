//! `health_check` of an upstream: how its endpoints are asked whether they are well, and who they are.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustls::pki_types::{DnsName, IpAddr, ServerName as PeerName};
use serde_yaml::Value;

use super::credentials;
use super::document::each_once;
use super::paths;
use super::section::{Node, Section};
use super::values::{self, Span};
use crate::server_name::ServerName;

/// How and how often endpoints are asked, and how many answers change what is thought of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub question: Question,
    /// From the beginning of one probe to that of the next.
    pub interval: Duration,
    /// What one probe may take in all; never more than the interval.
    pub timeout: Duration,
    /// How many probes in a row must succeed for an endpoint that is down to be up.
    pub rise: u32,
    /// How many must fail for one that is up to be down.
    pub fall: u32,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether it accepts.
    Tcp,
    /// Whether it completes a TLS handshake.
    Tls(TlsQuestion),
    /// What it answers to a GET.
    Https(TlsQuestion, HttpQuestion),
}

/// Whom a probe wants to meet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsQuestion {
    /// Whose certificates are believed.
    pub authorities: Option<Authorities>,
    /// The name that is sent, and that the certificate must cover if authorities are set.
    pub server_name: Option<PeerName<'static>>,
    /// What is shown to endpoints that ask for a certificate.
    pub client: Option<ClientFiles>,
    /// If not empty, the endpoint's key must be one of these.
    pub pins: Vec<Pin>,
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// Those in this file.
    File(PathBuf),
    /// Those that the system trusts.
    System,
}

/// A client certificate and its key, in PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// The certificate, with its chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// SHA-256 over a certificate's SubjectPublicKeyInfo (RFC 7469, 2.4): the key, whoever signs for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin(pub [u8; 32]);

/// A request, and what counts as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpQuestion {
    /// The path, perhaps with a query.
    pub path: Box<str>,
    /// The statuses that count as well.
    pub statuses: Vec<u16>,
}

const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

impl HealthCheck {
    /// One TLS handshake, for who asks once.
    pub fn once(question: TlsQuestion, timeout: Duration) -> Self {
        Self { question: Question::Tls(question), interval: timeout, timeout, rise: 1, fall: 1 }
    }

    /// How long an endpoint that dies may still be thought well: it answered a moment ago, and the last probe needed
    /// takes its full time to fail.
    pub fn time_to_notice(&self) -> Duration {
        self.interval * self.fall + self.timeout
    }

    /// The part about TLS.
    pub fn tls(&self) -> Option<&TlsQuestion> {
        match &self.question {
            Question::Tcp => None,
            Question::Tls(tls) | Question::Https(tls, _) => Some(tls),
        }
    }

    /// Whether endpoints have to prove who they are.
    pub fn asks_for_proof(&self) -> bool {
        self.tls().is_some_and(TlsQuestion::asks_for_proof)
    }
}

impl TlsQuestion {
    /// Whether endpoints have to prove who they are: by a chain to an authority, by a known key, or both.
    pub fn asks_for_proof(&self) -> bool {
        self.authorities.is_some() || !self.pins.is_empty()
    }
}

impl FromStr for Pin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "is no pin: write `sha256:` and the 64 hexadecimal digits of `openssl x509 -pubkey -noout -in \
                            CERTIFICATE | openssl pkey -pubin -outform der | openssl dgst -sha256`";
        let digits = text.strip_prefix("sha256:").ok_or(FORM)?.as_bytes();
        let mut pin = [0; 32];
        if digits.len() != 2 * pin.len() {
            return Err(FORM);
        }
        for (byte, pair) in pin.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            *byte = nibble(pair[0]).zip(nibble(pair[1])).map(|(high, low)| high << 4 | low).ok_or(FORM)?;
        }
        Ok(Self(pin))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads the section. The files that it names are read too, so that a wrong one shows now.
pub(super) fn read(node: &Node<'_>) -> Option<HealthCheck> {
    node.section(|keys| {
        let question = question(node, keys);
        let interval = values::duration(SHORTEST_INTERVAL, Duration::from_hours(1));
        let interval = keys.value("interval", Duration::from_secs(5), interval);
        let timeout = timeout(keys, interval);
        let rise = keys.value("rise", TWO, values::count(100)).get();
        let fall = keys.value("fall", TWO, values::count(100)).get();
        Some(HealthCheck { question: question?, interval, timeout, rise, fall })
    })?
}

fn timeout(keys: &mut Section<'_>, interval: Duration) -> Duration {
    let default = Duration::from_secs(3).min(interval);
    let Some(node) = keys.optional("timeout") else { return default };
    let timeout = node.read(values::duration(SHORTEST_TIMEOUT, Duration::from_secs(60))).unwrap_or(default);
    if timeout > interval {
        let (timeout, interval) = (Span(timeout), Span(interval));
        node.mistaken(format!("{timeout} is longer than the interval of {interval}: one probe ends before the next"));
    }
    timeout
}

fn question(node: &Node<'_>, keys: &mut Section<'_>) -> Option<Question> {
    let (tcp, tls, https) = (keys.optional("tcp"), keys.optional("tls"), keys.optional("https"));
    let told = [&tcp, &tls, &https].into_iter().flatten().count();
    if told != 1 {
        let problem = if told == 0 { "does not say what to ask" } else { "asks more than one question" };
        node.mistaken(format!("{problem}: give it one of `tcp: {{}}`, `tls: {{…}}` and `https: {{…}}`"));
    }
    let tcp = tcp.and_then(|node| node.section(|_| Question::Tcp));
    let tls = tls.and_then(|node| node.section(|keys| Question::Tls(tls_question(keys))));
    let https = https.and_then(|node| {
        node.section(|keys| {
            let path = keys.needed("path").and_then(|node| node.read(path));
            let statuses = keys.optional("statuses").map_or_else(
                || vec![200],
                |node| each_once(&node.some_items("name a status, or leave the key out for 200"), status),
            );
            Some(Question::Https(tls_question(keys), HttpQuestion { path: path?, statuses }))
        })?
    });
    tcp.or(tls).or(https)
}

fn tls_question(keys: &mut Section<'_>) -> TlsQuestion {
    let authorities = authorities(keys);
    let server_name = match authorities {
        // A chain alone proves little: the authority signs for others too.
        Some(_) => keys.needed("server_name"),
        None => keys.optional("server_name"),
    };
    TlsQuestion {
        authorities,
        server_name: server_name.and_then(|node| node.read(peer_name)),
        client: client(keys),
        pins: keys.optional("pins").map_or_else(Vec::new, |node| {
            each_once(&node.some_items("give a pin, or leave the key out"), values::parsed)
        }),
    }
}

fn authorities(keys: &mut Section<'_>) -> Option<Authorities> {
    let file = keys.optional("ca_file");
    let system = keys.optional("system_roots").filter(|node| node.read(values::boolean) == Some(true));
    if let (Some(_), Some(system)) = (&file, &system) {
        system.mistaken("is one way to say whom to trust, and `ca_file` is another: keep one of them");
    }
    let Some(node) = file else {
        let node = system?;
        match credentials::system_roots() {
            None => node.mistaken("this system has no file of authorities: install ca-certificates, or give `ca_file`"),
            Some(path) => usable(&node, credentials::roots(&path)),
        }
        return Some(Authorities::System);
    };
    let path = node.read(paths::file_path);
    if let Some(path) = &path {
        usable(&node, credentials::roots(path));
    }
    // With a wrong path, too, it was said that there are authorities.
    Some(Authorities::File(path.unwrap_or_default()))
}

fn client(keys: &mut Section<'_>) -> Option<ClientFiles> {
    let (certificate, key) = match (keys.optional("client_certificate"), keys.optional("client_key")) {
        (None, None) => return None,
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(alone), None) => {
            alone.mistaken("needs its `client_key` beside it");
            return None;
        }
        (None, Some(alone)) => {
            alone.mistaken("needs its `client_certificate` beside it");
            return None;
        }
    };
    let files = ClientFiles { certificate: certificate.read(paths::file_path)?, key: key.read(paths::file_path)? };
    usable(&key, credentials::identity(&files.certificate, &files.key));
    Some(files)
}

fn usable<T>(node: &Node<'_>, result: Result<T, credentials::UnusableFile>) {
    if let Err(error) = result {
        match error.denied() {
            Some(file) => node.denied(file, error.to_string()),
            None => node.mistaken(error.to_string()),
        }
    }
}

fn peer_name(value: &Value) -> Result<PeerName<'static>, String> {
    let text = values::text(value)?;
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(PeerName::IpAddress(IpAddr::from(address)));
    }
    let name: ServerName = values::parsed(value)?;
    let name = DnsName::try_from(name.as_str().to_owned());
    name.map(PeerName::DnsName).map_err(|_| format!("{text:?} is no name that a certificate could cover"))
}

fn path(value: &Value) -> Result<Box<str>, String> {
    let text = values::text(value)?;
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Ok(text.into());
    }
    Err(format!("{text:?} is no path: write one as it stands in a request, such as `/readyz`"))
}

fn status(value: &Value) -> Result<u16, String> {
    let status = value.as_u64().and_then(|status| u16::try_from(status).ok());
    status
        .filter(|status| (200..=599).contains(status))
        .ok_or_else(|| format!("expected an HTTP status from 200 to 599, found {}", values::found(value)))
}
