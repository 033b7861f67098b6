//! What the certificate of an endpoint says, and what there is to say about it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ring::digest::{SHA256, digest};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::config::Pin;
use crate::routing::{Route, UpstreamId};
use crate::server_name::{ServerName, ServerNamePattern};

/// Before a certificate's end there should be time for somebody to be back from holidays.
const EXPIRES_SOON: Duration = Duration::from_hours(21 * 24);

/// What a certificate says of its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it is for.
    pub names: Vec<Name>,
    /// Its owner, as a distinguished name.
    pub subject: String,
    /// Who signed it, as a distinguished name.
    pub issuer: String,
    /// When it ends.
    pub not_after: SystemTime,
    /// Its key.
    pub key: Pin,
    /// What people compare it by.
    pub fingerprint: String,
}

/// One of the names that a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A DNS name or wildcard, as it stands there.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl Certificate {
    /// Reads a certificate's DER. `None`: it is none, or too odd a one.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok()?;
        let names = names.iter().flat_map(|extension| &extension.value.general_names).filter_map(Name::read).collect();
        let key = digest(&SHA256, certificate.public_key().raw);
        // RFC 5280 knows no certificate from before 1950; ends before 1970 are as good as 1970.
        let not_after = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
        Some(Self {
            names,
            subject: without_controls(&certificate.subject().to_string()),
            issuer: without_controls(&certificate.issuer().to_string()),
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(not_after),
            key: Pin(key.as_ref().try_into().ok()?),
            fingerprint: fingerprint(der),
        })
    }

    /// Whether who wants this name takes its owner for the right one.
    pub fn covers(&self, name: &ServerName) -> bool {
        let exact = ServerNamePattern::Exact(name.clone());
        self.names.iter().any(|name| name.meets(&exact))
    }

    /// The same for who wants an address.
    pub fn covers_address(&self, address: IpAddr) -> bool {
        self.names.contains(&Name::Ip(address))
    }

    /// What it covers of the names that these patterns take. A wildcard among it goes one label deep.
    pub fn shared(&self, patterns: &[ServerNamePattern]) -> Vec<ServerNamePattern> {
        let mut shared = Vec::new();
        for (pattern, name) in patterns.iter().flat_map(|pattern| self.names.iter().map(move |name| (pattern, name))) {
            let found = match (pattern, name.covered()) {
                _ if !name.meets(pattern) => continue,
                (ServerNamePattern::Exact(_), _) => pattern.clone(),
                (_, Some((true, parent))) => ServerNamePattern::Wildcard(parent),
                (_, Some((false, name))) => ServerNamePattern::Exact(name),
                (_, None) => continue,
            };
            if !shared.contains(&found) {
                shared.push(found);
            }
        }
        shared
    }

    /// The day on which it ends, as `2026-01-02`.
    pub fn last_day(&self) -> String {
        let mut text = humantime::format_rfc3339_seconds(self.not_after).to_string();
        text.truncate("2026-01-02".len());
        text
    }
}

