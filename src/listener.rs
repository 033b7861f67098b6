//! Listening sockets: their options, and the loop that accepts from one.

mod trouble;

use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::consume_budget;
use tokio::time::sleep;

use crate::config::{self, Config};
use crate::connection::{self, Tools};
use crate::crew::{Accepted, Crew};
use crate::drain::{Stage, Stages, reached};
use crate::limits::{Seat, Seats};
use crate::observe::metrics::Names;
use crate::outcome::Reason;
use crate::snapshot::{Door, Entrance, Snapshot};
use trouble::{Crowd, Spare, Trouble};

/// Connections that may wait to be accepted, of each worker; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// An idle client is asked after 60 s and given up after six more silent 10 s.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 6);
/// Sees whether the address is free, before any of ours is bound.
///
/// # Errors
/// When another process listens there: sharing the port with it, which SO_REUSEPORT would allow, loses connections to
/// whichever of the two was meant to be gone.
pub fn probe(listener: &config::Listener) -> io::Result<()> {
    let wanted = listener.address.socket_addr();
    // Without SO_REUSEPORT the kernel refuses an address on which anybody listens.
    match socket(wanted, listener.v6_only).and_then(|socket| socket.bind(&wanted.into())) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        // Whatever else is wrong is told by `bind`, which knows what to do about it.
        _ => Ok(()),
    }
}

/// Binds one listening socket for each worker to the address that `listener` names; with port 0 all to the one port
/// that the kernel chose. Accepted sockets inherit the options set here.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(listener: &config::Listener, workers: usize) -> io::Result<(SocketAddr, Vec<std::net::TcpListener>)> {
    let wanted = listener.address.socket_addr();
    match bind_group(wanted, listener.v6_only, workers) {
        // Hosts without IPv6 have no [::]; every address that there is still means all of IPv4.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) && means_every_address(listener) => {
            bind_group(SocketAddr::from((Ipv4Addr::UNSPECIFIED, wanted.port())), false, workers)
        }
        result => result,
    }
}

fn means_every_address(listener: &config::Listener) -> bool {
    listener.address.socket_addr().ip().is_unspecified() && !listener.v6_only
}

fn bind_group(
    wanted: SocketAddr,
    v6_only: bool,
    workers: usize,
) -> io::Result<(SocketAddr, Vec<std::net::TcpListener>)> {
    let mut address = wanted;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = socket(address, v6_only)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = std::net::TcpListener::from(socket);
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok((address, sockets))
}

fn socket(address: SocketAddr, v6_only: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Connections of a former process in TIME_WAIT are no reason not to start.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    set_what_is_inherited(&socket)?;
    Ok(socket)
}

fn set_what_is_inherited(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let (idle, interval, retries) = KEEPALIVE;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(retries))
}

/// Makes a socket that somebody else bound like ours. (Who waits in it already has what it had.)
///
/// # Errors
/// When the kernel refuses.
pub fn adopt(socket: &std::net::TcpListener) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    set_what_is_inherited(&SockRef::from(socket))
}

/// Where a worker's clients begin, whether it accepted them or another did.
pub struct Reception {
    /// The workers.
    pub crew: Crew,
    /// What all workers share of connections.
    pub seats: Arc<Seats>,
    /// What connections are lent.
    pub tools: Rc<Tools>,
}

impl Reception {
    /// Serves a client that this worker accepted, or hands it over to a worker that has clearly fewer.
    fn receive(&self, client: TcpStream, source: SocketAddr, entrance: Entrance, seat: Seat) {
        let Some(idler) = self.crew.idler() else {
            return self.serve(client, source, entrance, seat);
        };
        match client.into_std() {
            Ok(socket) => {
                if let Err(returned) = self.crew.hand_over(idler, socket, source, entrance, seat) {
                    self.adopt(returned);
                }
            }
            Err(error) => {
                tracing::error!(%source, %error, "cannot hand a connection over");
                self.turn_away(source, &entrance, Reason::Internal);
            }
        }
    }

    /// Serves a client that another worker accepted.
    pub fn adopt(&self, Accepted { socket, source, entrance, seat, announced }: Accepted) {
        match TcpStream::from_std(socket) {
            Ok(client) => self.serve(client, source, entrance, seat),
            Err(error) => {
                tracing::error!(%source, %error, "cannot take a connection over");
                self.turn_away(source, &entrance, Reason::Internal);
            }
        }
        // Counted by the table of live ones now.
        drop(announced);
    }

    /// Has the lanes follow the names of the configuration, if it is another than `followed`.
    pub fn follow_names(&self, followed: &mut Option<Arc<Config>>) {
        let current = self.tools.current.load();
        if followed.as_ref().is_none_or(|config| !Arc::ptr_eq(config, &current.config)) {
            *followed = Some(Arc::clone(&current.config));
            let listeners = current.config.listeners.iter().map(|listener| Arc::clone(&listener.name)).collect();
            let routes = current.config.routes.iter().map(|route| Arc::clone(&route.name)).collect();
            self.tools.lanes.follow(Names { listeners, routes });
        }
    }

    /// Leaves a line for a client that is not served.
    fn turn_away(&self, source: SocketAddr, entrance: &Entrance, reason: Reason) {
        connection::turn_away(source, entrance, Rc::clone(&self.tools), reason);
    }

    /// In a task of its own.
    fn serve(&self, client: TcpStream, source: SocketAddr, entrance: Entrance, seat: Seat) {
        tokio::task::spawn_local(connection::serve(client, source, entrance, seat, Rc::clone(&self.tools)));
    }
}

