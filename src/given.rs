//! Listening sockets that somebody else has bound: the service manager (systemd.socket(5)), or the process before this one.
//! All that fit a listener are used, each by one worker; a listener that none was given for binds its own.

use std::env;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use listenfd::ListenFd;
use socket2::SockRef;

use crate::config::{self, AdminAddress, Config};

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

/// A listener with its sockets, from the process before. (The admin server comes as another listener, whose socket may be a
/// local one.)
pub type Taken = (Listening, Vec<TcpListener>);

/// A listener with copies of its sockets' descriptors, for the process that comes after.
pub type Held = (Listening, Vec<Arc<OwnedFd>>);

/// What was given and is not used yet.
#[derive(Debug, Default)]
pub struct Given {
    /// By the service manager, with the names that it has for them.
    named: Vec<(String, TcpListener)>,
    /// By the process before.
    before: Vec<Taken>,
}

/// A socket that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnfitSocket {
    /// It is something else.
    #[error(
        "the service manager gives as {name:?} what is no listening TCP socket: write ListenStream= with a port, and leave \
         Accept= out"
    )]
    NotListening {
        /// What the service manager calls it.
        name: String,
    },
    /// No listener has its name.
    #[error(
        "the service manager gives {address} as {name:?}, and no listener is called so: write FileDescriptorName= with the \
         `name` of one of {listeners}, or leave it out there"
    )]
    Unwanted {
        /// What the service manager calls it.
        name: String,
        /// Where it listens.
        address: SocketAddr,
        /// The listeners that there are.
        listeners: String,
    },
    /// The listener is to be elsewhere.
    #[error(
        "listener {name}: its address is `{wanted}` with `v6_only: {v6_only}`, and the service manager gives \
         {address}{other_v6_only}: make the two the same"
    )]
    Elsewhere {
        /// The listener.
        name: String,
        /// The address as configured.
        wanted: config::ListenAddress,
        /// As configured.
        v6_only: bool,
        /// Where it listens.
        address: SocketAddr,
        /// What is to be said of the socket's own.
        other_v6_only: &'static str,
    },
    /// Whoever gave it is not the process before this one.
    #[error("the process there has none of these listeners, so it is another gate: give each a path of its own")]
    OfAnotherGate,
    /// The kernel does not say what it is.
    #[error("cannot look at a socket of the service manager")]
    Io(#[from] io::Error),
}

impl Given {
    /// What the service manager gave this process. To be called while there is one thread only, since it takes the
    /// variables out of the environment.
    ///
    /// # Errors
    /// When one of the sockets is none to accept TCP connections from.
    pub fn by_service_manager() -> Result<Self, UnfitSocket> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut sockets = ListenFd::from_env();
        let mut given = Self::default();
        for place in 0..sockets.len() {
            let name = names.next().unwrap_or_default().to_owned();
            match sockets.take_tcp_listener(place) {
                Ok(Some(socket)) if SockRef::from(&socket).is_listener()? => given.named.push((name, socket)),
                _ => return Err(UnfitSocket::NotListening { name }),
            }
        }
        Ok(given)
    }

    /// Adds what the process before gave.
    ///
    /// # Errors
    /// When no listener wants any of it. That one is to go when this one accepts, and it would go for nothing.
    pub fn add(&mut self, taken: Vec<Taken>, config: &Config) -> Result<(), UnfitSocket> {
        let is_wanted = |(listening, _): &Taken| config.listeners.iter().any(|listener| listening.is_for(listener));
        if !taken.is_empty() && !taken.iter().any(is_wanted) {
            return Err(UnfitSocket::OfAnotherGate);
        }
        self.before.extend(taken);
        Ok(())
    }

    /// Whether every socket of the service manager is one that a listener wants.
    ///
    /// # Errors
    /// The first that is not. (What the process before gave may have been wanted by its configuration only.)
    pub fn check(&self, config: &Config) -> Result<(), UnfitSocket> {
        for (name, socket) in &self.named {
            let address = socket.local_addr()?;
            let name = name.clone();
            let Some(listener) = config.listeners.iter().find(|listener| *listener.name == *name) else {
                let names = config.listeners.iter().map(|listener| format!("`{}`", listener.name));
                let listeners = names.collect::<Vec<_>>().join(", ");
                return Err(UnfitSocket::Unwanted { name, address, listeners });
            };
            // Where it makes a difference: a socket with an IPv6 address of its own takes that one alone.
            let every_v6 = address.is_ipv6() && address.ip().is_unspecified();
            let v6_only = every_v6 && SockRef::from(socket).only_v6()?;
            if !is_at(listener, address) || (every_v6 && v6_only != listener.v6_only) {
                let other_v6_only = match every_v6 {
                    false => "",
                    true if v6_only => " with BindIPv6Only=ipv6-only",
                    true => " with BindIPv6Only=both",
                };
                let (wanted, v6_only) = (listener.address, listener.v6_only);
                return Err(UnfitSocket::Elsewhere { name, wanted, v6_only, address, other_v6_only });
            }
        }
        Ok(())
    }

    /// The socket at which the process before answers questions, if it is at this address.
    pub fn take_admin(&mut self, address: &AdminAddress) -> Option<OwnedFd> {
        let known = Listening::of_admin(address);
        let (_, sockets) = self.before.extract_if(.., |(listening, _)| *listening == known).next()?;
        sockets.into_iter().next().map(OwnedFd::from)
    }

    /// The sockets for this listener, and whether they are the service manager's; none, if it is to bind its own.
    pub fn take_for(&mut self, listener: &config::Listener) -> (Vec<TcpListener>, bool) {
        let named: Vec<_> = self.named.extract_if(.., |(name, _)| **name == *listener.name).collect();
        let before: Vec<_> = self.before.extract_if(.., |(listening, _)| listening.is_for(listener)).collect();
        // Where both gave some they are the same ones: the process before had them from the service manager.
        match named.is_empty() {
            true => {
                let sockets = before.into_iter().flat_map(|(_, sockets)| sockets);
                (sockets.filter(|socket| listens_for(socket, listener)).collect(), false)
            }
            false => (named.into_iter().map(|(_, socket)| socket).collect(), true),
        }
    }
}

