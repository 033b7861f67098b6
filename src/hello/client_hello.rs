//! The strict parse of one complete ClientHello message.
//!
//! tls-parser takes the message apart. It is lenient (it drops broken extension lists, for one), so it decides nothing:
//! every byte must be accounted for here, and the extensions are walked here.

use tls_parser::{TlsCipherSuiteID, parse_tls_handshake_client_hello};

use super::records::MESSAGE_HEADER;
use super::{AlpnProtocol, ClientHello, Malformed, Sni};

/// Extension types (IANA "TLS ExtensionType Values").
pub(super) mod extension {
    pub(in crate::hello) const SERVER_NAME: u16 = 0;
    pub(in crate::hello) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(in crate::hello) const ALPN: u16 = 16;
    pub(in crate::hello) const DELEGATED_CREDENTIAL: u16 = 34;
    pub(in crate::hello) const PRE_SHARED_KEY: u16 = 41;
    pub(in crate::hello) const SUPPORTED_VERSIONS: u16 = 43;
    pub(in crate::hello) const SIGNATURE_ALGORITHMS_CERT: u16 = 50;
    pub(in crate::hello) const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
}

/// Longest session id (RFC 8446, 4.1.2).
const MAX_SESSION_ID: usize = 32;

/// A hello that passed every rule, taken apart; borrows from the message.
pub(super) struct Message<'a> {
    pub(super) legacy_version: u16,
    pub(super) ciphers: Vec<TlsCipherSuiteID>,
    /// The extension block, known to be well formed.
    pub(super) extensions: Extensions<'a>,
    server_name: Option<&'a [u8]>,
    /// The protocol names with their length bytes, known to be well formed.
    alpn: &'a [u8],
    ech: bool,
}

impl<'a> Message<'a> {
    /// Takes apart a handshake message, of which type and length have been judged already.
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let body = message.get(MESSAGE_HEADER..).ok_or(Malformed::Fields)?;
        let (rest, contents) = parse_tls_handshake_client_hello(body).map_err(|_| Malformed::Fields)?;
        let session_id = contents.session_id.map_or(0, <[u8]>::len);
        let fixed = 2 + 32 + (1 + session_id) + (2 + 2 * contents.ciphers.len()) + (1 + contents.comp.len());
        let accounted = fixed + contents.ext.map_or(0, |extensions| 2 + extensions.len());
        if !rest.is_empty() || accounted != body.len() || session_id > MAX_SESSION_ID {
            return Err(Malformed::Fields);
        }
        if contents.ciphers.is_empty() {
            return Err(Malformed::CipherSuites);
        }
        // Every version since SSL 3 demands it (RFC 5246, 7.4.1.2; RFC 8446, 4.1.2).
        if !contents.comp.iter().any(|method| method.0 == 0) {
            return Err(Malformed::Compression);
        }
        let mut parsed = Self {
            legacy_version: contents.version.0,
            ciphers: contents.ciphers,
            extensions: Extensions(contents.ext.unwrap_or_default()),
            server_name: None,
            alpn: &[],
            ech: false,
        };
        parsed.walk_extensions()?;
        Ok(parsed)
    }

    fn walk_extensions(&mut self) -> Result<(), Malformed> {
        let mut seen = SeenTypes::default();
        let mut extensions = self.extensions;
        while !extensions.0.is_empty() {
            let (extension_type, data) = extensions.next().ok_or(Malformed::Extensions)?;
            seen.insert(extension_type)?;
            match extension_type {
                extension::SERVER_NAME => self.server_name = Some(host_name(data).ok_or(Malformed::ServerName)?),
                extension::ALPN => self.alpn = protocol_names(data).ok_or(Malformed::Alpn)?,
                extension::SUPPORTED_VERSIONS => {
                    all_of_8(data).filter(is_u16_list).ok_or(Malformed::SupportedVersions)?;
                }
                extension::SIGNATURE_ALGORITHMS | extension::SIGNATURE_ALGORITHMS_CERT => {
                    all_of_16(data).filter(is_u16_list).ok_or(Malformed::SignatureAlgorithms)?;
                }
                // It must be the last one, and servers must check that (RFC 8446, 4.2.11).
                extension::PRE_SHARED_KEY if !extensions.0.is_empty() => return Err(Malformed::PreSharedKey),
                extension::ENCRYPTED_CLIENT_HELLO => self.ech = true,
                _ => {}
            }
        }
        seen.finish()
    }

    /// Whether there is a `server_name` extension, whatever is in it.
    pub(super) fn names_server(&self) -> bool {
        self.server_name.is_some()
    }

    /// The offered protocol names.
    pub(super) fn protocols(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut list = self.alpn;
        std::iter::from_fn(move || {
            let (name, rest) = split_vector_8(list)?;
            list = rest;
            Some(name)
        })
    }

    /// What routing and the log need, owned.
    pub(super) fn into_client_hello(self, records: usize, len: usize) -> ClientHello {
        let server_name = self.server_name.map_or(Sni::Absent, Sni::from_wire);
        let alpn = self.protocols().map(|name| AlpnProtocol(name.into())).collect();
        ClientHello { server_name, alpn, ech: self.ech, legacy_version: self.legacy_version, records, len }
    }
}

