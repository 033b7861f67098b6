//! Reaching an endpoint: attempts, each on a different one, within the time that clients wait.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Endpoint, Lease, Upstream};
use crate::outcome::{Fault, Reason};

/// When the last attempt must have ended, counted from accept: Go's TLS handshake, and so kubectl, gives up after 10 s.
const BUDGET: Duration = Duration::from_secs(9);
/// What one address family gets before the other is tried beside it (RFC 8305, 5: 250 ms recommended).
const HEAD_START: Duration = Duration::from_millis(250);
/// An idle upstream connection is asked after 15 s and given up after three more silent 5 s.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);

/// An established connection to an endpoint.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub socket: TcpStream,
    /// Its far end.
    pub address: SocketAddr,
    /// Of the first words, the bytes that have been sent.
    pub sent: usize,
    /// For [`keep_alive`].
    pub user_timeout: UserTimeout,
    /// Counts the connection at its endpoint; to be kept as long as the socket.
    pub lease: Lease,
}

/// Why no endpoint could be reached: what the last attempt ran into.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint's name has no address, or none was found in time.
    #[error("cannot resolve {name}: {source}")]
    Unresolved {
        /// The endpoint as configured.
        name: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// We cannot even have a socket: descriptors or memory ran short.
    #[error("cannot open a socket: {0}")]
    NoSocket(#[source] io::Error),
    /// No answer in time.
    #[error("no answer from {address} in time")]
    TimedOut {
        /// The address tried.
        address: SocketAddr,
    },
    /// The connect failed.
    #[error("cannot connect to {address}: {source}")]
    Failed {
        /// The address tried.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ConnectError {
    /// Whether another endpoint would fail alike.
    fn is_ours(&self) -> bool {
        matches!(self, Self::NoSocket(_))
    }

    /// The reason that the connection ends with.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unresolved { .. } => Reason::DnsUnresolved,
            Self::NoSocket(_) => Reason::Internal,
            Self::TimedOut { .. } => Reason::ConnectTimeout,
            Self::Failed { source, .. } => match source.kind() {
                io::ErrorKind::ConnectionRefused => Reason::ConnectRefused,
                io::ErrorKind::TimedOut => Reason::ConnectTimeout,
                io::ErrorKind::AddrNotAvailable => Reason::NoLocalPort,
                _ => Reason::ConnectFailed,
            },
        }
    }
}

/// Connects to one endpoint of `upstream`: up to its `attempts`, each on another address (of a name with
/// both families: one of either), as many as fit before 9 s after `accepted`; the first always has its full time. Of
/// `first_words` as much is sent as goes along with an established connection at no further cost, so an attempt that
/// failed has sent nothing.
///
/// # Errors
/// What the last attempt ran into.
pub async fn connect(upstream: &Upstream, accepted: Instant, first_words: &[u8]) -> Result<Connection, ConnectError> {
    let end = (accepted + BUDGET).max(Instant::now() + upstream.connect_timeout);
    let mut attempts = upstream.attempts;
    let mut tried = Vec::new();
    let mut failure = None;
    while let Some(index) = upstream.pick(&tried) {
        tried.push(index);
        let endpoint = &upstream.endpoints[index];
        let lease = Lease::take(endpoint);
        match try_endpoint(upstream, endpoint, &mut attempts, end, first_words).await {
            Ok(Established { socket, address, sent }) => {
                return Ok(Connection { socket, address, sent, user_timeout: upstream.user_timeout, lease });
            }
            Err(error) => {
                let (upstream, endpoint) = (&upstream.name, &endpoint.address);
                match error.reason().fault() {
                    Fault::Ours => tracing::error!(%upstream, %endpoint, %error, "attempt failed"),
                    _ => tracing::warn!(%upstream, %endpoint, %error, "attempt failed"),
                }
                failure = Some(error);
            }
        }
        let hopeless = failure.as_ref().is_some_and(ConnectError::is_ours);
        if hopeless || attempts == 0 || Instant::now() >= end {
            break;
        }
    }
    Err(failure.unwrap_or_else(|| unreachable!("an upstream has at least one endpoint and one attempt")))
}