/// Whether this is where the listener is to be.
fn is_at(listener: &config::Listener, address: SocketAddr) -> bool {
    let wanted = listener.address.socket_addr();
    wanted == address || (wanted.port() == 0 && wanted.ip() == address.ip())
}

/// Whether this socket, which the process before calls the listener's, is one indeed.
fn listens_for(socket: &TcpListener, listener: &config::Listener) -> bool {
    let wanted = listener.address.socket_addr();
    let is_there = socket.local_addr().is_ok_and(|address| {
        // A host without IPv6 has every address of IPv4 in place of every address.
        let every_v4 = (Ipv4Addr::UNSPECIFIED, wanted.port()).into();
        is_at(listener, address) || (wanted.ip().is_unspecified() && !listener.v6_only && address == every_v4)
    });
    is_there && SockRef::from(socket).is_listener().unwrap_or(false)
}

impl Listening {
    /// How the sockets of this listener are known.
    pub fn of(listener: &config::Listener) -> Self {
        let (name, address) = (listener.name.to_string(), listener.address.to_string());
        Self { name, address, v6_only: listener.v6_only }
    }

    /// How the admin server's socket is known. No listener is at such an address.
    pub fn of_admin(address: &AdminAddress) -> Self {
        // One word: that is how it is told.
        let address = format!("admin={}", address.to_string().replace(char::is_whitespace, "?"));
        Self { name: "admin".to_owned(), address, v6_only: false }
    }

