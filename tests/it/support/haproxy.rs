//! HAProxy, where it is installed: the one that defines the PROXY protocol, as its other end.

use super::gate::Lines;
use super::{descriptors, tools, wait_until};
use socket2::{Domain, Socket, Type};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A running HAProxy with one socket; killed when dropped.
pub struct Haproxy {
    child: Child,
    address: SocketAddr,
    /// Everything it says, its log included.
    pub lines: Lines,
    _folder: TempDir,
    _port: Socket,
}

impl Haproxy {
    /// Starts one before `server`, with these options for both its sockets, and further lines for its frontend; `None`,
    /// said aloud, where it is not installed.
    pub fn start(bind: &str, frontend: &str, server: SocketAddr, options: &str) -> Option<Self> {
        Self::of(|address| {
            format!(
                "global\n    log stdout format raw local0\ndefaults\n    mode tcp\n    log global\n    timeout connect 30s\n    \
                 timeout client 60s\n    timeout server 60s\nfrontend front\n    bind {address} {bind}\n{frontend}\n    \
                 default_backend back\nbackend back\n    server one {server} {options}\n"
            )
        })
    }

    /// Starts one with a configuration of its own that binds this address; `None`, said aloud, where it is not installed.
    pub fn of(configuration: impl FnOnce(SocketAddr) -> String) -> Option<Self> {
        let program = tools::require("haproxy")?;
        // Bound, so that nobody else gets the port; HAProxy shares it by SO_REUSEPORT, and it alone listens.
        let port = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        port.set_reuse_port(true).unwrap();
        port.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = port.local_addr().unwrap().as_socket().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, configuration(address)).unwrap();
        let mut command = Command::new(program);
        command.args(["-db", "-f"]).arg(file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = Lines::default();
        lines.fill(child.stdout.take().unwrap());
        lines.fill(child.stderr.take().unwrap());
        wait_until("HAProxy listens", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("it ended with {status}: {:?}", lines.all());
            }
            descriptors::listening(child.id()).is_some()
        });
        Some(Self { child, address, lines, _folder: folder, _port: port })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
