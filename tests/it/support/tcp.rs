//! Plain TCP peers: upstreams that do what a script says and remember what came, and a client socket under full control.

use super::{PATIENCE, wait_for, wait_until};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, io, process, thread};

/// How the other side ended what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Not yet.
    Open,
    /// A FIN.
    Eof,
    /// A RST.
    Reset,
}

/// One connection that reached an [`Upstream`]: what has come so far, and how it ended.
#[derive(Clone, Debug)]
pub struct Visit {
    pub peer: SocketAddr,
    shared: Arc<Mutex<(Vec<u8>, End)>>,
}

impl Visit {
    fn new(peer: SocketAddr) -> Self {
        Self { peer, shared: Arc::new(Mutex::new((Vec::new(), End::Open))) }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.shared.lock().unwrap().0.clone()
    }

    pub fn len(&self) -> usize {
        self.shared.lock().unwrap().0.len()
    }

    pub fn end(&self) -> End {
        self.shared.lock().unwrap().1
    }

    /// Waits for the end of what the other side sends.
    pub fn wait_for_end(&self) -> End {
        wait_for("the upstream's connection ends", || Some(self.end()).filter(|end| *end != End::Open))
    }

    /// Notes bytes that the script read by itself.
    pub fn note(&self, bytes: &[u8]) {
        self.shared.lock().unwrap().0.extend_from_slice(bytes);
    }

    /// Notes the end that the script saw by itself.
    pub fn note_end(&self, end: End) {
        self.shared.lock().unwrap().1 = end;
    }

    /// Waits until `count` bytes have come.
    pub fn wait_for_bytes(&self, count: usize) {
        wait_until(&format!("{count} bytes reach the upstream"), || self.len() >= count);
    }

    /// Reads `stream` until `enough` bytes are there in all, or it ends; keeps what came.
    pub fn read(&self, stream: &mut TcpStream, enough: usize) -> End {
        let mut scratch = vec![0; 64 * 1024];
        while self.end() == End::Open && self.len() < enough {
            let wanted = scratch.len().min(enough - self.len());
            match stream.read(&mut scratch[..wanted]) {
                Ok(0) => self.note_end(End::Eof),
                Ok(read) => self.note(&scratch[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => self.note_end(End::Reset),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("an upstream's read failed: {error}"),
            }
        }
        self.end()
    }

    /// Reads `stream` to its end.
    pub fn read_to_end(&self, stream: &mut TcpStream) -> End {
        self.read(stream, usize::MAX)
    }
}

/// A TCP server of its own port on 127.0.0.1 that runs its script on every connection and remembers each as a [`Visit`].
pub struct Upstream {
    listener: Arc<TcpListener>,
    visits: Arc<Mutex<Vec<Visit>>>,
}

impl Upstream {
    /// Starts with a script: it owns the stream, so the connection closes when it returns.
    pub fn start(script: impl Fn(TcpStream, &Visit) + Send + Sync + 'static) -> Self {
        Self::serve(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), script)
    }

    /// Starts on a listener that is there already.
    pub fn serve(listener: TcpListener, script: impl Fn(TcpStream, &Visit) + Send + Sync + 'static) -> Self {
        let (listener, visits) = (Arc::new(listener), Arc::new(Mutex::new(Vec::new())));
        let upstream = Self { listener: listener.clone(), visits: visits.clone() };
        let script = Arc::new(script);
        thread::spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                let visit = Visit::new(peer);
                visits.lock().unwrap().push(visit.clone());
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let script = script.clone();
                thread::spawn(move || script(stream, &visit));
            }
        });
        upstream
    }

    /// Reads to the end, then closes.
    pub fn recording() -> Self {
        Self::start(|mut stream, visit| {
            visit.read_to_end(&mut stream);
        })
    }

    /// Sends everything back, then closes.
    pub fn echo() -> Self {
        Self::start(|mut stream, visit| {
            let mut sent = 0;
            loop {
                let end = visit.read(&mut stream, sent + 1);
                let bytes = visit.bytes();
                if stream.write_all(&bytes[sent..]).is_err() || end != End::Open {
                    return;
                }
                sent = bytes.len();
            }
        })
    }

    /// Waits for `after` bytes, sends `answer`, then closes: a FIN if it read everything, a RST behind the answer if not.
    pub fn answering(after: usize, answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |mut stream, visit| {
            if visit.read(&mut stream, after) == End::Open {
                stream.write_all(&answer).unwrap();
            }
        })
    }

    /// Sends a RST as soon as `after` bytes have come.
    pub fn resetting(after: usize) -> Self {
        Self::start(move |mut stream, visit| {
            visit.read(&mut stream, after);
            reset(stream);
        })
    }

    /// Reads everything and never sends a byte, not even a FIN: connections stay open until the upstream is dropped.
    pub fn silent() -> Self {
        let held = Mutex::new(Vec::new());
        Self::start(move |mut stream, visit| {
            visit.read_to_end(&mut stream);
            held.lock().unwrap().push(stream);
        })
    }

    /// Accepts and reads nothing: connections stay open until the upstream is dropped.
    pub fn unreading() -> Self {
        let held = Mutex::new(Vec::new());
        Self::start(move |stream, _| held.lock().unwrap().push(stream))
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Every connection so far.
    pub fn visits(&self) -> Vec<Visit> {
        self.visits.lock().unwrap().clone()
    }

    /// Waits for connection number `index` (from 0).
    pub fn visit(&self, index: usize) -> Visit {
        wait_for(&format!("connection {index} reaches the upstream"), || {
            self.visits.lock().unwrap().get(index).cloned()
        })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Wakes the accept loop, which then ends.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
    }
}

