//! Who may ask: the token, and the names that a URL may have.
//!
//! A web page that somebody has open can have their browser ask any address, this host's own included, and read the
//! answer if its own name has come to lead there (DNS rebinding). The browser then still sends that name in `Host`, and so
//! only names that are known to be ours are answered to.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use ring::hmac::{self, HMAC_SHA256, Key, Tag};
use ring::rand::SystemRandom;

use crate::config::files::Stamp;
use crate::config::{Admin, Host};
use crate::server_name::ServerName;

/// A token of fewer characters can be guessed; as many of `openssl rand -hex` have 64 bits.
const SHORTEST_TOKEN: usize = 16;

/// Decides who is answered.
#[derive(Debug)]
pub struct Guard {
    token: Option<Token>,
    hosts: Vec<Host>,
}

/// The token that has to be sent, as its file says now.
#[derive(Debug)]
struct Token {
    path: PathBuf,
    /// Of this process alone. Tags are compared in constant time, and what time their making takes depends on nothing that
    /// is secret.
    key: Key,
    expected: RefCell<(Option<Stamp>, Tag)>,
}

/// Why a token is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BadToken {
    /// There is none.
    #[error("admin.token_file: {} cannot be read", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// It could be guessed, or cannot be sent.
    #[error(
        "admin.token_file: {} does not hold one line of {SHORTEST_TOKEN} or more visible ASCII characters: write one with \
         `openssl rand -hex 32`",
        .0.display()
    )]
    Poor(PathBuf),
    /// The kernel gives no random numbers.
    #[error("admin: no random numbers")]
    NoRandomness,
}

/// How much is asked of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// Nothing: health, which balancers ask for.
    None,
    /// The token, else the name.
    TokenOrName,
    /// The token, and the name.
    TokenAndName,
}

impl Guard {
    /// As configured.
    ///
    /// # Errors
    /// What is wrong with the token.
    pub fn of(admin: &Admin) -> Result<Self, BadToken> {
        let token = admin.token_file.as_deref().map(Token::read).transpose()?;
        Ok(Self { token, hosts: admin.hosts.clone() })
    }

    /// Whether who sends these headers to `own`, our address, if it is one, is answered; otherwise what it is told.
    pub(super) fn admit(&self, care: Care, headers: &HeaderMap, own: Option<IpAddr>) -> Result<(), StatusCode> {
        if care == Care::None {
            return Ok(());
        }
        if let Some(token) = &self.token {
            token.admit(headers)?;
            if care == Care::TokenOrName {
                return Ok(());
            }
        }
        let Some(own) = own else {
            // No browser gets to a local socket.
            return Ok(());
        };
        let host = only(headers, HOST).ok_or(StatusCode::BAD_REQUEST)?;
        if !self.is_ours(host, own) {
            return Err(StatusCode::MISDIRECTED_REQUEST);
        }
        // A page may also send what it cannot read the answer to: it has to be one of ours.
        match headers.contains_key(ORIGIN) {
            true if only(headers, ORIGIN) != Some(&format!("http://{host}")) => Err(StatusCode::FORBIDDEN),
            _ => Ok(()),
        }
    }

    fn is_ours(&self, host: &str, own: IpAddr) -> bool {
        let Some(host) = without_port(host) else { return false };
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return address.to_canonical() == own || self.hosts.contains(&Host::Ip(address));
        }
        let Ok(name) = host.parse::<ServerName>() else { return false };
        name.as_str() == "localhost" || self.hosts.contains(&Host::Name(name))
    }
}

/// The one header of this name, if there is exactly one and it is text.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut all = headers.get_all(name).into_iter();
    let one = all.next()?.to_str().ok()?;
    all.next().is_none().then_some(one)
}

/// A host with its port, if it has one.
fn without_port(host: &str) -> Option<&str> {
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match host.rsplit_once(':') {
        Some((before, port)) if is_port(port) && (!before.contains(':') || before.ends_with(']')) => Some(before),
        Some(_) if !host.ends_with(']') => None,
        _ => Some(host),
    }
}

impl Token {
    fn read(path: &Path) -> Result<Self, BadToken> {
        let key = Key::generate(HMAC_SHA256, &SystemRandom::new()).map_err(|_| BadToken::NoRandomness)?;
        let stamp = Stamp::of(path);
        let expected = hmac::sign(&key, text(path)?.as_bytes());
        Ok(Self { path: path.to_owned(), key, expected: RefCell::new((stamp, expected)) })
    }

    fn admit(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        self.follow();
        let (scheme, given) = only(headers, AUTHORIZATION).and_then(|text| text.split_once(' ')).unwrap_or_default();
        let fits = hmac::verify(&self.key, given.trim().as_bytes(), self.expected.borrow().1.as_ref()).is_ok();
        if fits && scheme.eq_ignore_ascii_case("bearer") { Ok(()) } else { Err(StatusCode::UNAUTHORIZED) }
    }

    /// Reads the file again if it is another one now. What cannot be used leaves the last good one.
    fn follow(&self) {
        let mut expected = self.expected.borrow_mut();
        let now = Stamp::of(&self.path);
        if now.is_some() && now != expected.0 {
            match text(&self.path) {
                Ok(text) => expected.1 = hmac::sign(&self.key, text.as_bytes()),
                Err(error) => tracing::warn!(%error, "the token from before holds"),
            }
            expected.0 = now;
        }
    }
}

