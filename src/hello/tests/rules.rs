//! Every rule, with what keeps it and what breaks it.

use std::borrow::Cow;

use super::super::HelloError::{self, NotTls, TooLarge};
use super::super::records::HelloReader;
use super::super::{AlpnProtocol, ClientHello, InvalidAlpnProtocol, LARGEST_CLIENT_HELLO, Malformed, Sni};
use super::build::{self, Fields, alpn, extension, raw_with, record, records, server_name, vector_8, vector_16};
use super::{MAX, read, read_byte_by_byte};
use crate::outcome::Reason;

/// What a hello is refused for; whole and byte by byte.
fn refusal(raw: &[u8]) -> HelloError {
    let error = read(raw).expect_err("is refused");
    assert_eq!(read_byte_by_byte(raw), Err(error));
    error
}

fn hello(raw: &[u8]) -> ClientHello {
    let hello = read(raw).unwrap().expect("is complete");
    assert_eq!(read_byte_by_byte(raw), Ok(Some(hello.clone())));
    hello
}

#[test]
fn a_hello_is_read_whole() {
    let fields = Fields::with(&[
        extension(0x0a0a, b""),
        server_name(b"WWW.Example.com."),
        alpn(&[b"h2", b"http/1.1"]),
        build::supported_versions(&[0x2a2a, 0x0304]),
        build::algorithms(13, &[0x0403]),
        extension(0xfe0d, b"anything"),
        extension(41, b"anything"),
    ]);
    let expected = ClientHello {
        server_name: Sni::Name("www.example.com".parse().unwrap()),
        alpn: vec!["h2".parse().unwrap(), "http/1.1".parse().unwrap()],
        ech: true,
        legacy_version: 0x0303,
        records: 1,
        len: fields.message().len(),
    };
    assert_eq!(hello(&fields.raw()), expected);
    let spread = records(&fields.message(), &[1, 2, 3, 50]);
    assert_eq!(hello(&spread), ClientHello { records: 5, ..expected });
}

#[test]
fn a_hello_in_one_record_is_not_copied() {
    let message = Fields::default().message();
    let whole = record(&message);
    let spread = records(&message, &[10]);
    assert!(matches!(HelloReader::new(MAX).message(&whole), Ok(Some(Cow::Borrowed(bytes))) if bytes == message));
    assert!(matches!(HelloReader::new(MAX).message(&spread), Ok(Some(Cow::Owned(bytes))) if bytes == message));
}

#[test]
fn what_follows_the_last_record_is_not_looked_at() {
    let raw = Fields::with(&[server_name(b"example.com")]).raw();
    let alone = hello(&raw);
    for later in [&b"\x14\x03\x03\x00\x01\x01"[..], b"\x17\x03\x03\x00", b"GET /", b"\x16\x03\x01\xff\xff"] {
        assert_eq!(hello(&[&raw, later].concat()), alone);
    }
}

#[test]
fn records_are_judged_at_the_byte_that_breaks_a_rule() {
    use Malformed::{HandshakeType, RecordLength, RecordType, RecordVersion, TrailingBytes};
    for (raw, expected) in [
        (&b"G"[..], NotTls),
        (b"\x80", NotTls),
        (b"\x15", NotTls),
        (b"\x16\x02", NotTls),
        (b"\x16\x03\x01\x00\x00", RecordLength.into()),
        (b"\x16\x03\x01\x40\x01", RecordLength.into()),
        (b"\x16\x03\x01\x00\x05\x02", HandshakeType.into()),
        (b"\x16\x03\x01\x00\x05\x00", HandshakeType.into()),
        (b"\x16\x03\x09\x40\x00\x01\x00\x40\x01", TooLarge),
        (b"\x16\x03\x01\x00\x02\x01\x01\x16\x03\x01\x00\x02\x00\x00", TooLarge),
        (b"\x16\x03\x01\x00\x06\x01\x00\x00\x01", TrailingBytes.into()),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x00", TrailingBytes.into()),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x02\x03\x16\x03\x01\x00\x02", TrailingBytes.into()),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x02\x03\x15", RecordType.into()),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x02\x03\x17", RecordType.into()),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x02\x03\x14", RecordType.into()),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x02\x03\x16\x02", RecordVersion.into()),
        (b"\x16\x03\x01\x00\x01\x01\x16\x03\x01\x00\x00", RecordLength.into()),
    ] {
        assert_eq!(refusal(raw), expected, "{}", raw.escape_ascii());
        assert_eq!(read(&raw[..raw.len() - 1]), Ok(None), "{}", raw.escape_ascii());
        let and_more = [raw, &[1; 40]].concat();
        assert_eq!(refusal(&and_more), expected, "{}", raw.escape_ascii());
    }
}

#[test]
fn nothing_is_not_an_error() {
    assert_eq!(read(b""), Ok(None));
}

