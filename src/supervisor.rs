//! The service manager that started this process, if it wants to hear how it goes: sd_notify(3), a datagram for each word,
//! to the socket that `NOTIFY_SOCKET` names.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long a service manager that reads nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who supervises this process, and how it is told.
#[derive(Debug, Default)]
pub struct Supervisor {
    socket: Option<UnixDatagram>,
}

impl Supervisor {
    /// As the environment says. Nothing can be opened any more once power was given up: to be called before.
    ///
    /// # Errors
    /// When there should be one and it cannot be reached.
    pub fn of_environment() -> io::Result<Self> {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address(&name)?)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket: Some(socket) })
    }

    /// Everything runs, after the start or after a reload.
    pub fn say_ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    /// Another configuration is being put in force; [`Supervisor::say_ready`] follows, whatever came of it.
    pub fn say_reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=reloading"));
    }

    /// It is on its way out.
    pub fn say_stopping(&self, status: &str) {
        self.say(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// It is alive.
    pub fn say_alive(&self) {
        self.say("WATCHDOG=1");
    }

    fn say(&self, words: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(words.as_bytes()) {
            let first = words.lines().next().unwrap_or_default();
            tracing::warn!(%error, "cannot tell the service manager {first}");
        }
    }
}

/// A path, or after an `@` a name without a file.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', abstracted @ ..] => SocketAddr::from_abstract_name(abstracted),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "it is neither a path nor an abstract name")),
    }
}

/// How often the service manager wants to hear that this process is alive, if it does.
pub fn watchdog_interval() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let own = u64::from(std::process::id());
    // Without a process id it is meant for whoever reads it.
    let meant = number("WATCHDOG_PID").is_none_or(|pid| pid == own);
    number("WATCHDOG_USEC").filter(|interval| meant && *interval > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_paths_or_abstract_names() {
        let parse = |name: &str| address(OsStr::new(name));
        assert_eq!(parse("/run/systemd/notify").unwrap().as_pathname().unwrap(), "/run/systemd/notify");
        assert_eq!(parse("@notify").unwrap().as_abstract_name().unwrap(), b"notify");
        for other in ["notify", "vsock:2:1", ""] {
            assert_eq!(parse(other).unwrap_err().kind(), io::ErrorKind::Unsupported, "{other}");
        }
    }
}
