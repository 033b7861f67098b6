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
        Ok(found.map(|found| (found, Bytes::from(std::mem::take(&mut self.kept)))))
    }
}

fn broken_off(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::TimedOut => Refusal::close(Reason::PeerTimeout),
        _ => Refusal::close(Reason::ClientReset),
    }
}
