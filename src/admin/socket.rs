//! Where the admin server listens.

use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::config::{Admin, AdminAddress};
use crate::given::{Held, Listening as Known};

/// A socket that listens.
#[derive(Debug)]
pub enum Socket {
    /// For IP addresses.
    Tcp(std::net::TcpListener),
    /// A local one.
    Unix(std::os::unix::net::UnixListener),
}

/// The same, on a runtime.
pub(super) enum Listening {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// A connection of either kind.
pub(super) enum Accepted {
    /// By this address of ours.
    Tcp(TcpStream, IpAddr),
    Unix(tokio::net::UnixStream),
}

/// Why nobody can be answered.
#[derive(Debug, thiserror::Error)]
#[error("admin: cannot listen on {address}{}", remedy(source))]
pub struct CannotListen {
    address: AdminAddress,
    /// What the kernel said.
    source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another process listens there: `ss -tlnp`, or `ss -xlnp`, names it)",
        io::ErrorKind::AddrNotAvailable => " (this host has no such address)",
        io::ErrorKind::NotFound => " (make the directory first)",
        _ => "",
    }
}

impl Socket {
    /// The socket at which the process before answers, if it is where it is to be.
    pub fn given(socket: OwnedFd, admin: &Admin) -> Option<Self> {
        match &admin.address {
            AdminAddress::Tcp(wanted) => {
                let socket = std::net::TcpListener::from(socket);
                let is_there = socket
                    .local_addr()
                    .is_ok_and(|address| address == *wanted || (wanted.port() == 0 && address.ip() == wanted.ip()));
                is_there.then_some(Self::Tcp(socket))
            }
            AdminAddress::Unix(wanted) => {
                let socket = std::os::unix::net::UnixListener::from(socket);
                let is_there = socket.local_addr().is_ok_and(|address| address.as_pathname() == Some(wanted));
                is_there.then_some(Self::Unix(socket))
            }
        }
    }

    /// A copy for the process that comes after.
    ///
    /// # Errors
    /// When there is no descriptor for it.
    pub fn held(&self, admin: &Admin) -> io::Result<Held> {
        let copy = match self {
            Self::Tcp(socket) => socket.as_fd().try_clone_to_owned()?,
            Self::Unix(socket) => socket.as_fd().try_clone_to_owned()?,
        };
        Ok((Known::of_admin(&admin.address), vec![Arc::new(copy)]))
    }

    /// The local socket that is configured, if one is. To be made before power is given up: afterwards none can be.
    ///
    /// # Errors
    /// Why there is none.
    pub fn local(admin: Option<&Admin>) -> Result<Option<Self>, CannotListen> {
        match admin.map(|admin| &admin.address) {
            Some(AdminAddress::Unix(path)) => {
                let bound = bind_local(path).map_err(cannot_listen(&AdminAddress::Unix(path.clone())))?;
                Ok(Some(Self::Unix(bound)))
            }
            _ => Ok(None),
        }
    }

    /// The socket that is configured: one that is there already, or one that is bound now.
    ///
    /// # Errors
    /// Why there is none.
    pub fn of(admin: &Admin, there: Option<Self>) -> Result<Self, CannotListen> {
        match (there, &admin.address) {
            (Some(there), _) => Ok(there),
            (None, AdminAddress::Unix(path)) => {
                Ok(Self::Unix(bind_local(path).map_err(cannot_listen(&admin.address))?))
            }
            (None, AdminAddress::Tcp(address)) => Ok(Self::Tcp(bind(*address).map_err(cannot_listen(&admin.address))?)),
        }
    }

    /// Where it listens: with port 0, the port that the kernel chose.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(socket) => socket.local_addr().map_or_else(|_| String::new(), |address| address.to_string()),
            Self::Unix(socket) => {
                let address = socket.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                format!("unix:{}", path.unwrap_or(Path::new("")).display())
            }
        }
    }

    pub(super) fn listen(self) -> io::Result<Listening> {
        Ok(match self {
            Self::Tcp(socket) => Listening::Tcp(tokio::net::TcpListener::from_std(socket)?),
            Self::Unix(socket) => Listening::Unix(tokio::net::UnixListener::from_std(socket)?),
        })
    }
}

fn cannot_listen(address: &AdminAddress) -> impl FnOnce(io::Error) -> CannotListen {
    let address = address.clone();
    move |source| CannotListen { address, source }
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    // With SO_REUSEADDR, as the standard library has it.
    let socket = std::net::TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A socket file outlives its process: one that nobody answers at is taken away.
fn bind_local(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        fs::remove_file(path)?;
    }
    let socket = std::os::unix::net::UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Listening {
    /// The next who comes.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                let own = stream.local_addr()?.ip().to_canonical();
                Ok(Accepted::Tcp(stream, own))
            }
            Self::Unix(socket) => Ok(Accepted::Unix(socket.accept().await?.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_file_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let kind = |bound: io::Result<_>| bound.map(drop).map_err(|error| error.kind());
        let first = bind_local(&path).unwrap();
        assert_eq!(kind(bind_local(&path)), Err(io::ErrorKind::AddrInUse));
        drop(first);
        assert!(path.exists(), "as after the end of a process");
        let second = bind_local(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(second);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "not a socket").unwrap();
        assert_eq!(kind(bind_local(&path)), Err(io::ErrorKind::AddrInUse));
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a socket");
    }
}
