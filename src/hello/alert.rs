//! The alert that tells a client why it is refused.

use super::records::{MESSAGE_HEADER, payloads};

/// The alerts a refusal uses (RFC 8446, 6; RFC 7301, 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AlertDescription {
    /// The hello is broken or too large.
    DecodeError = 50,
    /// The name is missing, unknown or unacceptable, or not for this source.
    UnrecognizedName = 112,
    /// The route accepts none of the offered application protocols.
    NoApplicationProtocol = 120,
}

/// A fatal alert as a plaintext record.
///
/// The record version follows the hello's `legacy_version`, read from as much of `raw_so_far` as is there: 3.1 for
/// clients that know no more than TLS 1.0, else 3.3.
pub fn alert(description: AlertDescription, raw_so_far: &[u8]) -> [u8; 7] {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    let minor = if legacy_version(raw_so_far).is_some_and(|version| version <= 0x0301) { 1 } else { 3 };
    [ALERT, 3, minor, 0, 2, FATAL, description as u8]
}

fn legacy_version(raw: &[u8]) -> Option<u16> {
    let mut body = payloads(raw).flatten().skip(MESSAGE_HEADER);
    Some(u16::from_be_bytes([*body.next()?, *body.next()?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_version_follows_the_hello() {
        for (raw, minor) in [
            (&b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03"[..], 3),
            (b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x02", 3),
            (b"\x16\x03\x03\x00\x06\x01\x00\x00\x02\x03\x01", 1),
            (b"\x16\x03\x00\x00\x06\x01\x00\x00\x02\x03\x00", 1),
            // Spread over records, and the first of a longer one.
            (b"\x16\x03\x01\x00\x05\x01\x00\x00\x02\x03\x16\x03\x01\x00\x01\x01", 1),
            (b"\x16\x03\x01\x40\x00\x01\x00\x40\x00\x03\x01", 1),
            // Not there yet, or broken before it.
            (b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03", 3),
            (b"\x16\x03\x01\x00\x01\x01\x17\x03\x01\x00\x05\x00\x00\x02\x03\x01", 3),
            (b"", 3),
        ] {
            let expected = [21, 3, minor, 0, 2, 2, 50];
            assert_eq!(alert(AlertDescription::DecodeError, raw), expected, "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn descriptions_are_those_of_the_rfcs() {
        for (description, code) in [
            (AlertDescription::DecodeError, 50),
            (AlertDescription::UnrecognizedName, 112),
            (AlertDescription::NoApplicationProtocol, 120),
        ] {
            assert_eq!(alert(description, b"")[6], code);
        }
    }
}
