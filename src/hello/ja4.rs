//! JA4, FoxIO's fingerprint of a TLS client: what it can, sorted, so that shuffled extensions do not change it.
//!
//! Where the published description and FoxIO's reference program `ja4.py` differ, the program's answer is given, since
//! collected fingerprints come from it.

use std::fmt::Write;

use ring::digest::{SHA256, digest};

use super::client_hello::{Message, extension};
use super::{HelloReader, LARGEST_CLIENT_HELLO};

/// Stands for the hash of nothing.
const EMPTY_HASH: &str = "000000000000";

/// The JA4 of a complete hello, from its raw bytes; nothing if `raw` holds no complete valid one. It costs two SHA-256,
/// so ask for it only where something shows it.
pub fn ja4(raw: &[u8]) -> Option<String> {
    let message = HelloReader::new(LARGEST_CLIENT_HELLO).message(raw).ok()??;
    Message::parse(&message).ok().map(|hello| fingerprint(&hello))
}

fn fingerprint(hello: &Message<'_>) -> String {
    let mut ciphers = without_grease(hello.ciphers.iter().map(|cipher| cipher.0));
    let mut extensions = without_grease(hello.extensions.map(|(id, _)| id));
    let (cipher_count, extension_count) = (ciphers.len().min(99), extensions.len().min(99));
    ciphers.sort_unstable();
    extensions.retain(|&id| id != extension::SERVER_NAME && id != extension::ALPN);
    extensions.sort_unstable();

    let cipher_text = hex_list(ciphers);
    let mut extension_text = hex_list(extensions);
    let algorithms = hex_list(signature_algorithms(hello));
    if !algorithms.is_empty() {
        extension_text.push(b'_');
        extension_text.extend(algorithms);
    }
    let version = version(hello);
    let destination = if hello.names_server() { 'd' } else { 'i' };
    let [alpn_first, alpn_last] = alpn(hello.protocols().next());
    let mut fingerprint = String::with_capacity("t13d1516h2_8daaf6152771_e5627efa2ab1".len());
    // Writing to a String cannot fail.
    let _ = write!(fingerprint, "t{version}{destination}{cipher_count:02}{extension_count:02}{alpn_first}{alpn_last}");
    push_hash(&mut fingerprint, &cipher_text);
    push_hash(&mut fingerprint, &extension_text);
    fingerprint
}

/// GREASE (RFC 8701): values that clients send to keep servers tolerant.
fn is_grease(value: u16) -> bool {
    value & 0x0f0f == 0x0a0a && value >> 8 == value & 0xff
}

fn without_grease(values: impl Iterator<Item = u16>) -> Vec<u16> {
    let mut kept = Vec::with_capacity(32);
    kept.extend(values.filter(|&value| !is_grease(value)));
    kept
}

/// The highest version offered: of `supported_versions` if it is there, else the legacy field.
fn version(hello: &Message<'_>) -> &'static str {
    let mut extensions = hello.extensions;
    let list = extensions.find(|(id, _)| *id == extension::SUPPORTED_VERSIONS);
    let highest = match list {
        Some((_, list)) => u16s(&list[1..]).filter(|&version| !is_grease(version)).max(),
        None => Some(hello.legacy_version),
    };
    match highest {
        Some(0x0304) => "13",
        Some(0x0303) => "12",
        Some(0x0302) => "11",
        Some(0x0301) => "10",
        Some(0x0300) => "s3",
        Some(0x0200) => "s2",
        Some(0x0100) => "s1",
        _ => "00",
    }
}

/// The algorithms in the client's order. Several extensions list some; `ja4.py` then drops the first list, meaning
/// that of delegated_credential, which browsers send before signature_algorithms.
fn signature_algorithms<'a>(hello: &Message<'a>) -> impl Iterator<Item = u16> + use<'a> {
    use extension::{DELEGATED_CREDENTIAL, SIGNATURE_ALGORITHMS, SIGNATURE_ALGORITHMS_CERT};
    let lists = hello.extensions.filter(|(id, list)| {
        matches!(*id, SIGNATURE_ALGORITHMS | SIGNATURE_ALGORITHMS_CERT | DELEGATED_CREDENTIAL) && list.len() > 2
    });
    let surplus = usize::from(lists.clone().count() > 1);
    lists.skip(surplus).flat_map(|(_, list)| u16s(&list[2..])).filter(|&algorithm| !is_grease(algorithm))
}

/// First and last character of the first protocol. Of a name that begins or ends otherwise than in a letter or digit,
/// the first and last digit of its hexadecimal form; "99" if it begins beyond ASCII.
fn alpn(first_protocol: Option<&[u8]>) -> [char; 2] {
    let Some(([first, ..], [.., last])) = first_protocol.map(|name| (name, name)) else { return ['0', '0'] };
    if !first.is_ascii() {
        ['9', '9']
    } else if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        [char::from(*first), char::from(*last)]
    } else {
        [char::from(hex_digit(first >> 4)), char::from(hex_digit(*last))]
    }
}

fn u16s(list: &[u8]) -> impl Iterator<Item = u16> {
    list.as_chunks().0.iter().map(|&pair| u16::from_be_bytes(pair))
}

/// `0035,c02f`: four lower-case digits each.
fn hex_list(values: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut text = Vec::with_capacity(128); // enough for most, where filters hide the number of values
    for value in values {
        let [high, low] = value.to_be_bytes();
        text.extend([hex_digit(high >> 4), hex_digit(high), hex_digit(low >> 4), hex_digit(low), b',']);
    }
    text.pop();
    text
}

/// Adds the first 12 digits of the SHA-256, or zeros for the hash of nothing.
fn push_hash(fingerprint: &mut String, text: &[u8]) {
    fingerprint.push('_');
    if text.is_empty() {
        fingerprint.push_str(EMPTY_HASH);
        return;
    }
    let hash = digest(&SHA256, text);
    let digits = hash.as_ref().iter().flat_map(|byte| [hex_digit(byte >> 4), hex_digit(*byte)]);
    fingerprint.extend(digits.take(EMPTY_HASH.len()).map(char::from));
}

/// The lower four bits.
fn hex_digit(nibble: u8) -> u8 {
    b"0123456789abcdef"[usize::from(nibble & 0xf)]
}
