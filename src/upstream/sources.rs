//! Our own side of connections to endpoints: the addresses that they come from.
//!
//! Between one of our addresses and one endpoint there are as many connections as the kernel has ports to choose from, some
//! 28,000 by default. With several addresses each brings as many.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, Socket, Type};

/// The addresses to come from, in turn; without any the kernel chooses.
#[derive(Debug, Default)]
pub(super) struct Sources {
    addresses: Vec<IpAddr>,
    turn: AtomicUsize,
}

/// Why no connection is on its way.
#[derive(Debug)]
pub(super) enum CannotBegin {
    /// There is no socket to be had.
    Open(io::Error),
    /// There is no way for it.
    Connect(io::Error),
}

impl Sources {
    /// These addresses, each of this host.
    pub(super) fn new(addresses: &[IpAddr]) -> Self {
        Self { addresses: addresses.to_vec(), turn: AtomicUsize::new(0) }
    }

    /// A socket on its way to `address`, registered with no runtime: from the one of our addresses whose turn it is, or the
    /// next that has a free port.
    ///
    /// # Errors
    /// What the kernel says; of our addresses, what it says of the last.
    pub(super) fn begin(&self, address: SocketAddr) -> Result<Socket, CannotBegin> {
        let (first, others) = self.towards(address);
        let mut outcome = begin(first, address);
        for other in others {
            match outcome {
                // All of its ports are taken, or this host does not have it.
                Err(CannotBegin::Connect(error)) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                    outcome = begin(Some(other), address);
                }
                begun => return begun,
            }
        }
        outcome
    }

    /// Those of the same family: the one whose turn it is, and then the others.
    fn towards(&self, address: SocketAddr) -> (Option<IpAddr>, impl Iterator<Item = IpAddr>) {
        let fits = move |source: &&IpAddr| source.is_ipv4() == address.is_ipv4();
        let count = self.addresses.iter().filter(fits).count();
        let turn = if count > 1 { self.turn.fetch_add(1, Ordering::Relaxed) % count } else { 0 };
        let mut from_there_on = self.addresses.iter().filter(fits).copied().cycle().skip(turn).take(count);
        (from_there_on.next(), from_there_on)
    }
}

fn begin(source: Option<IpAddr>, address: SocketAddr) -> Result<Socket, CannotBegin> {
    let socket = open(address).map_err(CannotBegin::Open)?;
    if let Some(source) = source {
        bind(&socket, source).map_err(CannotBegin::Connect)?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(CannotBegin::Connect(error)),
        Ok(()) | Err(_) => Ok(socket),
    }
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

fn bind(socket: &Socket, source: IpAddr) -> io::Result<()> {
    // The port is chosen with the destination then, so that each has all of them. Linux before 4.2 does not know that, and
    // has a port once for all destinations.
    let _ = setsockopt(socket, IpBindAddressNoPort, &true);
    socket.bind(&SocketAddr::new(source, 0).into()).inspect_err(|error| {
        tracing::warn!(%source, %error, "cannot connect from an address of `source_addresses`");
    })
}

impl From<CannotBegin> for io::Error {
    fn from(error: CannotBegin) -> Self {
        match error {
            CannotBegin::Open(error) | CannotBegin::Connect(error) => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

    #[test]
    fn each_address_of_the_family_has_its_turn() {
        let [one, two, three] = [1, 2, 3].map(|last| IpAddr::from([127, 0, 0, last]));
        let sources = Sources::new(&[one, Ipv6Addr::LOCALHOST.into(), two, three]);
        let towards = |address: &str| {
            let (first, others) = sources.towards(address.parse().unwrap());
            first.into_iter().chain(others).collect::<Vec<_>>()
        };
        assert_eq!(towards("127.0.0.1:1"), [one, two, three]);
        assert_eq!(towards("127.0.0.1:1"), [two, three, one]);
        for _ in 0..2 {
            assert_eq!(towards("[::1]:1"), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        }
        assert_eq!(towards("127.0.0.1:1"), [three, one, two]);
        let none = Sources::default();
        let (first, mut others) = none.towards("127.0.0.1:1".parse().unwrap());
        assert_eq!((first, others.next()), (None, None));
    }

    #[test]
    fn what_is_not_ours_makes_way_for_what_is() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        // Reserved for documentation, so no host has it.
        let [ours, foreign] = ["127.0.0.9", "192.0.2.1"].map(|text| text.parse().unwrap());
        let mixed = Sources::new(&[foreign, ours]);
        for _ in 0..4 {
            let _socket = mixed.begin(address).unwrap();
            assert_eq!(listener.accept().unwrap().1.ip(), ours);
        }
        let refused = Sources::new(&[foreign]).begin(address).unwrap_err();
        assert_eq!(io::Error::from(refused).kind(), io::ErrorKind::AddrNotAvailable);
        // Another failure is no matter of where one comes from.
        let nowhere = SocketAddr::from((Ipv4Addr::BROADCAST, 1));
        let refused = mixed.begin(nowhere).unwrap_err();
        assert_ne!(io::Error::from(refused).kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn one_port_serves_for_several_destinations() {
        let ours = IpAddr::from([127, 0, 0, 9]);
        let sources = Sources::new(&[ours]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = sources.begin(listener.local_addr().unwrap()).unwrap();
        assert!(nix::sys::socket::getsockopt(&socket, IpBindAddressNoPort).unwrap());
    }
}