/// The SHA-256 fingerprint of a certificate's DER, as `openssl x509 -fingerprint -sha256` writes it.
pub fn fingerprint(der: &[u8]) -> String {
    let digest = digest(&SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// From the wire: nothing in it may move a terminal's cursor.
fn without_controls(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

impl Name {
    fn read(name: &GeneralName<'_>) -> Option<Self> {
        match name {
            GeneralName::DNSName(name) => Some(Self::Dns((*name).to_owned())),
            GeneralName::IPAddress(octets) => match octets.len() {
                4 => <[u8; 4]>::try_from(*octets).ok().map(|octets| Self::Ip(octets.into())),
                _ => <[u8; 16]>::try_from(*octets).ok().map(|octets| Self::Ip(octets.into())),
            },
            _ => None,
        }
    }

    /// The DNS names that it covers, as a pattern of ours and whether it goes one label deep only. Certificates' wildcards
    /// do (RFC 9525, 6.3), those of routes go to any depth.
    fn covered(&self) -> Option<(bool, ServerName)> {
        let Self::Dns(text) = self else { return None };
        match text.strip_prefix("*.") {
            Some(parent) => Some((true, parent.parse().ok()?)),
            None => Some((false, text.parse().ok()?)),
        }
    }

    /// Whether it covers a name that `pattern` takes.
    fn meets(&self, pattern: &ServerNamePattern) -> bool {
        let Some((wildcard, name)) = self.covered() else { return false };
        match pattern {
            ServerNamePattern::Any => true,
            ServerNamePattern::Exact(exact) if wildcard => exact.parents().next() == Some(name.as_str()),
            ServerNamePattern::Wildcard(above) if wildcard && *above == name => true,
            pattern => pattern.matches(&name),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // From the wire: nothing in it may reach a terminal as it is.
            Self::Dns(name) => name.escape_default().fmt(f),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

/// The names of the routes to one upstream, and of those to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteNames {
    own: Vec<ServerNamePattern>,
    others: Vec<ServerNamePattern>,
}

impl RouteNames {
    /// The names as seen from `upstream`.
    pub fn of(routes: &[Arc<Route>], upstream: UpstreamId) -> Self {
        let (own, others): (Vec<_>, Vec<_>) = routes.iter().partition(|route| route.upstream == upstream);
        let names = |routes: Vec<&Arc<Route>>| routes.into_iter().flat_map(|one| one.server_names.clone()).collect();
        Self { own: names(own), others: names(others) }
    }

    /// One name that clients of this upstream send.
    pub fn example(&self) -> Option<&ServerName> {
        self.own.iter().find_map(|pattern| match pattern {
            ServerNamePattern::Exact(name) => Some(name),
            _ => None,
        })
    }

    /// Whether `name` is led to another upstream, and to that alone.
    fn leads_elsewhere(&self, name: &ServerName) -> bool {
        let best = |patterns: &[ServerNamePattern]| patterns.iter().filter(|one| one.matches(name)).map(rank).max();
        // A catch-all takes whatever nobody else wants: to warn of that would be to warn always.
        best(&self.others).is_some_and(|rank| rank > 0) && best(&self.others) > best(&self.own)
    }
}

/// Precedence among patterns that match the same name: exact, then the wildcard with most labels, then `*`.
fn rank(pattern: &ServerNamePattern) -> usize {
    match pattern {
        ServerNamePattern::Any => 0,
        ServerNamePattern::Wildcard(parent) => 1 + parent.parents().count(),
        ServerNamePattern::Exact(_) => usize::MAX,
    }
}

/// What an operator should know of a certificate that is otherwise right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateWarning {
    /// It has ended.
    Expired(String),
    /// It ends within three weeks.
    ExpiresSoon(String),
    /// None of the names that clients ask for is in it.
    CoversNoName,
    /// Names of other routes are in it.
    CoversOthers(Vec<String>),
}

impl fmt::Display for CertificateWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(day) => write!(f, "the certificate has expired, on {day}"),
            Self::ExpiresSoon(day) => write!(f, "the certificate expires soon, on {day}"),
            Self::CoversNoName => f.write_str("the certificate covers no name of its routes: clients will refuse it"),
            Self::CoversOthers(names) => write!(
                f,
                "the certificate also covers {}, which another route leads elsewhere: browsers may send requests for \
                 it here, over a connection that they have (HTTP/2 coalescing)",
                names.join(", ")
            ),
        }
    }
}

/// What there is to say of a certificate, seen on an endpoint of an upstream with these routes.
pub fn warnings(certificate: &Certificate, routes: &RouteNames, now: SystemTime) -> Vec<CertificateWarning> {
    let mut warnings = Vec::new();
    if certificate.not_after <= now {
        warnings.push(CertificateWarning::Expired(certificate.last_day()));
    } else if certificate.not_after <= now + EXPIRES_SOON {
        warnings.push(CertificateWarning::ExpiresSoon(certificate.last_day()));
    }
    let covers = |pattern| certificate.names.iter().any(|name| name.meets(pattern));
    if !routes.own.is_empty() && !routes.own.iter().any(covers) {
        warnings.push(CertificateWarning::CoversNoName);
    }
    let mut elsewhere: Vec<String> = certificate.names.iter().flat_map(|name| led_elsewhere(name, routes)).collect();
    elsewhere.sort();
    elsewhere.dedup();
    if !elsewhere.is_empty() {
        warnings.push(CertificateWarning::CoversOthers(elsewhere));
    }
    warnings
}

/// What of `name` other routes lead elsewhere.
fn led_elsewhere(name: &Name, routes: &RouteNames) -> Vec<String> {
    let Some((wildcard, covered)) = name.covered() else { return Vec::new() };
    if !wildcard {
        return if routes.leads_elsewhere(&covered) { vec![covered.to_string()] } else { Vec::new() };
    }
    let below = |pattern: &&ServerNamePattern| matches!(pattern, ServerNamePattern::Exact(_)) && name.meets(pattern);
    let exact = routes.others.iter().filter(below).filter_map(|pattern| match pattern {
        ServerNamePattern::Exact(exact) if routes.leads_elsewhere(exact) => Some(exact.to_string()),
        _ => None,
    });
    // Any other name below it goes where a name goes that no route has by itself.
    let any = format!("any-name.{covered}").parse().is_ok_and(|any| routes.leads_elsewhere(&any));
    exact.chain(any.then(|| name.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData as _};

    fn routes(own: &[&str], others: &[&str]) -> RouteNames {
        let patterns = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
        RouteNames { own: patterns(own), others: patterns(others) }
    }

    fn certificate(names: &[&str]) -> Certificate {
        let names = names.iter().map(|name| Name::Dns((*name).to_owned())).collect();
        let not_after = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365);
        let [subject, issuer] = ["CN=a.test", "CN=test"].map(str::to_owned);
        Certificate { names, subject, issuer, not_after, key: Pin([0; 32]), fingerprint: String::new() }
    }

    #[test]
    fn a_certificate_says_whom_it_is_for() {
        let mut params = CertificateParams::new(["a.test", "*.b.test", "10.0.0.7", "2001:db8::1"].map(String::from));
        let params = params.as_mut().unwrap();
        params.distinguished_name.push(DnType::CommonName, "somebody");
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let key = KeyPair::generate().unwrap();
        let read = Certificate::read(params.self_signed(&key).unwrap().der()).unwrap();
        let names: Vec<String> = read.names.iter().map(Name::to_string).collect();
        assert_eq!(names, ["a.test", "*.b.test", "10.0.0.7", "2001:db8::1"]);
        assert!(read.issuer.contains("CN=somebody"), "{}", read.issuer);
        assert_eq!(read.subject, read.issuer);
        assert_eq!(read.last_day(), "2031-02-03");
        let spki = digest(&SHA256, &key.subject_public_key_info());
        assert_eq!(read.key.0, spki.as_ref());
        assert_eq!(Certificate::read(b"nonsense"), None);
        assert_eq!(Name::Dns("a\u{1b}[31m".to_owned()).to_string(), "a\\u{1b}[31m");
    }

    #[test]
    fn a_fingerprint_is_written_as_openssl_does() {
        let text = fingerprint(b"abc");
        assert!(text.starts_with("BA:78:16:BF:8F:01:CF:EA:"), "{text}");
        assert_eq!(text.len(), 32 * 3 - 1);
    }

    #[test]
    fn what_a_certificate_and_a_route_share_is_what_users_can_send() {
        for (names, patterns, expected) in [
            (&["a.test", "b.test"][..], &["b.test", "c.test", "a.test"][..], &["b.test", "a.test"][..]),
            (&["*.test"], &["a.test", "a.b.test", "test"], &["a.test"]),
            (&["*.b.test", "x.b.test", "b.test"], &["*.b.test"], &["*.b.test", "x.b.test"]),
            (&["*.b.test", "a.b.test"], &["*.test"], &["*.b.test", "a.b.test"]),
            (&["*.test"], &["*.b.test"], &[]),
            (&["*.test", "A.other"], &["*"], &["*.test", "a.other"]),
            (&["kubernetes", "kubernetes."], &["kubernetes", "*"], &["kubernetes"]),
            (&["no name"], &["*"], &[]),
        ] {
            let patterns: Vec<ServerNamePattern> = patterns.iter().map(|pattern| pattern.parse().unwrap()).collect();
            let shared = certificate(names).shared(&patterns);
            let shared: Vec<String> = shared.iter().map(ToString::to_string).collect();
            assert_eq!(shared, expected, "{names:?} for {patterns:?}");
        }
        let mut certificate = certificate(&["*.a.test"]);
        certificate.names.push(Name::Ip([192, 0, 2, 1].into()));
        let covers = |name: &str| certificate.covers(&name.parse().unwrap());
        assert_eq!(["x.a.test", "x.y.a.test", "a.test"].map(covers), [true, false, false]);
        assert_eq!([1, 2].map(|last| certificate.covers_address([192, 0, 2, last].into())), [true, false]);
    }

    #[test]
    fn an_end_is_told_three_weeks_before() {
        let certificate = certificate(&["a.test"]);
        let told = |before: Duration| warnings(&certificate, &routes(&[], &[]), certificate.not_after - before);
        assert_eq!(told(Duration::from_hours(24 * 22)), []);
        let day = || "1971-01-01".to_owned();
        assert_eq!(told(Duration::from_hours(24 * 20)), [CertificateWarning::ExpiresSoon(day())]);
        assert_eq!(told(Duration::ZERO), [CertificateWarning::Expired(day())]);
    }

    #[test]
    fn names_are_compared_with_the_routes() {
        use CertificateWarning::{CoversNoName, CoversOthers};
        let others = |names: &[&str]| vec![CoversOthers(names.iter().map(ToString::to_string).collect())];
        for (names, own, other, expected) in [
            (&["a.test"][..], &["a.test"][..], &[][..], vec![]),
            (&["A.test"], &["a.test"], &[], vec![]),
            (&["b.test"], &["a.test"], &[], vec![CoversNoName]),
            (&["*.test"], &["a.test"], &[], vec![]),
            (&["*.test"], &["a.b.test"], &[], vec![CoversNoName]),
            (&["a.b.test"], &["*.test"], &[], vec![]),
            (&["*.b.test"], &["*.test"], &[], vec![]),
            (&["*.test"], &["*.test"], &[], vec![]),
            (&["test"], &["*.test"], &[], vec![CoversNoName]),
            (&["a.test"], &["*"], &[], vec![]),
            // Who takes clients without a name only has no name to compare.
            (&["a.test"], &[], &[], vec![]),
            (&["a.test", "b.test"], &["a.test"], &["b.test"], others(&["b.test"])),
            (&["a.test", "b.test"], &["a.test"], &["*.test"], others(&["b.test"])),
            (&["a.test"], &["a.test"], &["*.test"], vec![]),
            (&["*.test"], &["a.test"], &["b.test", "c.d.test"], others(&["b.test"])),
            (&["*.test"], &["*.test"], &["b.test"], others(&["b.test"])),
            (&["*.test"], &["a.test"], &["*.test"], others(&["*.test"])),
            (&["*.b.test"], &["*.b.test"], &["*.test"], vec![]),
            (&["*.b.test"], &["*.test"], &["*.b.test"], others(&["*.b.test"])),
            // The same name for other sources or protocols: clients see one upstream or the other.
            (&["a.test"], &["a.test"], &["a.test"], vec![]),
            // A catch-all takes what is left.
            (&["a.test", "b.test"], &["a.test"], &["*"], vec![]),
        ] {
            let now = SystemTime::UNIX_EPOCH;
            let told = warnings(&certificate(names), &routes(own, other), now);
            assert_eq!(told, expected, "{names:?} for {own:?}, others {other:?}");
        }
    }
}
