//! The clients: closed loops over epoll in plain threads, which count what they move while the conductor reads the
//! processors' clocks.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::ends::{BIG, ENDLESS, Got, Poll, READABLE, WRITABLE, connect, push, receive, stay_on};
use super::{connecting, paced};

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Work {
    /// Receives without end.
    Down,
    /// Sends without end.
    Up,
    /// Asks for this many bytes, again and again.
    Fetch { size: u32 },
    /// Connects, says hello, takes the answer and the end, again and again. A hello longer than a segment goes out in
    /// two, the second so late that the first is read alone.
    Connect,
    /// Sends this many bytes and waits until they are back, again and again.
    Echo { size: usize },
    /// Sends this many bytes at fixed times, whether or not the last are back.
    Knock { size: usize, per_second: u32 },
    /// Receives at this rate, all streams together.
    Stream { bytes_per_second: f64 },
}

/// Where clients go and what they say first.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) hello: Arc<[u8]>,
}

/// Clients at work. They stop when this is dropped.
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What clients and conductor share.
pub(crate) struct Shared {
    stop: AtomicBool,
    recording: AtomicBool,
    meters: Vec<Meter>,
}

/// Counters of one thread, on a cache line of their own.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Meter {
    units: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    /// Nanoseconds each, capped at four seconds.
    delays: Mutex<Vec<u32>>,
}

/// Sums over the clients since they began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) units: u64,
    pub(crate) bytes: u64,
    pub(crate) failed: u64,
}