/// Tries the addresses of one endpoint; each attempt is one address, or two of different families.
async fn try_endpoint(
    upstream: &Upstream,
    endpoint: &Endpoint,
    attempts: &mut usize,
    end: Instant,
    first_words: &[u8],
) -> Result<Established, ConnectError> {
    let until = || end.min(Instant::now() + upstream.connect_timeout);
    let addresses = endpoint.resolver.addresses(&endpoint.address, until()).await.map_err(|source| {
        *attempts -= 1;
        ConnectError::Unresolved { name: endpoint.address.to_string(), source }
    })?;
    let mut failure = None;
    for pair in in_pairs(&addresses) {
        if *attempts == 0 || (failure.is_some() && Instant::now() >= end) {
            break;
        }
        *attempts -= 1;
        match attempt(pair, until(), first_words).await {
            Ok(connected) => return Ok(connected),
            Err(error @ ConnectError::NoSocket(_)) => return Err(error),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| unreachable!("a name resolves to one address at least, and one attempt is left")))
}

/// The addresses of a name, each with its counterpart of the other family where there is one, in the resolver's order.
fn in_pairs(addresses: &[SocketAddr]) -> Vec<(SocketAddr, Option<SocketAddr>)> {
    let preferred = |address: &&SocketAddr| addresses.first().is_some_and(|first| first.is_ipv4() == address.is_ipv4());
    let (first, second): (Vec<_>, Vec<_>) = addresses.iter().partition(preferred);
    let pairs = first.len().max(second.len());
    let pair = |at: usize| match (first.get(at), second.get(at)) {
        (Some(first), second) => Some((*first, second.copied())),
        (None, second) => second.map(|alone| (*alone, None)),
    };
    (0..pairs).filter_map(pair).collect()
}

/// What an attempt comes to when it succeeds.
struct Established {
    socket: TcpStream,
    address: SocketAddr,
    sent: usize,
}

/// Connects to the first address, and beside it to the second once the first has failed or takes [`HEAD_START`]. The
/// first to connect wins; when both fail, the failure of the last one stands.
async fn attempt(
    (first, second): (SocketAddr, Option<SocketAddr>),
    end: Instant,
    first_words: &[u8],
) -> Result<Established, ConnectError> {
    let mut first = pin!(connect_to(first, end, first_words));
    let Some(second) = second else { return first.await };
    let failed = match timeout(HEAD_START, &mut first).await {
        Ok(Ok(connected)) => return Ok(connected),
        Ok(Err(_)) => true,
        Err(_) => false,
    };
    let mut second = pin!(connect_to(second, end, first_words));
    if failed {
        return second.await;
    }
    tokio::select! {
        connected = &mut first => match connected {
            Ok(connected) => Ok(connected),
            Err(_) => second.await,
        },
        connected = &mut second => match connected {
            Ok(connected) => Ok(connected),
            Err(_) => first.await,
        },
    }
}

async fn connect_to(address: SocketAddr, end: Instant, first_words: &[u8]) -> Result<Established, ConnectError> {
    let failed = |source| ConnectError::Failed { address, source };
    let socket = open(address).map_err(ConnectError::NoSocket)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    // Within a host the handshake is over by now, and a socket that can send needs no further look: a fourteenth of what
    // a short connection costs. Elsewhere the answer is "not yet".
    // Registered before: nothing may fail once it has sent.
    let socket = TcpStream::from_std(socket.into()).map_err(ConnectError::NoSocket)?;
    let sent = match SockRef::from(&socket).send_with_flags(first_words, libc::MSG_NOSIGNAL) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        sent => Some(sent.map_err(failed)?),
    };
    if sent.is_none() {
        timeout_at(end, established(&socket)).await.map_err(|_| ConnectError::TimedOut { address })?.map_err(failed)?;
    }
    Ok(Established { socket, address, sent: sent.unwrap_or(0) })
}

