//! Our reading beside that of rustls: where both accept a hello they must mean the same host. A name that we route by and
//! a server does not see, or the other way round, leads a client to where it must not come.

use rustls::server::Acceptor;
use snigate::hello::{HelloReader, LARGEST_CLIENT_HELLO, Sni};

use crate::streams;

/// Checks the streams that an input stands for.
pub fn check(data: &[u8]) {
    for stream in streams::of(data) {
        check_stream(&stream);
    }
}

fn check_stream(raw: &[u8]) {
    let Ok(Some(ours)) = HelloReader::new(LARGEST_CLIENT_HELLO).advance(raw) else { return };
    let Some(theirs) = accepted(raw) else { return };
    match ours.server_name {
        Sni::Name(name) => assert_eq!(theirs.as_deref(), Some(name.as_str()), "the name of one"),
        // IP literals are no name to either.
        Sni::Absent => assert_eq!(theirs, None, "no name"),
        // Refused.
        Sni::Invalid(_) => {}
    }
}

/// What rustls says of a hello that it accepts: its server name in our normal form.
fn accepted(raw: &[u8]) -> Option<Option<String>> {
    let (mut acceptor, mut rest) = (Acceptor::default(), raw);
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).ok()? == 0 {
            return None;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
            return Some(name.map(|name| name.strip_suffix('.').map(str::to_owned).unwrap_or(name)));
        }
    }
    None
}
