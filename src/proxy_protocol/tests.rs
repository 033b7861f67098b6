use std::net::{Ipv4Addr, SocketAddr};

use proptest::prelude::*;

use super::read::crc32c;
use super::*;

fn ends(source: &str, destination: &str) -> Ends {
    Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

/// A binary header with this version and command, family and block.
fn binary_of(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    [&SIGNATURE[..], &[command, family], &length_of(block), block].concat()
}

/// 192.0.2.1:4660 → 198.51.100.2:443.
const BLOCK4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 1, 0xbb];

fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    binary_of(0x21, TCP4, &[&BLOCK4[..], tlvs].concat())
}

/// A header with its checksum, and a TLV on either side of it.
fn checked() -> Vec<u8> {
    let mut header = with_tlvs(&[4, 0, 2, 9, 9, 3, 0, 4, 0, 0, 0, 0, 5, 0, 1, b'x']);
    let sum = crc32c(header.iter().copied()).to_be_bytes();
    let at = header.len() - 8;
    header[at..at + 4].copy_from_slice(&sum);
    header
}

fn told(raw: &[u8]) -> Option<Ends> {
    let header = read(raw).unwrap().unwrap();
    assert_eq!(header.length, raw.len());
    header.ends
}

#[test]
fn lines_are_read() {
    for (line, expected) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", Some(ends("192.0.2.1:56324", "198.51.100.2:443"))),
        ("PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n", Some(ends("255.255.255.255:65535", "0.0.0.0:0"))),
        ("PROXY TCP6 2001:DB8::1 ::1 1 2\r\n", Some(ends("[2001:db8::1]:1", "[::1]:2"))),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Some(ends(
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            )),
        ),
        // Canonical, so that lists judge the address that is meant.
        ("PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n", Some(ends("192.0.2.1:1", "[2001:db8::2]:2"))),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN whatever is said\there\r\n", None),
        ("PROXY UNKNOWN \r\r\n", None),
    ] {
        assert_eq!(told(line.as_bytes()), expected, "{line}");
    }
}

#[test]
fn other_lines_are_refused() {
    let mut no_end = b"PROXY UNKNOWN ".to_vec();
    no_end.resize(105, b'x');
    let longest = [&no_end[..], b"\r\n"].concat();
    assert_eq!(told(&longest), None);
    assert_eq!(told(b"PROXY UNKNOWN \xff\r\n"), None);
    let too_long = [&no_end[..], b"x\r\n"].concat();
    for (line, why) in [
        (&b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n"[..], InvalidHeader::Line),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 \r\n", InvalidHeader::Line),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 5\r\n", InvalidHeader::Line),
        (b"PROXY TCP4  192.0.2.1 198.51.100.2 56324 443\r\n", InvalidHeader::Line),
        (b"PROXY  TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", InvalidHeader::Line),
        (b"PROXY TCP4 192.0.2.01 198.51.100.2 56324 443\r\n", InvalidHeader::Line),
        (b"PROXY TCP4 192.0.2 198.51.100.2 56324 443\r\n", InvalidHeader::Line),
        (b"PROXY TCP4 2001:db8::1 198.51.100.2 56324 443\r\n", InvalidHeader::Line),
        (b"PROXY TCP6 2001:db8::1 198.51.100.2 56324 443\r\n", InvalidHeader::Line),
        (b"PROXY TCP6 2001:db8::1 fe80::1%eth0 56324 443\r\n", InvalidHeader::Line),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 056324 443\r\n", InvalidHeader::Line),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 +5 443\r\n", InvalidHeader::Line),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2  443\r\n", InvalidHeader::Line),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n", InvalidHeader::Line),
        (b"PROXY TCP5 192.0.2.1 198.51.100.2 56324 443\r\n", InvalidHeader::Line),
        (b"PROXY UNKNOWNS\r\n", InvalidHeader::Line),
        (b"PROXY tcp4 192.0.2.1 198.51.100.2 56324 443\r\n", InvalidHeader::Line),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n\r\n", InvalidHeader::Line),
        (b"PROXY \xff\r\n", InvalidHeader::Line),
        (b"PROXY \r\n", InvalidHeader::Line),
        (b"PROXY\r\n", InvalidHeader::Missing),
        (b"proxy UNKNOWN\r\n", InvalidHeader::Missing),
        (b"\x16\x03\x01\x02\x00\x01", InvalidHeader::Missing),
        (b"GET / HTTP/1.1\r\n", InvalidHeader::Missing),
        (b" ", InvalidHeader::Missing),
        (&too_long, InvalidHeader::LineLength),
    ] {
        assert_eq!(read(line), Err(why), "{}", line.escape_ascii());
    }
}