#[test]
fn sizes_are_bounded() {
    let padded = |body: usize| {
        let smallest = Fields::with(&[extension(21, b"")]).body().len();
        Fields::with(&[extension(21, &vec![0; body - smallest])])
    };
    let largest = padded(MAX).message();
    assert_eq!(hello(&records(&largest, &[1 << 14])).len, MAX + 4);
    assert_eq!(refusal(&records(&padded(MAX + 1).message(), &[1 << 14])), TooLarge);

    // Raw bytes: at most twice the maximum, record headers included.
    let small = padded(1000).message();
    let raw = records(&small, &[4; 251]);
    assert_eq!(raw.len(), small.len() + 5 * 251);
    let answer = |max| HelloReader::new(max).advance(&raw).map(|hello| hello.is_some());
    assert_eq!(answer(raw.len().div_ceil(2)), Ok(true));
    assert_eq!(answer(raw.len() / 2 - 1), Err(TooLarge));

    let larger = padded(60_000).message();
    let raw = records(&larger, &[1 << 14; 3]);
    let answer = HelloReader::new(LARGEST_CLIENT_HELLO).advance(&raw).unwrap().unwrap();
    assert_eq!((answer.len, answer.records), (60_004, 4));
}

#[test]
fn fields_fill_the_message() {
    let valid = Fields::with(&[server_name(b"example.com")]);
    for (fields, expected) in [
        (Fields { session_id: vec![1; 33], ..valid.clone() }, Malformed::Fields),
        (Fields { ciphers: vec![0x13, 0x01, 0xc0], ..valid.clone() }, Malformed::Fields),
        (Fields { ciphers: vec![], ..valid.clone() }, Malformed::CipherSuites),
        (Fields { compression: vec![], ..valid.clone() }, Malformed::Compression),
        (Fields { compression: vec![1], ..valid.clone() }, Malformed::Compression),
        (Fields { extensions: Some(vec![0]), ..valid.clone() }, Malformed::Extensions),
        (Fields { extensions: Some(vec![0, 0, 0]), ..valid.clone() }, Malformed::Extensions),
        (Fields { extensions: Some(vec![0, 9, 0, 1]), ..valid.clone() }, Malformed::Extensions),
    ] {
        assert_eq!(refusal(&fields.raw()), expected.into(), "{fields:?}");
    }
    for fields in [
        Fields { session_id: vec![], ..valid.clone() },
        Fields { compression: vec![1, 0], ..valid.clone() },
        Fields { extensions: None, ..valid.clone() },
        Fields { extensions: Some(vec![]), ..valid.clone() },
    ] {
        assert_eq!(hello(&fields.raw()).legacy_version, 0x0303, "{fields:?}");
    }
}

#[test]
fn a_message_cut_or_extended_is_malformed() {
    let fields = Fields::with(&[extension(10, &[0, 2, 0, 29])]);
    let body = fields.body();
    let without_extensions = Fields { extensions: None, ..fields }.body().len();
    for len in (0..body.len()).filter(|&len| len != without_extensions) {
        let error = refusal(&record(&build::message(&body[..len])));
        assert!(matches!(error, HelloError::Malformed(_)), "{len}: {error}");
    }
    let extended = [body.as_slice(), &[0]].concat();
    assert_eq!(refusal(&record(&build::message(&extended))), Malformed::Fields.into());
}

#[test]
fn server_name_is_exactly_one_host_name() {
    let entry = |name_type: u8, name: &[u8]| [&[name_type], vector_16(name).as_slice()].concat();
    let one = entry(0, b"a.example");
    for data in [
        vec![],
        vec![0],
        vec![0, 0],
        vec![0, 1, 0],
        vec![0, 3, 0, 0],
        vector_16(&entry(1, b"a.example")),
        vector_16(&[entry(0, b"a.example"), entry(0, b"b.example")].concat()),
        vector_16(&[entry(1, b"x"), entry(0, b"a.example")].concat()),
        vector_16(&[one.as_slice(), &[0]].concat()),
        [vector_16(&one).as_slice(), &[0]].concat(),
        vector_16(&one[..one.len() - 1]),
        one.clone(),
    ] {
        assert_eq!(refusal(&raw_with(0, &data)), Malformed::ServerName.into(), "{data:?}");
    }
    assert!(
        matches!(hello(&raw_with(0, &vector_16(&one))).server_name, Sni::Name(name) if name.as_str() == "a.example")
    );
}

#[test]
fn names_are_judged_by_the_rules_of_server_name() {
    let invalid = |raw: &[u8]| Sni::Invalid(raw.into());
    for (raw, expected) in [
        (&b"Example.COM."[..], Sni::Name("example.com".parse().unwrap())),
        (b"10.0.0.1", Sni::Absent),
        (b"2001:db8::1", Sni::Absent),
        (b"", invalid(b"")),
        (b"127.1", invalid(b"127.1")),
        (b"a.example\0.b.example", invalid(b"a.example\0.b.example")),
        (b"\xff", invalid(b"\xff")),
    ] {
        assert_eq!(hello(&Fields::with(&[server_name(raw)]).raw()).server_name, expected);
    }
    assert_eq!(hello(&Fields::default().raw()).server_name, Sni::Absent);
}

