//! What proxies tell each other of a client: a trusted one tells us, before the hello, and we tell an upstream.

use std::io;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::Refusal;
use super::first_bytes::{Shortfall, exact, read_until, rest};
use super::record::Record;
use crate::config::TrustedProxies;
use crate::hello::{ClientHello, Sni};
use crate::limits::Place;
use crate::outcome::Reason;
use crate::proxy_protocol::{self, Details, Ends, InvalidHeader, Version};
use crate::snapshot::Entrance;

/// Reads the PROXY header, which must come, and only from those who are trusted; from then on its source is the client's.
/// Returns the ends that it tells of, if any, and what came behind it: the client's own bytes.
pub(super) async fn hear(
    client: &mut TcpStream,
    record: &mut Record,
    Entrance { listener, snapshot, .. }: &Entrance,
    trusted: &TrustedProxies,
    place: &mut Place,
) -> Result<(Option<Ends>, Bytes), Refusal> {
    let peer = record.source().ip();
    if !trusted.sources.admits(peer) {
        // Balancers are many clients, others are not.
        place.identify(&snapshot.limits, peer, record.permits()).map_err(Refusal::close)?;
        return Err(Refusal::final_word(Reason::ProxySourceUntrusted, None));
    }
    let deadline = record.accepted() + listener.client_hello_timeout;
    let shortfall = Shortfall { closed: Reason::ProxyHeaderInvalid, late: Reason::ProxyHeaderTimeout };
    let judge = |raw: &[u8]| proxy_protocol::read(raw).map_err(refusal);
    let (header, raw) =
        read_until(client, &record.tools().scratch, deadline, Bytes::new(), place, shortfall, judge).await?;
    record.story().introduce(header.ends.map(|ends| ends.source));
    Ok((header.ends, rest(raw, header.length)))
}

/// Who speaks before the proxy does, or is none, would not understand an alert.
fn refusal(error: InvalidHeader) -> Refusal {
    tracing::debug!(%error, "no acceptable PROXY header");
    Refusal::final_word(Reason::ProxyHeaderInvalid, None)
}

/// The client's first words behind a header for the upstream, so that both go out at once. It tells of the `ends` that we
/// were told of, else of our own connection with the client.
pub(super) fn announce(
    version: Version,
    client: &TcpStream,
    ends: Option<Ends>,
    hello: &ClientHello,
    record: &Record,
    replay: &[u8],
) -> io::Result<Bytes> {
    let ends = match ends {
        Some(ends) => ends,
        None => Ends::new(record.source(), client.local_addr()?),
    };
    let authority = match &hello.server_name {
        Sni::Name(name) => Some(name),
        Sni::Absent | Sni::Invalid(_) => None,
    };
    let details = Details { authority, alpn: hello.alpn.first(), unique_id: &record.live().id() };
    let mut words = version.header(&ends, &details);
    words.extend_from_slice(replay);
    Ok(exact(words))
}