    /// Whether these are the sockets that the listener wants. With port 0 any will do, so that the name decides.
    fn is_for(&self, listener: &config::Listener) -> bool {
        let wanted = Self::of(listener);
        let any_port = listener.address.socket_addr().port() == 0;
        (&self.address, self.v6_only) == (&wanted.address, wanted.v6_only) && (!any_port || self.name == wanted.name)
    }
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} v6_only={}", self.name, self.address, self.v6_only)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listeners: &str) -> Config {
        let rest =
            "routes: [{ server_names: [a.test], upstream: up }]\nupstreams: { up: { endpoints: ['127.0.0.1:1'] } }";
        Config::parse(&format!("listeners: [{listeners}]\n{rest}")).unwrap()
    }

    fn bound() -> (TcpListener, SocketAddr) {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    fn named(name: &str, socket: TcpListener) -> Given {
        Given { named: vec![(name.to_owned(), socket)], before: Vec::new() }
    }

    fn before(name: &str, address: impl fmt::Display, socket: TcpListener) -> Taken {
        (Listening { name: name.to_owned(), address: address.to_string(), v6_only: false }, vec![socket])
    }

    #[test]
    fn a_socket_of_the_service_manager_is_for_the_listener_with_its_name_and_address() {
        let (socket, address) = bound();
        let wanted = config(&format!("{{ address: '{address}', name: kube }}, {{ address: ':1', name: other }}"));
        let mut given = named("kube", socket);
        given.check(&wanted).unwrap();
        assert!(given.take_for(&wanted.listeners[1]).0.is_empty());
        let (sockets, by_service_manager) = given.take_for(&wanted.listeners[0]);
        assert_eq!((sockets[0].local_addr().unwrap(), by_service_manager), (address, true));
        assert!(given.take_for(&wanted.listeners[0]).0.is_empty(), "only once");

        given = named("kube", bound().0);
        given.check(&config("{ address: '127.0.0.1:0', name: kube }")).unwrap();
        let told = given.check(&wanted).unwrap_err().to_string();
        let given_at = given.named[0].1.local_addr().unwrap();
        let expected = format!(
            "listener kube: its address is `{address}` with `v6_only: false`, and the service manager gives {given_at}: make \
             the two the same"
        );
        assert_eq!(told, expected);
        given = named("snigate.socket", bound().0);
        let told = given.check(&wanted).unwrap_err().to_string();
        assert!(told.contains("as \"snigate.socket\", and no listener is called so"), "{told}");
        assert!(told.contains("the `name` of one of `kube`, `other`, or"), "{told}");
    }

    #[test]
    fn both_families_are_not_one() {
        let Ok(one) = TcpListener::bind("[::1]:0") else { return };
        let (address, given) = (one.local_addr().unwrap(), named("kube", one));
        given.check(&config(&format!("{{ address: '{address}', name: kube }}"))).unwrap();
        given.check(&config(&format!("{{ address: '{address}', name: kube, v6_only: true }}"))).unwrap();

        let every = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        every.set_only_v6(false).unwrap();
        every.bind(&SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
        let (port, given) = (every.local_addr().unwrap().as_socket().unwrap().port(), named("kube", every.into()));
        given.check(&config(&format!("{{ address: ':{port}', name: kube }}"))).unwrap();
        let told = given.check(&config(&format!("{{ address: ':{port}', name: kube, v6_only: true }}"))).unwrap_err();
        let expected = format!(
            "listener kube: its address is `:{port}` with `v6_only: true`, and the service manager gives [::]:{port} with \
             BindIPv6Only=both: make the two the same"
        );
        assert_eq!(told.to_string(), expected);
    }

    #[test]
    fn sockets_of_the_process_before_are_for_the_listener_at_their_address() {
        let (socket, address) = bound();
        let wanted =
            config(&format!("{{ address: '{address}', name: kube }}, {{ address: '127.0.0.1:0', name: any }}"));
        let [kube, any] = &wanted.listeners[..] else { panic!("two listeners") };
        let mut given = Given::default();
        let taken = vec![
            before("called-otherwise", address, socket),
            before("kube", address, bound().0),
            before("gone", ":7443", bound().0),
            before("other", "127.0.0.1:0", bound().0),
            before("any", "127.0.0.1:0", bound().0),
        ];
        given.add(taken, &wanted).unwrap();
        given.check(&wanted).unwrap();
        let (sockets, _) = given.take_for(kube);
        assert_eq!(sockets.len(), 1, "one listens elsewhere, whatever was said of it");
        assert_eq!(sockets[0].local_addr().unwrap(), address);
        assert_eq!(given.take_for(any).0.len(), 1);
        let left: Vec<_> = given.before.iter().map(|(listening, _)| &*listening.name).collect();
        assert_eq!(left, ["gone", "other"]);

        let (socket, address) = bound();
        let mut given = named("any", socket);
        given.add(vec![before("any", "127.0.0.1:0", bound().0)], &wanted).unwrap();
        let (sockets, by_service_manager) = given.take_for(any);
        assert_eq!((sockets.len(), by_service_manager), (1, true));
        assert_eq!(sockets[0].local_addr().unwrap(), address);
        assert!(given.before.is_empty());

        // A process that stops has none any more; one that has others is another gate.
        given.add(Vec::new(), &wanted).unwrap();
        let other = given.add(vec![before("kube", ":7443", bound().0)], &wanted);
        assert!(matches!(other, Err(UnfitSocket::OfAnotherGate)));
    }
}
