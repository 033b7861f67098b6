//! The reader of ClientHellos: one answer whatever the cuts, found at one byte, and a sane one.

use snigate::hello::{ClientHello, HelloError, HelloReader, LARGEST_CLIENT_HELLO, Sni, ja4};
use snigate::server_name::ServerName;

use crate::streams::{self, Dice};

type Answer = Result<Option<ClientHello>, HelloError>;

/// The default of `max_client_hello`.
const MAX: usize = 16 * 1024;
/// The least it can be set to is about this.
const LITTLE: usize = 512;

/// Checks the streams that an input stands for.
pub fn check(data: &[u8]) {
    for stream in streams::of(data) {
        check_stream(&stream);
    }
}

/// The answer to `raw` when it is read up to each of these positions in turn, and the position that decided it.
fn read(raw: &[u8], ends: impl IntoIterator<Item = usize>, max: usize) -> (Answer, usize) {
    let mut reader = HelloReader::new(max);
    for end in ends {
        match reader.advance(&raw[..end]) {
            Ok(None) => {}
            decided => return (decided, end),
        }
    }
    (Ok(None), raw.len())
}

fn check_stream(raw: &[u8]) {
    let (answer, _) = read(raw, [raw.len()], MAX);
    let (by_bytes, decided) = read(raw, 1..=raw.len(), MAX);
    assert_eq!(by_bytes, answer, "byte by byte");
    let mut dice = Dice::new(raw);
    let mut ends: Vec<usize> = (0..dice.below(8)).map(|_| dice.below(raw.len() + 1)).collect();
    ends.push(raw.len());
    ends.sort_unstable();
    assert_eq!(read(raw, ends, MAX).0, answer, "in several reads");

    if answer != Ok(None) {
        assert_eq!(read(raw, [decided - 1], MAX).0, Ok(None), "not before the byte that decides");
        assert_eq!(read(&raw[..decided], [decided], MAX).0, answer, "whatever comes behind that byte");
    }
    let (little, _) = read(raw, [raw.len()], LITTLE);
    assert!(little == answer || little == Err(HelloError::TooLarge), "a lower limit: {little:?}");
    let (much, _) = read(raw, [raw.len()], LARGEST_CLIENT_HELLO);
    assert!(much == answer || answer == Err(HelloError::TooLarge), "a higher limit: {much:?}");
    assert_eq!(ja4(raw).is_some(), matches!(much, Ok(Some(_))), "a fingerprint exactly of a valid hello");
    if let Ok(Some(hello)) = &answer {
        check_hello(hello, decided);
    }
}

fn check_hello(hello: &ClientHello, decided: usize) {
    assert!(hello.len <= MAX + 4);
    assert_eq!(hello.len + 5 * hello.records, decided, "it ends where its last record ends");
    assert!(hello.alpn.iter().all(|protocol| (1..=255).contains(&protocol.as_bytes().len())));
    match &hello.server_name {
        Sni::Absent => {}
        Sni::Name(name) => assert_eq!(ServerName::from_wire(name.as_str().as_bytes()), Ok(Some(name.clone()))),
        Sni::Invalid(raw) => assert!(ServerName::from_wire(raw).is_err()),
    }
}
