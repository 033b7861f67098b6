//! Clients that connect, say hello, take the answer and the end, and do it again.
//!
//! What such a connection asks of the kernel, by `strace -fc` over thousands of them without the access log:
//!
//! | call | snigate | why | nginx |
//! |---|--:|---|--:|
//! | accept4 | 1.2 | the last of a batch finds nobody | 1 |
//! | socket, connect | 2 | | 2 |
//! | setsockopt | 1 | TCP_NODELAY upstream; the listener's options are inherited, the other five follow after a second | 2 |
//! | epoll_ctl | 4–4.7 | both sockets, in and out; two more where a worker hands over | 2 |
//! | recvfrom | 4 | hello, answer, the FIN of either side | 3 |
//! | sendto | 2 | the hello goes along with the connect | 2 |
//! | shutdown | 1 | the first FIN is passed on; nginx closes both sides at once | – |
//! | close | 2 | | 2 |
//! | epoll_wait, write | 0.2 + 0.2 | a batch each; wake-ups of the worker that is handed over to | 1 |
//! | ioctl, getsockopt | – | | 2 |
//!
//! Tried, and not kept, since it paid less than two runs of the same program differ: `event_interval` from 16 to 1,000
//! and `max_io_events_per_tick` down to 32, another threshold of hand-over, pipes of 64 KiB or 1 MiB for splice. An
//! allocator of its own (mimalloc) spares 2 % of the time and 6 % of the memory, for a C library more in the build.

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
