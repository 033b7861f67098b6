//! Handing listening sockets over from a running process to a newer one, so that somebody listens all the time.
//!
//! The two talk over a unix socket, one packet a message: a line of words, with descriptors where sockets are given.
//!
//! ```text
//! new → old   snigate-upgrade 1 0.2.0
//! old → new   snigate-upgrade 1 0.1.0 2
//! old → new   listener kube :6443 v6_only=false        with its sockets
//! old → new   listener local 127.0.0.1:8443 v6_only=false        with its sockets
//! new → old   ready                                    it accepts
//! old → new   leaving                                  it does not any more
//! ```
//!
//! Whoever goes away before `ready` has changed nothing. Further kinds of messages may come with a greater version; the
//! lower of the two versions is spoken.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt,
};
use rustix::process::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

const GREETING: &str = "snigate-upgrade";
const VERSION: u32 = 1;
/// Sockets in one packet: the kernel takes 253 (SCM_MAX_FD). A listener with more comes in several.
const SOCKETS_A_PACKET: usize = 128;
/// Longer than a name and an address can be.
const LONGEST_LINE: usize = 1024;
/// How long either side may take for a message, but for `ready`: that one takes as long as starting does.
const PATIENCE: Duration = Duration::from_secs(5);

/// A listener as its sockets are known by: what must be the same for them to be of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The name in the configuration.
    pub name: String,
    /// The address as configured.
    pub address: String,
    /// Whether it leaves IPv4 alone.
    pub v6_only: bool,
}

/// A listener with its sockets, from the process before.
pub type Taken = (Listening, Vec<TcpListener>);

/// Why nothing was handed over.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other side is not us.
    #[error("the other side runs as user {other}, and this one as {own}")]
    Stranger {
        /// The user there.
        other: u32,
        /// The user here.
        own: u32,
    },
    /// The other side says something else than it should.
    #[error("expected {expected}, heard {heard:?}")]
    Unexpected {
        /// What should have come.
        expected: &'static str,
        /// What came.
        heard: String,
    },
}

/// A connection between an old and a new process.
#[derive(Debug)]
pub struct Peer {
    socket: Socket,
    /// The version of the program on the other side.
    pub version: String,
}

/// Listens for newer processes at `path`. What is left there of a process that is gone, or is being replaced, makes way.
///
/// # Errors
/// When the path cannot be bound.
pub fn listen(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    socket.bind(&SockAddr::unix(&beside)?)?;
    // By a rename, so that there is never a moment without one.
    std::fs::rename(&beside, path)?;
    socket.listen(1)?;
    Ok(socket)
}

impl Peer {
    /// A newer process that came: gives it the sockets of every listener.
    ///
    /// # Errors
    /// When it is not ours, or goes away. It has changed nothing then.
    pub fn give(socket: Socket, listeners: &[(Listening, Vec<BorrowedFd<'_>>)]) -> Result<Self, UpgradeError> {
        let mut peer = Self::meet(socket)?;
        let greeting = peer.hear(&mut Vec::new())?;
        peer.version = understand(&greeting)?.0;
        peer.say(&format!("{} {}", greets(), listeners.len()), &[])?;
        for (listening, sockets) in listeners {
            let mut batches = sockets.chunks(SOCKETS_A_PACKET).peekable();
            while let Some(batch) = batches.next() {
                let more = if batches.peek().is_some() { " more" } else { "" };
                peer.say(&format!("{listening}{more}"), batch)?;
            }
        }
        Ok(peer)
    }

    /// Waits until the newer process accepts: from then on this one is to go.
    ///
    /// # Errors
    /// When it went away instead.
    pub fn wait_until_ready(&self) -> Result<(), UpgradeError> {
        self.socket.set_read_timeout(None)?;
        self.expect("ready")
    }

    /// Says that this process does not accept any more.
    ///
    /// # Errors
    /// When nobody hears it.
    pub fn say_leaving(&self) -> Result<(), UpgradeError> {
        Ok(self.say("leaving", &[])?)
    }

    /// Takes the sockets from the process that listens at `path`. `None`: there is no such process.
    ///
    /// # Errors
    /// When there is one and it does not hand them over.
    pub fn take(path: &Path) -> Result<Option<(Self, Vec<Taken>)>, UpgradeError> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        match socket.connect(&SockAddr::unix(path)?) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            result => result?,
        }
        let mut peer = Self::meet(socket)?;
        peer.say(&greets(), &[])?;
        let greeting = peer.hear(&mut Vec::new())?;
        let (version, count) = understand(&greeting)?;
        peer.version = version;
        let mut taken = Vec::new();
        while taken.len() < count {
            let mut sockets = Vec::new();
            let listening = loop {
                let line = peer.hear(&mut sockets)?;
                match line.strip_suffix(" more") {
                    Some(_) => {}
                    None => break Listening::read(&line)?,
                }
            };
            taken.push((listening, sockets.into_iter().map(TcpListener::from).collect()));
        }
        Ok(Some((peer, taken)))
    }

