//! Reading what a client says first, as far as it has to be understood, within one deadline.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::Refusal;
use crate::limits::Place;
use crate::outcome::Reason;
use crate::relay::Scratch;

/// What it is called when not all of it comes. Not a single byte is [`Reason::NoBytes`] in either case.
pub(super) struct Shortfall {
    /// The client closed before.
    pub(super) closed: Reason,
    /// It did not close, and the time was over.
    pub(super) late: Reason,
}

/// Reads until `judge` finds what it looks for in all bytes so far, of which `early` were read before, and returns that
/// with the bytes. No byte extends the deadline.
pub(super) async fn read_until<T>(
    client: &mut TcpStream,
    scratch: &Scratch,
    deadline: Instant,
    early: Bytes,
    place: &Place,
    shortfall: Shortfall,
    mut judge: impl FnMut(&[u8]) -> Result<Option<T>, Refusal>,
) -> Result<(T, Bytes), Refusal> {
    if !early.is_empty()
        && let Some(found) = judge(&early)?
    {
        return Ok((found, early));
    }
    let mut reading = Reading { judge, kept: Vec::from(early), place };
    place.hold(reading.kept.capacity());
    let complete = poll_fn(|cx| scratch.lend(|buffer| reading.poll(cx, client, buffer, &shortfall)));
    match timeout_at(deadline, complete).await {
        Ok(result) => result,
        Err(_) if reading.kept.is_empty() => Err(Refusal::close(Reason::NoBytes)),
        Err(_) => Err(Refusal::close(shortfall.late)),
    }
}

struct Reading<'p, J> {
    judge: J,
    /// What was read so far, once it proved incomplete. What comes in one piece never gets here.
    kept: Vec<u8>,
    /// Counts that memory.
    place: &'p Place,
}

impl<T, J: FnMut(&[u8]) -> Result<Option<T>, Refusal>> Reading<'_, J> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut TcpStream,
        buffer: &mut [u8],
        shortfall: &Shortfall,
    ) -> Poll<Result<(T, Bytes), Refusal>> {
        loop {
            let mut unread = ReadBuf::new(buffer);
            if let Err(error) = ready!(Pin::new(&mut *client).poll_read(cx, &mut unread)) {
                return Poll::Ready(Err(broken_off(&error)));
            }
            let fresh = unread.filled();
            if fresh.is_empty() {
                let reason = if self.kept.is_empty() { Reason::NoBytes } else { shortfall.closed };
                return Poll::Ready(Err(Refusal::closed_by_client(reason)));
            }
            if let Some(result) = self.advance(fresh).transpose() {
                return Poll::Ready(result);
            }
        }
    }

    fn advance(&mut self, fresh: &[u8]) -> Result<Option<(T, Bytes)>, Refusal> {
        if self.kept.is_empty() {
            let found = (self.judge)(fresh)?;
            if found.is_none() {
                self.kept = fresh.to_vec();
                self.place.hold(self.kept.capacity());
            }
            return Ok(found.map(|found| (found, Bytes::copy_from_slice(fresh))));
        }
        self.kept.extend_from_slice(fresh);
        self.place.hold(self.kept.capacity());
        let found = (self.judge)(&self.kept)?;
        Ok(found.map(|found| (found, exact(std::mem::take(&mut self.kept)))))
    }
}

/// The bytes in no more memory than they take: it is counted by their length from here on.
pub(super) fn exact(bytes: Vec<u8>) -> Bytes {
    bytes.into_boxed_slice().into()
}

/// What comes behind the first `done` bytes. Not a view of them all, which would be counted as the rest and hold the whole.
pub(super) fn rest(bytes: Bytes, done: usize) -> Bytes {
    if done == 0 { bytes } else { Bytes::copy_from_slice(&bytes[done..]) }
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
    use crate::limits::tests::undecided;
    use crate::observe::live::tests::enter;
    use std::io::Write as _;
    use std::rc::Rc;
    use std::time::Duration;
    use tokio::net::TcpListener;

    const SHORTFALL: Shortfall = Shortfall { closed: Reason::HelloIncomplete, late: Reason::HelloTimeout };

    /// What comes of a client that sends these pieces, each when the one before was read, until there are as many bytes.
    async fn read(pieces: &[&[u8]], early: Bytes, wanted: usize) -> Bytes {
        let yaml = "
            listeners: [{ address: '127.0.0.1:0' }]
            routes: [{ server_names: [a.test], upstream: up }]
            upstreams: { up: { endpoints: ['127.0.0.1:1'] } }";
        let config = Config::parse(yaml).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut client = listener.accept().await.unwrap().0;
        let (live, undecided) = (enter(&Rc::default()), undecided(&config).0);
        let place = undecided.enter(live.share());
        let mut pieces = pieces.iter();
        let mut send = || {
            if let Some(piece) = pieces.next() {
                peer.write_all(piece).unwrap();
            }
        };
        if early.is_empty() {
            send();
        }
        let judge = |raw: &[u8]| {
            send();
            Ok((raw.len() >= wanted).then_some(()))
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        let read = read_until(&mut client, &Scratch::new(), deadline, early, &place, SHORTFALL, judge).await;
        let Ok(((), bytes)) = read else { panic!("it ends before") };
        bytes
    }

    #[tokio::test]
    async fn what_is_read_takes_no_more_memory_than_its_bytes() {
        let bytes: Vec<u8> = (0..9000).map(|number| (number % 251) as u8).collect();
        let pieces: Vec<_> = bytes.chunks(999).collect();
        for (early, pieces) in [(Bytes::new(), &pieces[..]), (Bytes::copy_from_slice(pieces[0]), &pieces[1..])] {
            let read = read(pieces, early, bytes.len()).await;
            assert_eq!(read, bytes);
            assert_eq!(Vec::from(rest(read.slice(..), 1000)).capacity(), bytes.len() - 1000);
            assert_eq!(Vec::from(rest(read, 0)).capacity(), bytes.len());
        }
    }
}
