//! Finished lines on their way to a slow place: a thread collects and writes them, and nobody waits for it.
//!
//! To wake that thread costs more than everything else that is done for a line. So the first line after a silence wakes
//! it, and those that come while it writes or pauses are collected and written together.

#[cfg(test)]
pub(crate) mod tests;

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that may be on their way before new lines are dropped: the lines of some 20,000 connections.
const LIMIT: usize = 8 * 1024 * 1024;
/// What the writer rests between two writes: a line is never much later than that.
const PAUSE: Duration = Duration::from_millis(10);
/// So many bytes waiting end the pause.
const PLENTY: usize = LIMIT / 8;
/// What a buffer that had to grow keeps.
const KEPT: usize = 64 * 1024;
/// How long [`Lines::flush`] waits for a sink that does not take its bytes.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// The entry to a sink of lines. Cloned freely; lines beyond what may wait are dropped, counted, and told of in the
/// program's log.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Entry>);

/// Tells the writer when the last clone is gone.
#[derive(Debug)]
struct Entry(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// Wakes the writer.
    wake: Condvar,
    /// Tells those who flush that the sink was offered what waited.
    offered: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    /// Bytes that the writer has taken and the sink has not.
    under_way: usize,
    /// Lines dropped since that was last told.
    untold: u64,
    /// Lines dropped since the beginning.
    dropped: u64,
    /// Bytes handed over since the beginning, and how many of them the sink was offered.
    handed_over: u64,
    offered: u64,
    /// The writer sleeps until it is woken.
    idle: bool,
    /// Somebody waits: no pause.
    hurry: bool,
    /// Nobody is left to hand lines over.
    closed: bool,
}

impl Lines {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn to(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let writers = Arc::clone(&queue);
        thread::Builder::new().name("log".into()).spawn(move || write_lines(&writers, sink))?;
        Ok(Self(Arc::new(Entry(queue))))
    }

    /// Hands a line, its newline included, to the writer. Never waits for it.
    pub fn push(&self, line: &[u8]) {
        let queue = &self.0.0;
        let mut waiting = queue.lock();
        let before = waiting.text.len();
        if waiting.under_way + before + line.len() > LIMIT {
            waiting.untold += 1;
            waiting.dropped += 1;
            return;
        }
        waiting.text.extend_from_slice(line);
        waiting.handed_over += line.len() as u64;
        let plenty = before < PLENTY && waiting.text.len() >= PLENTY;
        if std::mem::take(&mut waiting.idle) || plenty {
            drop(waiting);
            queue.wake.notify_one();
        }
    }

    /// Lines dropped so far, since the sink took none for too long.
    pub fn dropped(&self) -> u64 {
        self.0.0.lock().dropped
    }

    /// Waits until the sink was offered everything handed over so far, or has proved stuck.
    pub fn flush(&self) {
        let queue = &self.0.0;
        let mut waiting = queue.lock();
        let so_far = waiting.handed_over;
        waiting.hurry = true;
        queue.wake.notify_one();
        let _ = queue.offered.wait_timeout_while(waiting, FLUSH_LIMIT, |waiting| waiting.offered < so_far);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_one();
    }
}

impl Queue {
    /// Held for a copy at most. Nothing panics with it, and text is text even if it did.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what waits to `text`; as long as there is nothing at all, sleeps. Returns whether these are the last lines.
    fn collect(&self, text: &mut Vec<u8>) -> bool {
        let mut waiting = self.lock();
        waiting.idle = text.is_empty() && waiting.text.is_empty();
        let asleep = |waiting: &mut Waiting| waiting.idle && !waiting.closed;
        let mut waiting = self.wake.wait_while(waiting, asleep).unwrap_or_else(PoisonError::into_inner);
        if text.is_empty() {
            std::mem::swap(text, &mut waiting.text);
        } else {
            text.append(&mut waiting.text);
        }
        waiting.under_way = text.len();
        waiting.hurry = false;
        waiting.closed
    }

    /// Notes that the sink was offered what was collected, and did not take `left` bytes of it. Returns how many lines
    /// were dropped, to be told once lines are written again: in the program's own log it would only be one more loss.
    fn note(&self, left: usize) -> u64 {
        let mut waiting = self.lock();
        waiting.under_way = left;
        waiting.offered = waiting.handed_over - waiting.text.len() as u64;
        self.offered.notify_all();
        if left == 0 { std::mem::take(&mut waiting.untold) } else { 0 }
    }

    fn pause(&self) {
        let rest = |waiting: &mut Waiting| !waiting.hurry && !waiting.closed && waiting.text.len() < PLENTY;
        let _ = self.wake.wait_timeout_while(self.lock(), PAUSE, rest);
    }
}

fn write_lines(queue: &Queue, mut sink: impl Write) {
    let mut text = Vec::new();
    loop {
        let last = queue.collect(&mut text);
        let taken = offer(&mut sink, &text);
        text.drain(..taken);
        text.shrink_to(KEPT);
        let dropped = queue.note(text.len());
        if dropped > 0 {
            tracing::warn!(dropped_lines = dropped, "a log was slower than its lines");
        }
        if last {
            return;
        }
        queue.pause();
    }
}

/// Writes as much as the sink takes. One that fails (a full disk, a closed pipe) must not end the process, and is tried
/// again after a pause with what it left: so lines stay whole.
fn offer(sink: &mut impl Write, text: &[u8]) -> usize {
    let mut taken = 0;
    while taken < text.len() {
        match sink.write(&text[taken..]) {
            Ok(0) => break,
            Ok(more) => taken += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = sink.flush();
    taken
}

/// What `tracing` writes one event into: becomes one line when it is dropped.
#[derive(Debug)]
pub struct Event {
    text: Vec<u8>,
    lines: Lines,
}

impl Write for Event {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            self.lines.push(&self.text);
        }
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Lines {
    type Writer = Event;

    fn make_writer(&'a self) -> Event {
        Event { text: Vec::new(), lines: self.clone() }
    }
}
