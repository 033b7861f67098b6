//! Reassembly: where in the raw bytes the hello lies, across reads and TLS records.

use std::borrow::Cow;

use super::client_hello::Message;
use super::{ClientHello, HelloError, Malformed};

/// Type, version, length (RFC 8446, 5.1).
const RECORD_HEADER: usize = 5;
/// The content type "handshake".
const HANDSHAKE: u8 = 22;
/// Most that a plaintext record carries (RFC 8446, 5.1).
const MAX_RECORD: usize = 1 << 14;
/// Type and length of a handshake message (RFC 8446, 4).
pub(super) const MESSAGE_HEADER: usize = 4;
/// The handshake type "client_hello".
const CLIENT_HELLO: u8 = 1;

/// Follows the records of a hello over the bytes read so far; keeps offsets only, the caller keeps the bytes.
///
/// Every rule is judged at the byte that can break it, so the answer depends on the bytes alone, never on how they
/// were cut into reads.
#[derive(Debug)]
pub struct HelloReader {
    max_client_hello: usize,
    /// Raw bytes judged so far.
    position: usize,
    /// Where the current record ends; equal to `position` where a record header is due.
    record_end: usize,
    /// Records begun.
    records: usize,
    /// The message header, which may itself be spread over records.
    header: [u8; MESSAGE_HEADER],
    /// Handshake bytes seen.
    gathered: usize,
}

impl HelloReader {
    /// A reader at the first byte of a connection. `max_client_hello` bounds the length that the handshake header
    /// states; raw bytes, record headers included, are bounded by twice as much.
    pub fn new(max_client_hello: usize) -> Self {
        Self { max_client_hello, position: 0, record_end: 0, records: 0, header: [0; _], gathered: 0 }
    }

    /// Looks at what is new in `raw`: every byte read from the connection so far, which only ever grows between calls.
    /// Looks at each byte once, also when fed byte by byte, and allocates nothing until the hello is complete.
    /// `Ok(None)` asks for more.
    ///
    /// # Errors
    /// The first rule that the bytes break; the reader is of no use afterwards.
    pub fn advance(&mut self, raw: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        let Some(message) = self.message(raw)? else { return Ok(None) };
        Ok(Some(Message::parse(&message)?.into_client_hello(self.records, message.len())))
    }

    /// The complete handshake message, in place when it lies in one record.
    pub(super) fn message<'raw>(&mut self, raw: &'raw [u8]) -> Result<Option<Cow<'raw, [u8]>>, HelloError> {
        if !self.follow(raw)? {
            return Ok(None);
        }
        let mut pieces = payloads(&raw[..self.record_end]);
        let first = pieces.next().unwrap_or_default();
        if self.records == 1 {
            return Ok(Some(Cow::Borrowed(first)));
        }
        let mut message = Vec::with_capacity(self.gathered);
        message.extend_from_slice(first);
        pieces.for_each(|piece| message.extend_from_slice(piece));
        Ok(Some(Cow::Owned(message)))
    }

    /// Judges the new bytes; true once the hello is complete.
    fn follow(&mut self, raw: &[u8]) -> Result<bool, HelloError> {
        while self.missing() != Some(0) {
            if self.position == self.record_end && !self.begin_record(&raw[self.position..])? {
                return Ok(false);
            }
            let Some(piece) = raw.get(self.position..raw.len().min(self.record_end)).filter(|p| !p.is_empty()) else {
                return Ok(false);
            };
            self.gather(piece)?;
        }
        Ok(true)
    }

    /// Judges a record header, as far as it is there; true once it is whole.
    fn begin_record(&mut self, bytes: &[u8]) -> Result<bool, HelloError> {
        let first = self.records == 0;
        if bytes.first().is_some_and(|&content_type| content_type != HANDSHAKE) {
            return Err(if first { HelloError::NotTls } else { Malformed::RecordType.into() });
        }
        if bytes.get(1).is_some_and(|&major| major != 3) {
            return Err(if first { HelloError::NotTls } else { Malformed::RecordVersion.into() });
        }
        let Some(&[_, _, _, high, low]) = bytes.first_chunk::<RECORD_HEADER>() else { return Ok(false) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(1..=MAX_RECORD).contains(&length) {
            return Err(Malformed::RecordLength.into());
        }
        self.records += 1;
        self.position += RECORD_HEADER;
        self.record_end = self.position + length;
        // The hello ends where a record ends, so not before this one does.
        if self.record_end > 2 * self.max_client_hello {
            return Err(HelloError::TooLarge);
        }
        self.refuse_trailing_bytes()?;
        Ok(true)
    }

    /// Takes handshake bytes of the current record; the message header is judged as soon as it is there.
    fn gather(&mut self, piece: &[u8]) -> Result<(), HelloError> {
        if self.gathered >= MESSAGE_HEADER {
            self.gathered += piece.len();
            self.position += piece.len();
            return Ok(());
        }
        let taken = piece.len().min(MESSAGE_HEADER - self.gathered);
        self.header[self.gathered..][..taken].copy_from_slice(&piece[..taken]);
        self.gathered += taken;
        self.position += taken;
        if self.header[0] != CLIENT_HELLO {
            return Err(Malformed::HandshakeType.into());
        }
        if self.missing().is_some_and(|missing| missing > self.max_client_hello) {
            return Err(HelloError::TooLarge);
        }
        self.refuse_trailing_bytes()
    }

    /// Handshake bytes still to come; unknown before the message header is whole.
    fn missing(&self) -> Option<usize> {
        let [_, high, middle, low] = self.header;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        (self.gathered >= MESSAGE_HEADER).then(|| MESSAGE_HEADER + length - self.gathered)
    }

    /// Refuses a record that is longer than what the hello still lacks.
    fn refuse_trailing_bytes(&self) -> Result<(), HelloError> {
        let rest = self.record_end - self.position;
        if self.missing().is_some_and(|missing| rest > missing) { Err(Malformed::TrailingBytes.into()) } else { Ok(()) }
    }
}

/// The handshake bytes in `raw`, record by record, as far as they are there and in order.
pub(super) fn payloads(mut raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&[content_type, _, _, high, low], rest) = raw.split_first_chunk::<RECORD_HEADER>()?;
        let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
        let (payload, next) = rest.split_at(length);
        raw = next;
        (content_type == HANDSHAKE).then_some(payload)
    })
}
