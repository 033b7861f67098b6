//! Reaching an endpoint: attempts, each on a different one, within the time that clients wait.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::choice::Lack;
use super::sources::{CannotBegin, Sources};
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
    /// There is no endpoint: no name has an address.
    #[error("no name of the upstream has an address")]
    Nobody,
    /// No endpoint has proved who it is.
    #[error("no endpoint has proved who it is")]
    Unverified,
    /// Too many connects to this upstream are under way, and too many clients wait for their turn.
    #[error("too many connects are under way")]
    Busy,
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
    /// The reason that the connection ends with.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Nobody => Reason::DnsUnresolved,
            Self::Unverified => Reason::EndpointUnverified,
            Self::Busy => Reason::UpstreamBusy,
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

/// Connects a client from `source` to an endpoint of `upstream`: up to its `attempts`, each on another endpoint (of a
/// host with both families: one of either), as many as fit before 9 s after `accepted`; the first always has its full
/// time. Of `first_words` as much is sent as goes along with an established connection at no further cost, so an attempt
/// that failed has sent nothing.
///
/// # Errors
/// What the last attempt ran into.
pub async fn connect(
    upstream: &Upstream,
    source: IpAddr,
    accepted: Instant,
    first_words: &[u8],
) -> Result<Connection, ConnectError> {
    let end = (accepted + BUDGET).max(Instant::now() + upstream.connect_timeout);
    let _turn = upstream.turn(end).await.ok_or(ConnectError::Busy)?;
    let mut tried = Vec::new();
    let mut failure = None;
    for _ in 0..upstream.attempts {
        // Only who has tried nobody yet waits for somebody to try.
        let Some(endpoint) = upstream.pick(source, &tried, failure.is_none().then_some(end)).await else { break };
        let until = end.min(Instant::now() + upstream.connect_timeout);
        match attempt(upstream, endpoint, &mut tried, until, first_words).await {
            Ok(connection) => return Ok(connection),
            Err(error @ ConnectError::NoSocket(_)) => return Err(error),
            Err(error) => failure = Some(error),
        }
        if Instant::now() >= end {
            break;
        }
    }
    Err(failure.unwrap_or_else(|| match upstream.choice.load().lack() {
        Lack::Addresses => ConnectError::Nobody,
        Lack::Proof => ConnectError::Unverified,
    }))
}

/// Connects to an endpoint, and beside it to the same host by its other family once the first has failed or takes
/// [`HEAD_START`]. The first to connect wins; when both fail, the failure of the last one stands.
async fn attempt(
    upstream: &Upstream,
    first: Arc<Endpoint>,
    tried: &mut Vec<SocketAddr>,
    until: Instant,
    first_words: &[u8],
) -> Result<Connection, ConnectError> {
    tried.push(first.address);
    let second = upstream.sibling(&first, tried);
    let mut first = pin!(reach(upstream, first, until, first_words));
    let Some(second) = second else { return first.await };
    let failed = match timeout(HEAD_START, &mut first).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(_)) => true,
        Err(_) => false,
    };
    tried.push(second.address);
    let mut second = pin!(reach(upstream, second, until, first_words));
    if failed {
        return second.await;
    }
    tokio::select! {
        connected = &mut first => match connected {
            Ok(connection) => Ok(connection),
            Err(_) => second.await,
        },
        connected = &mut second => match connected {
            Ok(connection) => Ok(connection),
            Err(_) => first.await,
        },
    }
}

/// Connects to one endpoint, and tells of a failure that is not ours.
async fn reach(
    upstream: &Upstream,
    endpoint: Arc<Endpoint>,
    until: Instant,
    first_words: &[u8],
) -> Result<Connection, ConnectError> {
    let lease = Lease::take(&endpoint);
    match connect_to(&upstream.sources, endpoint.address, until, first_words).await {
        Ok(Established { socket, address, sent }) => {
            upstream.note_success(&endpoint);
            Ok(Connection { socket, address, sent, user_timeout: upstream.user_timeout, lease })
        }
        Err(error) => {
            let (name, address) = (&upstream.name, endpoint.address);
            if error.reason().fault() == Fault::Ours {
                tracing::error!(upstream = %name, endpoint = %address, %error, "attempt failed");
            } else {
                tracing::warn!(upstream = %name, endpoint = %address, %error, "attempt failed");
                upstream.note_failure(&endpoint);
            }
            Err(error)
        }
    }
}

