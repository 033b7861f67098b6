//! JA4 on hellos built for it. The hashes of the first are FoxIO's published example; the corpus has many more.

use super::super::ja4;
use super::build::{self, Fields, algorithms, alpn, extension, records, server_name, supported_versions, u16s};

const CIPHERS: [u16; 16] = [
    0x2a2a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x009d,
    0x002f, 0x0035,
];
const ALGORITHMS: [u16; 8] = [0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601];

fn example(extensions: &[Vec<u8>]) -> Fields {
    Fields { ciphers: u16s(&CIPHERS), ..Fields::with(extensions) }
}

#[test]
fn the_published_example() {
    let plain = [0x001b, 0x0012, 0x000b, 0x0033, 0x0023, 0x4469, 0x0005, 0x000a, 0xff01, 0x002d, 0x0017, 0x0015];
    let mut extensions = vec![
        extension(0x3a3a, b""),
        server_name(b"example.com"),
        alpn(&[b"h2", b"http/1.1"]),
        supported_versions(&[0x4a4a, 0x0304, 0x0303]),
        algorithms(13, &ALGORITHMS),
    ];
    extensions.extend(plain.map(|extension_type| extension(extension_type, b"")));
    let expected = Some("t13d1516h2_8daaf6152771_e5627efa2ab1".to_owned());
    assert_eq!(ja4(&example(&extensions).raw()), expected);
    // Neither the order of extensions nor the records matter.
    extensions.reverse();
    assert_eq!(ja4(&records(&example(&extensions).message(), &[7, 100])), expected);
}

#[test]
fn no_fingerprint_without_a_complete_valid_hello() {
    let raw = Fields::default().raw();
    assert!(ja4(&raw).is_some());
    assert_eq!(ja4(&raw[..raw.len() - 1]), None);
    assert_eq!(ja4(b"GET / HTTP/1.1\r\n\r\n"), None);
    assert_eq!(ja4(&build::raw_with(16, b"")), None);
}

/// The first part: version, name, counts, ALPN.
fn first_part(fields: &Fields) -> String {
    ja4(&fields.raw()).unwrap().split('_').next().unwrap().to_owned()
}

#[test]
fn alpn_is_shown_by_its_ends() {
    for (protocol, expected) in [
        (&b"h2"[..], "h2"),
        (b"http/1.1", "h1"),
        (b"q", "qq"),
        (b"\x0a\x0a", "0a"),
        (b"h2\n", "6a"),
        (b"\nh2", "02"),
        (b"h\xff", "6f"),
        (b"\xba\xad", "99"),
    ] {
        let shown = first_part(&Fields::with(&[alpn(&[protocol, b"other"])]));
        assert_eq!(shown, format!("t12i0201{expected}"), "{}", protocol.escape_ascii());
    }
    assert_eq!(first_part(&Fields::default()), "t12i020000");
}

#[test]
fn the_highest_version_counts() {
    for (legacy_version, versions, expected) in [
        (0x0303, None, "12"),
        (0x0302, None, "11"),
        (0x0301, None, "10"),
        (0x0300, None, "s3"),
        (0x0200, None, "s2"),
        (0x0100, None, "s1"),
        (0x0304, None, "13"),
        (0xfefe, None, "00"),
        (0x0303, Some([0x0a0a, 0x0304]), "13"),
        (0x0303, Some([0x0302, 0x0301]), "11"),
        (0x0303, Some([0x0304, 0x7f1c]), "00"),
        (0x0303, Some([0x0a0a, 0x1a1a]), "00"),
    ] {
        let extensions = versions.map(|versions| supported_versions(&versions));
        let count = extensions.iter().count();
        let shown = first_part(&Fields { legacy_version, extensions, ..Fields::default() });
        assert_eq!(shown, format!("t{expected}i02{count:02}00"), "{legacy_version:#x} {versions:x?}");
    }
}

#[test]
fn counts_end_at_99() {
    let many: Vec<_> = (0..120).map(|number| extension(0x8000 + number, b"")).collect();
    let fields = Fields { ciphers: u16s(&[0x1301; 150]), ..Fields::with(&many) };
    assert_eq!(first_part(&fields), "t12i999900");
}

#[test]
fn nothing_to_hash_is_shown_as_zeros() {
    let fields = Fields { ciphers: u16s(&[0x0a0a]), ..Fields::with(&[server_name(b"a.example"), alpn(&[b"h2"])]) };
    assert_eq!(ja4(&fields.raw()).as_deref(), Some("t12d0002h2_000000000000_000000000000"));
}

/// FoxIO's program hashes the last of two lists; the extension types are hashed in either case.
#[test]
fn of_two_algorithm_lists_the_first_is_dropped() {
    let with =
        |first: &[u16], second: &[u16]| ja4(&Fields::with(&[algorithms(13, first), algorithms(50, second)]).raw());
    assert_eq!(with(&[0x0403], &ALGORITHMS), with(&[0x0804, 0x0401], &ALGORITHMS));
    assert_ne!(with(&[0x0403], &ALGORITHMS), with(&[0x0403], &[0x0403]));
    let browser =
        |delegated: &[u16]| ja4(&Fields::with(&[algorithms(34, delegated), algorithms(13, &ALGORITHMS)]).raw());
    assert_eq!(browser(&[0x0403]), browser(&[0x0804, 0x0401]));
}
