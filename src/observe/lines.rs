//! Finished lines on their way to a slow place: a thread writes them, and nobody waits for it.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Lines that may wait for the writer before new ones are dropped: some megabytes at most.
const QUEUE: usize = 8192;
/// How long [`Lines::flush`] waits for a sink that does not take its bytes.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// Between two tries to enter a full queue when flushing.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(5);

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The entry to a sink of lines. Cloned freely; a full queue drops lines, counts them, and says so in the program's log.
#[derive(Clone, Debug)]
pub struct Lines {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Lines {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn to(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        thread::Builder::new().name("log".into()).spawn(move || write_lines(&messages, &counted, sink))?;
        Ok(Self { queue, dropped })
    }

    /// Hands a line, its newline included, to the writer. Never waits.
    pub fn push(&self, line: Vec<u8>) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Line(line)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything handed over so far is written, or the sink has proved stuck.
    pub fn flush(&self) {
        let deadline = Instant::now() + FLUSH_LIMIT;
        let (done, written) = sync_channel(1);
        while let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Flush(done.clone())) {
            if Instant::now() > deadline {
                return;
            }
            thread::sleep(FULL_QUEUE_PAUSE);
        }
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
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
            self.lines.push(std::mem::take(&mut self.text));
        }
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Lines {
    type Writer = Event;

    fn make_writer(&'a self) -> Event {
        Event { text: Vec::new(), lines: self.clone() }
    }
}

fn write_lines(messages: &Receiver<Message>, dropped: &AtomicU64, sink: impl Write) {
    let mut sink = io::BufWriter::with_capacity(64 * 1024, sink);
    loop {
        // Lines that arrive together are written together; the sink is flushed as soon as none waits.
        let message = match messages.recv_timeout(Duration::ZERO) {
            Err(RecvTimeoutError::Timeout) => {
                let _ = sink.flush();
                messages.recv().map_err(|_| RecvTimeoutError::Disconnected)
            }
            message => message,
        };
        // A sink that fails (a closed pipe, a full disk) must not end the process; the next line tries again.
        match message {
            Ok(Message::Line(line)) => {
                if sink.write_all(&line).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                } else {
                    tell_of_loss(dropped);
                }
            }
            Ok(Message::Flush(done)) => {
                let _ = sink.flush();
                let _ = done.try_send(());
            }
            Err(_) => break,
        }
    }
    let _ = sink.flush();
}

/// Told only once lines are written again: of the program's own log it would only be one more loss.
fn tell_of_loss(dropped: &AtomicU64) {
    let lost = dropped.swap(0, Ordering::Relaxed);
    if lost > 0 {
        tracing::warn!(dropped_lines = lost, "a log was slower than its lines");
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Mutex;

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

    #[test]
    fn lines_arrive_in_order() {
        let memory = Memory::default();
        let lines = Lines::to(memory.clone()).unwrap();
        for number in 0..100 {
            lines.push(format!("{number}\n").into_bytes());
        }
        lines.flush();
        let expected: String = (0..100).map(|number| format!("{number}\n")).collect();
        assert_eq!(String::from_utf8(memory.0.lock().unwrap().clone()).unwrap(), expected);
    }

    #[test]
    fn a_stuck_sink_blocks_nobody_and_the_loss_is_told() {
        let memory = Memory::default();
        let stuck = memory.0.lock().unwrap();
        let lines = Lines::to(memory.clone()).unwrap();
        let much = vec![b'x'; 64 * 1024];
        for _ in 0..2 * QUEUE {
            lines.push(much[..1024].to_vec());
        }
        assert!(lines.dropped.load(Ordering::Relaxed) > 0);
        drop(stuck);
        lines.flush();
        lines.push(b"after\n".to_vec());
        lines.flush();
        let written = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        assert_eq!(lines.dropped.load(Ordering::Relaxed), 0, "the loss was told");
        assert!(written.ends_with("after\n"));
    }
}