    /// Says that this process accepts, and waits until the old one does not any more.
    ///
    /// # Errors
    /// When it goes away without a word.
    pub fn say_ready(&self) -> Result<(), UpgradeError> {
        self.say("ready", &[])?;
        self.expect("leaving")
    }

    fn meet(socket: Socket) -> Result<Self, UpgradeError> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let (other, own) = (sockopt::socket_peercred(&socket).map_err(io::Error::from)?.uid, geteuid());
        // Root may do everything anyway.
        if other != own && !other.is_root() {
            return Err(UpgradeError::Stranger { other: other.as_raw(), own: own.as_raw() });
        }
        Ok(Self { socket, version: String::new() })
    }

    fn say(&self, line: &str, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_A_PACKET))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(io::Error::other("too many sockets for one packet"));
        }
        sendmsg(self.socket.as_fd(), &[IoSlice::new(line.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next line; descriptors that come with it are put behind `sockets`.
    fn hear(&self, sockets: &mut Vec<OwnedFd>) -> Result<String, UpgradeError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_A_PACKET))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut line = [0; LONGEST_LINE];
        let slices = &mut [IoSliceMut::new(&mut line)];
        let heard = recvmsg(self.socket.as_fd(), slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        let heard = heard.map_err(io::Error::from)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(given) = message {
                sockets.extend(given);
            }
        }
        if heard.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::other("a message did not arrive whole: are there descriptors left?").into());
        }
        match heard.bytes {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            bytes => Ok(String::from_utf8_lossy(&line[..bytes]).into_owned()),
        }
    }

    fn expect(&self, expected: &'static str) -> Result<(), UpgradeError> {
        let heard = self.hear(&mut Vec::new())?;
        if heard == expected { Ok(()) } else { Err(UpgradeError::Unexpected { expected, heard }) }
    }
}

fn greets() -> String {
    format!("{GREETING} {VERSION} {}", env!("CARGO_PKG_VERSION"))
}

/// The program's version, and how many listeners follow.
fn understand(greeting: &str) -> Result<(String, usize), UpgradeError> {
    let mut words = greeting.split(' ');
    let understood = (words.next() == Some(GREETING))
        .then(|| words.next()?.parse::<u32>().ok().filter(|version| *version >= VERSION))
        .flatten()
        .and_then(|_| words.next());
    let count = words.next().map_or(Some(0), |count| count.parse().ok());
    understood
        .zip(count)
        .map(|(version, count)| (version.to_owned(), count))
        .ok_or_else(|| UpgradeError::Unexpected { expected: "the greeting of a snigate", heard: greeting.to_owned() })
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener {} {} v6_only={}", self.name, self.address, self.v6_only)
    }
}

