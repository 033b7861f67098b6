//! Live connections as they are shown: what is known of each at the moment, to be handed to another thread.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::{Live, LiveTable, TICK};
use crate::outcome::{Phase, Reason};

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It is not decided yet where it goes.
    Undecided,
    /// An endpoint is being reached.
    Connecting,
    /// Bytes flow both ways, or may.
    Relaying,
    /// One side has sent its last byte.
    HalfClosed,
}

/// One live connection. Text that a client chose is escaped and cut, as in the log.
#[derive(Clone, Debug)]
pub struct Row {
    /// As in the log.
    pub id: String,
    /// The client's address.
    pub source: SocketAddr,
    /// The proxy that spoke for it.
    pub balancer: Option<SocketAddr>,
    /// The listener, as it was called when the connection came.
    pub listener: Arc<str>,
    /// The server name in its normal form, or what was sent in its place.
    pub server_name: Option<String>,
    /// The protocols that the client offered.
    pub alpn: Option<String>,
    /// The client's JA4, where it is made.
    pub ja4: Option<String>,
    /// The route's name.
    pub route: Option<Arc<str>>,
    /// The upstream's name.
    pub upstream: Option<Arc<str>>,
    /// The address connected to.
    pub endpoint: Option<SocketAddr>,
    /// Our own port of that connection, where it is asked for.
    pub local_port: Option<u16>,
    /// What it is doing.
    pub state: State,
    /// The reason for which it was told to close, if it was and has not yet.
    pub closing: Option<Reason>,
    /// Since accept.
    pub age: Duration,
    /// Since the last byte either way, in whole seconds.
    pub idle: Duration,
    /// Bytes delivered to the upstream.
    pub sent: u64,
    /// Bytes delivered to the client.
    pub received: u64,
    /// Of both, the bytes that were spliced; the others went through a buffer.
    pub spliced: u64,
}

impl State {
    /// All of them, in the order of a connection's life.
    pub const ALL: [Self; 4] = [Self::Undecided, Self::Connecting, Self::Relaying, Self::HalfClosed];

    /// The stable label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Undecided => "undecided",
            Self::Connecting => "connecting",
            Self::Relaying => "relaying",
            Self::HalfClosed => "half_closed",
        }
    }
}

impl Live {
    /// What it is doing.
    pub fn state(&self) -> State {
        match self.story.phase() {
            Phase::ProxyHeader | Phase::Hello => State::Undecided,
            Phase::Connecting => State::Connecting,
            Phase::Relaying if self.half_closed.get() => State::HalfClosed,
            Phase::Relaying => State::Relaying,
        }
    }

    fn row(&self, id: String) -> Row {
        let (story, said) = (self.story(), self.story().hello().map(|hello| &hello.said));
        Row {
            id,
            source: story.source(),
            balancer: story.balancer(),
            listener: Arc::clone(&story.plate().listener),
            server_name: said.and_then(|said| said.server_name_text()).map(|name| name.into_owned()),
            alpn: said.and_then(|said| said.protocols_text()),
            ja4: said.and_then(|said| said.ja4()).map(str::to_owned),
            route: story.route().map(|route| Arc::clone(&route.name)),
            upstream: story.route().map(|route| Arc::clone(&route.upstream_name)),
            endpoint: self.endpoint(),
            local_port: story.local_port(),
            state: self.state(),
            closing: self.stop_reason(),
            age: story.accepted().elapsed(),
            idle: TICK * self.silence(),
            sent: self.sent(),
            received: self.received(),
            spliced: self.spliced(),
        }
    }
}

impl LiveTable {
    /// The connections in the next places from this one on, and the place to go on at, if there are more.
    pub fn page(&self, from: usize) -> (Vec<Row>, Option<usize>) {
        let mut rows = Vec::new();
        let next = self.visit(from, |live| rows.push(live.row(self.ids.name(live.story().number()))));
        (rows, (next > 0).then_some(next))
    }

    /// Stops the connection that is called so, if it is in one of the next places from this one on. Breaks with whether
    /// there was one; else goes on at that place.
    pub fn close(&self, id: &str, from: usize) -> ControlFlow<bool, usize> {
        let Some(number) = self.ids.number(id) else { return ControlFlow::Break(false) };
        let mut found = false;
        let next = self.visit(from, |live| {
            if live.story().number() == number {
                live.stop(Reason::ClosedByAdmin);
                found = true;
            }
        });
        if found || next == 0 { ControlFlow::Break(found) } else { ControlFlow::Continue(next) }
    }
}
