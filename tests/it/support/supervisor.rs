//! A service manager, as far as processes that it starts see it: the socket that they tell how they are.

use super::PATIENCE;
use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a gate's process says to it.
pub struct Supervisor {
    messages: Receiver<String>,
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
        let (sender, messages) = mpsc::channel();
        // At once, whatever the test does meanwhile: only a few messages can wait in the socket.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                if sender.send(String::from_utf8(buffer[..length].to_vec()).unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { messages, name, _folder: folder }
    }

    /// What starts a process so that it says what it has to say here, and that it is alive within each `watchdog`.
    pub fn starter(&self, watchdog: Duration) -> Command {
        let mut starter = Command::new("env");
        starter.env("NOTIFY_SOCKET", &self.name);
        starter.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        starter
    }

    /// The next message that begins with this word; others are passed over.
    pub fn wait_for(&self, word: &str) -> String {
        let mut passed = Vec::new();
        loop {
            let message = self.messages.recv_timeout(PATIENCE);
            let message = message.unwrap_or_else(|error| panic!("{word}: {error} after {passed:?}"));
            if message.lines().next() == Some(word) {
                return message;
            }
            passed.push(message);
        }
    }

    /// Waits until nothing comes for so long.
    pub fn wait_for_silence(&self, time: Duration) {
        let begun = Instant::now();
        while self.messages.recv_timeout(time) != Err(RecvTimeoutError::Timeout) {
            assert!(begun.elapsed() < PATIENCE, "there is no end of messages");
        }
    }
}
