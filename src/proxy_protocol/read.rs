//! Reading a header: from the first bytes of a connection to whom they announce.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::str::FromStr;

use super::{BINARY_VERSION, Ends, LOCAL, PROXY, SIGNATURE, TCP4, TCP6, tlv};

/// The longest header that is read. Two bytes of length could announce 64 KiB; what proxies send has some hundred bytes,
/// TLVs included, and nginx reads as much.
pub const LONGEST_HEADER: usize = 4096;
/// What version 1 begins with.
const LINE_BEGIN: &[u8] = b"PROXY ";
/// The longest line of version 1, its CRLF included.
const LONGEST_LINE: usize = 107;
/// Signature, version and command, family, length.
const FIXED: usize = 16;

/// A header that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whom the proxy speaks for. None when that is itself (LOCAL), or somebody who came by other ways than TCP over IP
    /// (UNKNOWN, UNSPEC, UDP, UNIX): then the ends of the connection itself are meant.
    pub ends: Option<Ends>,
    /// The bytes that it takes.
    pub length: usize,
}

/// The rule that a header breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    /// Something else begins there.
    #[error("no PROXY header")]
    Missing,
    /// A line without an end.
    #[error("no CRLF within {LONGEST_LINE} bytes")]
    LineLength,
    /// Not the words of version 1.
    #[error("the line is not PROXY, TCP4 or TCP6, two addresses of that family and two ports")]
    Line,
    /// Neither 1 nor 2.
    #[error("unknown version")]
    Version,
    /// Neither PROXY nor LOCAL.
    #[error("unknown command")]
    Command,
    /// A family or transport that does not exist.
    #[error("unknown address family or transport")]
    Family,
    /// More than anybody needs.
    #[error("longer than {LONGEST_HEADER} bytes")]
    TooLong,
    /// Shorter than its addresses.
    #[error("too short for its addresses")]
    Addresses,
    /// The TLVs do not fill the rest.
    #[error("its TLVs do not fill it")]
    Tlvs,
    /// Damaged on its way.
    #[error("its checksum is wrong")]
    Checksum,
}

/// Judges the first bytes of a connection: all that were read so far, which may be more than the header. `Ok(None)` asks
/// for more. The answer depends on the bytes alone, never on how they were cut into reads, and looking again costs little:
/// a line is short, and of a binary header only its first bytes are looked at before it is whole.
///
/// # Errors
/// The first rule that the bytes break.
pub fn read(raw: &[u8]) -> Result<Option<Header>, InvalidHeader> {
    if agree(raw, SIGNATURE) {
        return read_binary(raw);
    }
    if agree(raw, LINE_BEGIN) {
        return read_line(raw);
    }
    Err(InvalidHeader::Missing)
}

/// Whether `raw` begins with `start`, as far as it goes.
fn agree(raw: &[u8], start: &[u8]) -> bool {
    raw.iter().zip(start).all(|(one, other)| one == other)
}

fn read_line(raw: &[u8]) -> Result<Option<Header>, InvalidHeader> {
    let most = &raw[..raw.len().min(LONGEST_LINE)];
    let Some(end) = most.windows(2).position(|pair| pair == b"\r\n") else {
        return if most.len() == LONGEST_LINE { Err(InvalidHeader::LineLength) } else { Ok(None) };
    };
    let words = &most[LINE_BEGIN.len()..end];
    let ends = match words.strip_prefix(b"UNKNOWN") {
        // Whatever follows is to be ignored.
        Some([] | [b' ', ..]) => None,
        _ => Some(str::from_utf8(words).ok().and_then(ends_in).ok_or(InvalidHeader::Line)?),
    };
    Ok(Some(Header { ends, length: end + 2 }))
}

/// What the words of a line say, if they are those of one.
fn ends_in(words: &str) -> Option<Ends> {
    let mut words = words.split(' ');
    let (source, destination) = match words.next()? {
        "TCP4" => (ip::<Ipv4Addr>(words.next()?)?, ip::<Ipv4Addr>(words.next()?)?),
        "TCP6" => (ip::<Ipv6Addr>(words.next()?)?, ip::<Ipv6Addr>(words.next()?)?),
        _ => return None,
    };
    let (source_port, destination_port) = (port(words.next()?)?, port(words.next()?)?);
    let ends = Ends::new(SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port));
    words.next().is_none().then_some(ends)
}