/// A socket whose handshake is over becomes writable, whether it went well or not.
async fn established(socket: &TcpStream) -> io::Result<()> {
    socket.writable().await?;
    socket.take_error()?.map_or(Ok(()), Err)
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// How long an endpoint may leave bytes unacknowledged; for as long as the kernel likes if zero. Every idle connection
/// has one, so it is kept small.
#[derive(Clone, Copy, Debug)]
pub struct UserTimeout {
    milliseconds: u32,
}

impl From<Duration> for UserTimeout {
    fn from(duration: Duration) -> Self {
        Self { milliseconds: duration.as_millis().try_into().unwrap_or(u32::MAX) }
    }
}

/// Has the kernel ask after a silent endpoint, and give it up when it acknowledges nothing. Five calls into the kernel:
/// for connections that last.
pub fn keep_alive(socket: &TcpStream, user_timeout: UserTimeout) {
    let (idle, interval, retries) = KEEPALIVE;
    let options = SockRef::from(socket);
    // Where the kernel refuses an option, the relay's own limits of silence still hold.
    let _ =
        options.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(retries));
    if user_timeout.milliseconds > 0 {
        let _ = options.set_tcp_user_timeout(Some(Duration::from_millis(user_timeout.milliseconds.into())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn addresses_of_both_families_go_in_pairs() {
        let [a, b, c]: [SocketAddr; 3] = ["[::1]:1", "192.0.2.1:1", "[::2]:1"].map(|text| text.parse().unwrap());
        assert_eq!(in_pairs(&[]), []);
        assert_eq!(in_pairs(&[a]), [(a, None)]);
        assert_eq!(in_pairs(&[a, b, c]), [(a, Some(b)), (c, None)]);
        assert_eq!(in_pairs(&[b, a, c]), [(b, Some(a)), (c, None)]);
    }

    #[tokio::test]
    async fn the_other_family_takes_over_within_one_attempt() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let alive = listener.local_addr().unwrap();
        // Nobody listens there on IPv6, whether or not this host has it.
        let dead = format!("[::1]:{}", alive.port()).parse().unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        let reached = attempt((dead, Some(alive)), end, b"").await.unwrap();
        assert_eq!(reached.address, alive);
        assert!(attempt((dead, None), end, b"").await.is_err());
    }

    #[tokio::test]
    async fn first_words_go_along_with_the_connect() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        // A busy kernel may leave even a loopback handshake for later: then nothing is sent yet.
        for _ in 0..100 {
            let reached = connect_to(listener.local_addr().unwrap(), end, b"words").await.unwrap();
            let mut heard = Vec::new();
            let mut accepted = listener.accept().unwrap().0;
            let sent = reached.sent;
            drop(reached);
            accepted.read_to_end(&mut heard).unwrap();
            assert_eq!(heard, b"words"[..sent]);
            if sent == 5 {
                return;
            }
        }
        panic!("nothing ever went along");
    }

    #[tokio::test]
    async fn a_socket_asks_after_a_silent_peer_when_told_to() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        let Established { socket, .. } = connect_to(listener.local_addr().unwrap(), end, b"").await.unwrap();
        let options = SockRef::from(&socket);
        assert!(options.tcp_nodelay().unwrap());
        assert!(!options.keepalive().unwrap());
        keep_alive(&socket, Duration::ZERO.into());
        assert!(options.keepalive().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(15));
        assert_eq!(options.tcp_keepalive_interval().unwrap(), Duration::from_secs(5));
        assert_eq!(options.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(options.tcp_user_timeout().unwrap(), None);
        keep_alive(&socket, Duration::from_secs(120).into());
        assert_eq!(options.tcp_user_timeout().unwrap(), Some(Duration::from_secs(120)));
    }

    #[test]
    fn each_failure_has_its_reason() {
        let address = "192.0.2.1:6443".parse().unwrap();
        for (kind, reason) in [
            (io::ErrorKind::ConnectionRefused, Reason::ConnectRefused),
            (io::ErrorKind::TimedOut, Reason::ConnectTimeout),
            (io::ErrorKind::AddrNotAvailable, Reason::NoLocalPort),
            (io::ErrorKind::HostUnreachable, Reason::ConnectFailed),
        ] {
            assert_eq!(ConnectError::Failed { address, source: kind.into() }.reason(), reason);
        }
        assert_eq!(ConnectError::TimedOut { address }.reason(), Reason::ConnectTimeout);
        assert_eq!(ConnectError::NoSocket(io::Error::from_raw_os_error(libc::EMFILE)).reason(), Reason::Internal);
    }
}