/// What an attempt comes to when it succeeds.
struct Established {
    socket: TcpStream,
    address: SocketAddr,
    sent: usize,
}

async fn connect_to(
    sources: &Sources,
    address: SocketAddr,
    end: Instant,
    first_words: &[u8],
) -> Result<Established, ConnectError> {
    let failed = |source| ConnectError::Failed { address, source };
    let socket = sources.begin(address).map_err(|error| match error {
        CannotBegin::Open(error) => ConnectError::NoSocket(error),
        CannotBegin::Connect(error) => failed(error),
    })?;
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
pub(super) async fn established(socket: &TcpStream) -> io::Result<()> {
    socket.writable().await?;
    socket.take_error()?.map_or(Ok(()), Err)
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

/// Has the kernel ask after a silent endpoint. Four calls into the kernel: for connections that last.
pub fn keep_alive(socket: &TcpStream) {
    let (idle, interval, retries) = KEEPALIVE;
    // Where the kernel refuses an option, the relay's own limits of silence still hold.
    let _ = SockRef::from(socket)
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(retries));
}

/// Has the kernel give an endpoint up that acknowledges nothing for so long; or, while nothing is under way, that answers
/// none of its questions: with a user timeout it goes by that alone, and forgets after how many questions it was to.
pub fn limit_silence(socket: &TcpStream, user_timeout: UserTimeout, nothing_under_way: bool) {
    let (idle, interval, retries) = KEEPALIVE;
    let limit = Duration::from_millis(user_timeout.milliseconds.into());
    let limit = if nothing_under_way { limit.min(idle + interval * retries) } else { limit };
    if !limit.is_zero() {
        let _ = SockRef::from(socket).set_tcp_user_timeout(Some(limit));
    }
}

#[cfg(test)]
mod tests {
    use super::super::balance::Standing;
    use super::super::certificate::RouteNames;
    use super::super::choice::{Choice, Placed};
    use super::super::{Keeper, Place};
    use super::*;
    use crate::config::{Balance, Config};
    use socket2::{Domain, Socket, Type};
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener};

    /// An upstream of these endpoints, each an address of the host beside it, and one attempt for each client.
    fn upstream(endpoints: &[(SocketAddr, &str)]) -> Arc<Upstream> {
        let yaml = "
            listeners: [{ address: '127.0.0.1:0' }]
            routes: [{ server_names: [a.test], upstream: up }]
            upstreams: { up: { endpoints: ['127.0.0.1:1'], attempts: 1, connect_timeout: 30s } }";
        let upstream = &Config::parse(yaml).unwrap().upstreams[0];
        let upstream = Arc::clone(Keeper::of(upstream, RouteNames::default()).0.upstream());
        let placed = |&(address, target): &(SocketAddr, &str)| Placed {
            endpoint: Arc::new(Endpoint::new(address)),
            target: target.into(),
            weight: 1,
            backup: false,
            standing: Standing::Up,
            back_since: None,
        };
        let placed = endpoints.iter().map(placed).collect();
        upstream.choice.store(Arc::new(Choice::new(Balance::RoundRobin, Duration::ZERO, placed, false, 0)));
        upstream
    }

    #[tokio::test]
    async fn the_other_family_takes_over_within_one_attempt() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let alive = listener.local_addr().unwrap();
        // Nobody listens there on IPv6, whether or not this host has it.
        let dead = format!("[::1]:{}", alive.port()).parse().unwrap();
        let source = Ipv4Addr::LOCALHOST.into();
        let one_host = upstream(&[(dead, "host:1"), (alive, "host:1")]);
        for _ in 0..2 {
            assert_eq!(connect(&one_host, source, Instant::now(), b"").await.unwrap().address, alive);
        }
        let two_hosts = upstream(&[(dead, "host:1"), (alive, "other:1")]);
        let mut reached = 0;
        for _ in 0..2 {
            reached += usize::from(connect(&two_hosts, source, Instant::now(), b"").await.is_ok());
        }
        assert_eq!(reached, 1, "another host is another attempt");
    }

    #[tokio::test(start_paused = true)]
    async fn turns_to_connect_are_bounded_and_so_are_those_who_wait() {
        let upstream = upstream(&[]);
        let soon = Instant::now() + Duration::from_secs(3);
        let mut turns = Vec::new();
        while let Ok(turn) = upstream.turns.try_acquire() {
            turns.push(turn);
        }
        assert_eq!(turns.len(), 256);
        assert!(upstream.turn(soon).await.is_none(), "none came in time");
        let waiting: Vec<_> = (0..upstream.max_waiting).map(|_| Place::take(&upstream.waiting, 256).unwrap()).collect();
        let began = Instant::now();
        assert!(upstream.turn(began + Duration::from_secs(3)).await.is_none());
        assert_eq!(began.elapsed(), Duration::ZERO, "too many wait already");
        drop(waiting);
        let (turn, ()) = tokio::join!(upstream.turn(began + Duration::from_secs(3)), async { drop(turns.pop()) });
        assert!(turn.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_waits_for_the_first_endpoint_within_its_time() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let upstream = upstream(&[]);
        let young = |placed| Arc::new(Choice::new(Balance::RoundRobin, Duration::ZERO, placed, true, 0));
        upstream.choice.store(young(Vec::new()));
        let (source, began) = (Ipv4Addr::LOCALHOST.into(), Instant::now());
        let error = connect(&upstream, source, began, b"").await.unwrap_err();
        assert_eq!((error.reason(), began.elapsed()), (Reason::DnsUnresolved, Duration::from_secs(30)));

        let endpoint = Arc::new(Endpoint::new(listener.local_addr().unwrap()));
        let (target, standing) = ("host:1".into(), Standing::Up);
        let found = young(vec![Placed { endpoint, target, weight: 1, backup: false, standing, back_since: None }]);
        let find = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            upstream.choice.store(found);
            upstream.changed.notify_waiters();
        };
        let (connected, ()) = tokio::join!(connect(&upstream, source, Instant::now(), b""), find);
        connected.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_tried_somebody_does_not_wait_for_others() {
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let refusing = bound.local_addr().unwrap().as_socket().unwrap();
        let mut upstream = upstream(&[]);
        Arc::get_mut(&mut upstream).unwrap().attempts = 2;
        let placed = Placed {
            endpoint: Arc::new(Endpoint::new(refusing)),
            target: "host:1".into(),
            weight: 1,
            backup: false,
            standing: Standing::Up,
            back_since: None,
        };
        let young = Choice::new(Balance::RoundRobin, Duration::ZERO, vec![placed], true, 0);
        upstream.choice.store(Arc::new(young));
        let began = Instant::now();
        let error = connect(&upstream, Ipv4Addr::LOCALHOST.into(), began, b"").await.unwrap_err();
        assert_eq!((error.reason(), began.elapsed()), (Reason::ConnectRefused, Duration::ZERO));
    }

    #[tokio::test]
    async fn first_words_go_along_with_the_connect() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        // A busy kernel may leave even a loopback handshake for later: then nothing is sent yet.
        for _ in 0..100 {
            let reached = connect_to(&Sources::default(), listener.local_addr().unwrap(), end, b"words").await.unwrap();
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
        let Established { socket, .. } =
            connect_to(&Sources::default(), listener.local_addr().unwrap(), end, b"").await.unwrap();
        let options = SockRef::from(&socket);
        assert!(options.tcp_nodelay().unwrap());
        assert!(!options.keepalive().unwrap());
        keep_alive(&socket);
        assert!(options.keepalive().unwrap());
        assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(15));
        assert_eq!(options.tcp_keepalive_interval().unwrap(), Duration::from_secs(5));
        assert_eq!(options.tcp_keepalive_retries().unwrap(), 3);
    }

    #[tokio::test]
    async fn silence_is_borne_for_the_user_timeout_and_with_nothing_under_way_for_three_questions() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        for (seconds, under_way, nothing_under_way) in [(120, 120, 30), (30, 30, 30), (2, 2, 2), (0, 0, 0)] {
            let Established { socket, .. } =
                connect_to(&Sources::default(), listener.local_addr().unwrap(), end, b"").await.unwrap();
            for (nothing, expected) in [(false, under_way), (true, nothing_under_way), (false, under_way)] {
                limit_silence(&socket, Duration::from_secs(seconds).into(), nothing);
                let limit = SockRef::from(&socket).tcp_user_timeout().unwrap().unwrap_or_default();
                assert_eq!(limit, Duration::from_secs(expected), "{seconds} s");
            }
        }
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