/// An address on which nothing listens: connects are refused until [`Refusing::open`].
pub struct Refusing(Socket);

impl Refusing {
    pub fn new() -> Self {
        // Bound but not listening, so nobody else gets the port meanwhile.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        Self(socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }

    /// From now on somebody listens here.
    pub fn open(self) -> TcpListener {
        self.0.listen(128).unwrap();
        self.0.into()
    }
}

/// An address that answers no connect at all: its backlog is full and nobody accepts.
pub struct Unanswering {
    address: SocketAddr,
    listener: Socket,
    _fillers: Vec<Socket>,
}

impl Unanswering {
    pub fn new() -> Self {
        let listener = Refusing::new().0;
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let filler = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address); // EINPROGRESS
            socket
        };
        let fillers: Vec<Socket> = (0..4).map(|_| filler()).collect();
        let address = address.as_socket().unwrap();
        wait_until("a backlog of one is full", || fillers.iter().any(|socket| socket.peer_addr().is_ok()));
        Self { address, listener, _fillers: fillers }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Unanswering {
    /// From now on it answers, also to who asked before: the kernel asks again after a second.
    pub fn open(self) -> TcpListener {
        self.listener.listen(128).unwrap();
        self.listener.into()
    }

    /// How many wait for its answer.
    pub fn asking(&self) -> usize {
        let asked = format!(":{:04X}", self.address.port());
        let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
        // 02 is SYN_SENT.
        let asks = |line: &&str| {
            let mut fields = line.split_whitespace().skip(2);
            fields.next().is_some_and(|remote| remote.ends_with(&asked)) && fields.next() == Some("02")
        };
        table.lines().filter(asks).count()
    }
}

/// An address on which nobody listened a moment ago, and nobody else will: other processes, and those who let the kernel
/// choose a port of 127.0.0.1, listen elsewhere.
pub fn free_address() -> SocketAddr {
    let [.., high, low] = process::id().to_be_bytes();
    TcpListener::bind((Ipv4Addr::new(127, 79, high, low), 0)).unwrap().local_addr().unwrap()
}

/// A client socket, blocking, with TCP_NODELAY and a read deadline.
pub fn connect(address: SocketAddr) -> TcpStream {
    prepared(TcpStream::connect(address).unwrap())
}

/// [`connect`] from this address, of which 127.0.0.0/8 has many.
pub fn connect_from(source: Ipv4Addr, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // A port that is bound is taken for everybody; one chosen while connecting is so for the way there only.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    prepared(socket.into())
}

fn prepared(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Writes `pieces` so that the other side reads each by itself: it has read one before the next goes out, and the last one
/// when this returns.
pub fn write_in_pieces<'a>(stream: &mut TcpStream, pieces: impl IntoIterator<Item = &'a [u8]>) -> io::Result<()> {
    for piece in pieces {
        stream.write_all(piece)?;
        if !wait_until_read(stream) {
            return Err(ErrorKind::BrokenPipe.into());
        }
    }
    Ok(())
}

/// Waits until the process at the other end, on this machine, has read everything that `stream` sent: `false` when it
/// closed instead.
pub fn wait_until_read(stream: &TcpStream) -> bool {
    let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return false };
    wait_for("the other side reads what was sent", || {
        let tables = Tables::read();
        let delivered = tables.end(local.port(), peer.port()).is_none_or(|own| own.unsent == 0);
        // The other end's local port is our peer's.
        match tables.end(peer.port(), local.port()) {
            Some(other) if !other.closed => (delivered && other.unread == 0).then_some(true),
            _ => Some(false),
        }
    })
}

