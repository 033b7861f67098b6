//! The story of one connection, from accept to outcome: read the hello, decide, connect, replay, relay.

mod first_bytes;
mod introduction;
mod read_hello;
mod record;

use std::future::pending;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::config::Reject;
use crate::hello::ClientHello;
use crate::hello::alert::alert;
use crate::limits::{Place, Seat, Undecided};
use crate::observe::access_log::AccessLog;
use crate::observe::live::{Live, LiveTable, State};
use crate::observe::metrics::Lanes;
use crate::observe::troubles::Troubles;
use crate::outcome::{ClosedBy, Fault, Reason};
use crate::relay::{End, Pipes, Relay, Scratch, Use, close_gently, close_with_reset, send_then_close};
use crate::routing::{Decision, Route};
use crate::snapshot::{Entrance, Snapshot};
use crate::upstream::{self, connect};
use first_bytes::rest;
use read_hello::read_hello;
use record::Record;

/// What a worker lends its connections.
pub struct Tools {
    /// What is in force.
    pub current: Arc<ArcSwap<Snapshot>>,
    /// The buffer that everything is read into.
    pub scratch: Scratch,
    /// Pipes for those that move bulk.
    pub pipes: Pipes,
    /// The connections open now.
    pub live: Rc<LiveTable>,
    /// Those of them that have no route yet.
    pub undecided: Rc<Undecided>,
    /// Where they are counted.
    pub lanes: Lanes,
    /// Where ended connections are written down.
    pub log: AccessLog,
    /// What the program's own log was told of ends that were not the clients' fault.
    pub troubles: Troubles,
}

impl Tools {
    /// One [`TICK`](crate::observe::live::TICK) has passed: ends what was silent for too long, and shows what there is.
    pub fn tick(&self) {
        let mut states = [0; State::ALL.len()];
        self.live.sweep_and(|live| {
            states[live.state() as usize] += 1;
            if let Some(lane) = live.lane() {
                self.lanes.count(lane, |lane| lane.gather(live.sent(), live.received()));
            }
        });
        self.lanes.show();
        let now = &self.lanes.tally().now;
        now.states.iter().zip(states).for_each(|(shown, count)| shown.set(count));
        now.hello_memory.set(self.undecided.memory() as u64);
        let Use { pipes, lent, memory, spliced } = self.pipes.used();
        now.relay_memory.set(memory as u64);
        now.pipes.set(pipes as u64);
        now.pipes_lent.set(lent as u64);
        now.spliced.set(spliced);
    }

    /// Whether anything shows of a connection what costs something to know: its JA4, and our own port.
    fn show_all(&self) -> bool {
        self.log.is_on()
    }
}

/// Serves one client from accept to close. Never fails: how it ended is recorded. It keeps its seat until both of its
/// sockets are closed.
pub fn serve(
    client: TcpStream,
    source: SocketAddr,
    entrance: Entrance,
    seat: Seat,
    tools: Rc<Tools>,
) -> impl Future<Output = ()> {
    // Opened before the first poll: from accept on its time runs, and it is counted, and a stop finds it. Boxed: what
    // only the beginning needs is given back before bytes flow, for the hours that they may.
    let record = Record::open(source, &entrance, tools);
    let place = record.tools().undecided.enter(record.live().share());
    let beginning = Box::pin(begin(client, record, place, entrance));
    async move {
        let (record, admitted) = beginning.await;
        let end = match admitted {
            Ok(admitted) => relay(admitted, &record).await,
            Err(end) => end,
        };
        record.close(end);
        drop(seat);
    }
}

/// Writes down a client that is not served at all: its socket is gone, or about to be.
pub fn turn_away(source: SocketAddr, entrance: &Entrance, tools: Rc<Tools>, reason: Reason) {
    Record::open(source, entrance, tools).close(End { reason, closed_by: ClosedBy::Snigate });
}