#[test]
fn binary_headers_are_read() {
    let four = Some(ends("192.0.2.1:4660", "198.51.100.2:443"));
    let mut block6 = [0; 36];
    block6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    block6[15] = 1;
    block6[16..20].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
    block6[31] = 2;
    block6[32..].copy_from_slice(&[0, 5, 1, 0xbb]);
    let mut mapped = [0; 36];
    mapped[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
    let mut room = with_tlvs(&[4, 0x0f, 0xe1]);
    room.resize(LONGEST_HEADER, 0);
    let end = LONGEST_HEADER - FIXED_LENGTH;
    room[14..16].copy_from_slice(&u16::try_from(end).unwrap().to_be_bytes());
    for (header, expected) in [
        (with_tlvs(&[]), four),
        (with_tlvs(&[4, 0, 0, 0xea, 0, 2, 1, 2]), four),
        (checked(), four),
        (room, four),
        (binary_of(0x21, TCP6, &block6), Some(ends("[2001:db8::1]:5", "[2001:db8::2]:443"))),
        (binary_of(0x21, TCP6, &mapped), Some(ends("192.0.2.1:0", "[::]:0"))),
        // A connection of the proxy's own: whatever else stands there means nothing.
        (binary_of(0x20, UNSPECIFIED, &[]), None),
        (binary_of(0x20, TCP4, &BLOCK4), None),
        (binary_of(0x20, 0xff, b"anything"), None),
        // Clients that did not come by TCP over IP.
        (binary_of(0x21, UNSPECIFIED, &[]), None),
        (binary_of(0x21, UNSPECIFIED, &BLOCK4), None),
        (binary_of(0x21, 0x12, &BLOCK4), None),
        (binary_of(0x21, 0x22, &block6), None),
        (binary_of(0x21, 0x31, &[b'/'; 216]), None),
        (binary_of(0x21, 0x32, &[b'/'; 216]), None),
    ] {
        assert_eq!(told(&header), expected, "{}", header.escape_ascii());
    }
}

/// What stands before the block.
const FIXED_LENGTH: usize = 16;

#[test]
fn other_binary_headers_are_refused() {
    let mut damaged = checked();
    damaged[20] ^= 1;
    let twice = with_tlvs(&[3, 0, 4, 0, 0, 0, 0, 3, 0, 4, 0, 0, 0, 0]);
    let mut endless = binary_of(0x21, TCP4, &BLOCK4);
    endless[14..16].copy_from_slice(&[0xff, 0xff]);
    let mut local_endless = binary_of(0x20, UNSPECIFIED, &[]);
    local_endless[14..16].copy_from_slice(&[0x0f, 0xf1]);
    for (header, why) in [
        (binary_of(0x11, TCP4, &BLOCK4), InvalidHeader::Version),
        (binary_of(0x31, TCP4, &BLOCK4), InvalidHeader::Version),
        (binary_of(0x22, TCP4, &BLOCK4), InvalidHeader::Command),
        (binary_of(0x2f, TCP4, &BLOCK4), InvalidHeader::Command),
        (binary_of(0x21, 0x41, &BLOCK4), InvalidHeader::Family),
        (binary_of(0x21, 0x13, &BLOCK4), InvalidHeader::Family),
        (binary_of(0x21, TCP4, &BLOCK4[..11]), InvalidHeader::Addresses),
        (binary_of(0x21, TCP4, &[]), InvalidHeader::Addresses),
        (binary_of(0x21, TCP6, &[0; 35]), InvalidHeader::Addresses),
        (with_tlvs(&[4]), InvalidHeader::Tlvs),
        (with_tlvs(&[4, 0]), InvalidHeader::Tlvs),
        (with_tlvs(&[4, 0, 1]), InvalidHeader::Tlvs),
        (with_tlvs(&[4, 0, 0, 4]), InvalidHeader::Tlvs),
        (with_tlvs(&[3, 0, 3, 0, 0, 0]), InvalidHeader::Tlvs),
        (twice, InvalidHeader::Tlvs),
        (damaged, InvalidHeader::Checksum),
        (endless, InvalidHeader::TooLong),
        (local_endless, InvalidHeader::TooLong),
        ([&SIGNATURE[..11], b"\r\x21"].concat(), InvalidHeader::Missing),
    ] {
        assert_eq!(read(&header), Err(why), "{}", header.escape_ascii());
    }
}

#[test]
fn a_checksum_is_that_of_the_rfc() {
    // RFC 3720, B.4.
    assert_eq!(crc32c([0; 32].into_iter()), 0x8a91_36aa);
    assert_eq!(crc32c([0xff; 32].into_iter()), 0x62a8_ab43);
    assert_eq!(crc32c(0..32), 0x46dd_794e);
}

#[test]
fn what_follows_a_header_is_not_part_of_it() {
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), checked()] {
        let twice = [&header[..], &header].concat();
        assert_eq!(read(&twice).unwrap().unwrap().length, header.len());
    }
}

