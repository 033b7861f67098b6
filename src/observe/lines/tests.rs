//! Order, loss and moods of sinks.

use super::*;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

/// Does `step` until it has done what was wanted; not for ever.
fn repeat_until_done(what: &str, mut step: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !step() {
        assert!(Instant::now() < deadline, "not done in time: {what}");
    }
}

/// A sink that keeps what is written.
#[derive(Clone, Default)]
pub(crate) struct Memory(pub(crate) Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Memory {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Lines numbered from 0, pushed one after the other, as one text.
fn push_numbers(lines: &Lines, count: usize) -> String {
    let numbers: Vec<String> = (0..count).map(|number| format!("{number}\n")).collect();
    numbers.iter().for_each(|line| lines.push(line.as_bytes()));
    numbers.concat()
}

#[test]
fn lines_arrive_in_order() {
    let memory = Memory::default();
    let lines = Lines::to(memory.clone()).unwrap();
    let expected = push_numbers(&lines, 10_000);
    lines.flush();
    assert_eq!(memory.text(), expected);
}

#[test]
fn a_stuck_sink_blocks_nobody_and_the_loss_is_told() {
    let memory = Memory::default();
    let stuck = memory.0.lock().unwrap();
    let lines = Lines::to(memory.clone()).unwrap();
    let line = [&[b'x'; 1023][..], b"\n"].concat();
    for _ in 0..2 * LIMIT / line.len() {
        lines.push(&line);
    }
    let queue = &lines.0.0;
    assert_eq!(queue.lock().dropped, (LIMIT / line.len()) as u64, "what is on its way is bounded, exactly");
    drop(stuck);
    lines.flush();
    lines.push(b"after\n");
    lines.flush();
    assert_eq!(queue.lock().untold, 0, "the loss was told");
    let written = memory.text();
    assert!(written.ends_with("after\n"));
    assert_eq!(written.lines().count(), LIMIT / line.len() + 1);
    let waiting = queue.lock();
    assert!(waiting.text.capacity() <= KEPT, "{} bytes stay", waiting.text.capacity());
}

/// A sink that takes as many bytes as it is told, and fails when it is to take none.
struct Moody {
    takes: Receiver<usize>,
    memory: Memory,
}

impl Write for Moody {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match self.takes.try_recv().unwrap_or(usize::MAX).min(text.len()) {
            0 => Err(io::ErrorKind::StorageFull.into()),
            takes => self.memory.write(&text[..takes]),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_sink_that_fails_for_a_while_gets_every_line_whole() {
    let memory = Memory::default();
    let (moods, takes) = sync_channel(5);
    [3, 0, 1, 0, 0].into_iter().for_each(|mood| moods.send(mood).unwrap());
    let lines = Lines::to(Moody { takes, memory: memory.clone() }).unwrap();
    let expected = push_numbers(&lines, 100);
    repeat_until_done("every line is written", || {
        // It ends with an attempt, also one that failed.
        lines.flush();
        memory.0.lock().unwrap().len() >= expected.len()
    });
    assert_eq!(memory.text(), expected);
}

#[test]
fn what_waits_when_the_last_entry_goes_is_written() {
    let memory = Memory::default();
    let lines = Lines::to(memory.clone()).unwrap();
    let clone = lines.clone();
    push_numbers(&lines, 1000);
    drop(lines);
    let expected = push_numbers(&clone, 1000).repeat(2);
    let queue = Arc::downgrade(&clone.0.0);
    drop(clone);
    // The writer's thread holds it to its end.
    repeat_until_done("the writer ends", || {
        thread::yield_now();
        queue.strong_count() == 0
    });
    assert_eq!(memory.text(), expected);
}
