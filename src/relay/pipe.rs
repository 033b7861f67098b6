//! Kernel pipes for splice(2): a bounded pool a worker, lent to directions that prove to be bulk.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};

use super::READ_SIZE;
use super::memory::Memory;

/// Pipes kept while nobody uses them.
const MOST_IDLE: usize = 16;
/// The capacity asked for.
const WANTED_SIZE: usize = 256 * 1024;
/// A pipe below the kernel's own default is not worth its system calls. Users without privileges get those of two pages
/// once they have 1,024 pipes (fs.pipe-user-pages-soft).
const LEAST_SIZE: usize = 64 * 1024;
/// After the kernel refused a pipe, this many requests are answered by "none" before it is asked again.
const PAUSE: u32 = 1024;
/// Bytes that one splice may move. Not usize::MAX: the kernel answers that with EINVAL.
const MOST: usize = 1024 * 1024;
/// One splice moves no more than this part of what may still be held: a few readers that stop must not take it all.
const SHARE_OF_ROOM: usize = 8;

/// The pipes of one worker, and the account of what its relays hold in them and in buffers.
#[derive(Debug)]
pub struct Pipes(Rc<Pool>);

#[derive(Debug)]
struct Pool {
    limit: usize,
    /// Empty ones that nobody uses.
    idle: RefCell<Vec<Ends>>,
    /// All there are.
    open: Cell<usize>,
    pause: Cell<u32>,
    /// Bytes that went through all of them.
    spliced: Cell<u64>,
    memory: Rc<Memory>,
}

/// What relays use of what they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// Pipes that are open.
    pub pipes: usize,
    /// Those that directions hold.
    pub lent: usize,
    /// Bytes held, in pipes and in buffers.
    pub memory: usize,
    /// Bytes that went through pipes so far.
    pub spliced: u64,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe on loan. It goes back to its pool when dropped empty, and is closed when dropped with bytes in it.
#[derive(Debug)]
pub(super) struct Pipe {
    ends: Option<Ends>,
    held: usize,
    pool: Rc<Pool>,
}

impl Pipes {
    /// A pool of so many pipes at most, for relays that hold so many bytes; none is opened before it is needed.
    pub fn new(limit: usize, memory: usize) -> Self {
        let memory = Rc::new(Memory::of(memory));
        Self(Rc::new(Pool {
            limit,
            idle: RefCell::default(),
            open: Cell::new(0),
            pause: Cell::new(0),
            spliced: Cell::new(0),
            memory,
        }))
    }

    /// The account of what relays hold.
    pub(super) fn memory(&self) -> &Rc<Memory> {
        &self.0.memory
    }

    /// Pipes that directions hold now.
    pub fn lent(&self) -> usize {
        self.0.open.get() - self.0.idle.borrow().len()
    }

    /// What is used of all this.
    pub fn used(&self) -> Use {
        let Pool { open, spliced, memory, .. } = &*self.0;
        Use { pipes: open.get(), lent: self.lent(), memory: memory.held(), spliced: spliced.get() }
    }

    /// Lends an empty pipe; none when the pool is exhausted or the kernel gives none that is large enough.
    pub(super) fn lend(&self) -> Option<Box<Pipe>> {
        let idle = self.0.idle.borrow_mut().pop();
        let ends = match idle {
            Some(ends) => ends,
            None => self.0.open_one()?,
        };
        Some(Box::new(Pipe { ends: Some(ends), held: 0, pool: Rc::clone(&self.0) }))
    }
}

impl Pool {
    fn open_one(&self) -> Option<Ends> {
        let pause = self.pause.get();
        if self.open.get() >= self.limit || pause > 0 {
            self.pause.set(pause.saturating_sub(1));
            return None;
        }
        match open() {
            Ok(ends) => {
                self.open.set(self.open.get() + 1);
                Some(ends)
            }
            Err(error) => {
                tracing::debug!(%error, open = self.open.get(), "no pipe for splice: buffers serve instead");
                self.pause.set(PAUSE);
                None
            }
        }
    }
}

