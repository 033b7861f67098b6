//! What two processes say to each other, one packet a message: a line of words, with descriptors where sockets are given.
//!
//! ```text
//! new → old   snigate-upgrade 1 0.2.0
//! old → new   snigate-upgrade 1 0.1.0 2
//! old → new   listener kube :6443 v6_only=false             with its sockets
//! old → new   listener local 127.0.0.1:8443 v6_only=false   with its sockets
//! old → new   here                                          with the socket by which the new one came
//! new → old   ready                                         it accepts
//! old → new   leaving                                       it will not for long
//! ```
//!
//! Whoever goes away before `ready` has changed nothing. Further kinds of messages may come with a greater version; the
//! lower of the two versions is spoken.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt,
};
use rustix::process::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::given::{Held, Listening, Taken};

const GREETING: &str = "snigate-upgrade";
const VERSION: u32 = 1;
/// Sockets in one packet: the kernel takes 253 (SCM_MAX_FD). A listener with more comes in several.
const SOCKETS_A_PACKET: usize = 128;
/// Longer than a name and an address can be.
const LONGEST_LINE: usize = 1024;
/// How long either side may take for a message.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the new process may take until it accepts.
const START: Duration = Duration::from_secs(60);

/// Why nothing was handed over.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The connection failed.
    #[error(transparent)]
    Io(io::Error),
    /// The other side ended the conversation.
    #[error("the other side went away: its log may say why")]
    Gone,
    /// The other side said nothing in time.
    #[error("the other side is silent")]
    Silent,
    /// Something else is at the path.
    #[error("there is a file that is no socket")]
    NoSocket,
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

impl From<io::Error> for UpgradeError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // What a timeout of a socket looks like.
            io::ErrorKind::WouldBlock => Self::Silent,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

/// A connection between an old and a new process.
#[derive(Debug)]
pub(super) struct Peer {
    socket: Socket,
    /// The version of the program on the other side.
    pub(super) version: String,
}

impl Peer {
    /// A newer process that came `here`: gives it the sockets of every listener, and the one by which it came.
    ///
    /// # Errors
    /// When it is not ours, or goes away. It has changed nothing then.
    pub(super) fn give(socket: Socket, listeners: &[Held], here: &Socket) -> Result<Self, UpgradeError> {
        let mut peer = Self::meet(socket)?;
        let greeting = peer.hear(&mut Vec::new())?;
        peer.version = understand(&greeting)?.0;
        peer.say(&format!("{} {}", greets(), listeners.len()), &[])?;
        for (listening, sockets) in listeners {
            let sockets: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
            // One packet also where there is none.
            let (full, last) = sockets.split_at(sockets.len().saturating_sub(1) / SOCKETS_A_PACKET * SOCKETS_A_PACKET);
            for batch in full.chunks(SOCKETS_A_PACKET) {
                peer.say(&format!("listener {listening} more"), batch)?;
            }
            peer.say(&format!("listener {listening}"), last)?;
        }
        peer.say("here", &[here.as_fd()])?;
        Ok(peer)
    }

    /// Waits until the newer process accepts: from then on this one is to go.
    ///
    /// # Errors
    /// When it went away instead.
    pub(super) fn wait_until_ready(&self) -> Result<(), UpgradeError> {
        self.socket.set_read_timeout(Some(START))?;
        self.expect("ready")
    }

    /// Says that this process is about to go.
    ///
    /// # Errors
    /// When nobody hears it.
    pub(super) fn say_leaving(&self) -> Result<(), UpgradeError> {
        Ok(self.say("leaving", &[])?)
    }

    /// A connection to the process that listens at `path`; `None`: there is no such process.
    ///
    /// # Errors
    /// When it cannot be told.
    pub(super) fn at(path: &Path) -> Result<Option<Socket>, UpgradeError> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        match socket.connect(&SockAddr::unix(path)?) {
            Ok(()) => Ok(Some(socket)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the listening sockets from the process there, and the one by which it is found.
    ///
    /// # Errors
    /// When it does not hand them over.
    pub(super) fn take(there: Socket) -> Result<(Self, Vec<Taken>, Socket), UpgradeError> {
        let mut peer = Self::meet(there)?;
        peer.say(&greets(), &[])?;
        let greeting = peer.hear(&mut Vec::new())?;
        let (version, count) = understand(&greeting)?;
        peer.version = version;
        let mut taken = Vec::new();
        while taken.len() < count {
            let mut sockets = Vec::new();
            let listening = loop {
                let line = peer.hear(&mut sockets)?;
                if !line.ends_with(" more") {
                    break read_listening(&line)?;
                }
            };
            taken.push((listening, sockets.into_iter().map(Into::into).collect()));
        }
        let mut here = Vec::new();
        let heard = peer.hear(&mut here)?;
        match here.pop().filter(|_| heard == "here") {
            Some(here) => Ok((peer, taken, here.into())),
            None => Err(UpgradeError::Unexpected { expected: "its own socket", heard }),
        }
    }

    /// Says that this process accepts, and waits until the old one says that it goes.
    ///
    /// # Errors
    /// When it goes away without a word.
    pub(super) fn say_ready(&self) -> Result<(), UpgradeError> {
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
            0 => Err(UpgradeError::Gone),
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

fn read_listening(line: &str) -> Result<Listening, UpgradeError> {
    let mut words = line.split(' ');
    let read = (words.next() == Some("listener")).then(|| {
        let (name, address) = (words.next()?.to_owned(), words.next()?.to_owned());
        let v6_only = words.next()?.strip_prefix("v6_only=")?.parse().ok()?;
        Some(Listening { name, address, v6_only })
    });
    read.flatten().ok_or_else(|| UpgradeError::Unexpected { expected: "a listener", heard: line.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_greetings_of_ours_are_understood() {
        assert_eq!(understand("snigate-upgrade 1 0.1.0 3").unwrap(), ("0.1.0".to_owned(), 3));
        assert_eq!(understand("snigate-upgrade 2 9.0.0").unwrap(), ("9.0.0".to_owned(), 0));
        for greeting in
            ["", "hello", "snigate-upgrade", "snigate-upgrade 0 0.1.0", "snigate-upgrade 1", "snigate-upgrade 1 x y"]
        {
            assert!(understand(greeting).is_err(), "{greeting}");
        }
        let one = Listening { name: "one".into(), address: ":6443".into(), v6_only: true };
        assert_eq!(read_listening(&format!("listener {one}")).unwrap(), one);
        assert!(read_listening("listener one").is_err());
    }
}
