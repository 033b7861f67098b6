//! The PROXY protocol: what a proxy says of its client before the client's own bytes, as HAProxy defines it in
//! `doc/proxy-protocol.txt`. Version 1 is a line of text, version 2 is binary and has room for more.
//!
//! [`read()`] takes either version, strictly: the header decides which client the lists judge, so what one reader could
//! take differently from another is refused. [`Version::header`] writes one.

mod read;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

pub use read::{Header, InvalidHeader, LONGEST_HEADER, read};

use crate::hello::AlpnProtocol;
use crate::server_name::ServerName;

/// What version 2 begins with: made to be nothing that another protocol could begin with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The upper half of the byte behind the signature.
const BINARY_VERSION: u8 = 0x20;
/// Its lower half: a connection of the proxy's own, or of a client.
const LOCAL: u8 = 0;
const PROXY: u8 = 1;
/// Families of addresses, each with TCP.
const UNSPECIFIED: u8 = 0;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Types of what follows the addresses.
mod tlv {
    pub(super) const ALPN: u8 = 0x01;
    pub(super) const AUTHORITY: u8 = 0x02;
    pub(super) const CRC32C: u8 = 0x03;
    pub(super) const UNIQUE_ID: u8 = 0x05;
}

/// The ends of a connection from a client to a proxy, canonical: never v4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

impl Ends {
    /// Between these two, whose addresses may still be v4-mapped.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { source: canonical(source), destination: canonical(destination) }
    }

    /// The addresses in one family: a header has no room for two. (Behind a proxy that translates, a client may have come
    /// to an address of the other family.)
    fn addresses(&self) -> Addresses {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Addresses::V4([source, destination].map(|one| one.octets()))
            }
            (source, destination) => Addresses::V6([mapped(source), mapped(destination)]),
        }
    }
}

enum Addresses {
    V4([[u8; 4]; 2]),
    V6([Ipv6Addr; 2]),
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// The version of a header that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The line of text: addresses only.
    V1,
    /// The binary one, with [`Details`].
    V2,
}

/// What version 2 says of a client besides its addresses.
#[derive(Clone, Copy, Debug)]
pub struct Details<'a> {
    /// The server name that it asked for.
    pub authority: Option<&'a ServerName>,
    /// The protocol that it would like best.
    pub alpn: Option<&'a AlpnProtocol>,
    /// Names the connection in our log; at most 128 bytes.
    pub unique_id: &'a str,
}

impl Version {
    /// The header for a connection on behalf of a client.
    pub fn header(self, ends: &Ends, details: &Details<'_>) -> Vec<u8> {
        match self {
            Self::V1 => line(ends).into_bytes(),
            Self::V2 => binary(ends, details),
        }
    }

    /// The header for a connection on nobody's behalf: we ask whether the other side is well.
    pub fn header_of_our_own(self) -> Vec<u8> {
        match self {
            Self::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
            Self::V2 => [&SIGNATURE[..], &[BINARY_VERSION | LOCAL, UNSPECIFIED, 0, 0]].concat(),
        }
    }
}

fn line(Ends { source, destination }: &Ends) -> String {
    let ports = format!("{} {}", source.port(), destination.port());
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => format!("PROXY TCP4 {source} {destination} {ports}\r\n"),
        (source, destination) => format!("PROXY TCP6 {} {} {ports}\r\n", mapped(source), mapped(destination)),
    }
}

fn binary(ends: &Ends, details: &Details<'_>) -> Vec<u8> {
    let mut block = Vec::with_capacity(128);
    let family = match ends.addresses() {
        Addresses::V4(addresses) => {
            block.extend(addresses.as_flattened());
            TCP4
        }
        Addresses::V6(addresses) => {
            block.extend(addresses.map(|one| one.octets()).as_flattened());
            TCP6
        }
    };
    block.extend([ends.source.port(), ends.destination.port()].map(u16::to_be_bytes).as_flattened());
    let texts = [
        (tlv::ALPN, details.alpn.map(AlpnProtocol::as_bytes)),
        (tlv::AUTHORITY, details.authority.map(|name| name.as_str().as_bytes())),
        (tlv::UNIQUE_ID, Some(details.unique_id.as_bytes())),
    ];
    for (kind, value) in texts {
        let Some(value) = value else { continue };
        block.push(kind);
        block.extend(length_of(value));
        block.extend(value);
    }
    [&SIGNATURE[..], &[BINARY_VERSION | PROXY, family], &length_of(&block), &block].concat()
}

/// Protocols and names have 255 bytes at most, and so all of a header is far below what its length can say.
fn length_of(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap_or_else(|_| unreachable!("a header is short")).to_be_bytes()
}