impl Listening {
    fn read(line: &str) -> Result<Self, UpgradeError> {
        let mut words = line.split(' ');
        let read = (words.next() == Some("listener")).then(|| {
            let (name, address) = (words.next()?.to_owned(), words.next()?.to_owned());
            let v6_only = words.next()?.strip_prefix("v6_only=")?.parse().ok()?;
            Some(Self { name, address, v6_only })
        });
        read.flatten().ok_or_else(|| UpgradeError::Unexpected { expected: "a listener", heard: line.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpStream};
    use std::thread;

    fn listening(name: &str) -> Listening {
        Listening { name: name.to_owned(), address: ":6443".to_owned(), v6_only: false }
    }

    fn bound(count: usize) -> Vec<TcpListener> {
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect()
    }

    fn borrowed(sockets: &[TcpListener]) -> Vec<BorrowedFd<'_>> {
        sockets.iter().map(AsFd::as_fd).collect()
    }

    #[test]
    fn sockets_go_over_and_serve_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        let (first, second) = (bound(2), bound(SOCKETS_A_PACKET + 1));
        let addresses: Vec<_> = first.iter().chain(&second).map(|socket| socket.local_addr().unwrap()).collect();
        let server = listen(&path).unwrap();
        let new = thread::spawn(move || {
            let (peer, taken) = Peer::take(&path).unwrap().unwrap();
            assert_eq!(peer.version, env!("CARGO_PKG_VERSION"));
            peer.say_ready().unwrap();
            taken
        });
        let listeners = [(listening("one"), borrowed(&first)), (listening("two"), borrowed(&second))];
        let peer = Peer::give(server.accept().unwrap().0, &listeners).unwrap();
        peer.wait_until_ready().unwrap();
        drop((first, second));
        peer.say_leaving().unwrap();
        let taken = new.join().unwrap();
        assert_eq!(taken.iter().map(|(listening, _)| &*listening.name).collect::<Vec<_>>(), ["one", "two"]);
        let sockets: Vec<_> = taken.into_iter().flat_map(|(_, sockets)| sockets).collect();
        assert_eq!(sockets.iter().map(|socket| socket.local_addr().unwrap()).collect::<Vec<_>>(), addresses);
        let _client = TcpStream::connect(addresses[0]).unwrap();
        sockets[0].accept().unwrap();
    }

    #[test]
    fn nobody_to_take_over_from_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        assert!(Peer::take(&path).unwrap().is_none());
        drop(listen(&path).unwrap());
        assert!(Peer::take(&path).unwrap().is_none(), "what a dead process left");
        let again = listen(&path).unwrap();
        let new = thread::spawn(move || Peer::take(&path).unwrap().is_some());
        Peer::give(again.accept().unwrap().0, &[]).unwrap();
        assert!(new.join().unwrap());
    }

    #[test]
    fn a_new_process_that_goes_away_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upgrade.sock");
        let server = listen(&path).unwrap();
        let new = thread::spawn(move || drop(Peer::take(&path).unwrap()));
        let peer = Peer::give(server.accept().unwrap().0, &[]).unwrap();
        new.join().unwrap();
        assert!(peer.wait_until_ready().is_err());
    }

    #[test]
    fn only_greetings_of_ours_are_understood() {
        assert_eq!(understand("snigate-upgrade 1 0.1.0 3").unwrap(), ("0.1.0".to_owned(), 3));
        assert_eq!(understand("snigate-upgrade 2 9.0.0").unwrap(), ("9.0.0".to_owned(), 0));
        for greeting in
            ["", "hello", "snigate-upgrade", "snigate-upgrade 0 0.1.0", "snigate-upgrade 1", "snigate-upgrade 1 x y"]
        {
            assert!(understand(greeting).is_err(), "{greeting}");
        }
        let one = Listening { v6_only: true, ..listening("one") };
        assert_eq!(Listening::read(&one.to_string()).unwrap(), one);
        assert!(Listening::read("listener one").is_err());
    }
}
