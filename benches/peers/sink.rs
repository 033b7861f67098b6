//! The upstream: a process of its own, with a thread a core, that serves every [`Protocol`] on a port of its own.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use slab::Slab;
use socket2::{Domain, Socket, Type};

use super::ends::{ANSWER, BIG, ENDLESS, Got, Poll, Protocol, READABLE, WRITABLE, push, receive, stay_on};

/// The epoll key of the mailbox; listeners come before it, connections after.
const MAILBOX: usize = Protocol::ALL.len();
const FIRST_CONNECTION: usize = MAILBOX + 1;
/// Large writes for one connection before the others of the thread have their turn.
const WRITES_A_TURN: usize = 4;

/// Serves until standard input ends, which it does when the process that started this one is gone.
pub(crate) fn serve() -> io::Result<()> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut ports = [0; Protocol::ALL.len()];
    let shared = Arc::new(Shared {
        mailboxes: (0..threads).map(|_| Mailbox::new()).collect::<io::Result<_>>()?,
        drained: AtomicU64::new(0),
    });
    for number in 0..threads {
        let mut server = Server::new(number, &mut ports, Arc::clone(&shared))?;
        thread::spawn(move || {
            stay_on(number);
            server.run();
        });
    }
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    println!("{}", ports.join(" "));
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

struct Shared {
    mailboxes: Vec<Mailbox>,
    drained: AtomicU64,
}

impl Shared {
    /// The thread with the fewest connections, the first of several.
    fn idlest(&self) -> usize {
        let open = |thread: &usize| self.mailboxes[*thread].open.load(Ordering::Relaxed);
        (0..self.mailboxes.len()).min_by_key(open).unwrap_or(0)
    }
}

/// How a thread gets connections that another accepted.
struct Mailbox {
    /// Connections that its thread has or will have.
    open: AtomicUsize,
    waiting: Mutex<Vec<(TcpStream, Protocol)>>,
    bell: OwnedFd,
}

