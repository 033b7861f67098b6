//! Tests of the whole module, on hellos built here byte by byte.

mod build;
mod fingerprints;
mod properties;
mod rules;

use super::{ClientHello, HelloError, HelloReader};

/// The default of `max_client_hello`.
const MAX: usize = 16 * 1024;

/// Feeds `raw` up to each position in turn.
fn feed(raw: &[u8], ends: impl IntoIterator<Item = usize>) -> Result<Option<ClientHello>, HelloError> {
    let mut reader = HelloReader::new(MAX);
    for end in ends {
        if let Some(hello) = reader.advance(&raw[..end])? {
            return Ok(Some(hello));
        }
    }
    Ok(None)
}

fn read(raw: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    feed(raw, [raw.len()])
}

fn read_byte_by_byte(raw: &[u8]) -> Result<Option<ClientHello>, HelloError> {
    feed(raw, 1..=raw.len())
}
