//! What both ends of the measured connections share: a hello of a wanted length, epoll, calls that never wait.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::event::{Timespec, epoll};
use rustix::net::{RecvFlags, SendFlags};
use rustix::thread::{CpuSet, sched_setaffinity};
use socket2::{Domain, Socket, Type};

/// What the upstream does after the hello. The server name decides it, as each has a port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Answers the hello with a few bytes and closes.
    Answer,
    /// Sends everything back.
    Echo,
    /// Sends as many bytes as each request of four bytes asks for, [`ENDLESS`] without end.
    Serve,
    /// Throws everything away and counts it.
    Drain,
    /// Without a hello: says how much was drained and closes. Never proxied.
    Count,
}

impl Protocol {
    pub(crate) const ALL: [Self; 5] = [Self::Answer, Self::Echo, Self::Serve, Self::Drain, Self::Count];
    /// Those that a proxy routes to.
    pub(crate) const ROUTED: [Self; 4] = [Self::Answer, Self::Echo, Self::Serve, Self::Drain];

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    pub(crate) fn label(self) -> &'static str {
        ["answer", "echo", "serve", "drain", "count"][self.index()]
    }

    pub(crate) fn server_name(self) -> String {
        format!("{}.bench.example", self.label())
    }
}

/// The request that is never served to its end.
pub(crate) const ENDLESS: u32 = u32::MAX;
/// Bytes of the answer to a hello.
pub(crate) const ANSWER: usize = 64;
/// What one read or write of a bulk stream moves at most; stays in a core's cache. Bytes are really read: a receiver that
/// has the kernel drop them (`MSG_TRUNC`) costs half, but always waits, and every wake-up is the proxy's to pay.
pub(crate) const BIG: usize = 256 * 1024;
/// Loopback addresses that clients come from, so that ports do not run out.
const SOURCES: u8 = 8;

/// A well-formed TLS 1.3 hello of exactly this many bytes, record header included.
pub(crate) fn hello(server_name: &str, len: usize) -> Vec<u8> {
    let mut extensions = Vec::new();
    let mut extension = |kind: u16, body: &[u8]| {
        extensions.extend(kind.to_be_bytes());
        extensions.extend(be16(body.len()));
        extensions.extend(body);
    };
    let name = server_name.as_bytes();
    extension(0, &[&be16(name.len() + 3)[..], &[0], &be16(name.len()), name].concat()); // server_name
    extension(10, &[0, 4, 0, 29, 0, 23]); // supported_groups: X25519, P-256
    extension(11, &[1, 0]); // ec_point_formats
    extension(13, &[0, 8, 4, 3, 8, 4, 4, 1, 8, 7]); // signature_algorithms
    extension(16, b"\0\x0c\x02h2\x08http/1.1"); // ALPN
    extension(43, &[4, 3, 4, 3, 3]); // supported_versions: 1.3, 1.2
    extension(51, &[&[0, 36, 0, 29, 0, 32][..], &[9; 32]].concat()); // key_share: X25519
    let ciphers = [0x13, 0x01, 0x13, 0x02, 0x13, 0x03, 0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x2c, 0xc0, 0x30];
    let before = 5 + 4 + 2 + 32 + 1 + 32 + 2 + ciphers.len() + 2 + 2;
    let padding = len.checked_sub(before + extensions.len() + 4).expect("the wanted length holds a hello");
    extensions.extend(21_u16.to_be_bytes());
    extensions.extend(be16(padding));
    extensions.resize(extensions.len() + padding, 0);

    let mut raw = Vec::with_capacity(len);
    raw.extend([0x16, 3, 1]);
    raw.extend(be16(len - 5));
    raw.extend([1, 0]);
    raw.extend(be16(len - 9));
    raw.extend([3, 3]);
    raw.extend([7; 32]); // random
    raw.push(32);
    raw.extend([8; 32]); // session id, as middleboxes like it
    raw.extend(be16(ciphers.len()));
    raw.extend(ciphers);
    raw.extend([1, 0]);
    raw.extend(be16(extensions.len()));
    raw.extend(extensions);
    assert_eq!(raw.len(), len, "the parts of a hello add up");
    raw
}

fn be16(len: usize) -> [u8; 2] {
    u16::try_from(len).expect("lengths of a hello fit").to_be_bytes()
}

/// Connects from one of several loopback addresses. On loopback the handshake is over when this returns.
pub(crate) fn connect(to: SocketAddr, turn: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    let source = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(turn % usize::from(SOURCES)).unwrap_or(0));
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::V4(SocketAddrV4::new(source, 0)).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// What a read that does not wait came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Bytes(usize),
    Nothing,
    End,
}

/// Reads what is there.
pub(crate) fn receive(stream: &TcpStream, into: &mut [u8]) -> io::Result<Got> {
    got(rustix::net::recv(stream, into, RecvFlags::DONTWAIT).map(|(_, len)| len))
}

fn got(result: rustix::io::Result<usize>) -> io::Result<Got> {
    match result {
        Ok(0) => Ok(Got::End),
        Ok(len) => Ok(Got::Bytes(len)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(Got::Nothing),
        Err(error) => Err(error.into()),
    }
}

/// Writes what fits: 0 when nothing does.
pub(crate) fn push(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match rustix::net::send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(len) => Ok(len),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Keeps this thread on one processor, if it may. With few connections, where the scheduler happens to put the two ends
/// would decide more than the proxy between them.
pub(crate) fn stay_on(processor: usize) {
    let mut one = CpuSet::new();
    if processor < CpuSet::MAX_CPU {
        one.set(processor);
        let _ = sched_setaffinity(None, &one);
    }
}

/// An epoll set. Level-triggered.
pub(crate) struct Poll {
    fd: OwnedFd,
}

pub(crate) const READABLE: epoll::EventFlags = epoll::EventFlags::IN;
pub(crate) const WRITABLE: epoll::EventFlags = epoll::EventFlags::OUT;

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { fd: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    pub(crate) fn add(&self, what: impl AsFd, key: usize, interest: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.fd, what, epoll::EventData::new_u64(key as u64), interest)?)
    }

    pub(crate) fn change(&self, what: impl AsFd, key: usize, interest: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.fd, what, epoll::EventData::new_u64(key as u64), interest)?)
    }

    pub(crate) fn remove(&self, what: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.fd, what)?)
    }

    /// Waits for events, at most this long. Yields their keys.
    pub(crate) fn wait(&self, at_most: Duration) -> io::Result<impl Iterator<Item = usize> + use<>> {
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: at_most.subsec_nanos().into(),
        };
        let mut space = [MaybeUninit::uninit(); 128];
        let events = match epoll::wait(&self.fd, &mut space, Some(&timeout)) {
            Ok((events, _)) => &*events,
            Err(rustix::io::Errno::INTR) => &[],
            Err(error) => return Err(error.into()),
        };
        let keys: Vec<usize> =
            events.iter().map(|event| usize::try_from(event.data.u64()).unwrap_or(usize::MAX)).collect();
        Ok(keys.into_iter())
    }
}
