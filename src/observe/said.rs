//! What a client said in its hello, as far as it is kept.

use std::borrow::Cow;

use super::access_log::{TEXT_LIMIT, escaped};
use crate::hello::{AlpnProtocol, ClientHello, Sni};
use crate::routing::Route;
use crate::server_name::ServerName;

/// Bytes of a list of protocols that are kept, as they are on the wire; one protocol always is. kubectl and browsers send
/// two short ones, and a hello has room for thousands.
const PROTOCOLS: usize = 256;

/// Server name, protocols and JA4 of a hello, in one piece of memory, since it is kept for as long as the connection: who
/// is to be decided on again has to be known.
///
/// Two bytes each say how long name and protocols are, and in their topmost bits how they are meant.
#[derive(Debug)]
pub struct Said(Box<[u8]>);

/// The name is none that is acceptable.
const INVALID: u16 = 1 << 15;
/// There were more protocols.
const CUT: u16 = 1 << 15;
const LENGTH: u16 = !(1 << 15);
/// Where the name begins.
const HEAD: usize = 2 * size_of::<u16>();

impl Said {
    /// What is kept of a hello that was led to this route.
    pub(super) fn of(hello: &ClientHello, route: Option<&Route>, ja4: Option<&str>) -> Self {
        let (name, invalid) = match &hello.server_name {
            Sni::Absent => (&[][..], 0),
            Sni::Name(name) => (name.as_str().as_bytes(), 0),
            // So much of it that a line can show that it is cut.
            Sni::Invalid(raw) => (&raw[..raw.len().min(TEXT_LIMIT + 1)], INVALID),
        };
        let kept = || kept(&hello.alpn, route);
        let cut = if kept().count() < hello.alpn.len() { CUT } else { 0 };
        let protocols = kept().map(|protocol| 1 + protocol.len()).sum();
        let ja4 = ja4.unwrap_or_default().as_bytes();
        let mut bytes = Vec::with_capacity(HEAD + name.len() + protocols + ja4.len());
        bytes.extend((length(name.len()) | invalid).to_ne_bytes());
        bytes.extend((length(protocols) | cut).to_ne_bytes());
        bytes.extend(name);
        for protocol in kept() {
            bytes.extend(u8::try_from(protocol.len()));
            bytes.extend(protocol);
        }
        bytes.extend(ja4);
        Self(bytes.into())
    }

    /// The server name, as it counts in a decision.
    pub fn server_name(&self) -> Sni {
        let (name, is_invalid) = self.name();
        match std::str::from_utf8(name).ok().and_then(|name| name.parse::<ServerName>().ok()) {
            _ if is_invalid => Sni::Invalid(name.into()),
            Some(name) => Sni::Name(name),
            None => Sni::Absent,
        }
    }

    /// The server name in its normal form, or what was sent in its place, escaped.
    pub fn server_name_text(&self) -> Option<Cow<'_, str>> {
        match self.name() {
            (raw, true) => Some(escaped(raw).into()),
            ([], false) => None,
            (name, false) => Some(String::from_utf8_lossy(name)),
        }
    }

    /// The protocols that are kept of those it offers, in its order: those that there is room for, and always the one that
    /// its route took it for. So who is led anywhere now is not refused by the same configuration for what was not kept,
    /// and a long list is no way around another.
    pub fn protocols(&self) -> Vec<AlpnProtocol> {
        self.raw_protocols().filter_map(|raw| raw.try_into().ok()).collect()
    }

    /// The protocols, escaped, as many as a line has room for.
    pub fn protocols_text(&self) -> Option<String> {
        let mut protocols: Vec<_> = self.raw_protocols().collect();
        if protocols.is_empty() {
            return None;
        }
        let is_cut = self.head(size_of::<u16>()) & CUT != 0;
        if is_cut {
            protocols.push(b"");
        }
        let mut text = escaped(&protocols.join(&b','));
        if is_cut && !text.ends_with('…') {
            text.push('…');
        }
        Some(text)
    }

    /// The fingerprint, where it was made.
    pub fn ja4(&self) -> Option<&str> {
        let after = &self.0[self.end_of_name() + usize::from(self.head(size_of::<u16>()) & LENGTH)..];
        std::str::from_utf8(after).ok().filter(|ja4| !ja4.is_empty())
    }

    fn head(&self, at: usize) -> u16 {
        u16::from_ne_bytes([self.0[at], self.0[at + 1]])
    }

    fn end_of_name(&self) -> usize {
        HEAD + usize::from(self.head(0) & LENGTH)
    }

    /// And whether it is invalid.
    fn name(&self) -> (&[u8], bool) {
        (&self.0[HEAD..self.end_of_name()], self.head(0) & INVALID != 0)
    }

    fn raw_protocols(&self) -> impl Iterator<Item = &[u8]> {
        let begin = self.end_of_name();
        let mut rest = &self.0[begin..begin + usize::from(self.head(size_of::<u16>()) & LENGTH)];
        std::iter::from_fn(move || {
            let (&length, after) = rest.split_first()?;
            let (protocol, after) = after.split_at_checked(length.into())?;
            rest = after;
            Some(protocol)
        })
    }
}