/// Bytes of `stream` that the kernel at the other end does not have yet; they may become fewer at any time.
pub fn unacknowledged(stream: &TcpStream) -> usize {
    let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    let own = Tables::read().end(local.port(), peer.port()).unwrap();
    usize::try_from(own.unsent).unwrap()
}

/// Bytes of which no two aligned 64-bit words are alike, so that lost, doubled or swapped pieces show.
pub fn pattern(count: usize) -> Vec<u8> {
    pattern_from(0, count)
}

fn pattern_from(start: usize, count: usize) -> Vec<u8> {
    let (first, skipped) = (start / 8, start % 8);
    let mut bytes = vec![0; (skipped + count).next_multiple_of(8)];
    for (number, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(first + number).to_le_bytes());
    }
    bytes.truncate(skipped + count);
    bytes.split_off(skipped)
}

/// Lets this end's kernel keep little that the other end's does not take: less is under way when nobody takes any more.
pub fn keep_little(stream: &TcpStream) {
    SockRef::from(stream).set_send_buffer_size(64 * 1024).unwrap();
}

/// Sends the [`pattern`] on each stream until none takes any more, and says how much each took.
pub fn pour_until_blocked(streams: &mut [&mut TcpStream]) -> Vec<usize> {
    /// So often in a row, a millisecond apart, no stream must take a byte.
    const LOOKS: usize = 100;
    let mut poured = vec![0; streams.len()];
    streams.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    let mut blocked = 0;
    wait_until("nobody takes any more", || {
        blocked += 1;
        for (stream, poured) in streams.iter_mut().zip(&mut poured) {
            match stream.write(&pattern_from(*poured, 64 * 1024)) {
                Ok(written) => (*poured, blocked) = (*poured + written, 0),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        blocked == LOOKS
    });
    streams.iter().for_each(|stream| stream.set_nonblocking(false).unwrap());
    poured
}

/// Whether the other side sent a RST, be it behind its FIN; reading does not tell then.
pub fn was_reset(stream: &TcpStream) -> bool {
    stream.take_error().unwrap().is_some()
}

/// What the kernel says of one end of a connection.
#[derive(Clone, Copy, Debug)]
struct EndState {
    unsent: u64,
    unread: u64,
    /// No process holds it any more.
    closed: bool,
}

/// The kernel's tables of TCP sockets: IPv4, and IPv6 with what came to its sockets over IPv4.
struct Tables([String; 2]);

impl Tables {
    fn read() -> Self {
        Self(["/proc/self/net/tcp", "/proc/self/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default()))
    }

    /// The end of a connection on this machine whose ports are these.
    fn end(&self, local_port: u16, remote_port: u16) -> Option<EndState> {
        let (local, remote) = (format!(":{local_port:04X} "), format!(":{remote_port:04X} "));
        // The tables are long: most lines must fall out at once.
        let lines = self.0.iter().flat_map(|table| table.lines());
        lines.filter(|line| line.contains(&local) && line.contains(&remote)).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if !(fields.get(1)?.ends_with(local.trim()) && fields.get(2)?.ends_with(remote.trim())) {
                return None;
            }
            let (unsent, unread) = fields.get(4)?.split_once(':')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            // A socket has an inode as long as a process holds it. One in a backlog has none yet, but is
            // ESTABLISHED (01), SYN_RECV (03) or CLOSE_WAIT (08).
            let closed = fields.get(9) == Some(&"0") && !matches!(fields.get(3), Some(&("01" | "03" | "08")));
            Some(EndState { unsent: number(unsent)?, unread: number(unread)?, closed })
        })
    }
}

/// Ends a connection with a RST.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Everything that comes until the end, and which end that was.
pub fn read_to_end(stream: &mut TcpStream) -> (Vec<u8>, End) {
    let visit = Visit::new(stream.peer_addr().unwrap_or_else(|_| (Ipv4Addr::UNSPECIFIED, 0).into()));
    let end = visit.read_to_end(stream);
    (visit.bytes(), end)
}

/// Exactly `count` bytes; panics if the end comes first.
pub fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Sends a FIN; what the other side sends can still be read.
pub fn finish(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}