/// Everything before bytes flow; who is not admitted, or comes while we stop, has been told so when this returns.
/// Listener and snapshot are held for so long only.
async fn begin(
    mut client: TcpStream,
    mut record: Record,
    mut place: Place,
    entrance: Entrance,
) -> (Record, Result<Box<Admitted>, End>) {
    let live = record.live().share();
    let admitted = tokio::select! {
        biased;
        reason = live.stopped() => Err(Refusal::stopped(reason)),
        admitted = admit(&mut client, &mut record, &mut place, &entrance) => admitted,
    };
    let admitted = match admitted {
        Ok((upstream, replay)) => Ok(Box::new(Admitted { client, upstream, replay })),
        Err(refusal) => Err(refuse(client, refusal, entrance.listener.reject, &live).await),
    };
    (record, admitted)
}

/// A client whose route was found, and the connection made for it.
struct Admitted {
    client: TcpStream,
    upstream: upstream::Connection,
    /// What was read from the client so far, its hello and what came along with it, behind a PROXY header if the upstream
    /// expects one; as far as it is not sent yet.
    replay: Bytes,
}

impl Admitted {
    /// What relays it, and the upstream's lease to keep meanwhile.
    #[allow(clippy::boxed_local)] // so that the box ends here, not after hours of silence
    fn start(self: Box<Self>, pipes: &Pipes) -> (Relay, upstream::Lease) {
        let Self { client, upstream, replay } = *self;
        (Relay::new(client, upstream.socket, upstream.user_timeout, replay, pipes), upstream.lease)
    }
}

/// Finds the client's route and reaches an endpoint. Until it has, nothing is sent to either side.
async fn admit(
    client: &mut TcpStream,
    record: &mut Record,
    place: &mut Place,
    entrance: &Entrance,
) -> Result<(upstream::Connection, Bytes), Refusal> {
    let Entrance { listener, snapshot, .. } = entrance;
    let tools = Rc::clone(record.tools());
    let (ends, early) = match &listener.proxy_protocol {
        Some(trusted) => introduction::hear(client, record, entrance, trusted, place).await?,
        None => Default::default(),
    };
    let source = record.source().ip();
    // Before the lists: who is denied must not be able to take the places of others either.
    place.identify(&snapshot.limits, source, record.permits()).map_err(Refusal::close)?;
    if !listener.sources.admits(source) {
        return Err(Refusal::final_word(Reason::SourceDenied, None));
    }
    let (hello, mut replay) = read_hello(client, listener, &tools.scratch, record.accepted(), early, place).await?;
    // Whoever has not been decided on is judged by what came into force meanwhile.
    let renewed = entrance.renewed(&tools.current.load(), record.story());
    let renewed = renewed.map_err(|reason| Refusal::final_word(reason, None))?;
    let entrance = renewed.as_ref().unwrap_or(entrance);
    let route = decide(&hello, &replay, record, entrance)?;
    let snapshot = &entrance.snapshot;
    let upstream = snapshot.upstream(route.upstream);
    if let Some(version) = upstream.proxy_protocol {
        replay = introduction::announce(version, client, ends, &hello, record, &replay)
            .map_err(|_| Refusal::close(Reason::Internal))?;
    }
    // A hostile hello is large, and the connect may take its time.
    drop(hello);
    snapshot.limits.admit(record.permits(), &route, source).map_err(Refusal::close)?;
    place.decided(replay.len()).map_err(Refusal::close)?;

    let connected = tokio::select! {
        connected = connect(upstream, source, record.accepted(), &replay) => connected.map_err(|error| Refusal::close(error.reason()))?,
        // Its reset spares the upstream a connection that nobody waits for.
        _ = client.ready(Interest::ERROR) => return Err(Refusal::close(Reason::ClientReset)),
    };
    record.connected(&connected, &route);
    let rest = rest(replay, connected.sent);
    Ok((connected, rest))
}

