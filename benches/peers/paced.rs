//! Clients that keep to a clock: light requests at fixed times, and streams of a fixed rate.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use super::ends::{BIG, Got, Poll, READABLE, push, receive};
use super::load::Crew;

/// What a paced stream asks for at a time.
const PORTION: u32 = 128 * 1024;
/// Portions that a paced stream may be behind before it lets some go.
const BEHIND: usize = 32;

/// When each of some connections has its next turn: evenly spread, at a fixed period.
struct Clock {
    next: Instant,
    step: Duration,
    turn: usize,
    connections: usize,
}

impl Clock {
    fn new(connections: usize, period: Duration) -> Self {
        Self { next: Instant::now(), step: period.div_f64(connections as f64), turn: 0, connections }
    }

    fn until_next(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// The connections whose time has come.
    fn due(&mut self) -> Option<usize> {
        (self.next <= Instant::now()).then(|| {
            self.next += self.step;
            self.turn += 1;
            (self.turn - 1) % self.connections
        })
    }
}

/// Sends a message on each connection this often, whether or not earlier ones are back. A delay counts from the moment
/// that a message was really sent, so that this thread's own lateness does not blur it.
pub(crate) fn knock(crew: &Crew, connections: usize, size: usize, per_second: u32) -> io::Result<()> {
    let message = vec![7; size];
    let streams = crew.open(connections, &[])?;
    let poll = Poll::new()?;
    for (key, stream) in streams.iter().enumerate() {
        poll.add(stream, key, READABLE)?;
    }
    let mut space = vec![0; 16 * size];
    let mut out: Vec<VecDeque<Instant>> = vec![VecDeque::new(); connections];
    let mut back = vec![0; connections];
    let mut clock = Clock::new(connections, Duration::from_secs(1) / per_second);
    while !crew.stopped() {
        for key in poll.wait(clock.until_next().min(Duration::from_millis(50)))? {
            match receive(&streams[key], &mut space) {
                Ok(Got::Bytes(len)) => back[key] += len,
                Ok(Got::Nothing) => {}
                Ok(Got::End) | Err(_) => return Err(io::Error::other("a light connection ended")),
            }
            while back[key] >= size {
                back[key] -= size;
                if let Some(since) = out[key].pop_front() {
                    crew.note(since);
                    crew.meter().add(1, size);
                }
            }
        }
        while let Some(key) = clock.due() {
            let since = Instant::now();
            match push(&streams[key], &message)? {
                sent if sent == size => out[key].push_back(since),
                0 => crew.meter().fail(),
                _ => return Err(io::Error::other("no room for a light message")),
            }
        }
    }
    Ok(())
}

/// Asks for portions at fixed times, so that all streams together reach this rate if they can.
pub(crate) fn stream(crew: &Crew, connections: usize, bytes_per_second: f64) -> io::Result<()> {
    let streams = crew.open(connections, &[])?;
    let poll = Poll::new()?;
    for (key, stream) in streams.iter().enumerate() {
        poll.add(stream, key, READABLE)?;
    }
    let portion = usize::try_from(PORTION).unwrap_or(usize::MAX);
    let mut space = vec![0; BIG];
    let mut awaited = vec![0; connections];
    let mut clock =
        Clock::new(connections, Duration::from_secs_f64(f64::from(PORTION) * connections as f64 / bytes_per_second));
    while !crew.stopped() {
        for key in poll.wait(clock.until_next().min(Duration::from_millis(50)))? {
            match receive(&streams[key], &mut space)? {
                Got::Bytes(len) => {
                    awaited[key] -= len;
                    crew.meter().add(0, len);
                }
                Got::Nothing => {}
                Got::End => return Err(io::Error::other("a paced stream ended")),
            }
        }
        while let Some(key) = clock.due() {
            if awaited[key] < BEHIND * portion {
                awaited[key] += portion;
                push(&streams[key], &PORTION.to_le_bytes())?;
            }
        }
    }
    Ok(())
}
