//! Reading from a client until its ClientHello is complete, within one deadline.

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Refusal;
use super::first_bytes::{Shortfall, read_until};
use crate::config::Listener;
use crate::hello::alert::{AlertDescription, alert};
use crate::hello::{ClientHello, HelloError, HelloReader};
use crate::limits::Place;
use crate::outcome::Reason;
use crate::relay::Scratch;

/// Reads the hello; with it come all bytes read so far, to be replayed, of which `early` are those that were read before.
/// The deadline counts from `accepted` and no byte extends it.
pub(super) async fn read_hello(
    client: &mut TcpStream,
    listener: &Listener,
    scratch: &Scratch,
    accepted: Instant,
    early: Bytes,
    place: &Place,
) -> Result<(ClientHello, Bytes), Refusal> {
    let deadline = accepted + listener.client_hello_timeout;
    let shortfall = Shortfall { closed: Reason::HelloIncomplete, late: Reason::HelloTimeout };
    let mut reader = HelloReader::new(listener.max_client_hello);
    let judge = |raw: &[u8]| reader.advance(raw).map_err(|error| refusal(&error, raw));
    read_until(client, scratch, deadline, early, place, shortfall, judge).await
}

/// Who speaks no TLS would not understand an alert.
fn refusal(error: &HelloError, raw: &[u8]) -> Refusal {
    tracing::debug!(%error, "no acceptable hello");
    match error {
        HelloError::NotTls => Refusal::close(error.reason()),
        _ => Refusal::final_word(error.reason(), Some(alert(AlertDescription::DecodeError, raw))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::limits::tests::undecided;
    use crate::observe::live::tests::enter;
    use std::rc::Rc;
    use std::time::Duration;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn the_deadline_counts_from_accept() {
        let yaml = "
            listeners: [{ address: '127.0.0.1:0', client_hello_timeout: 60s }]
            routes: [{ server_names: [a.test], upstream: up }]
            upstreams: { up: { endpoints: ['127.0.0.1:1'] } }";
        let config = Config::parse(yaml).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_peer, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let mut client = accepted.unwrap().0;
        let a_minute_ago = Instant::now() - Duration::from_secs(60);
        let scratch = Scratch::new();
        let (live, undecided) = (enter(&Rc::default()), undecided(&config).0);
        let place = undecided.enter(live.share());
        let reading = read_hello(&mut client, &config.listeners[0], &scratch, a_minute_ago, Bytes::new(), &place);
        let refusal = tokio::time::timeout(Duration::from_secs(30), reading).await.unwrap().unwrap_err();
        assert_eq!(refusal.end.reason, Reason::NoBytes);
    }
}
