//! Whether every thread still gets to its work: each is asked now and then, in its own runtime, and all have to answer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;

/// The answer of a thread that has ended in good order.
const ENDED: u64 = u64::MAX;

/// Who asks.
#[derive(Debug)]
pub struct Watchdog {
    question: watch::Sender<u64>,
    threads: Vec<(String, Arc<AtomicU64>)>,
    /// Whether somebody was silent at the last look, and that was told.
    told: bool,
}

/// The place of a thread to answer from.
#[derive(Debug)]
pub struct Watched {
    question: watch::Receiver<u64>,
    answer: Arc<AtomicU64>,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { question: watch::Sender::new(0), threads: Vec::new(), told: false }
    }
}

impl Watchdog {
    /// Asks a thread of this name as well.
    pub fn watch(&mut self, name: impl Into<String>) -> Watched {
        let answer = Arc::default();
        self.threads.push((name.into(), Arc::clone(&answer)));
        Watched { question: self.question.subscribe(), answer }
    }

    /// In a thread of its own, asks so often that within each `interval` there is time for an answer, and does `tell` for as
    /// long as all of them come.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(mut self, interval: Duration, tell: impl Fn() + Send + 'static) -> io::Result<()> {
        thread::Builder::new().name("watchdog".into()).spawn(move || {
            loop {
                if self.all_answered() {
                    tell();
                }
                // An answer may be late by three of these before it is missed.
                thread::sleep(interval / 4);
            }
        })?;
        Ok(())
    }

    /// Whether all have answered what they were asked last; if so they are asked anew.
    fn all_answered(&mut self) -> bool {
        let silent = self.silent();
        if !silent.is_empty() {
            let threads = silent.join(", ");
            if !std::mem::replace(&mut self.told, true) {
                tracing::error!(threads, "does not get to its work: the service manager is not told that all is well");
            }
            return false;
        }
        if std::mem::take(&mut self.told) {
            tracing::info!("every thread gets to its work again");
        }
        self.question.send_modify(|number| *number += 1);
        true
    }

    /// Those who have not answered yet.
    fn silent(&self) -> Vec<&str> {
        let asked = *self.question.borrow();
        let is_silent = |answer: &AtomicU64| answer.load(Ordering::Relaxed) < asked;
        self.threads.iter().filter(|(_, answer)| is_silent(answer)).map(|(name, _)| name.as_str()).collect()
    }
}

impl Watched {
    /// Answers whenever it is asked: to be run as a task of the thread's runtime, beside what it works on.
    pub async fn answer(mut self) {
        while self.question.changed().await.is_ok() {
            self.answer.store(*self.question.borrow_and_update(), Ordering::Relaxed);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // A thread that ends by a panic is as good as stuck.
        if !thread::panicking() {
            self.answer.store(ENDED, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::thread::JoinHandle;
    use std::time::Instant;
    use tokio::runtime::{Builder, LocalOptions};

    /// What a thread is told to do.
    enum Word {
        /// Say so, and do nothing else until the sender of the other is gone.
        Block(Sender<()>, Receiver<()>),
        Panic,
        End,
    }

    /// A thread as workers are, which does as it is told.
    fn thread_of(watched: Watched) -> (Sender<Word>, JoinHandle<()>) {
        let (sender, words) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
            runtime.block_on(async {
                tokio::task::spawn_local(watched.answer());
                loop {
                    match words.try_recv() {
                        Ok(Word::Block(blocked, released)) => {
                            blocked.send(()).unwrap();
                            let _ = released.recv();
                        }
                        Ok(Word::Panic) => panic!("this one is meant"),
                        Ok(Word::End) => return,
                        Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                    }
                }
            });
        });
        (sender, thread)
    }

    fn wait_until(mut condition: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !condition() {
            assert!(begun.elapsed() < Duration::from_secs(30));
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn one_thread_that_is_stuck_is_enough_and_one_that_has_ended_is_not() {
        let mut watchdog = Watchdog::default();
        let watched = ["one", "two", "three"].map(|name| watchdog.watch(name));
        let [(one, first), (two, second), (three, third)] = watched.map(thread_of);
        (0..3).for_each(|_| wait_until(|| watchdog.all_answered()));

        let (release, released) = mpsc::channel();
        let (block, blocked) = mpsc::channel();
        two.send(Word::Block(block, released)).unwrap();
        blocked.recv().unwrap();
        // What it was asked before it may have answered; what it is asked now it cannot.
        watchdog.all_answered();
        assert!(!watchdog.all_answered());
        wait_until(|| watchdog.silent() == ["two"]);
        assert!(!watchdog.all_answered() && watchdog.told);
        drop(release);
        (0..3).for_each(|_| wait_until(|| watchdog.all_answered()));
        assert!(!watchdog.told);

        one.send(Word::End).unwrap();
        first.join().unwrap();
        (0..3).for_each(|_| wait_until(|| watchdog.all_answered()));
        three.send(Word::Panic).unwrap();
        third.join().unwrap_err();
        watchdog.all_answered();
        wait_until(|| watchdog.silent() == ["three"]);
        two.send(Word::End).unwrap();
        second.join().unwrap();
        assert!(!watchdog.all_answered());
    }
}
