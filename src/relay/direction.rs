//! One way of a relay: from one socket to the other.
//!
//! Bytes go through the worker's scratch buffer, until several full reads in a row prove the direction to be bulk: then
//! they are spliced through a pipe, which goes back to the pool whenever the socket has no more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::READ_SIZE;
use super::memory::Undelivered;
use super::nearness::Queues;
use super::pipe::{Pipe, Pipes};
use crate::observe::live::Live;
use crate::outcome::Side;

/// Bytes one direction may move before the worker's other connections have their turn.
const BYTES_A_TURN: usize = 256 * 1024;
/// Full reads in a row that prove a direction to be bulk.
const BULK_STREAK: u8 = 4;

/// Which end of a direction failed.
#[derive(Debug)]
pub(super) enum Failure {
    Read(io::Error),
    Write(io::Error),
}

/// What a direction is lent for one turn.
pub(super) struct Turn<'t, 'cx> {
    pub(super) cx: &'t mut Context<'cx>,
    pub(super) buffer: &'t mut [u8],
    pub(super) pipes: &'t Pipes,
    pub(super) live: &'t Live,
    /// The other direction is done: when this one is, both sockets are closed, and that says FIN as well.
    pub(super) close_follows: bool,
}

/// The bytes under way from one side to the other, and how far the way has come.
pub(super) struct Direction {
    from: Side,
    /// Read, but not yet accepted by the other side.
    undelivered: Undelivered,
    /// Only while bulk is under way.
    pipe: Option<Box<Pipe>>,
    /// Full reads in a row.
    streak: u8,
    stage: Stage,
    saw_fin: bool,
    queues: Queues,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// More may come.
    Reading,
    /// The side broke off: what it still sent is read and delivered, but no FIN follows.
    LastWords,
    /// Nothing more is read; everything read before was delivered.
    Done,
}

impl Direction {
    pub(super) fn new(from: Side, undelivered: Undelivered) -> Self {
        Self {
            from,
            undelivered,
            pipe: None,
            streak: 0,
            stage: Stage::Reading,
            saw_fin: false,
            queues: Queues::Unknown,
        }
    }

    /// Moves what can be moved now. Ready once nothing more will be moved.
    pub(super) fn poll(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        turn: &mut Turn<'_, '_>,
    ) -> Poll<Result<(), Failure>> {
        let mut left = BYTES_A_TURN;
        while left > 0 {
            ready!(self.poll_deliver(to, turn)).map_err(Failure::Write)?;
            if self.is_done() {
                return Poll::Ready(Ok(()));
            }
            let moved = match self.pipe_for_bulk(from, to, turn) {
                Some(pipe) => ready!(self.poll_fill(pipe, from, turn)).map_err(Failure::Read)?,
                None => ready!(self.poll_copy(from, to, turn))?,
            };
            if moved == 0 {
                self.pass_fin_on(to, turn);
            }
            left = left.saturating_sub(moved);
        }
        turn.cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Offers the other side what it has not taken yet, from memory or from the pipe; only one of them holds bytes.
    fn poll_deliver(&mut self, to: &mut TcpStream, turn: &mut Turn<'_, '_>) -> Poll<io::Result<()>> {
        while let Some(bytes) = self.undelivered.bytes() {
            let accepted = ready!(Pin::new(&mut *to).poll_write(turn.cx, bytes))?;
            self.undelivered.advance(accepted);
            turn.live.count(self.from, accepted);
        }
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.is_empty()) {
            ready!(to.poll_write_ready(turn.cx))?;
            match to.try_io(Interest::WRITABLE, || pipe.drain(&*to)) {
                Ok(accepted) => turn.live.count_spliced(self.from, accepted),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The empty pipe to splice through, if the direction proved to be bulk, and there is one and room for what it holds.
    fn pipe_for_bulk(&mut self, from: &TcpStream, to: &TcpStream, turn: &Turn<'_, '_>) -> Option<Box<Pipe>> {
        let known = self.pipe.take();
        if self.streak < BULK_STREAK || turn.pipes.memory().room() < READ_SIZE {
            return None;
        }
        if known.is_none() {
            self.queues.bound(from, to, turn.pipes.lent() + 1);
        }
        known.or_else(|| turn.pipes.lend())
    }

    /// Reads into the pipe, and keeps it until that is delivered. A pipe whose socket has no more goes back to the pool.
    fn poll_fill(
        &mut self,
        mut pipe: Box<Pipe>,
        from: &mut TcpStream,
        turn: &mut Turn<'_, '_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(turn.cx))?;
            match from.try_io(Interest::READABLE, || pipe.fill(&*from)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    if read.as_ref().is_ok_and(|&read| read < READ_SIZE) {
                        // A little at a time is cheaper through the buffer.
                        self.streak = 0;
                    }
                    self.pipe = Some(pipe).filter(|pipe| !pipe.is_empty());
                    return Poll::Ready(self.after_read(read));
                }
            }
        }
    }

    /// Reads into the scratch buffer and offers the bytes to the other side at once; keeps what it does not take.
    fn poll_copy(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        turn: &mut Turn<'_, '_>,
    ) -> Poll<Result<usize, Failure>> {
        let memory = turn.pipes.memory();
        let mut unread = ReadBuf::new(&mut turn.buffer[..memory.read_size()]);
        let result = ready!(Pin::new(from).poll_read(turn.cx, &mut unread));
        let bytes = unread.filled();
        self.after_read(result.map(|()| bytes.len())).map_err(Failure::Read)?;
        self.streak = if bytes.len() == READ_SIZE { self.streak.saturating_add(1) } else { 0 };
        if !bytes.is_empty() {
            let accepted = match Pin::new(to).poll_write(turn.cx, bytes) {
                Poll::Ready(result) => result.map_err(Failure::Write)?,
                Poll::Pending => 0,
            };
            turn.live.count(self.from, accepted);
            self.undelivered = Undelivered::new(Bytes::copy_from_slice(&bytes[accepted..]), memory);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn after_read(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        if result.is_err() {
            self.stage = Stage::Done;
        }
        result
    }

    /// Nothing more comes, and everything before was delivered.
    fn pass_fin_on(&mut self, to: &mut TcpStream, turn: &mut Turn<'_, '_>) {
        if self.stage == Stage::Reading {
            self.saw_fin = true;
            if !turn.close_follows {
                // ENOTCONN: the other side has broken off; its own direction learns that from its read.
                let _ = Pin::new(to).poll_shutdown(turn.cx);
            }
        }
        self.stage = Stage::Done;
    }

    /// Gives the direction up: the side it leads to is gone.
    pub(super) fn abandon(&mut self) {
        self.stage = Stage::Done;
        self.undelivered = Undelivered::default();
        self.pipe = None;
    }

    /// The side it comes from broke off: what it still sent is delivered, but a reset follows, not a FIN.
    pub(super) fn end_without_fin(&mut self) {
        if self.stage == Stage::Reading {
            self.stage = Stage::LastWords;
        }
    }

    /// Whether the side has sent its FIN.
    pub(super) fn saw_fin(&self) -> bool {
        self.saw_fin
    }

    /// Whether bytes were read that the other side has not taken yet.
    pub(super) fn holds_bytes(&self) -> bool {
        self.undelivered.bytes().is_some() || self.pipe.as_ref().is_some_and(|pipe| !pipe.is_empty())
    }

    /// Whether nothing more will be moved.
    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }
}