fn length(of: usize) -> u16 {
    u16::try_from(of).unwrap_or_else(|_| unreachable!("names and protocols are bounded"))
}

/// Those that there is room for, and the one that the route took it for.
fn kept<'h>(alpn: &'h [AlpnProtocol], route: Option<&Route>) -> impl Iterator<Item = &'h [u8]> {
    let mut taken = route.and_then(|route| alpn.iter().position(|protocol| route.alpn.contains(protocol)));
    let mut room = PROTOCOLS;
    alpn.iter().map(AlpnProtocol::as_bytes).enumerate().filter_map(move |(place, protocol)| {
        let left = room.checked_sub(1 + protocol.len());
        room = left.unwrap_or(room);
        let is_taken = taken.take_if(|taken| *taken == place).is_some();
        (left.is_some() || is_taken).then_some(protocol)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn hello(server_name: Sni, alpn: &[&str]) -> ClientHello {
        let alpn = alpn.iter().map(|protocol| protocol.parse().unwrap()).collect();
        ClientHello { server_name, alpn, ech: false, legacy_version: 0x303, records: 1, len: 99 }
    }

    #[test]
    fn what_was_said_comes_out_again() {
        let name = Sni::from_wire(b"A.test.");
        for (server_name, text) in [
            (Sni::Absent, None),
            (name, Some("a.test")),
            (Sni::Invalid(b"a\nb".as_slice().into()), Some("a\\nb")),
            (Sni::Invalid([].into()), Some("")),
        ] {
            for (alpn, alpn_text) in [(&[][..], None), (&["h2", "http/1.1"], Some("h2,http/1.1")), (&[","], Some(","))]
            {
                for ja4 in [None, Some("t13d1312h2_f57a46bbacb6_a089dac27317")] {
                    let hello = hello(server_name.clone(), alpn);
                    let said = Said::of(&hello, None, ja4);
                    assert_eq!((said.server_name(), said.protocols()), (server_name.clone(), hello.alpn));
                    assert_eq!(said.server_name_text().as_deref(), text);
                    assert_eq!((said.protocols_text().as_deref(), said.ja4()), (alpn_text, ja4));
                }
            }
        }
    }

    #[test]
    fn a_long_list_is_cut_and_shows_it() {
        let long = "x".repeat(255);
        let said = Said::of(&hello(Sni::Absent, &[&long, "h2"]), None, None);
        assert_eq!(said.protocols(), [long.parse().unwrap()]);
        assert_eq!(said.protocols_text(), Some(format!("{long},…")));
        let many: Vec<String> = (0..5000).map(|number| format!("{number:04}")).collect();
        let many: Vec<&str> = many.iter().map(|protocol| &**protocol).collect();
        let said = Said::of(&hello(Sni::Absent, &many), None, None);
        assert_eq!(said.protocols().len(), PROTOCOLS / 5);
        let text = said.protocols_text().unwrap();
        assert!(text.starts_with("0000,0001,") && text.ends_with(",0050,…") && text.len() <= TEXT_LIMIT + 3, "{text}");
        let hostile = Sni::Invalid(vec![0xff; 5000].into());
        let text = Said::of(&hello(hostile, &[]), None, None).server_name_text().unwrap().into_owned();
        assert!(text.starts_with("\\xff\\xff") && text.ends_with('…') && text.chars().count() == TEXT_LIMIT + 1);
    }

    #[test]
    fn the_protocol_that_led_to_the_route_is_kept_however_long_the_list() {
        let yaml = "
            listeners: [{ address: ':1' }]
            routes: [{ server_names: [a.test], alpn: [h2, h3], upstream: up }]
            upstreams: { up: { endpoints: ['127.0.0.1:1'] } }";
        let route = &Config::parse(yaml).unwrap().routes[0];
        let long = "x".repeat(255);
        for list in [&["h2", &long, "h3"][..], &[&long, "a", "h2", "h2", "h3", "h2"], &[&long, "h3"], &[&long, "z"]] {
            let hello = hello(Sni::Absent, list);
            let kept = Said::of(&hello, Some(route), None).protocols();
            let first = |list: &[AlpnProtocol]| list.iter().find(|protocol| route.alpn.contains(protocol)).cloned();
            assert_eq!(first(&kept), first(&hello.alpn), "{list:?}");
            assert!(kept.len() <= 2, "{kept:?}");
        }
    }
}
