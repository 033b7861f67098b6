//! Load for as long as one likes: connections that carry much both ways at once, written and read in pieces of every size,
//! with stops and with every end, and each byte compared with what was sent.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_tcp_congestion;
use serde_json::Value;

use super::gate::{GateProcess, routing};
use super::hello::hello;
use super::tcp::{self, End};
use super::{PATIENCE, descriptors, wait_for, wait_until};

const NAME: &str = "soak.test";
const WORKERS: usize = 2;
/// Pipes that the gate may keep open for later.
const KEPT_PIPES: usize = 16 * WORKERS;
/// The largest piece that is written or read at once.
const LARGEST_PIECE: usize = 1024 * 1024;
/// After so many bytes a [`Strip`] repeats: a prime, so that no buffer's length is a part of it.
const PERIOD: usize = 1_048_583;
/// Bytes each way that a connection which is reset carries before it is, at most; the others at most four times as many.
const SHORT: u64 = 32 * 1024 * 1024;
/// Bytes that are sent right before a reset, so that they are under way when it comes.
const IN_FLIGHT: usize = 16 * 1024 * 1024;

/// What is to be moved.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Bytes of the first connection, each way.
    pub first: u64,
    /// Connections after it.
    pub more: u64,
    /// Decides sizes, stops and ends.
    pub seed: u64,
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Each side sends its FIN right behind its last byte.
    Fins,
    /// The client resets with bytes under way both ways.
    ClientReset,
    /// The upstream does.
    UpstreamReset,
}

/// A gate under load, with its upstream.
pub struct Soak {
    plan: Plan,
    pub gate: GateProcess,
    upstream: TcpListener,
    greeting: Vec<u8>,
    sockets_at_rest: usize,
    pipes_at_rest: usize,
    /// What each way carries.
    strips: [Strip; 2],
    /// Bytes that were read and compared so far.
    pub compared: AtomicU64,
    /// Connections that have ended.
    pub ended: AtomicU64,
}

