//! Processes that this one started, and nobody else: they end when their owner lets go of them, and also when this
//! process is killed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use super::ends::Protocol;
use super::figures;

/// A started program with its descendants.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program whose words go to a file. A death signal is not inherited by a child and Rust cannot safely run
    /// code between fork and exec, so this executable starts first, asks for the signal and becomes the program.
    pub(crate) fn start<S: AsRef<OsStr>>(program: &Path, args: &[S], words: &Path) -> io::Result<Self> {
        let words = File::create(words)?;
        let child = Command::new(std::env::current_exe()?)
            .arg(LAUNCH)
            .arg(std::process::id().to_string())
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(words.try_clone()?)
            .stderr(words)
            .spawn()?;
        Ok(Self(child))
    }

    /// The process and everything below it.
    pub(crate) fn pids(&self) -> Vec<u32> {
        figures::with_descendants(self.0.id())
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.0.try_wait().ok().flatten()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pids = self.pids();
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            if self.ended().is_some() {
                return;
            }
            // Again and again: the first may only begin a long leave.
            signal(self.0.id(), Signal::TERM);
            thread::sleep(Duration::from_millis(10));
        }
        for pid in pids {
            signal(pid, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// First argument of this executable when it is to become another program.
pub(crate) const LAUNCH: &str = "launch";
/// First argument of this executable when it is to be the upstream.
pub(crate) const SINK: &str = "sink";

/// Becomes the program that the arguments name: the owner's process id, the program, its arguments.
pub(crate) fn launch(args: &[std::ffi::OsString]) -> io::Error {
    let [owner, program, args @ ..] = args else { return io::ErrorKind::InvalidInput.into() };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        return error.into();
    }
    let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if parent.as_deref().map(OsStr::new) != Some(owner) {
        return io::Error::other("the process that wanted this is gone");
    }
    Command::new(program).args(args).exec()
}

/// The upstream process and its ports.
pub(crate) struct Sink {
    child: Child,
    ports: Vec<u16>,
}

impl Sink {
    /// Starts the upstream and waits for its ports.
    pub(crate) fn start() -> io::Result<Self> {
        let mut child =
            Command::new(std::env::current_exe()?).arg(SINK).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let ports: Vec<u16> = line.split_whitespace().filter_map(|port| port.parse().ok()).collect();
        let sink = Self { child, ports };
        match sink.ports.len() == Protocol::ALL.len() {
            true => Ok(sink),
            false => Err(io::Error::other("the upstream did not start")),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn port(&self, protocol: Protocol) -> u16 {
        self.ports[protocol.index()]
    }

    /// How many bytes it has thrown away since it started.
    pub(crate) fn drained(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port(Protocol::Count)))?;
        io::Read::read_exact(&mut stream, &mut count)?;
        Ok(u64::from_le_bytes(count))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
