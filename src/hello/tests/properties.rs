//! What holds for any hello, any cut and any bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::alert::{AlertDescription, alert};
use super::super::{ClientHello, ja4};
use super::build::{Fields, algorithms, alpn, extension, record, records, server_name, supported_versions};
use super::{feed, read, read_byte_by_byte};

fn hellos() -> impl Strategy<Value = Fields> {
    let name = prop_oneof![
        "[a-z0-9]{1,20}(\\.[A-Za-z]{2,9}){1,3}".prop_map(|name| Some(name.into_bytes())),
        vec(any::<u8>(), 0..20).prop_map(Some),
        Just(None),
    ];
    let protocols = vec(vec(any::<u8>(), 1..12), 0..4);
    (any::<u16>(), 0..=32_usize, vec(any::<u8>(), 1..30), name, protocols, 0..700_usize, any::<bool>()).prop_map(
        |(legacy_version, session_id, ciphers, name, protocols, padding, modern)| {
            let mut extensions: Vec<_> = name.iter().map(|name| server_name(name)).collect();
            if !protocols.is_empty() {
                extensions.push(alpn(&protocols.iter().map(Vec::as_slice).collect::<Vec<_>>()));
            }
            if modern {
                extensions.extend([supported_versions(&[0x2a2a, 0x0304]), algorithms(13, &[0x0403, 0x0804])]);
            }
            extensions.push(extension(21, &vec![0; padding]));
            Fields {
                legacy_version,
                session_id: vec![7; session_id],
                ciphers: [ciphers.as_slice(), &ciphers].concat(),
                ..Fields::with(&extensions)
            }
        },
    )
}

/// Cuts into reads: any number of positions, in order, the end always among them.
fn ends(len: usize, cuts: &[prop::sample::Index]) -> Vec<usize> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(len + 1)).chain([len]).collect();
    ends.sort_unstable();
    ends
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    vec(any::<prop::sample::Index>(), 0..12)
}

/// One change to a stream of bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Truncate(prop::sample::Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        any::<(prop::sample::Index, u8)>().prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<prop::sample::Index>(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        any::<(prop::sample::Index, u8)>().prop_map(|(at, byte)| Change::Insert(at, byte)),
        any::<prop::sample::Index>().prop_map(Change::Remove),
        any::<prop::sample::Index>().prop_map(Change::Truncate),
    ];
    vec(change, 1..6)
}

fn change(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        let len = bytes.len();
        match change {
            Change::Set(at, byte) => bytes[at.index(len)] = *byte,
            Change::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
            Change::Insert(at, byte) => bytes.insert(at.index(len), *byte),
            Change::Remove(at) => drop(bytes.remove(at.index(len))),
            Change::Truncate(at) => bytes.truncate(at.index(len)),
        }
    }
    bytes
}

/// One answer for all cuts, and no panic on the way.
fn judge_any(raw: &[u8], cuts: &[prop::sample::Index]) -> Result<(), TestCaseError> {
    let answer = read(raw);
    prop_assert_eq!(&feed(raw, ends(raw.len(), cuts)), &answer);
    prop_assert_eq!(&read_byte_by_byte(raw), &answer);
    prop_assert_eq!(ja4(raw).is_some(), matches!(answer, Ok(Some(_))));
    prop_assert!(matches!(alert(AlertDescription::DecodeError, raw), [21, 3, 1 | 3, 0, 2, 2, 50]));
    Ok(())
}

proptest! {
    #[test]
    fn reads_and_records_do_not_change_the_answer(
        hello in hellos(), sizes in vec(1..200_usize, 0..40), cuts in cuts(),
    ) {
        let whole = read(&hello.raw()).unwrap().unwrap();
        let raw = records(&hello.message(), &sizes);
        let expected = ClientHello { records: raw_records(&raw), ..whole };
        prop_assert_eq!(&read(&raw), &Ok(Some(expected.clone())));
        prop_assert_eq!(feed(&raw, ends(raw.len(), &cuts)), Ok(Some(expected)));
        prop_assert_eq!(ja4(&raw), ja4(&hello.raw()));
    }

    #[test]
    fn records_of_one_byte_are_joined(hello in hellos()) {
        let message = hello.message();
        let answer = read(&records(&message, &vec![1; message.len()])).unwrap().unwrap();
        prop_assert_eq!(answer, ClientHello { records: message.len(), ..read(&hello.raw()).unwrap().unwrap() });
    }

    #[test]
    fn every_prefix_asks_for_more(hello in hellos(), sizes in vec(1..200_usize, 0..8)) {
        let raw = records(&hello.message(), &sizes);
        for end in 0..raw.len() {
            prop_assert_eq!(read(&raw[..end]), Ok(None));
        }
        prop_assert!(matches!(read_byte_by_byte(&raw), Ok(Some(_))));
    }

    #[test]
    fn no_bytes_panic(raw in vec(any::<u8>(), 0..400), cuts in cuts()) {
        judge_any(&raw, &cuts)?;
        judge_any(&record(&raw), &cuts)?;
        judge_any(&record(&super::build::message(&raw)), &cuts)?;
    }

    #[test]
    fn no_changed_hello_panics(
        hello in hellos(), sizes in vec(1..200_usize, 0..4), changes in changes(), cuts in cuts(),
    ) {
        judge_any(&change(records(&hello.message(), &sizes), &changes), &cuts)?;
        // Behind sound framing the changes reach the parser.
        judge_any(&record(&super::build::message(&change(hello.body(), &changes))), &cuts)?;
    }
}

fn raw_records(mut raw: &[u8]) -> usize {
    let mut count = 0;
    while let Some((&[_, _, _, high, low], rest)) = raw.split_first_chunk() {
        raw = &rest[usize::from(u16::from_be_bytes([high, low]))..];
        count += 1;
    }
    count
}