impl Mailbox {
    fn new() -> io::Result<Self> {
        Ok(Self {
            open: AtomicUsize::new(0),
            waiting: Mutex::new(Vec::new()),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    fn post(&self, stream: TcpStream, protocol: Protocol) -> io::Result<()> {
        self.waiting.lock().expect("no thread panics with the lock").push((stream, protocol));
        self.open.fetch_add(1, Ordering::Relaxed);
        rustix::io::write(&self.bell, &1_u64.to_ne_bytes())?;
        Ok(())
    }

    fn take(&self) -> Vec<(TcpStream, Protocol)> {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        std::mem::take(&mut *self.waiting.lock().expect("no thread panics with the lock"))
    }
}

struct Server {
    number: usize,
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
    poll: Poll,
    connections: Slab<Connection>,
    space: Space,
}

struct Space {
    read: Vec<u8>,
    payload: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    protocol: Protocol,
    hello: Hello,
    /// Echoed bytes that did not fit yet.
    pending: Vec<u8>,
    /// The beginning of a request.
    request: Vec<u8>,
    /// Bytes asked for and not sent yet.
    owed: u64,
    waits_for_room: bool,
}

/// How far the hello is read.
enum Hello {
    Header(Vec<u8>),
    Body(usize),
    Done,
}

impl Server {
    fn new(number: usize, ports: &mut [u16], shared: Arc<Shared>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for (key, port) in ports.iter_mut().enumerate() {
            let listener = listen(*port)?;
            *port = listener.local_addr()?.port();
            poll.add(&listener, key, READABLE)?;
            listeners.push(listener);
        }
        poll.add(&shared.mailboxes[number].bell, MAILBOX, READABLE)?;
        let space = Space { read: vec![0; BIG], payload: vec![7; BIG] };
        Ok(Self { number, shared, listeners, poll, connections: Slab::new(), space })
    }

    fn run(&mut self) {
        loop {
            let Ok(keys) = self.poll.wait(Duration::from_secs(60)) else { return };
            for key in keys {
                if key < MAILBOX {
                    self.accept(Protocol::ALL[key]);
                } else if key == MAILBOX {
                    for (stream, protocol) in self.shared.mailboxes[self.number].take() {
                        self.adopt(stream, protocol);
                        // counted when it was posted, and by `adopt`
                        self.shared.mailboxes[self.number].open.fetch_sub(1, Ordering::Relaxed);
                    }
                } else if let Some(connection) = self.connections.get_mut(key - FIRST_CONNECTION) {
                    let kept = turn(connection, &mut self.space, &self.shared.drained)
                        .and_then(|open| open.then(|| arm(&self.poll, key, connection)).transpose());
                    if !matches!(kept, Ok(Some(()))) {
                        self.connections.remove(key - FIRST_CONNECTION);
                        self.shared.mailboxes[self.number].open.fetch_sub(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Takes what waits. Long connections are dealt out evenly, since a few of them decide how busy a thread is.
    fn accept(&mut self, protocol: Protocol) {
        while let Ok((stream, _)) = self.listeners[protocol.index()].accept() {
            match protocol {
                Protocol::Count => {
                    let _ = (&stream).write_all(&self.shared.drained.load(Ordering::Relaxed).to_le_bytes());
                }
                Protocol::Answer => self.adopt(stream, protocol),
                Protocol::Echo | Protocol::Serve | Protocol::Drain => {
                    let thread = self.shared.idlest();
                    match thread == self.number {
                        true => self.adopt(stream, protocol),
                        false => drop(self.shared.mailboxes[thread].post(stream, protocol)),
                    }
                }
            }
        }
    }

    fn adopt(&mut self, stream: TcpStream, protocol: Protocol) {
        let entry = self.connections.vacant_entry();
        if self.poll.add(&stream, FIRST_CONNECTION + entry.key(), READABLE).is_ok() {
            self.shared.mailboxes[self.number].open.fetch_add(1, Ordering::Relaxed);
            entry.insert(Connection {
                stream,
                protocol,
                hello: Hello::Header(Vec::new()),
                pending: Vec::new(),
                request: Vec::new(),
                owed: 0,
                waits_for_room: false,
            });
        }
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?; // accepted sockets inherit it
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Asks for the events that the connection's next step needs.
fn arm(poll: &Poll, key: usize, connection: &mut Connection) -> io::Result<()> {
    let waits = connection.owed > 0 || !connection.pending.is_empty();
    if waits != connection.waits_for_room {
        connection.waits_for_room = waits;
        poll.change(&connection.stream, key, if waits { READABLE | WRITABLE } else { READABLE })?;
    }
    Ok(())
}

/// Does what the connection's events allow. False when it is over.
fn turn(connection: &mut Connection, space: &mut Space, drained: &AtomicU64) -> io::Result<bool> {
    let mut bytes = match receive(&connection.stream, &mut space.read)? {
        Got::Bytes(len) => &space.read[..len],
        Got::Nothing => &[],
        Got::End => return Ok(false),
    };
    if !matches!(connection.hello, Hello::Done) {
        bytes = skip_hello(&mut connection.hello, bytes);
        if !matches!(connection.hello, Hello::Done) {
            return Ok(true);
        }
        if connection.protocol == Protocol::Answer {
            push(&connection.stream, &space.payload[..ANSWER])?;
            return Ok(false);
        }
    }
    match connection.protocol {
        Protocol::Echo => echo(connection, bytes)?,
        Protocol::Serve => {
            note_requests(connection, bytes);
            for _ in 0..WRITES_A_TURN {
                let len = space.payload.len().min(usize::try_from(connection.owed).unwrap_or(usize::MAX));
                let sent = push(&connection.stream, &space.payload[..len])?;
                if connection.owed != u64::MAX {
                    connection.owed -= sent as u64;
                }
                if connection.owed == 0 || sent < len {
                    break;
                }
            }
        }
        Protocol::Drain => {
            drained.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Protocol::Answer | Protocol::Count => {}
    }
    Ok(true)
}

fn skip_hello<'b>(hello: &mut Hello, mut bytes: &'b [u8]) -> &'b [u8] {
    if let Hello::Header(header) = hello {
        let len = bytes.len().min(5 - header.len());
        header.extend(&bytes[..len]);
        bytes = &bytes[len..];
        if let [.., high, low] = header[..]
            && header.len() == 5
        {
            *hello = Hello::Body(usize::from(u16::from_be_bytes([high, low])));
        }
    }
    if let Hello::Body(left) = hello {
        let len = bytes.len().min(*left);
        *left -= len;
        bytes = &bytes[len..];
        if *left == 0 {
            *hello = Hello::Done;
        }
    }
    bytes
}

fn echo(connection: &mut Connection, bytes: &[u8]) -> io::Result<()> {
    if connection.pending.is_empty() {
        let sent = push(&connection.stream, bytes)?;
        connection.pending.extend(&bytes[sent..]);
    } else {
        connection.pending.extend(bytes);
        let sent = push(&connection.stream, &connection.pending)?;
        connection.pending.drain(..sent);
    }
    Ok(())
}

fn note_requests(connection: &mut Connection, bytes: &[u8]) {
    connection.request.extend(bytes);
    let whole = connection.request.len() / 4 * 4;
    for request in connection.request.drain(..whole).collect::<Vec<_>>().chunks_exact(4) {
        let len = u32::from_le_bytes([request[0], request[1], request[2], request[3]]);
        connection.owed = if len == ENDLESS { u64::MAX } else { connection.owed.saturating_add(len.into()) };
    }
}
