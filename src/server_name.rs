//! [`ServerName`] and [`ServerNamePattern`]: the one place where a host name becomes a type.
//!
//! Names from the wire (SNI) and from the routing table pass through the same rules, so that a name can never mean one
//! thing to the table and another to a client.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Longest name in its textual form without the trailing dot (RFC 1035, 2.3.4, less length octet and root label).
const MAX_NAME: usize = 253;
/// Longest label (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;

/// A normalised server name: lower-case ASCII, no trailing dot, 1 to 253 bytes, every label valid.
///
/// Two names are equal exactly when a client and the routing table mean the same host.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName(Box<str>);

/// Why some bytes are no server name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidServerName {
    /// Nothing at all, or only the root dot.
    #[error("is empty")]
    Empty,
    /// More than 253 bytes.
    #[error("is longer than 253 bytes")]
    TooLong,
    /// Two dots in a row, or a leading dot.
    #[error("has an empty label")]
    EmptyLabel,
    /// A label of more than 63 bytes.
    #[error("has a label longer than 63 bytes")]
    LabelTooLong,
    /// A label that begins or ends with a hyphen.
    #[error("has a label that begins or ends with '-'")]
    Hyphen,
    /// A byte other than an ASCII letter, digit, `-` or `_`.
    #[error("has a character other than letters, digits, '-' and '_' (write an IDN in its xn-- form)")]
    Character,
    /// A last label that is a number, as in `127.1`: such names are read as addresses by some resolvers.
    #[error("ends in a numeric label, so that it could be read as an address")]
    NumericEnd,
    /// A well-formed IPv4 or IPv6 address; only reported where a name is required.
    #[error("is an IP address; clients that connect by address send no name, so use `no_server_name: true`")]
    IpLiteral,
}

impl ServerName {
    /// Reads the host name of a ClientHello's `server_name` extension.
    ///
    /// `Ok(None)` means a well-formed IP literal, which counts as no name: RFC 6066 forbids it, yet clients built on
    /// OpenSSL or .NET send it, and whoever may send none gains nothing by it.
    ///
    /// # Errors
    /// The first rule that the bytes break.
    pub fn from_wire(raw: &[u8]) -> Result<Option<Self>, InvalidServerName> {
        if is_ip_literal(raw) {
            return Ok(None);
        }
        let name = raw.strip_suffix(b".").unwrap_or(raw);
        if name.is_empty() {
            return Err(InvalidServerName::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(InvalidServerName::TooLong);
        }
        name.split(|&byte| byte == b'.').try_for_each(check_label)?;
        let last = name.rsplit(|&byte| byte == b'.').next().unwrap_or(name);
        if is_numeric(last) {
            return Err(InvalidServerName::NumericEnd);
        }
        let text = std::str::from_utf8(name).map_err(|_| InvalidServerName::Character)?;
        Ok(Some(Self(text.to_ascii_lowercase().into_boxed_str())))
    }

    /// The name as text: lower case, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names above this one, nearest first: `a.b.c` yields `b.c`, then `c`.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('.').map(|(dot, _)| &self.0[dot + 1..])
    }
}

/// Table look-ups by a part of a name need no allocation.
impl std::borrow::Borrow<str> for ServerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServerName {
    type Err = InvalidServerName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_wire(text.as_bytes())?.ok_or(InvalidServerName::IpLiteral)
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

fn check_label(label: &[u8]) -> Result<(), InvalidServerName> {
    if label.is_empty() {
        Err(InvalidServerName::EmptyLabel)
    } else if label.len() > MAX_LABEL {
        Err(InvalidServerName::LabelTooLong)
    } else if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
        Err(InvalidServerName::Character)
    } else if label.starts_with(b"-") || label.ends_with(b"-") {
        Err(InvalidServerName::Hyphen)
    } else {
        Ok(())
    }
}

/// Whether a last label makes the whole name an IPv4 number to `inet_aton` and to URL parsers (WHATWG URL, "ends in a
/// number"): all digits, or `0x` and hexadecimal digits.
fn is_numeric(label: &[u8]) -> bool {
    let hexadecimal = label.len() >= 2 && label[..2].eq_ignore_ascii_case(b"0x");
    hexadecimal || label.iter().all(u8::is_ascii_digit)
}

fn is_ip_literal(raw: &[u8]) -> bool {
    // Host names end in a letter, as a rule: two cheap looks spare most of them the parsers.
    if !raw.last().is_some_and(u8::is_ascii_digit) && !raw.contains(&b':') {
        return false;
    }
    std::str::from_utf8(raw).is_ok_and(|text| text.parse::<Ipv4Addr>().is_ok() || text.parse::<Ipv6Addr>().is_ok())
}

