//! A service manager, as far as processes that it starts see it: the socket that they tell how they are.

use super::PATIENCE;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// What a gate's process says to it.
pub struct Supervisor {
    socket: UnixDatagram,
    name: OsString,
    _folder: TempDir,
}

impl Supervisor {
    /// One that is told by way of a file.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("notify");
        Self::with(UnixDatagram::bind(&name).unwrap(), name.into(), folder)
    }

    /// One whose socket has a name without a file.
    pub fn without_a_file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // A name that nobody else has.
        let name = folder.path().to_str().unwrap();
        let address = SocketAddr::from_abstract_name(name).unwrap();
        Self::with(UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}").into(), folder)
    }

    fn with(socket: UnixDatagram, name: OsString, folder: TempDir) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, name, _folder: folder }
    }

    /// What starts a process so that it says what it has to say here, and that it is alive within each `watchdog`.
    pub fn starter(&self, watchdog: Duration) -> Command {
        let mut starter = Command::new("env");
        starter.env("NOTIFY_SOCKET", &self.name);
        starter.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        starter
    }

    /// The next message.
    pub fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("the gate says something");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next message that begins with this word; others are passed over.
    pub fn wait_for(&self, word: &str) -> String {
        loop {
            let message = self.next();
            if message.lines().next() == Some(word) {
                return message;
            }
        }
    }

    /// Whether nothing comes for so long, after what has come already.
    pub fn hears_nothing_for(&self, time: Duration) -> bool {
        let mut buffer = [0; 4096];
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut buffer).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
        self.socket.set_read_timeout(Some(time)).unwrap();
        let next = self.socket.recv(&mut buffer).map_err(|error| error.kind());
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        next == Err(ErrorKind::WouldBlock)
    }
}