/// Types and data of an extension block; ends early where the block is not well formed.
#[derive(Clone, Copy)]
pub(super) struct Extensions<'a>(&'a [u8]);

impl<'a> Iterator for Extensions<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&extension_type, rest) = self.0.split_first_chunk()?;
        let (data, next) = split_vector_16(rest)?;
        self.0 = next;
        Some((u16::from_be_bytes(extension_type), data))
    }
}

/// Finds a type that occurs twice (forbidden for every type: RFC 8446, 4.2) without quadratic work, and for the hellos
/// of real clients without allocating.
#[derive(Default)]
struct SeenTypes {
    /// One bit for each type below 64, where nearly all registered ones lie.
    low: u64,
    /// The first others: GREASE, renegotiation_info, ECH and the like.
    others: [u16; 16],
    others_len: usize,
    /// More than a real client sends.
    surplus: Vec<u16>,
}

impl SeenTypes {
    fn insert(&mut self, extension_type: u16) -> Result<(), Malformed> {
        if extension_type < 64 {
            let bit = 1 << extension_type;
            if self.low & bit != 0 {
                return Err(Malformed::DuplicateExtension);
            }
            self.low |= bit;
        } else if self.others[..self.others_len].contains(&extension_type) {
            return Err(Malformed::DuplicateExtension);
        } else if let Some(free) = self.others.get_mut(self.others_len) {
            *free = extension_type;
            self.others_len += 1;
        } else {
            self.surplus.push(extension_type);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), Malformed> {
        self.surplus.sort_unstable();
        let twice = self.surplus.windows(2).any(|pair| pair[0] == pair[1]);
        if twice { Err(Malformed::DuplicateExtension) } else { Ok(()) }
    }
}

/// The name in a `server_name` extension that is exactly one `host_name` (type 0; RFC 6066, 3).
fn host_name(data: &[u8]) -> Option<&[u8]> {
    let (&name_type, name) = all_of_16(data)?.split_first()?;
    if name_type == 0 { all_of_16(name) } else { None }
}

/// The list in an ALPN extension: at least one name, none of them empty (RFC 7301, 3.1).
fn protocol_names(data: &[u8]) -> Option<&[u8]> {
    let list = all_of_16(data).filter(|list| !list.is_empty())?;
    let mut rest = list;
    while !rest.is_empty() {
        let (name, next) = split_vector_8(rest)?;
        if name.is_empty() {
            return None;
        }
        rest = next;
    }
    Some(list)
}

fn is_u16_list(list: &&[u8]) -> bool {
    !list.is_empty() && list.len().is_multiple_of(2)
}

/// A vector with a one-byte length that takes up all of `data`.
fn all_of_8(data: &[u8]) -> Option<&[u8]> {
    split_vector_8(data).and_then(|(vector, rest)| rest.is_empty().then_some(vector))
}

/// A vector with a two-byte length that takes up all of `data`.
fn all_of_16(data: &[u8]) -> Option<&[u8]> {
    split_vector_16(data).and_then(|(vector, rest)| rest.is_empty().then_some(vector))
}

fn split_vector_8(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = data.split_first()?;
    rest.split_at_checked(usize::from(length))
}

fn split_vector_16(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = data.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(length)))
}
