//! Moving bytes between the two sides of a connection until both directions have ended.
//!
//! A FIN from one side becomes `shutdown(Write)` on the other once everything before it was delivered, and the reverse
//! goes on. When a side breaks off (a reset, or a peer that no longer answers), what it had still sent is read to its
//! end and delivered; then the other side is reset. An idle relay holds no buffer: bytes pass through the worker's
//! [`Scratch`], and memory is taken only for what the other side did not accept. What all relays of a worker hold, in
//! memory and in pipes, is bounded: beyond that they read a little at a time.

mod closing;
mod direction;
mod memory;
mod nearness;
mod pipe;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::net::TcpStream;

use crate::observe::live::{Live, Pace};
use crate::outcome::{ClosedBy, Reason, Side};
use crate::upstream::{UserTimeout, keep_alive, limit_silence};
use closing::queue_is_empty;
pub use closing::{close_gently, close_with_reset, send_then_close};
use direction::{Direction, Failure, Turn};
use memory::Undelivered;
pub use pipe::{Pipes, Use};

/// Bytes that one read takes at most: large enough to be cheap, small enough that one stalled reader holds little.
pub const READ_SIZE: usize = 16 * 1024;

/// The buffer that all connections of a worker read into, one at a time; nobody holds it across an await.
pub struct Scratch(RefCell<Box<[u8]>>);

impl Scratch {
    /// A buffer of [`READ_SIZE`] bytes.
    pub fn new() -> Self {
        Self(RefCell::new(vec![0; READ_SIZE].into_boxed_slice()))
    }

    /// Lends the buffer for one synchronous step.
    pub fn lend<T>(&self, step: impl FnOnce(&mut [u8]) -> T) -> T {
        step(&mut self.0.borrow_mut())
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: Reason,
    /// Who ended it.
    pub closed_by: ClosedBy,
}

impl End {
    fn by((side, reason): (Side, Reason)) -> Self {
        Self { reason, closed_by: side.into() }
    }
}

/// Two connected sockets and the bytes that are on their way between them.
///
/// It can be stopped at any point: the sockets and what was not yet delivered stay in it.
pub struct Relay {
    client: TcpStream,
    upstream: TcpStream,
    user_timeout: UserTimeout,
    /// The connection has proved to last, and the kernel was told to ask after a silent upstream.
    kept_alive: bool,
    sent: Direction,
    received: Direction,
    first_fin: Option<Side>,
    /// The side that broke off, and how that is called.
    broken: Option<(Side, Reason)>,
}

impl Relay {
    /// A relay that first delivers `replay` to the upstream: what was read from the client before, and is not sent yet.
    /// It is to run with these pipes.
    pub fn new(
        client: TcpStream,
        upstream: TcpStream,
        user_timeout: UserTimeout,
        replay: Bytes,
        pipes: &Pipes,
    ) -> Self {
        let sent = Direction::new(Side::Client, Undelivered::new(replay, pipes.memory()));
        let received = Direction::new(Side::Upstream, Undelivered::default());
        Self { client, upstream, user_timeout, kept_alive: false, sent, received, first_fin: None, broken: None }
    }

    /// Moves bytes until both directions ended, a side broke off, or `live` was told to stop.
    pub async fn run(&mut self, live: &Live, scratch: &Scratch, pipes: &Pipes) -> End {
        poll_fn(|cx| self.poll(cx, live, scratch, pipes)).await
    }