/// What a route accepts as a server name.
///
/// Precedence follows the Gateway API: exact, then the wildcard with most labels, then `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerNamePattern {
    /// This name alone.
    Exact(ServerName),
    /// `*.name`: every name below `name` at any depth, never `name` itself.
    Wildcard(ServerName),
    /// `*`: any name; a missing one never matches.
    Any,
}

impl ServerNamePattern {
    /// Whether a client that sends `name` is meant.
    pub fn matches(&self, name: &ServerName) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Wildcard(parent) => name.parents().any(|above| above == parent.as_str()),
            Self::Any => true,
        }
    }
}

impl FromStr for ServerNamePattern {
    type Err = InvalidServerName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("*.") {
            _ if text == "*" => Ok(Self::Any),
            Some(parent) => parent.parse().map(Self::Wildcard),
            None => text.parse().map(Self::Exact),
        }
    }
}

impl fmt::Display for ServerNamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
            Self::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        for (raw, expected) in [
            ("example.com", "example.com"),
            ("EXAMPLE.Com", "example.com"),
            ("example.com.", "example.com"),
            ("localhost", "localhost"),
            ("_sip.example.com", "_sip.example.com"),
            ("a-b.example", "a-b.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("1.2.3.4.example", "1.2.3.4.example"),
            ("3com.com", "3com.com"),
            ("example.0y", "example.0y"),
            (longest.as_str(), longest.as_str()),
        ] {
            let name = ServerName::from_wire(raw.as_bytes()).unwrap().unwrap();
            assert_eq!(name.as_str(), expected, "{raw}");
        }
    }

    #[test]
    fn ip_literals_count_as_no_name() {
        for literal in ["127.0.0.1", "::1", "2001:db8::7", "::ffff:10.0.0.1"] {
            assert_eq!(ServerName::from_wire(literal.as_bytes()), Ok(None), "{literal}");
            assert_eq!(literal.parse::<ServerName>(), Err(InvalidServerName::IpLiteral), "{literal}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        use InvalidServerName::*;
        let too_long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(62));
        let long_label = format!("{}.example", "a".repeat(64));
        for (raw, expected) in [
            (&b""[..], Empty),
            (b".", Empty),
            (b"..", EmptyLabel),
            (b".example.com", EmptyLabel),
            (b"example..com", EmptyLabel),
            (b"example.com..", EmptyLabel),
            (b"-a.example", Hyphen),
            (b"a-.example", Hyphen),
            (b"exa mple.com", Character),
            (b"example.com\0", Character),
            (b"example.com\n", Character),
            (b"*.example.com", Character),
            ("bücher.example".as_bytes(), Character),
            (b"\xff\xfe", Character),
            (b"example.com:443", Character),
            (b"[::1]", Character),
            (b"fe80::1%eth0", Character),
            (b"127.1", NumericEnd),
            (b"2130706433", NumericEnd),
            (b"127.0.0.1.", NumericEnd),
            (b"127.0.0.0x1", NumericEnd),
            (b"example.0X", NumericEnd),
            (b"256.256.256.256", NumericEnd),
            (too_long.as_bytes(), TooLong),
            (long_label.as_bytes(), LabelTooLong),
        ] {
            assert_eq!(ServerName::from_wire(raw), Err(expected), "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn patterns_match_what_they_say() {
        for (pattern, name, expected) in [
            ("example.com", "example.com", true),
            ("Example.com.", "EXAMPLE.com", true),
            ("example.com", "a.example.com", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "notexample.com", false),
            ("*.com", "example.com", true),
            ("*", "example.com", true),
        ] {
            let parsed: ServerNamePattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(&name.parse().unwrap()), expected, "{pattern} / {name}");
        }
    }

    #[test]
    fn patterns_print_as_they_are_written() {
        for pattern in ["example.com", "*.example.com", "*"] {
            assert_eq!(pattern.parse::<ServerNamePattern>().unwrap().to_string(), pattern);
        }
        for wrong in ["*.", "a.*", "*.*.com", "**", "*a.com", "", "*.10.0.0.1"] {
            assert!(wrong.parse::<ServerNamePattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn parents_come_nearest_first() {
        let name: ServerName = "a.b.c".parse().unwrap();
        assert_eq!(name.parents().collect::<Vec<_>>(), ["b.c", "c"]);
    }
}