/// Says that the sockets of a door are to close, and what was in force when its listener was there for the last time.
pub type Closing = watch::Receiver<Option<Arc<Snapshot>>>;

/// Accepts by one door until it is to close, or the process to take nobody in any more. Neither dies nor spins, whatever
/// accept says.
/// Who waits when the door closes is served still, as was in force last.
pub async fn accept(
    socket: TcpListener,
    door: Door,
    reception: Rc<Reception>,
    mut closing: Closing,
    mut stages: Stages,
) {
    let (mut trouble, mut crowd) = (Trouble::default(), Crowd::default());
    let mut spare = Spare::of(&socket);
    // Once the door is to close, those who may still wait: whoever comes later does not hold it open.
    let mut last = None;
    loop {
        let accepted = match &mut last {
            None => tokio::select! {
                biased;
                accepted = socket.accept() => accepted,
                () = reached(&mut stages, Stage::Draining) => {
                    last = Some(BACKLOG);
                    continue;
                }
                _ = closed(&mut closing) => {
                    last = Some(BACKLOG);
                    continue;
                }
            },
            Some(0) => return,
            Some(left) => {
                *left -= 1;
                // Others have their turn, too.
                consume_budget().await;
                match accept_now(&socket) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    accepted => accepted,
                }
            }
        };
        if last.is_none() && (*stages.borrow() >= Stage::Draining || closing.borrow().is_some()) {
            last = Some(BACKLOG);
        }
        let Some(entrance) = entrance(door, &reception, &mut closing).await else { return };
        let listener = &entrance.listener.name;
        match accepted {
            Ok((client, source)) => {
                trouble.is_over();
                let Reception { seats, tools, crew } = &*reception;
                match crowd.seat(seats, &tools.undecided, crew, listener).await {
                    Some(seat) => reception.receive(client, source, entrance, seat),
                    None => {
                        drop(client);
                        reception.turn_away(source, &entrance, Reason::LimitGlobal);
                    }
                }
            }
            // accept(2): errors of the connection that was to be accepted, which is gone; the next one may be fine.
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(%listener, %error, "a connection was gone before it was accepted");
            }
            Err(error) => {
                let pause = trouble.pause_for(&error, listener);
                if trouble.lasts() {
                    spare.turn_away_who_waits(&socket, &entrance, &reception);
                }
                sleep(pause).await;
            }
        }
    }
}

/// The next of those who wait, since a socket that closes resets them. The kernel is asked: what the runtime knows of the
/// socket may be of a moment ago, when nobody waited.
fn accept_now(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (client, source) = SockRef::from(socket).accept()?;
    client.set_nonblocking(true)?;
    let source = source.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    Ok((TcpStream::from_std(client.into())?, source))
}

/// Where clients come in by this door: as is in force, or was before its listener went.
async fn entrance(door: Door, reception: &Reception, closing: &mut Closing) -> Option<Entrance> {
    match reception.tools.current.load_full().entrance(door) {
        None => closed(closing).await.entrance(door),
        entrance => entrance,
    }
}

/// Waits until the door is to close.
async fn closed(closing: &mut Closing) -> Arc<Snapshot> {
    let last = closing.wait_for(Option::is_some).await.ok().and_then(|last| last.clone());
    match last {
        Some(last) => last,
        // Nobody is there any more to close it.
        None => pending().await,
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EPERM
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::EOPNOTSUPP
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_found_though_the_runtime_does_not_know_yet() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kind = |accepted: io::Result<_>| accepted.map(drop).map_err(|error| error.kind());
        // The runtime has not looked yet, and does not before this task waits.
        let client = std::net::TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(socket.poll_accept(cx).is_pending())).await);
        let (accepted, source) = accept_now(&socket).unwrap();
        assert_eq!(source, client.local_addr().unwrap());
        assert!(SockRef::from(&accepted).nonblocking().unwrap());
        assert_eq!(kind(accept_now(&socket)), Err(io::ErrorKind::WouldBlock));
    }

    #[test]
    fn accepted_sockets_inherit_what_the_listener_has() {
        let yaml = "
            listeners: [{ address: '127.0.0.1:0' }]
            routes: [{ server_names: [a.test], upstream: up }]
            upstreams: { up: { endpoints: ['127.0.0.1:1'] } }";
        let config = Config::parse(yaml).unwrap();
        let own = bind(&config.listeners[0], 1).unwrap().1.remove(0);
        let given = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        adopt(&given).unwrap();
        for listener in [own, given] {
            assert!(SockRef::from(&listener).nonblocking().unwrap());
            let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            listener.set_nonblocking(false).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            for socket in [SockRef::from(&listener), SockRef::from(&accepted)] {
                assert!(socket.tcp_nodelay().unwrap());
                assert!(socket.keepalive().unwrap());
                assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), 6);
                // It would throw away what is queued for a client that does not read.
                assert_eq!(socket.tcp_user_timeout().unwrap(), None);
            }
        }
    }

    #[test]
    fn only_errors_of_one_connection_need_no_pause() {
        for (code, of_one) in [
            (libc::ECONNABORTED, true),
            (libc::EPERM, true),
            (libc::EMFILE, false),
            (libc::ENFILE, false),
            (libc::ENOBUFS, false),
            (libc::ENOMEM, false),
            (libc::EBADF, false),
        ] {
            assert_eq!(is_of_one_connection(&io::Error::from_raw_os_error(code)), of_one, "{code}");
        }
    }
}