/// Where the client goes that said this in these bytes.
fn decide(hello: &ClientHello, raw: &[u8], record: &Record, entrance: &Entrance) -> Result<Arc<Route>, Refusal> {
    let Entrance { listener, snapshot, .. } = entrance;
    let decision = listener.table.decide(&hello.server_name, &hello.alpn, record.source().ip());
    record.heard(hello, raw, decision.route());
    let route = match decision {
        Decision::Route(route) => route,
        Decision::Refuse(refusal) => {
            return Err(Refusal::final_word(refusal.reason(), Some(alert(refusal.alert(), raw))));
        }
    };
    record.decided(route);
    // Its listener is gone: what was in force before led it on, and whoever was led so earlier was decided on again.
    let now = record.tools().current.load();
    if !Arc::ptr_eq(&now, snapshot) && now.revokes(record.story()) {
        return Err(Refusal::close(Reason::RouteChanged));
    }
    Ok(Arc::clone(route))
}

/// Replays the rest of the hello, then moves bytes both ways until the end.
async fn relay(admitted: Box<Admitted>, record: &Record) -> End {
    let (mut relay, lease) = admitted.start(&record.tools().pipes);
    let end = relay.run(record.live(), &record.tools().scratch, &record.tools().pipes).await;
    Box::pin(relay.finish()).await;
    drop(lease);
    end
}

/// Why a client is not served, and how it is told.
struct Refusal {
    end: End,
    parting: Parting,
}

enum Parting {
    /// No retry can mend it: said as the listener's `reject` has it, with the alert where there is one.
    Final(Option<[u8; 7]>),
    /// It may pass by itself (kubectl retries on a plain close and gives up on an alert), or nobody would understand.
    Close,
    /// We are stopping.
    Gentle,
    /// Somebody else needs its place now.
    AtOnce,
}

impl Refusal {
    fn final_word(reason: Reason, alert: Option<[u8; 7]>) -> Self {
        Self { end: End { reason, closed_by: ClosedBy::Snigate }, parting: Parting::Final(alert) }
    }

    fn close(reason: Reason) -> Self {
        let closed_by = match reason {
            Reason::ClientReset | Reason::PeerTimeout => ClosedBy::Client,
            _ if reason.fault() == Fault::Upstream => ClosedBy::Upstream,
            _ => ClosedBy::Snigate,
        };
        Self { end: End { reason, closed_by }, parting: Parting::Close }
    }

    fn closed_by_client(reason: Reason) -> Self {
        Self { end: End { reason, closed_by: ClosedBy::Client }, parting: Parting::Close }
    }

    fn stopped(reason: Reason) -> Self {
        let parting = if reason == Reason::LimitUndecided { Parting::AtOnce } else { Parting::Gentle };
        Self { end: End { reason, closed_by: ClosedBy::Snigate }, parting }
    }
}

/// Tells the client, for as long as nobody else needs its place.
async fn refuse(client: TcpStream, refusal: Refusal, reject: Reject, live: &Live) -> End {
    let told = async {
        match (refusal.parting, reject) {
            (Parting::Final(Some(alert)), Reject::Alert) => send_then_close(client, &alert).await,
            (Parting::Final(_), Reject::Reset) => close_with_reset(client),
            (Parting::Final(_) | Parting::Close, _) => send_then_close(client, b"").await,
            (Parting::Gentle, _) => close_gently(client).await,
            (Parting::AtOnce, _) => drop(client),
        }
    };
    tokio::select! {
        () = told => {}
        () = shed(live) => {}
    }
    refusal.end
}

/// Waits until the connection is shed; for ever if it was stopped otherwise.
async fn shed(live: &Live) {
    if live.stopped().await != Reason::LimitUndecided {
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::live::Live;

    /// What an idle connection costs besides its sockets: see that nothing large is kept across an await.
    #[test]
    fn a_connection_and_its_live_entry_stay_small() {
        fn size_of_future<F>(_: fn(TcpStream, SocketAddr, Entrance, Seat, Rc<Tools>) -> F) -> usize {
            size_of::<F>()
        }
        let sizes = (size_of_future(serve), size_of::<Live>());
        // With a little more than 400 the allocator gives every task its next larger size, 128 bytes.
        assert!(sizes.0 <= 400 && sizes.0 + sizes.1 <= 512, "{sizes:?}");
    }
}