#[test]
fn lists_are_walked_strictly() {
    use Malformed::{Alpn, SignatureAlgorithms, SupportedVersions};
    for (extension_type, data, expected) in [
        (16, vec![], Alpn),
        (16, vec![0, 0], Alpn),
        (16, vec![0, 1, 0], Alpn),
        (16, vec![0, 4, 2, b'h', b'2', 0], Alpn),
        (16, vec![0, 3, 3, b'h', b'2'], Alpn),
        (16, vec![0, 2, 2, b'h', b'2'], Alpn),
        (16, vec![0, 3, 2, b'h', b'2', 0], Alpn),
        (43, vec![], SupportedVersions),
        (43, vec![0], SupportedVersions),
        (43, vec![1, 3], SupportedVersions),
        (43, vec![3, 3, 4, 3], SupportedVersions),
        (43, vec![2, 3, 4, 0], SupportedVersions),
        (43, vec![4, 3, 4], SupportedVersions),
        (13, vec![], SignatureAlgorithms),
        (13, vec![0, 0], SignatureAlgorithms),
        (13, vec![0, 1, 4], SignatureAlgorithms),
        (13, vec![0, 2, 4, 3, 0], SignatureAlgorithms),
        (50, vec![0, 4, 4, 3], SignatureAlgorithms),
    ] {
        assert_eq!(refusal(&raw_with(extension_type, &data)), expected.into(), "{extension_type} {data:?}");
    }
    let longest = [b'x'; 255];
    let protocols = hello(&Fields::with(&[alpn(&[b"h2", &longest, b"\0"])]).raw()).alpn;
    assert_eq!(protocols.iter().map(AlpnProtocol::as_bytes).collect::<Vec<_>>(), [b"h2", &longest[..], b"\0"]);
}

#[test]
fn no_extension_occurs_twice() {
    let name = server_name(b"a.example");
    let many: Vec<_> = (0..300).map(|number| extension(0x8000 + number, b"")).collect();
    for twice in [
        vec![name.clone(), server_name(b"b.example")],
        vec![name.clone(), alpn(&[b"h2"]), name.clone()],
        vec![alpn(&[b"h2"]), alpn(&[b"h2"])],
        vec![extension(63, b""), extension(63, b"")],
        vec![extension(0xff01, b"\0"), extension(0xff01, b"\0")],
        [many.as_slice(), &[many[0].clone()]].concat(),
        [many.as_slice(), &[many[15].clone()]].concat(),
        [many.as_slice(), &[many[16].clone()]].concat(),
        [many.as_slice(), &[many[299].clone()]].concat(),
    ] {
        assert_eq!(refusal(&Fields::with(&twice).raw()), Malformed::DuplicateExtension.into());
    }
    assert_eq!(hello(&Fields::with(&many).raw()).server_name, Sni::Absent);
}

#[test]
fn pre_shared_key_comes_last() {
    let (name, key) = (server_name(b"a.example"), extension(41, b"key"));
    assert_eq!(refusal(&Fields::with(&[key.clone(), name.clone()]).raw()), Malformed::PreSharedKey.into());
    assert!(!hello(&Fields::with(&[name, key]).raw()).ech);
}

#[test]
fn every_error_has_its_reason() {
    for (error, reason) in [
        (NotTls, Reason::NotTls),
        (TooLarge, Reason::HelloTooLarge),
        (Malformed::Fields.into(), Reason::HelloMalformed),
    ] {
        assert_eq!(error.reason(), reason);
    }
    let text = HelloError::from(Malformed::Alpn).to_string();
    assert_eq!(text, "malformed ClientHello: broken ALPN list");
}

#[test]
fn protocol_names_are_1_to_255_bytes_and_print_escaped() {
    for wrong in [String::new(), "x".repeat(256)] {
        assert_eq!(wrong.parse::<AlpnProtocol>(), Err(InvalidAlpnProtocol));
    }
    let raw = AlpnProtocol::try_from(&b"h2\n\xff"[..]).unwrap();
    assert_eq!(raw.to_string(), r"h2\n\xff");
    assert_eq!(format!("{:?}", "h2".parse::<AlpnProtocol>()), r#"Ok("h2")"#);
    assert_eq!(vector_8("h2".parse::<AlpnProtocol>().unwrap().as_bytes()), b"\x02h2");
}

#[test]
fn a_reader_stays_small_and_steps_over_bytes_once() {
    // A byte already judged is not judged again: what the caller keeps could even change behind the position.
    let raw = Fields::with(&[server_name(b"example.com"), extension(21, &[0; 400])]).raw();
    let mut reader = HelloReader::new(MAX);
    assert_eq!(reader.advance(&raw[..100]), Ok(None));
    let mut altered = raw.clone();
    altered[0] = b'G';
    assert_eq!(reader.advance(&altered[..200]), Ok(None));
    assert!(size_of::<HelloReader>() <= 64);
}