impl Soak {
    /// Starts the gate.
    pub fn set(plan: Plan) -> Self {
        let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        upstream.set_nonblocking(true).unwrap();
        do_not_pace(&upstream);
        let routes = routing([(NAME, upstream.local_addr().unwrap())]);
        let gate = GateProcess::start(&format!("workers: {WORKERS}\n{routes}"));
        Self {
            plan,
            upstream,
            greeting: hello(NAME),
            sockets_at_rest: descriptors::sockets(gate.pid()),
            pipes_at_rest: descriptors::pipes(gate.pid()).len(),
            gate,
            strips: [plan.seed, !plan.seed].map(Strip::new),
            compared: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    /// Moves everything that is planned, one connection after the other.
    pub fn run(&self) {
        let mut dice = Dice::new(self.plan.seed);
        for number in 0..=self.plan.more {
            let ending = match number {
                0 => Ending::Fins,
                _ => [Ending::Fins, Ending::ClientReset, Ending::UpstreamReset][dice.below(3)],
            };
            let amounts = match ending {
                _ if number == 0 => [self.plan.first; 2],
                Ending::Fins => [dice.long_below(4 * SHORT), dice.long_below(4 * SHORT)],
                _ => [dice.long_below(SHORT), dice.long_below(SHORT)],
            };
            let course = Course { soak: self, number, ending, amounts, start: dice.below(PERIOD) as u64 };
            course.run(&mut dice);
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection through the gate: its client and its upstream.
    fn connect(&self) -> (TcpStream, TcpStream) {
        let mut client = tcp::connect(self.gate.address());
        do_not_pace(&client);
        client.write_all(&self.greeting).unwrap();
        let (mut upstream, _) = wait_for("the gate connects", || self.upstream.accept().ok());
        upstream.set_nonblocking(false).unwrap();
        upstream.set_nodelay(true).unwrap();
        upstream.set_read_timeout(Some(PATIENCE)).unwrap();
        upstream.set_write_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(tcp::read_exactly(&mut upstream, self.greeting.len()), self.greeting);
        (client, upstream)
    }

    /// Fails if the gate holds more than it did at first, the pipes that it keeps aside, or has anything to do.
    pub fn expect_rest(&self) {
        let pid = self.gate.pid();
        descriptors::wait_for_baseline(pid, self.sockets_at_rest);
        let pipes = descriptors::pipes(pid).len() - self.pipes_at_rest;
        assert!(pipes <= KEPT_PIPES, "{pipes} pipes are left over");
        let mut ticks = descriptors::ticks(pid);
        wait_until("the gate sleeps", || {
            // What a second's work is to be measured in.
            thread::sleep(Duration::from_secs(1));
            let before = std::mem::replace(&mut ticks, descriptors::ticks(pid));
            ticks - before <= 1
        });
        for (pipe, bytes) in descriptors::pipes(pid) {
            assert_eq!(bytes, 0, "left in {pipe}");
        }
    }
}

/// Congestion control that paces what it sends measures the timers of the machine. What cannot be set stays.
fn do_not_pace(socket: impl AsFd) {
    let _ = set_tcp_congestion(&socket, "cubic").or_else(|_| set_tcp_congestion(&socket, "reno"));
}

/// One connection.
struct Course<'s> {
    soak: &'s Soak,
    number: u64,
    ending: Ending,
    /// Bytes that the client and the upstream send.
    amounts: [u64; 2],
    /// Where in its strip each way begins.
    start: u64,
}

/// One side of a connection, both its ways: 0 is the client's, 1 the upstream's.
type Side = usize;

impl Course<'_> {
    fn run(&self, dice: &mut Dice) {
        let (client, upstream) = self.soak.connect();
        let [sent, received] = match self.ending {
            Ending::Fins => self.to_the_fins(&client, &upstream, dice),
            Ending::ClientReset => self.to_the_reset(0, client, &upstream, dice),
            Ending::UpstreamReset => self.to_the_reset(1, upstream, &client, dice),
        };
        let number = usize::try_from(self.number).unwrap();
        let line: Value = wait_for("its line in the log", || self.soak.gate.log().into_iter().nth(number));
        let reason = line["reason"].as_str().unwrap();
        let count = |field: &str| line[field].as_u64().unwrap();
        let told = [count("sent") - self.soak.greeting.len() as u64, count("received")];
        match self.ending {
            Ending::Fins => {
                assert!(["client_closed", "upstream_closed"].contains(&reason), "{self}: {reason}");
                assert_eq!(told, [sent, received], "{self}");
            }
            Ending::ClientReset => assert_eq!((reason, told[0]), ("client_reset", sent), "{self}"),
            Ending::UpstreamReset => assert_eq!((reason, told[1]), ("upstream_reset", received), "{self}"),
        }
    }

    /// Both sides send all they have, then their FIN at once, and read the other's.
    fn to_the_fins(&self, client: &TcpStream, upstream: &TcpStream, dice: &mut Dice) -> [u64; 2] {
        thread::scope(|scope| {
            for (side, socket) in [client, upstream].into_iter().enumerate() {
                let mut dice = dice.another();
                scope.spawn(move || {
                    self.send(side, socket, self.amounts[side], &mut dice)
                        .unwrap_or_else(|error| panic!("{self}: {error}"));
                    tcp::finish(socket);
                });
            }
            for (from, socket) in [(1, client), (0, upstream)] {
                let mut dice = dice.another();
                scope.spawn(move || {
                    let received = self.receive(from, socket, u64::MAX, &AtomicBool::new(false), &mut dice);
                    assert_eq!(received, (self.amounts[from], End::Eof), "{self}");
                });
            }
        });
        self.amounts
    }

    /// The `breaking` side resets while its last bytes are on every part of the way, and those of the other side as well.
    fn to_the_reset(&self, breaking: Side, near: TcpStream, far: &TcpStream, dice: &mut Dice) -> [u64; 2] {
        let staying = 1 - breaking;
        let stopped = AtomicBool::new(false);
        let (mut dice, some) = (dice.another(), dice.long_below(self.amounts[staying]));
        let mut result = [0; 2];
        thread::scope(|scope| {
            let (mut a, mut b, mut c) = (dice.another(), dice.another(), dice.another());
            let writer = scope.spawn(move || self.send(staying, far, u64::MAX, &mut a).unwrap_err().kind());
            let stopped = &stopped;
            let reader = scope.spawn(move || self.receive(breaking, far, u64::MAX, stopped, &mut b));
            thread::scope(|scope| {
                // A part only, so that there are unread bytes at the end.
                let reader = scope.spawn(|| self.receive(staying, &near, some, &AtomicBool::new(false), &mut c));
                let sent = self.send(breaking, &near, self.amounts[breaking], &mut dice);
                sent.unwrap_or_else(|error| panic!("{self}: {error}"));
                assert_eq!(reader.join().unwrap(), (some, End::Open), "{self}");
            });
            stopped.store(true, Ordering::Release);
            let sent = self.amounts[breaking] + self.send_what_fits(breaking, &near);
            let acknowledged = sent - tcp::unacknowledged(&near) as u64;
            tcp::reset(near);
            stopped.store(false, Ordering::Release);
            let (received, end) = reader.join().unwrap();
            // One of the two is told of it, the other then sees an end like any other. Behind a FIN it were a broken pipe.
            let told = writer.join().unwrap();
            assert!(end == End::Reset || told == ErrorKind::ConnectionReset, "{self}: {end:?}, {told}");
            assert!((acknowledged..=sent).contains(&received), "{self}: {received}, not {acknowledged} to {sent}");
            result[breaking] = received;
        });
        result
    }

    /// Sends so many bytes, unless it fails.
    fn send(&self, side: Side, mut socket: &TcpStream, amount: u64, dice: &mut Dice) -> io::Result<()> {
        let mut sent = 0;
        while sent < amount {
            let (most, pieces) = dice.manner();
            for _ in 0..pieces {
                let left = usize::try_from(amount - sent).unwrap_or(usize::MAX);
                let piece = self.piece(side, sent, left.min(1 + dice.below(most)));
                sent += socket.write(piece)? as u64;
            }
            dice.pause();
        }
        Ok(())
    }

    /// Sends on after its amount, until nobody takes any more at the moment.
    fn send_what_fits(&self, side: Side, mut socket: &TcpStream) -> u64 {
        socket.set_nonblocking(true).unwrap();
        let mut more = 0;
        while more < IN_FLIGHT {
            match socket.write(self.piece(side, self.amounts[side] + more as u64, LARGEST_PIECE)) {
                Ok(accepted) => more += accepted,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{self}: {error}"),
            }
        }
        more as u64
    }

    /// Reads what `from` sent and compares it, until so many bytes came or it ends; stands still while `stopped`.
    fn receive(
        &self,
        from: Side,
        mut socket: &TcpStream,
        amount: u64,
        stopped: &AtomicBool,
        dice: &mut Dice,
    ) -> (u64, End) {
        let (mut received, mut buffer) = (0, vec![0; LARGEST_PIECE]);
        while received < amount {
            let (most, pieces) = dice.manner();
            for _ in 0..pieces {
                let left = usize::try_from(amount - received).unwrap_or(usize::MAX);
                let wanted = left.min(1 + dice.below(most));
                if stopped.load(Ordering::Acquire) {
                    wait_until("the other side resets", || !stopped.load(Ordering::Acquire));
                }
                let read = match socket.read(&mut buffer[..wanted]) {
                    Ok(0) if wanted == 0 => break,
                    Ok(0) => return (received, End::Eof),
                    Ok(read) => read,
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => return (received, End::Reset),
                    Err(error) => panic!("{self}: after {received} bytes: {error}"),
                };
                self.compare(from, received, &buffer[..read]);
                received += read as u64;
            }
            dice.pause();
        }
        (received, End::Open)
    }

    fn compare(&self, from: Side, place: u64, bytes: &[u8]) {
        let expected = self.piece(from, place, bytes.len());
        if bytes != expected {
            let wrong = bytes.iter().zip(expected).position(|(byte, expected)| byte != expected).unwrap();
            panic!("{self}: other bytes than side {from} sent, from byte {} on", place + wrong as u64);
        }
        self.soak.compared.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    fn piece(&self, side: Side, place: u64, length: usize) -> &[u8] {
        self.soak.strips[side].piece(self.start + place, length)
    }
}

impl std::fmt::Display for Course<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { soak: Soak { plan, .. }, number, ending, amounts, start: _ } = self;
        write!(f, "{plan:?}, connection {number}, {ending:?} after {amounts:?}")
    }
}

/// Bytes without end, of which those of one place are known without those before.
struct Strip(Vec<u8>);

impl Strip {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let mut bytes: Vec<u8> = (0..PERIOD.div_ceil(8)).flat_map(|_| dice.next().to_le_bytes()).collect();
        bytes.truncate(PERIOD);
        // Every piece is there in one piece.
        bytes.extend_from_within(..LARGEST_PIECE);
        Self(bytes)
    }

    fn piece(&self, place: u64, length: usize) -> &[u8] {
        let begin = usize::try_from(place % PERIOD as u64).unwrap();
        &self.0[begin..begin + length]
    }
}

/// Marsaglia's xorshift64: the same choices for the same seed.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        // Anything but 0, which it would repeat for ever; and small seeds are to differ in more than a few bits.
        Self((seed ^ 0x9E37_79B9_7F4A_7C15).max(1))
    }

    fn another(&mut self) -> Self {
        Self::new(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn long_below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.long_below(end as u64)).unwrap()
    }

    /// The size of the next pieces, at most, and how many they are. Most bytes go in large pieces, most pieces are small.
    fn manner(&mut self) -> (usize, usize) {
        let most = [1, 100, 1500, 16 * 1024, 64 * 1024, 256 * 1024, LARGEST_PIECE][self.below(7)];
        (most, 1 + self.below(128))
    }

    /// Stands still now and then: long enough for everything on the way to fill up, or to run dry.
    fn pause(&mut self) {
        if self.below(4) == 0 {
            let milliseconds = [0, 1, 2, 5, 20][self.below(5)];
            thread::sleep(Duration::from_millis(milliseconds));
        }
    }
}