    /// Does what an end leaves to do: resets the side that does not know yet, or closes both.
    pub async fn finish(self) {
        match self.broken {
            Some((Side::Client, _)) => closing::reset_behind_the_last_byte(self.upstream).await,
            Some((Side::Upstream, _)) => closing::reset_behind_the_last_byte(self.client).await,
            None if self.sent.is_done() && self.received.is_done() => {}
            None => {
                tokio::join!(close_gently(self.client), close_gently(self.upstream));
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, live: &Live, scratch: &Scratch, pipes: &Pipes) -> Poll<End> {
        if let Some(reason) = live.poll_stop(cx) {
            if live.is_moving() || self.sent.holds_bytes() || self.received.holds_bytes() {
                live.note_cut();
            }
            // A side that broke off before, and whose last words nobody took, is why it ends.
            let stopped = End { reason, closed_by: ClosedBy::Snigate };
            return Poll::Ready(self.broken.map_or(stopped, End::by));
        }
        scratch.lend(|buffer| {
            let close_follows = self.received.is_done();
            let turn = &mut Turn { cx, buffer, pipes, live, close_follows };
            let step = self.sent.poll(&mut self.client, &mut self.upstream, turn);
            self.note(Side::Client, step, turn.cx, live);
            turn.close_follows = self.sent.is_done();
            let step = self.received.poll(&mut self.upstream, &mut self.client, turn);
            self.note(Side::Upstream, step, turn.cx, live);
        });
        if live.is_to_look() {
            self.look(cx, live);
        }
        self.end()
    }

    /// Takes note of what one turn of the direction out of `from` said.
    fn note(&mut self, from: Side, step: Poll<Result<(), Failure>>, cx: &Context<'_>, live: &Live) {
        if self.first_fin.is_none() && self.out_of(from).saw_fin() {
            self.first_fin = Some(from);
            live.half_close();
        }
        match step {
            Poll::Pending | Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(Failure::Read(error))) => self.break_off(from, &error, cx, live),
            Poll::Ready(Err(Failure::Write(error))) => self.break_off(from.other(), &error, cx, live),
        }
    }

    fn look(&mut self, cx: &Context<'_>, live: &Live) {
        if !std::mem::replace(&mut self.kept_alive, true) {
            keep_alive(&self.upstream);
        }
        // What was written but not acknowledged is silent, too, and under way.
        if let Some(pace) = live.new_pace().filter(|pace| *pace != Pace::Quiet || queue_is_empty(&self.upstream)) {
            limit_silence(&self.upstream, self.user_timeout, pace == Pace::Quiet);
            live.note_pace(pace);
        }
        if let Some((side, error)) = self.silent_reset() {
            self.break_off(side, &error, cx, live);
        }
    }

    /// A side that sent its FIN is not read any more, so its reset shows only in the socket's error. The worker's sweep
    /// has half-closed connections look, so that it is seen even when the other side is silent.
    fn silent_reset(&self) -> Option<(Side, io::Error)> {
        let half_closed = |out: &Direction, into: &Direction| out.saw_fin() && !into.is_done();
        let (side, socket) = match self.broken {
            Some(_) => return None,
            None if half_closed(&self.sent, &self.received) => (Side::Client, &self.client),
            None if half_closed(&self.received, &self.sent) => (Side::Upstream, &self.upstream),
            None => return None,
        };
        socket.take_error().ok().flatten().map(|error| (side, error))
    }

    fn break_off(&mut self, side: Side, error: &io::Error, cx: &Context<'_>, live: &Live) {
        self.out_of(side.other()).abandon();
        if self.broken.is_none() {
            self.out_of(side).end_without_fin();
            self.broken = Some((side, self.reason_of_break(side, error)));
            live.half_close();
            // The direction out of `side` may have had its turn already: give it another, to read to its end.
            cx.waker().wake_by_ref();
        }
    }

    /// After its own FIN a side's reset only says that it had closed, not just half-closed: the FIN names the end.
    fn reason_of_break(&self, side: Side, error: &io::Error) -> Reason {
        use io::ErrorKind::{BrokenPipe, HostUnreachable, NetworkUnreachable, TimedOut};
        match side {
            // EPIPE says that its FIN came before its reset, whether or not it was read yet.
            _ if self.first_fin == Some(side) || error.kind() == BrokenPipe => closed(side),
            _ if matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable) => Reason::PeerTimeout,
            Side::Client => Reason::ClientReset,
            Side::Upstream => Reason::UpstreamReset,
        }
    }

    fn end(&mut self) -> Poll<End> {
        match (self.broken, self.first_fin) {
            (Some(broken), _) if self.out_of(broken.0).is_done() => Poll::Ready(End::by(broken)),
            (None, Some(side)) if self.sent.is_done() && self.received.is_done() => {
                Poll::Ready(End::by((side, closed(side))))
            }
            _ => Poll::Pending,
        }
    }

    fn out_of(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Client => &mut self.sent,
            Side::Upstream => &mut self.received,
        }
    }
}

fn closed(side: Side) -> Reason {
    match side {
        Side::Client => Reason::ClientClosed,
        Side::Upstream => Reason::UpstreamClosed,
    }
}