fn open() -> io::Result<Ends> {
    let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
    // What matters is what came of it: unprivileged users may get less than they ask for, or than the default.
    let _ = fcntl_setpipe_size(&write, WANTED_SIZE);
    let size = fcntl_getpipe_size(&write)?;
    if size < LEAST_SIZE {
        return Err(io::Error::other(format!("the kernel gives pipes of {size} bytes only")));
    }
    Ok(Ends { read, write })
}

impl Pipe {
    /// Whether bytes are in it.
    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves what `socket` has into the pipe, which must be empty: only then does WouldBlock mean that the socket is.
    pub(super) fn fill(&mut self, socket: impl AsFd) -> io::Result<usize> {
        debug_assert!(self.is_empty(), "a pipe is filled only when it is empty");
        // Not nothing, which would look like the socket's end.
        let most = (self.pool.memory.room() / SHARE_OF_ROOM).clamp(READ_SIZE, MOST);
        let moved = splice(socket, None, &self.ends().write, None, most, flags())?;
        self.held = moved;
        self.pool.memory.take(moved);
        Ok(moved)
    }

    /// Moves what is in the pipe, which must not be empty, into `socket`.
    pub(super) fn drain(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let moved = splice(&self.ends().read, None, socket, None, self.held, flags())?;
        self.held -= moved;
        self.pool.memory.give_back(moved);
        self.pool.spliced.set(self.pool.spliced.get() + moved as u64);
        Ok(moved)
    }

    fn ends(&self) -> &Ends {
        self.ends.as_ref().unwrap_or_else(|| unreachable!("a pipe has its ends until it is dropped"))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.pool.memory.give_back(self.held);
        match self.ends.take() {
            Some(ends) if self.held == 0 && self.pool.idle.borrow().len() < MOST_IDLE => {
                self.pool.idle.borrow_mut().push(ends);
            }
            _ => self.pool.open.set(self.pool.open.get() - 1),
        }
    }
}

/// No SPLICE_F_MORE: it corks the last bytes for 200 ms and more.
fn flags() -> SpliceFlags {
    SpliceFlags::NONBLOCK | SpliceFlags::MOVE
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_empty_pipe_goes_back_and_one_with_bytes_is_closed() {
        let pipes = Pipes::new(2, 1 << 20);
        let (mut near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"bytes").unwrap();
        let mut pipe = pipes.lend().unwrap();
        assert_eq!(pipe.fill(&near).unwrap(), 5);
        assert_eq!((pipe.is_empty(), pipes.lent(), pipes.memory().held()), (false, 1, 5));
        drop(pipe);
        assert_eq!((pipes.0.open.get(), pipes.lent()), (0, 0), "the next borrower must not send these bytes");
        assert_eq!(pipes.memory().held(), 0);

        far.write_all(b"bytes").unwrap();
        let mut pipe = pipes.lend().unwrap();
        pipe.fill(&near).unwrap();
        assert_eq!(pipe.drain(&near).unwrap(), 5);
        drop(pipe);
        assert_eq!(pipes.used(), Use { pipes: 1, lent: 0, memory: 0, spliced: 5 });
        let mut bytes = [0; 5];
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"bytes");
        near.shutdown(std::net::Shutdown::Both).unwrap();
        near.flush().unwrap();
    }

    #[test]
    fn the_pool_is_bounded_and_pipes_are_large_enough() {
        let pipes = Pipes::new(2, 1 << 20);
        let lent = [pipes.lend().unwrap(), pipes.lend().unwrap()];
        assert!(pipes.lend().is_none());
        assert!(lent.iter().all(|pipe| fcntl_getpipe_size(&pipe.ends().write).unwrap() >= LEAST_SIZE));
        drop(lent);
        assert!(pipes.lend().is_some());
    }
}