const NOTHING_MORE: Details<'_> = Details { authority: None, alpn: None, unique_id: "" };

#[test]
fn lines_are_written() {
    for (source, destination, expected) in [
        ("192.0.2.1:1", "198.51.100.2:443", "PROXY TCP4 192.0.2.1 198.51.100.2 1 443\r\n"),
        ("[2001:db8::1]:1", "[2001:db8::2]:443", "PROXY TCP6 2001:db8::1 2001:db8::2 1 443\r\n"),
        ("192.0.2.1:1", "[2001:db8::2]:443", "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 443\r\n"),
        ("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
    ] {
        let ends = Ends::new(source.parse().unwrap(), destination.parse().unwrap());
        let line = Version::V1.header(&ends, &NOTHING_MORE);
        assert_eq!(line.escape_ascii().to_string(), expected.escape_default().to_string());
        assert_eq!(told(&line), Some(ends));
    }
    assert_eq!(Version::V1.header_of_our_own(), b"PROXY UNKNOWN\r\n");
}

#[test]
fn binary_headers_are_written() {
    let details =
        Details { authority: Some(&"a.test".parse().unwrap()), alpn: Some(&"h2".parse().unwrap()), unique_id: "1-2-3" };
    let header = Version::V2.header(&ends("192.0.2.1:4660", "198.51.100.2:443"), &details);
    let tlvs = b"\x01\0\x02h2\x02\0\x06a.test\x05\0\x051-2-3";
    assert_eq!(header.escape_ascii().to_string(), with_tlvs(tlvs).escape_ascii().to_string());
    assert_eq!(Version::V2.header_of_our_own(), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    assert_eq!(told(&Version::V2.header_of_our_own()), None);
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn any_details() -> impl Strategy<Value = (Option<String>, Option<Vec<u8>>, String)> {
    let name = proptest::option::of("[a-z]{1,63}(\\.[a-z]{1,63}){0,2}");
    (name, proptest::option::of(proptest::collection::vec(any::<u8>(), 1..=255)), "[0-9a-f-]{0,128}")
}

/// Bytes that come far: those of a header, changed in one place.
fn nearly_a_header() -> impl Strategy<Value = Vec<u8>> {
    let lines = "PROXY (TCP4|TCP6|UNKNOWN)( [0-9:.f]{1,9}){0,5}\r?\n?.{0,100}".prop_map(String::into_bytes);
    let written = (any_address(), any_address(), any::<bool>(), any::<prop::sample::Index>(), any::<u8>());
    let changed = written.prop_map(|(source, destination, binary, at, byte)| {
        let version = if binary { Version::V2 } else { Version::V1 };
        let mut header = version.header(&Ends::new(source, destination), &NOTHING_MORE);
        let at = at.index(header.len());
        header[at] = byte;
        header
    });
    prop_oneof![lines, changed, Just(checked()), proptest::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        source in any_address(),
        destination in any_address(),
        (name, alpn, id) in any_details(),
        behind in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let ends = Ends::new(source, destination);
        let (name, alpn) = (name.map(|name| name.parse().unwrap()), alpn.map(|alpn| alpn[..].try_into().unwrap()));
        let details = Details { authority: name.as_ref(), alpn: alpn.as_ref(), unique_id: &id };
        for version in [Version::V1, Version::V2] {
            let mut raw = version.header(&ends, &details);
            let length = raw.len();
            raw.extend(&behind);
            prop_assert_eq!(read(&raw), Ok(Some(Header { ends: Some(ends), length })));
            for cut in 0..length {
                prop_assert_eq!(read(&raw[..cut]), Ok(None), "{}", cut);
            }
        }
    }

    #[test]
    fn an_answer_stands_whatever_comes_behind(raw in nearly_a_header()) {
        let answers: Vec<_> = (0..=raw.len()).map(|cut| read(&raw[..cut])).collect();
        for pair in answers.windows(2) {
            prop_assert!(pair[0] == Ok(None) || pair[0] == pair[1]);
        }
        if let Some(Ok(Some(header))) = answers.last() {
            prop_assert!(header.length <= raw.len().min(LONGEST_HEADER));
        }
    }
}

#[test]
fn a_mapped_address_is_no_way_around_a_list() {
    let mapped = "PROXY TCP6 ::ffff:10.0.0.1 ::ffff:10.0.0.2 1 2\r\n";
    assert_eq!(told(mapped.as_bytes()).unwrap().source.ip(), Ipv4Addr::new(10, 0, 0, 1));
}
