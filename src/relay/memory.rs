//! What the relays of one worker hold of bytes that were read and that nobody took yet, in buffers and in pipes.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Buf, Bytes};

use super::READ_SIZE;
use crate::limits::SCARCE_READ;

/// The account of one worker.
#[derive(Debug)]
pub(super) struct Memory {
    most: usize,
    held: Cell<usize>,
}

impl Memory {
    pub(super) fn of(most: usize) -> Self {
        Self { most, held: Cell::new(0) }
    }

    /// What is held.
    pub(super) fn held(&self) -> usize {
        self.held.get()
    }

    /// What may still be held.
    pub(super) fn room(&self) -> usize {
        self.most.saturating_sub(self.held())
    }

    /// What one read may take. Never nothing, so that all go on, and slowly: only what the other side does not take is
    /// held, and no more is read until it has.
    pub(super) fn read_size(&self) -> usize {
        if self.room() >= READ_SIZE { READ_SIZE } else { SCARCE_READ }
    }

    pub(super) fn take(&self, bytes: usize) {
        self.held.set(self.held.get() + bytes);
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.held.set(self.held.get() - bytes);
    }
}

/// Bytes that the other side did not take. Most relays hold none for most of their time, so an empty one is small.
#[derive(Debug, Default)]
pub(super) struct Undelivered(Option<Box<Held>>);

#[derive(Debug)]
struct Held {
    bytes: Bytes,
    /// They were so many: what was delivered of them is in memory for as long as the rest.
    taken: usize,
    memory: Rc<Memory>,
}

impl Undelivered {
    pub(super) fn new(bytes: Bytes, memory: &Rc<Memory>) -> Self {
        if bytes.is_empty() {
            return Self(None);
        }
        let taken = bytes.len();
        memory.take(taken);
        Self(Some(Box::new(Held { bytes, taken, memory: Rc::clone(memory) })))
    }

    /// What is left; never empty.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        self.0.as_ref().map(|held| &*held.bytes)
    }

    /// So many were delivered.
    pub(super) fn advance(&mut self, delivered: usize) {
        if let Some(held) = &mut self.0 {
            held.bytes.advance(delivered);
            if held.bytes.is_empty() {
                self.0 = None;
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.give_back(self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_back_when_all_of_it_is_delivered() {
        let memory = Rc::new(Memory::of(100));
        let mut held = Undelivered::new(Bytes::from_static(&[7; 80]), &memory);
        held.advance(79);
        assert_eq!((held.bytes(), memory.room()), (Some(&[7][..]), 20));
        held.advance(1);
        assert_eq!((held.bytes(), memory.room()), (None, 100));
        let more = Undelivered::new(Bytes::from_static(&[7; 300]), &memory);
        assert_eq!(memory.room(), 0);
        drop(more);
        assert_eq!(memory.room(), 100);
    }

    #[test]
    fn reads_become_small_when_there_is_no_room() {
        let memory = Memory::of(2 * READ_SIZE);
        memory.take(READ_SIZE);
        assert_eq!(memory.read_size(), READ_SIZE);
        memory.take(1);
        assert_eq!(memory.read_size(), SCARCE_READ);
        memory.take(10 * READ_SIZE);
        assert_eq!(memory.read_size(), SCARCE_READ);
    }
}