impl Load {
    /// Starts clients with this many connections in all.
    pub(crate) fn start(work: Work, connections: usize, target: &Target) -> Self {
        let most = match work {
            Work::Knock { .. } | Work::Stream { .. } => 1,
            _ => thread::available_parallelism().map_or(1, usize::from),
        };
        let count = connections.min(most);
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            recording: AtomicBool::new(false),
            meters: (0..count).map(|_| Meter::default()).collect(),
        });
        let threads = (0..count)
            .map(|number| {
                let (shared, target) = (Arc::clone(&shared), target.clone());
                thread::spawn(move || {
                    if connections == 1 {
                        stay_on(1); // the upstream serves a single connection on the first processor
                    }
                    let crew = Crew { number, target, shared };
                    let share = (number..connections).step_by(count).count();
                    if let Err(error) = crew.work(work, share) {
                        eprintln!("    a client stopped: {error}");
                        crew.meter().fail();
                    }
                })
            })
            .collect();
        Self { shared, threads }
    }

    pub(crate) fn done(&self) -> Done {
        self.shared.meters.iter().fold(Done::default(), |sum, meter| Done {
            units: sum.units + meter.units.load(Ordering::Relaxed),
            bytes: sum.bytes + meter.bytes.load(Ordering::Relaxed),
            failed: sum.failed + meter.failed.load(Ordering::Relaxed),
        })
    }

    /// Says whether delays are kept from now on.
    pub(crate) fn record(&self, recording: bool) {
        self.shared.recording.store(recording, Ordering::Relaxed);
    }

    /// Every delay recorded, in order.
    pub(crate) fn delays(&self) -> Vec<u32> {
        let mut all = Vec::new();
        for meter in &self.shared.meters {
            all.append(&mut meter.delays.lock().expect("no thread panics with the lock"));
        }
        all.sort_unstable();
        all
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Meter {
    pub(crate) fn add(&self, units: u64, bytes: usize) {
        self.units.fetch_add(units, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn fail(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// One thread's clients.
pub(crate) struct Crew {
    pub(crate) number: usize,
    pub(crate) target: Target,
    shared: Arc<Shared>,
}

impl Crew {
    fn work(&self, work: Work, connections: usize) -> io::Result<()> {
        match work {
            Work::Down => self.receive_all(connections),
            Work::Up => self.send_all(connections),
            Work::Fetch { size } => self.fetch(connections, size),
            Work::Echo { size } => self.echo(connections, size),
            Work::Connect => connecting::again_and_again(self, connections),
            Work::Knock { size, per_second } => paced::knock(self, connections, size, per_second),
            Work::Stream { bytes_per_second } => paced::stream(self, connections, bytes_per_second),
        }
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.shared.meters[self.number]
    }

    pub(crate) fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// Keeps a delay if the conductor wants it.
    pub(crate) fn note(&self, since: Instant) {
        if self.shared.recording.load(Ordering::Relaxed) {
            let nanos = u32::try_from(since.elapsed().as_nanos()).unwrap_or(u32::MAX);
            self.meter().delays.lock().expect("no thread panics with the lock").push(nanos);
        }
    }

    /// Opens connections that have said hello, and this after it.
    pub(crate) fn open(&self, connections: usize, first_words: &[u8]) -> io::Result<Vec<TcpStream>> {
        let words = [&self.target.hello, first_words].concat();
        (0..connections)
            .map(|turn| {
                let stream = connect(self.target.address, turn)?;
                match push(&stream, &words)? == words.len() {
                    true => Ok(stream),
                    false => Err(io::Error::other("no room for a hello")),
                }
            })
            .collect()
    }

    fn receive_all(&self, connections: usize) -> io::Result<()> {
        let streams = self.open(connections, &ENDLESS.to_le_bytes())?;
        let mut space = vec![0; BIG];
        self.each_turn(&streams, READABLE, |_, stream| match receive(stream, &mut space)? {
            Got::Bytes(len) => {
                self.meter().add(0, len);
                Ok(true)
            }
            Got::Nothing => Ok(true),
            Got::End => Ok(false),
        })
    }

    fn send_all(&self, connections: usize) -> io::Result<()> {
        let streams = self.open(connections, &[])?;
        let payload = vec![7; BIG];
        self.each_turn(&streams, WRITABLE, |_, stream| {
            self.meter().add(0, push(stream, &payload)?);
            Ok(true)
        })
    }

    fn fetch(&self, connections: usize, size: u32) -> io::Result<()> {
        let request = size.to_le_bytes();
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let streams = self.open(connections, &request)?;
        let mut space = vec![0; BIG];
        let mut waiting = vec![(size, Instant::now()); connections];
        self.each_turn(&streams, READABLE, |turn, stream| {
            let (left, since) = &mut waiting[turn];
            match receive(stream, &mut space)? {
                Got::Bytes(len) => *left = left.saturating_sub(len),
                Got::Nothing => {}
                Got::End => return Ok(false),
            }
            if *left == 0 {
                self.note(*since);
                self.meter().add(1, size);
                (*left, *since) = (size, Instant::now());
                push(stream, &request)?;
            }
            Ok(true)
        })
    }

    fn echo(&self, connections: usize, size: usize) -> io::Result<()> {
        let message = vec![7; size];
        let streams = self.open(connections, &message)?;
        let mut space = vec![0; size];
        let mut waiting = vec![(size, Instant::now()); connections];
        self.each_turn(&streams, READABLE, |turn, stream| {
            let (left, since) = &mut waiting[turn];
            match receive(stream, &mut space)? {
                Got::Bytes(len) => *left = left.saturating_sub(len),
                Got::Nothing => {}
                Got::End => return Ok(false),
            }
            if *left == 0 {
                self.note(*since);
                self.meter().add(1, size);
                (*left, *since) = (size, Instant::now());
                push(stream, &message)?;
            }
            Ok(true)
        })
    }

    /// Gives each stream its turn whenever it is ready, until it is over or the clients are told to stop.
    fn each_turn(
        &self,
        streams: &[TcpStream],
        interest: rustix::event::epoll::EventFlags,
        mut turn: impl FnMut(usize, &TcpStream) -> io::Result<bool>,
    ) -> io::Result<()> {
        let poll = Poll::new()?;
        for (key, stream) in streams.iter().enumerate() {
            poll.add(stream, key, interest)?;
        }
        while !self.stopped() {
            for key in poll.wait(Duration::from_millis(50))? {
                if !turn(key, &streams[key]).unwrap_or(false) {
                    self.meter().fail();
                    poll.remove(&streams[key])?;
                }
            }
        }
        Ok(())
    }
}