fn ip<A: FromStr + Into<IpAddr>>(word: &str) -> Option<IpAddr> {
    word.parse::<A>().ok().map(Into::into)
}

fn port(word: &str) -> Option<u16> {
    // `u16` would also take a plus sign and leading zeros.
    let is_plain = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    is_plain.then(|| word.parse().ok()).flatten()
}

fn read_binary(raw: &[u8]) -> Result<Option<Header>, InvalidHeader> {
    let Some(&command) = raw.get(SIGNATURE.len()) else { return Ok(None) };
    let is_local = match command {
        _ if command & 0xf0 != BINARY_VERSION => return Err(InvalidHeader::Version),
        _ => match command & 0x0f {
            LOCAL => true,
            PROXY => false,
            _ => return Err(InvalidHeader::Command),
        },
    };
    let Some(&family) = raw.get(SIGNATURE.len() + 1) else { return Ok(None) };
    // UNSPEC, IPv4, IPv6 and UNIX, each by UNSPEC, STREAM or DGRAM; of what is local it says nothing.
    if !is_local && (family >> 4 > 3 || family & 0x0f > 2) {
        return Err(InvalidHeader::Family);
    }
    let Some(&[high, low]) = raw.get(FIXED - 2..FIXED).and_then(|length| length.first_chunk()) else {
        return Ok(None);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST_HEADER {
        return Err(InvalidHeader::TooLong);
    }
    let Some(header) = raw.get(..length) else { return Ok(None) };
    let ends = match family {
        TCP4 if !is_local => Some(read_block::<4>(header)?),
        TCP6 if !is_local => Some(read_block::<16>(header)?),
        // What such a block looks like is not for us to know.
        _ => None,
    };
    Ok(Some(Header { ends, length }))
}

/// Addresses of `N` bytes, their ports, and TLVs up to the end.
fn read_block<const N: usize>(header: &[u8]) -> Result<Ends, InvalidHeader>
where
    IpAddr: From<[u8; N]>,
{
    let ends = |block: &[u8]| {
        let (&source, rest) = block.split_first_chunk::<N>()?;
        let (&destination, rest) = rest.split_first_chunk::<N>()?;
        let &[a, b, c, d] = rest.first_chunk()?;
        let [source_port, destination_port] = [[a, b], [c, d]].map(u16::from_be_bytes);
        let (source, destination) = (IpAddr::from(source), IpAddr::from(destination));
        Some(Ends::new(SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port)))
    };
    let ends = ends(&header[FIXED..]).ok_or(InvalidHeader::Addresses)?;
    match find_checksum(header, FIXED + 2 * N + 4)? {
        Some(place) if !checksum_fits(header, &place) => Err(InvalidHeader::Checksum),
        _ => Ok(ends),
    }
}

/// Walks the TLVs, which must fill the header. Where its checksum is, if it has one.
fn find_checksum(header: &[u8], mut at: usize) -> Result<Option<Range<usize>>, InvalidHeader> {
    let mut found = None;
    while at < header.len() {
        let &[kind, high, low] = header[at..].first_chunk().ok_or(InvalidHeader::Tlvs)?;
        let value = at + 3..at + 3 + usize::from(u16::from_be_bytes([high, low]));
        at = value.end;
        if kind == tlv::CRC32C {
            // A second one would cover the first, and the first the second.
            if value.len() != 4 || found.is_some() {
                return Err(InvalidHeader::Tlvs);
            }
            found = Some(value);
        }
    }
    if at == header.len() { Ok(found) } else { Err(InvalidHeader::Tlvs) }
}

/// The sum is over the header with zeros in place of itself.
fn checksum_fits(header: &[u8], place: &Range<usize>) -> bool {
    let (before, after) = (&header[..place.start], &header[place.end..]);
    let blanked = before.iter().chain(&[0; 4]).chain(after);
    header[place.clone()] == crc32c(blanked.copied()).to_be_bytes()
}

/// RFC 4960, Appendix B; bit by bit, since no header is long.
pub(super) fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    /// The polynomial, reflected.
    const CASTAGNOLI: u32 = 0x82f6_3b78;
    let bit = |sum: u32, _| (sum >> 1) ^ (CASTAGNOLI & (sum & 1).wrapping_neg());
    !bytes.fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(byte), bit))
}
