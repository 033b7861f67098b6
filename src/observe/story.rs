//! What is known of one connection: who came, where in, what for, and where it was led. The log tells it at the end; until
//! then it is where the connection's worker finds it.

use std::cell::{Cell, OnceCell};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::said::Said;
use crate::hello::ClientHello;
use crate::outcome::Phase;
use crate::routing::Route;

/// The sockets of a listener, however it is configured meanwhile. Numbers are never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Door(pub usize);

/// Where connections came in, and what the listener there was called then. They hold this, and not the listener with all
/// its routes, for the hours that they may last.
#[derive(Debug)]
pub struct Doorplate {
    /// The sockets.
    pub door: Door,
    /// The listener's name.
    pub listener: Arc<str>,
}

/// Address and port: a `SocketAddr` is half as large again.
type Peer = (IpAddr, u16);

/// One connection, as far as its story has come. Many are idle for hours, so every byte counts: see the test of its size.
#[derive(Debug)]
pub struct Story {
    number: u64,
    accepted: Instant,
    plate: Arc<Doorplate>,
    source: Cell<Peer>,
    balancer: OnceCell<Box<Peer>>,
    phase: Cell<Phase>,
    hello: OnceCell<Heard>,
    route: OnceCell<Arc<Route>>,
    /// From accept to the decision, in microseconds; there is none before the phase `connecting`.
    deciding: Cell<u32>,
    /// From the decision to the upstream connection, in microseconds; there is none before the phase `relaying`.
    connecting: Cell<u32>,
    local_port: Cell<Option<NonZeroU16>>,
}

/// What is kept of a hello.
#[derive(Debug)]
pub struct Heard {
    /// Server name, protocols and JA4.
    pub said: Said,
    /// Whether it carries an Encrypted Client Hello extension.
    pub ech: bool,
    /// Its length, without record headers.
    pub bytes: u32,
    /// The TLS records it came in.
    pub records: u16,
}

impl Story {
    pub(super) fn begin(number: u64, source: SocketAddr, plate: Arc<Doorplate>, phase: Phase) -> Self {
        Self {
            number,
            accepted: Instant::now(),
            plate,
            // Dual-stack listeners see IPv4 clients as v4-mapped: lists and log mean the address itself.
            source: Cell::new((source.ip().to_canonical(), source.port())),
            balancer: OnceCell::new(),
            phase: Cell::new(phase),
            hello: OnceCell::new(),
            route: OnceCell::new(),
            deciding: Cell::new(0),
            connecting: Cell::new(0),
            local_port: Cell::new(None),
        }
    }

    /// A proxy speaks for `client`; for nobody but itself if there is none.
    pub fn introduce(&self, client: Option<SocketAddr>) {
        self.phase.set(Phase::Hello);
        let _ = self.balancer.set(Box::new(self.source.get()));
        if let Some(client) = client {
            self.source.set((client.ip(), client.port()));
        }
    }

    /// The client has said what it wants, which may be had by this route.
    pub fn hear(&self, hello: &ClientHello, route: Option<&Route>, ja4: Option<&str>) {
        let _ = self.hello.set(Heard {
            said: Said::of(hello, route, ja4),
            ech: hello.ech,
            bytes: hello.len.try_into().unwrap_or(u32::MAX),
            records: hello.records.try_into().unwrap_or(u16::MAX),
        });
    }

    /// It is decided where the client goes.
    pub fn decide(&self, route: &Arc<Route>) {
        self.phase.set(Phase::Connecting);
        self.deciding.set(self.microseconds());
        let _ = self.route.set(Arc::clone(route));
    }

    /// It has arrived there, by way of this port of ours.
    pub fn arrive(&self, local_port: Option<u16>) {
        self.phase.set(Phase::Relaying);
        self.connecting.set(self.microseconds().saturating_sub(self.deciding.get()));
        self.local_port.set(local_port.and_then(NonZeroU16::new));
    }

    /// Since accept.
    fn microseconds(&self) -> u32 {
        self.accepted.elapsed().as_micros().try_into().unwrap_or(u32::MAX)
    }

    /// Its number among those of its worker.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// When it was accepted.
    pub fn accepted(&self) -> Instant {
        self.accepted
    }

    /// Where it came in.
    pub fn plate(&self) -> &Arc<Doorplate> {
        &self.plate
    }

    /// Who came, in a canonical form: never v4-mapped.
    pub fn source(&self) -> SocketAddr {
        self.source.get().into()
    }

    /// The proxy that said so, if it was introduced by one.
    pub fn balancer(&self) -> Option<SocketAddr> {
        self.balancer.get().map(|balancer| (**balancer).into())
    }

    /// How far it has come.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// What the client said.
    pub fn hello(&self) -> Option<&Heard> {
        self.hello.get()
    }

    /// Where it goes.
    pub fn route(&self) -> Option<&Arc<Route>> {
        self.route.get()
    }

    /// From the decision to the upstream connection, failed attempts included.
    pub fn connecting(&self) -> Option<Duration> {
        let arrived = self.phase.get() == Phase::Relaying;
        arrived.then(|| Duration::from_micros(self.connecting.get().into()))
    }

    /// Our own port of the upstream connection.
    pub fn local_port(&self) -> Option<u16> {
        self.local_port.get().map(NonZeroU16::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_fits_into_a_gap() {
        // Sockets and task are aligned to 128 bytes, and with glibc's bookkeeping of 16 a gap of 112 follows, of which 104
        // can be used. The live entry and what the client said take the other two.
        let size = size_of::<Story>();
        assert!(size <= 104, "{size}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_way_is_timed_from_accept_on() {
        let plate = Arc::new(Doorplate { door: Door(0), listener: "one".into() });
        let story = Story::begin(7, "[::ffff:192.0.2.1]:99".parse().unwrap(), plate, Phase::ProxyHeader);
        assert_eq!(story.source(), "192.0.2.1:99".parse().unwrap());
        story.introduce(Some("198.51.100.1:5".parse().unwrap()));
        assert_eq!(story.source(), "198.51.100.1:5".parse().unwrap());
        assert_eq!((story.balancer(), story.phase()), (Some("192.0.2.1:99".parse().unwrap()), Phase::Hello));

        let config = crate::snapshot::tests::config();
        tokio::time::advance(Duration::from_millis(30)).await;
        story.decide(&config.routes[0]);
        assert_eq!((story.connecting(), story.phase()), (None, Phase::Connecting));
        tokio::time::advance(Duration::from_micros(1234)).await;
        story.arrive(Some(5000));
        assert_eq!(story.connecting(), Some(Duration::from_micros(1234)));
        assert_eq!((story.local_port(), story.phase()), (Some(5000), Phase::Relaying));
    }
}
