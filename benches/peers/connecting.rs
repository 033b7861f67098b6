//! Clients that connect, say hello, take the answer and the end, and do it again.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::ends::{Got, Poll, READABLE, connect, push, receive};
use super::load::Crew;

/// What one segment of a long hello carries, as over Ethernet.
const SEGMENT: usize = 1400;
/// How long the second segment stays behind: enough for the first to be read alone.
const GAP: Duration = Duration::from_micros(500);

struct Attempt {
    stream: TcpStream,
    /// When the first byte, or the rest of a long hello, was sent.
    since: Instant,
    answered: bool,
}

/// Keeps this many attempts under way. A unit is a connection that was answered and closed.
pub(crate) fn again_and_again(crew: &Crew, connections: usize) -> io::Result<()> {
    let poll = Poll::new()?;
    let mut turn = crew.number;
    let mut late = VecDeque::new();
    let mut attempts = Vec::new();
    let (first, rest) = crew.target.hello.split_at(crew.target.hello.len().min(SEGMENT));
    let mut begin = |poll: &Poll, late: &mut VecDeque<(Instant, usize)>, key: usize| -> io::Result<Attempt> {
        turn += 1;
        let since = Instant::now();
        let stream = connect(crew.target.address, turn)?;
        push(&stream, first)?;
        poll.add(&stream, key, READABLE)?;
        if !rest.is_empty() {
            late.push_back((since + GAP, key));
        }
        Ok(Attempt { stream, since, answered: false })
    };
    for key in 0..connections {
        attempts.push(begin(&poll, &mut late, key)?);
    }
    let mut space = [0; 1024];
    while !crew.stopped() {
        let wait = late.front().map_or(Duration::from_millis(50), |(due, _)| due.duration_since(Instant::now()));
        for key in poll.wait(wait)? {
            let attempt = &mut attempts[key];
            match receive(&attempt.stream, &mut space) {
                Ok(Got::Bytes(_)) if !attempt.answered => {
                    crew.note(attempt.since);
                    attempt.answered = true;
                    continue;
                }
                Ok(Got::Bytes(_) | Got::Nothing) => continue,
                Ok(Got::End) if attempt.answered => crew.meter().add(1, 0),
                Ok(Got::End) | Err(_) => {
                    crew.meter().fail();
                    late.retain(|(_, other)| *other != key);
                }
            }
            *attempt = begin(&poll, &mut late, key)?;
        }
        while let Some((_, key)) = late.pop_front_if(|(due, _)| *due <= Instant::now()) {
            attempts[key].since = Instant::now();
            if push(&attempts[key].stream, rest).is_err() {
                crew.meter().fail();
            }
        }
    }
    Ok(())
}
