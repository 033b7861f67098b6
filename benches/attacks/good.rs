//! Well-behaved clients: one that connects again and again, and one that talks over the connection it has.
//!
//! What they do is planned by the clock, and times count from the plan: a gate that stalls for a second delays everything
//! that was planned in it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::support::hello::hello;

/// What they ask for.
pub(crate) const NAME: &str = "good.test";
/// Connections that they have at rest.
pub(crate) const STREAMS: usize = 1;
const CONNECT_EVERY: Duration = Duration::from_millis(5);
const TALK_EVERY: Duration = Duration::from_millis(2);
/// What is said and comes back.
const WORDS: usize = 1024;
/// Longer than anybody waits.
const LIMIT: Duration = Duration::from_secs(10);

/// What they felt in a while.
pub(crate) struct Felt {
    /// From the wish to connect to the first byte of an answer: p99 in milliseconds.
    pub(crate) connect: f64,
    /// From a kilobyte to its echo.
    pub(crate) stream: f64,
    /// Connects that failed.
    pub(crate) failures: usize,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    connects: Mutex<Vec<f64>>,
    talks: Mutex<Vec<f64>>,
    failures: Mutex<usize>,
}

/// Both of them, at work.
pub(crate) struct Good {
    shared: Arc<Shared>,
    threads: [JoinHandle<io::Result<()>>; 2],
}

impl Good {
    pub(crate) fn start(gate: SocketAddr) -> Self {
        let shared = Arc::<Shared>::default();
        let (connecting, talking) = (Arc::clone(&shared), Arc::clone(&shared));
        let mut stream = connect(gate).unwrap();
        let threads = [
            thread::spawn(move || {
                connecting.by_the_clock(CONNECT_EVERY, |planned| {
                    match connect(gate) {
                        Ok(_) => connecting.connects.lock().unwrap().push(milliseconds(planned)),
                        Err(_) => *connecting.failures.lock().unwrap() += 1,
                    }
                    Ok(())
                })
            }),
            thread::spawn(move || {
                talking.by_the_clock(TALK_EVERY, |planned| {
                    stream.write_all(&[7; WORDS])?;
                    stream.read_exact(&mut [0; WORDS])?;
                    talking.talks.lock().unwrap().push(milliseconds(planned));
                    Ok(())
                })
            }),
        ];
        Self { shared, threads }
    }

    /// Forgets what was felt so far.
    pub(crate) fn begin(&self) {
        self.end();
    }

    /// What was felt since.
    pub(crate) fn end(&self) -> Felt {
        let take = |times: &Mutex<Vec<f64>>| p99(std::mem::take(&mut times.lock().unwrap()));
        Felt {
            connect: take(&self.shared.connects),
            stream: take(&self.shared.talks),
            failures: std::mem::take(&mut self.shared.failures.lock().unwrap()),
        }
    }

    /// Ends both; says whether the connection that was there from the beginning still works.
    pub(crate) fn stop(self) -> bool {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.map(|thread| thread.join().unwrap().is_ok()) == [true; 2]
    }
}

impl Shared {
    fn by_the_clock(&self, every: Duration, mut act: impl FnMut(Instant) -> io::Result<()>) -> io::Result<()> {
        let mut planned = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            act(planned)?;
            planned += every;
            thread::sleep(planned.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }
}

/// A connection whose upstream has answered.
fn connect(gate: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&gate, LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let greeting = greeting();
    stream.write_all(greeting)?;
    let mut answer = vec![0; greeting.len()];
    stream.read_exact(&mut answer)?;
    Ok(stream)
}

/// Always the same: making one takes longer than a connect.
fn greeting() -> &'static [u8] {
    static GREETING: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    GREETING.get_or_init(|| hello(NAME))
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn p99(mut times: Vec<f64>) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN)
}
