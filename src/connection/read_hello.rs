//! Reading from a client until its ClientHello is complete, within one deadline.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::Refusal;
use crate::config::Listener;
use crate::hello::alert::{AlertDescription, alert};
use crate::hello::{ClientHello, HelloError, HelloReader};
use crate::outcome::Reason;
use crate::relay::Scratch;

/// Reads the hello; with it come all bytes read so far, to be replayed. The deadline counts from `accepted` and no byte
/// extends it.
pub(super) async fn read_hello(
    client: &mut TcpStream,
    listener: &Listener,
    scratch: &Scratch,
    accepted: Instant,
) -> Result<(ClientHello, Bytes), Refusal> {
    let mut reading = Reading { reader: HelloReader::new(listener.max_client_hello), kept: Vec::new() };
    let complete = poll_fn(|cx| scratch.lend(|buffer| reading.poll(cx, client, buffer)));
    match timeout_at(accepted + listener.client_hello_timeout, complete).await {
        Ok(result) => result,
        Err(_) if reading.kept.is_empty() => Err(Refusal::close(Reason::NoBytes)),
        Err(_) => Err(Refusal::close(Reason::HelloTimeout)),
    }
}

struct Reading {
    reader: HelloReader,
    /// What was read so far, once it proved incomplete. A hello that comes in one piece never gets here.
    kept: Vec<u8>,
}

impl Reading {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut TcpStream,
        buffer: &mut [u8],
    ) -> Poll<Result<(ClientHello, Bytes), Refusal>> {
        loop {
            let mut unread = ReadBuf::new(buffer);
            if let Err(error) = ready!(Pin::new(&mut *client).poll_read(cx, &mut unread)) {
                return Poll::Ready(Err(broken_off(&error)));
            }
            let fresh = unread.filled();
            if fresh.is_empty() {
                let reason = if self.kept.is_empty() { Reason::NoBytes } else { Reason::HelloIncomplete };
                return Poll::Ready(Err(Refusal::closed_by_client(reason)));
            }
            if let Some(result) = self.advance(fresh) {
                return Poll::Ready(result);
            }
        }
    }

    fn advance(&mut self, fresh: &[u8]) -> Option<Result<(ClientHello, Bytes), Refusal>> {
        let in_one_piece = self.kept.is_empty();
        if !in_one_piece {
            self.kept.extend_from_slice(fresh);
        }
        let raw = if in_one_piece { fresh } else { &self.kept };
        match self.reader.advance(raw) {
            Ok(None) if in_one_piece => self.kept = fresh.to_vec(),
            Ok(None) => {}
            Ok(Some(hello)) if in_one_piece => return Some(Ok((hello, Bytes::copy_from_slice(fresh)))),
            Ok(Some(hello)) => return Some(Ok((hello, Bytes::from(std::mem::take(&mut self.kept))))),
            Err(error) => return Some(Err(refusal(&error, raw))),
        }
        None
    }
}

/// Who speaks no TLS would not understand an alert.
fn refusal(error: &HelloError, raw: &[u8]) -> Refusal {
    tracing::debug!(%error, "no acceptable hello");
    match error {
        HelloError::NotTls => Refusal::close(error.reason()),
        _ => Refusal::final_word(error.reason(), Some(alert(AlertDescription::DecodeError, raw))),
    }
}

fn broken_off(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::TimedOut => Refusal::close(Reason::PeerTimeout),
        _ => Refusal::close(Reason::ClientReset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
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
        let reading = read_hello(&mut client, &config.listeners[0], &scratch, a_minute_ago);
        let refusal = tokio::time::timeout(Duration::from_secs(30), reading).await.unwrap().unwrap_err();
        assert_eq!(refusal.end.reason, Reason::NoBytes);
    }
}