fn text(path: &Path) -> Result<String, BadToken> {
    let text = fs::read_to_string(path).map_err(|error| BadToken::Unreadable(path.to_owned(), error))?;
    let token = text.trim();
    let is_fit = token.len() >= SHORTEST_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_fit { Ok(token.to_owned()) } else { Err(BadToken::Poor(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AdminAddress;
    use std::net::Ipv4Addr;

    const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const TOKEN: &str = "0123456789abcdef";

    fn guard(token_file: Option<&Path>) -> Result<Guard, BadToken> {
        let hosts = vec![Host::Name("gate.test".parse().unwrap()), Host::Ip("192.0.2.9".parse().unwrap())];
        let address = AdminAddress::Tcp((OWN, 9901).into());
        Guard::of(&Admin { address, token_file: token_file.map(Path::to_owned), hosts })
    }

    fn headers(pairs: &[(&HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|&(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn verdict(guard: &Guard, care: Care, pairs: &[(&HeaderName, &str)]) -> u16 {
        guard.admit(care, &headers(pairs), Some(OWN)).map_or_else(|status| status.as_u16(), |()| 200)
    }

    #[test]
    fn only_names_that_are_ours_are_answered_to() {
        let guard = guard(None).unwrap();
        for (host, status) in [
            ("192.0.2.1:9901", 200),
            ("192.0.2.1", 200),
            ("[::ffff:192.0.2.1]:9901", 200),
            ("192.0.2.9:80", 200),
            ("localhost:8080", 200),
            ("LocalHost", 200),
            ("gate.test", 200),
            ("GATE.test:9901", 200),
            ("192.0.2.2:9901", 421),
            ("127.0.0.1", 421),
            ("evil.test", 421),
            ("localhost.evil.test", 421),
            ("gate.test.evil.test:9901", 421),
            ("gate.test@evil.test", 421),
            ("gate.test:9901:1", 421),
            ("192.0.2.1:x", 421),
            ("", 421),
        ] {
            assert_eq!(verdict(&guard, Care::TokenAndName, &[(&HOST, host)]), status, "{host}");
            assert_eq!(verdict(&guard, Care::TokenOrName, &[(&HOST, host)]), status, "{host}");
            assert_eq!(verdict(&guard, Care::None, &[(&HOST, host)]), 200);
        }
        assert_eq!(verdict(&guard, Care::TokenOrName, &[]), 400);
        assert_eq!(verdict(&guard, Care::TokenOrName, &[(&HOST, "localhost"), (&HOST, "localhost")]), 400);
        assert!(guard.admit(Care::TokenAndName, &headers(&[(&HOST, "evil.test")]), None).is_ok(), "by a local socket");
    }

    #[test]
    fn only_pages_of_our_own_may_ask() {
        let guard = guard(None).unwrap();
        for (origin, status) in [
            ("http://gate.test:9901", 200),
            ("http://gate.test", 403),
            ("https://gate.test:9901", 403),
            ("http://localhost:9901", 403),
            ("http://evil.test", 403),
            ("null", 403),
        ] {
            let asked = [(&HOST, "gate.test:9901"), (&ORIGIN, origin)];
            assert_eq!(verdict(&guard, Care::TokenAndName, &asked), status, "{origin}");
        }
    }

    #[test]
    fn with_a_token_nobody_is_answered_without_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, format!("{TOKEN}\n")).unwrap();
        let guard = guard(Some(&path)).unwrap();
        for (sent, status) in [
            (format!("Bearer {TOKEN}"), 200),
            (format!("bearer  {TOKEN}"), 200),
            (TOKEN.to_owned(), 401),
            (format!("Basic {TOKEN}"), 401),
            (format!("Bearer {TOKEN}0"), 401),
            (format!("Bearer {}", &TOKEN[1..]), 401),
            ("Bearer ".to_owned(), 401),
            (String::new(), 401),
        ] {
            let asked = [(&AUTHORIZATION, sent.as_str()), (&HOST, "any.test")];
            assert_eq!(verdict(&guard, Care::TokenOrName, &asked), status, "{sent}");
            assert_eq!(verdict(&guard, Care::TokenAndName, &asked), if status == 200 { 421 } else { 401 });
            assert_eq!(verdict(&guard, Care::None, &asked), 200);
        }
        assert_eq!(verdict(&guard, Care::TokenOrName, &[(&HOST, "gate.test")]), 401);
    }

    #[test]
    fn another_token_in_the_file_is_the_one_that_counts_unless_it_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, TOKEN).unwrap();
        let guard = guard(Some(&path)).unwrap();
        let status = |token: &str| {
            let sent = format!("Bearer {token}");
            verdict(&guard, Care::TokenOrName, &[(&AUTHORIZATION, &sent)])
        };
        fs::write(&path, "short").unwrap();
        assert_eq!((status(TOKEN), status("short")), (200, 401));
        fs::remove_file(&path).unwrap();
        assert_eq!(status(TOKEN), 200);
        let other = "another token that is none, for its spaces";
        fs::write(&path, other).unwrap();
        assert_eq!(status(other), 401);
        let other = other.replace(' ', "-");
        fs::write(&path, &other).unwrap();
        assert_eq!((status(TOKEN), status(&other)), (401, 200));
    }

    #[test]
    fn a_token_that_could_be_guessed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(matches!(guard(Some(&path)), Err(BadToken::Unreadable(..))));
        for poor in ["", "\n", "0123456789abcde", "0123456789 abcdef"] {
            fs::write(&path, poor).unwrap();
            assert!(matches!(guard(Some(&path)), Err(BadToken::Poor(_))), "{poor:?}");
        }
    }
}
