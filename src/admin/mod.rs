//! The gate's answers about itself, over HTTP: whether it lives and is ready, what it counts, and what it knows.
//!
//! It is served by the thread that also hears signals, beside the workers and never on the way of a client's bytes; what
//! takes more than a moment is made by a thread of its own, so that `/livez` always answers. `socket` is where it listens,
//! `guard` says who is answered, `answers` what; `metrics` and `api` know it.

mod answers;
mod api;
mod formats;
mod guard;
mod health;
mod metrics;
mod socket;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::limits::ADMIN_CONNECTIONS;
use crate::observe::lines::Lines;
use crate::server::{ConfigFile, View};
pub use guard::{BadToken, Guard};
use socket::Accepted;
pub use socket::{CannotListen, Socket};

/// How long a request may take to come, and how long a connection may wait for the next.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long a connection may be used; scrapers simply open another.
const LONGEST: Duration = Duration::from_secs(60);
/// What a request under way then has left.
const GRACE: Duration = Duration::from_secs(10);
/// Bytes that a request's head may have.
const LONGEST_HEAD: usize = 16 * 1024;
/// After a failed accept: descriptors are short, and clients matter more.
const PAUSE: Duration = Duration::from_millis(500);

/// Somebody asks for the file to be taken over: hears what has changed, or what is wrong.
pub type Asked = oneshot::Sender<Result<String, Vec<String>>>;

/// What the answers are about.
#[derive(Debug)]
pub struct Known {
    /// The gate.
    pub view: Arc<View>,
    /// Where its configuration comes from.
    pub file: ConfigFile,
    /// Its messages.
    pub messages: Lines,
    /// Takes that file over.
    pub reloads: UnboundedSender<Asked>,
}

/// Whoever answers.
struct Desk {
    known: Arc<Known>,
    guard: Guard,
}

/// Answers at the socket for as long as it is polled.
///
/// # Errors
/// When the socket cannot be used.
pub async fn serve(socket: Socket, guard: Guard, known: Arc<Known>) -> io::Result<Infallible> {
    let listening = socket.listen()?;
    let desk = Rc::new(Desk { known, guard });
    let mut connections = JoinSet::new();
    let mut by_age: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            accepted = listening.accept() => match accepted {
                Ok(accepted) => {
                    by_age.retain(|connection| !connection.is_finished());
                    // Answers take milliseconds: that one is idle or slow.
                    if by_age.len() >= ADMIN_CONNECTIONS && let Some(oldest) = by_age.pop_front() {
                        oldest.abort();
                    }
                    by_age.push_back(connections.spawn_local(welcome(accepted, Rc::clone(&desk))));
                }
                Err(error) => {
                    tracing::debug!(%error, "the admin server cannot accept");
                    sleep(PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    tracing::error!("an answer of the admin server ended by a panic");
                }
            }
        }
    }
}

async fn welcome(accepted: Accepted, desk: Rc<Desk>) {
    match accepted {
        Accepted::Tcp(stream, own) => converse(stream, Some(own), desk).await,
        Accepted::Unix(stream) => converse(stream, None, desk).await,
    }
}

/// Answers the requests of one connection.
async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, own: Option<IpAddr>, desk: Rc<Desk>) {
    let service = service_fn(|request| {
        let desk = Rc::clone(&desk);
        async move { Ok::<_, Infallible>(answers::answer(&desk, request, own).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIME)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    if timeout(LONGEST, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(GRACE, connection).await;
    }
}
