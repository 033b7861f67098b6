//! A worker: one thread with a single-threaded runtime, its own listening sockets and its own connections.
//!
//! Connections never leave the worker that serves them, so nothing on the way of the bytes is locked or woken across
//! threads.

mod view;

use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::connection::Tools;
use crate::crew::{Crew, Inbox};
use crate::drain::{Spread, Stage, Stages, over, reached, told_by};
use crate::limits::{Seats, Share, Undecided};
use crate::listener::{self, Closing, Reception};
use crate::observe::access_log::AccessLog;
use crate::observe::ids::Ids;
use crate::observe::live::{LiveTable, Row, SLICE, TICK};
use crate::observe::metrics::{Lanes, Tally};
use crate::observe::troubles::Troubles;
use crate::outcome::Reason;
use crate::relay::{Pipes, Scratch};
use crate::revocation::Revocation;
use crate::snapshot::{Door, Snapshot};
use crate::watchdog::Watched;
pub use view::{Cursor, LiveView, Page};

/// How long stopping waits for connections to close by themselves once they are told to.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// How often it looks whether they have.
const STOP_CHECK: Duration = Duration::from_millis(5);
/// How often connections are looked through for those that are to go next.
const CLEAR_CHECK: Duration = Duration::from_millis(50);

/// What a worker needs to start: everything in it is built already.
pub struct Equipment {
    /// What is in force.
    pub current: Arc<ArcSwap<Snapshot>>,
    /// What it is to do beside its connections.
    pub orders: UnboundedReceiver<Order>,
    /// Its view of all workers, and what they hand over to it.
    pub crew: (Crew, Inbox),
    /// What it has of what there is in all.
    pub share: Share,
    /// What all workers share of connections.
    pub seats: Arc<Seats>,
    /// Where it counts.
    pub tally: Arc<Tally>,
    /// Where ended connections are written down.
    pub log: AccessLog,
    /// Names its connections.
    pub ids: Ids,
    /// Where it shows that it gets to its work.
    pub watched: Watched,
}

/// What a worker is to do.
#[derive(Debug)]
pub enum Order {
    /// Accept from this socket, too.
    Open(Opening),
    /// Decide on every connection again: another configuration is in force.
    DecideAgain,
    /// Tell what connections there are from this place of the table on, and where to go on.
    Page {
        /// The place.
        from: usize,
        /// Hears it.
        reply: oneshot::Sender<(Vec<Row>, Option<usize>)>,
    },
    /// Have a connection close, if it is found from this place of the table on.
    Close {
        /// What it is called.
        id: Arc<str>,
        /// The place.
        from: usize,
        /// Hears whether there was one, or where to go on.
        reply: oneshot::Sender<ControlFlow<bool, usize>>,
    },
}

/// A socket to accept from.
#[derive(Debug)]
pub struct Opening {
    /// Whose it is.
    pub door: Door,
    /// The socket, which listens and does not block.
    pub socket: std::net::TcpListener,
    /// A copy of its descriptor, which is there for others for as long as somebody accepts.
    pub copy: Arc<OwnedFd>,
    /// Says when it is to close.
    pub closing: Closing,
}

/// Starts a worker's thread; returns when it runs. It ends with the process, or when nobody new is to come and its last
/// connection has ended; then it says how many were cut.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn start(number: usize, equipment: Equipment, stages: Stages) -> io::Result<JoinHandle<usize>> {
    let (started, start) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name(format!("worker-{number}")).spawn(move || match prepare(equipment) {
        Ok((runtime, orders, reception, inbox)) => {
            let _ = started.send(Ok(()));
            let live = Rc::clone(&reception.tools.live);
            runtime.block_on(work(orders, reception, inbox, stages));
            // Connections that are still there end with it.
            drop(runtime);
            live.cut()
        }
        Err(error) => {
            let _ = started.send(Err(error));
            0
        }
    })?;
    start.recv().map_err(|_| io::Error::other("a worker ended before it started"))??;
    Ok(thread)
}

type Prepared = (LocalRuntime, UnboundedReceiver<Order>, Rc<Reception>, Inbox);

fn prepare(equipment: Equipment) -> io::Result<Prepared> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let _ = equipment.tally.runtime.set(runtime.handle().metrics());
    runtime.spawn_local(equipment.watched.answer());
    let (crew, inbox) = equipment.crew;
    let share = equipment.share;
    let tools = Tools {
        current: equipment.current,
        scratch: Scratch::new(),
        pipes: Pipes::new(share.pipes, share.relay_memory),
        live: Rc::new(LiveTable::new(equipment.ids, crew.counter())),
        undecided: Rc::new(Undecided::new(&share)),
        lanes: Lanes::of(Arc::clone(&equipment.tally)),
        log: equipment.log,
        troubles: Troubles::default(),
    };
    let reception = Reception { crew, seats: equipment.seats, tools: Rc::new(tools) };
    Ok((runtime, equipment.orders, Rc::new(reception), inbox))
}

async fn work(mut orders: UnboundedReceiver<Order>, reception: Rc<Reception>, inbox: Inbox, mut stages: Stages) {
    let live = &reception.tools.live;
    let mut receiving = JoinSet::new();
    receiving.spawn_local(adopt(inbox, Rc::clone(&reception), stages.clone()));
    tokio::task::spawn_local(clear(Rc::clone(live), stages.clone()));
    tokio::task::spawn_local(give_seats(Rc::clone(&reception)));
    let mut followed = None;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut revocation = Revocation::new(Rc::clone(live), Arc::clone(&reception.tools.current));
    loop {
        tokio::select! {
            _ = tick.tick() => {
                reception.follow_names(&mut followed);
                reception.tools.tick();
            }
            Some(order) = orders.recv() => match order {
                Order::Open(opening) => {
                    if let Some(accepting) = open(opening, &reception, &stages) {
                        receiving.spawn_local(accepting);
                    }
                }
                Order::DecideAgain => revocation.begin(),
                // Whoever asked may have gone.
                Order::Page { from, reply } => drop(reply.send(live.page(from))),
                Order::Close { id, from, reply } => drop(reply.send(live.close(&id, from))),
            },
            () = revocation.proceed() => {}
            // What is closed is done with.
            Some(_) = receiving.join_next() => {}
            // Who hands connections over is heard until nobody new is to come.
            () = all_closed(&reception), if receiving.is_empty() => return,
            () = over(&mut stages) => break,
        }
    }
    live.stop_all(Reason::Drained);
    let done = async {
        while receiving.join_next().await.is_some() {}
        all_closed(&reception).await;
    };
    let _ = timeout(STOP_LIMIT, done).await;
}

/// Waits until no connection is there.
async fn all_closed(reception: &Reception) {
    while reception.crew.open() > 0 {
        sleep(STOP_CHECK).await;
    }
}

/// Tells those to go who are there still, once it is time for that.
async fn clear(live: Rc<LiveTable>, mut stages: Stages) {
    let by = told_by(&mut stages).await;
    let spread = Spread::new(live.len(), by);
    while let Some(may_stay) = spread.may_stay() {
        for slice in live.first_to_go(may_stay).chunks(SLICE) {
            slice.iter().for_each(|live| live.stop(Reason::Drained));
            yield_now().await;
        }
        sleep_until(by.min(Instant::now() + CLEAR_CHECK)).await;
    }
    live.stop_all(Reason::Drained);
}

/// Gives up the seat of whoever has been without a route for longest, each time that another worker has none left for a client.
async fn give_seats(reception: Rc<Reception>) {
    loop {
        reception.crew.seat_wanted().await;
        if reception.seats.taken() == reception.seats.all() {
            reception.tools.undecided.shed_oldest();
            // It closes before somebody else is listened to.
            yield_now().await;
        }
    }
}

/// What accepts from the socket.
fn open(
    Opening { door, socket, copy, closing }: Opening,
    reception: &Rc<Reception>,
    stages: &Stages,
) -> Option<impl Future<Output = ()> + use<>> {
    match TcpListener::from_std(socket) {
        Ok(socket) => {
            let accepting = listener::accept(socket, door, Rc::clone(reception), closing, stages.clone());
            Some(async move {
                accepting.await;
                // With it the last of this process's descriptors for the socket.
                drop(copy);
            })
        }
        Err(error) => {
            tracing::error!(%error, "cannot accept from a socket of a listener");
            None
        }
    }
}

/// Serves what others hand over. When nobody new is to come they get it back and serve it themselves: a worker with nothing
/// left to do ends while they still accept.
async fn adopt(mut inbox: Inbox, reception: Rc<Reception>, mut stages: Stages) {
    loop {
        tokio::select! {
            Some(accepted) = inbox.recv() => reception.adopt(accepted),
            () = reached(&mut stages, Stage::Draining) => break,
        }
    }
    inbox.close();
    while let Some(accepted) = inbox.recv().await {
        reception.adopt(accepted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use crate::limits::Plan;
    use crate::observe::lines::tests::Memory;
    use crate::observe::live::tests::enter;
    use crate::snapshot::tests::{config, entrance, snapshot};
    use crate::watchdog::Watchdog;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::sync::watch;

    /// What a worker with the log `memory` starts with, and the other worker's view of both, with its inbox.
    fn equipment(memory: &Memory) -> (Equipment, (Crew, Inbox)) {
        let config = config();
        let plan = Plan::of(&config, 1024).unwrap();
        let mut crews = Crew::of(2);
        let other = crews.pop().unwrap();
        let equipment = Equipment {
            current: Arc::new(ArcSwap::new(snapshot(&config))),
            orders: unbounded_channel().1,
            crew: crews.pop().unwrap(),
            share: plan.share(),
            seats: Seats::of(plan.connections()),
            tally: Arc::default(),
            log: AccessLog::new(LogFormat::Json, memory.clone()).unwrap(),
            ids: Ids::of_worker(0),
            watched: Watchdog::default().watch("worker-0"),
        };
        (equipment, other)
    }

    /// The reason in each line of the log.
    fn reasons(log: &AccessLog, memory: &Memory) -> Vec<String> {
        log.flush();
        let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        let reason =
            |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["reason"].as_str().unwrap().to_owned();
        text.lines().map(reason).collect()
    }

    #[test]
    fn a_worker_that_stops_serves_what_it_was_given_and_gives_back_what_comes_later() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let connection = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, source) = listener.accept().unwrap();
            accepted.set_nonblocking(true).unwrap();
            (client, accepted, source)
        };
        let memory = Memory::default();
        let (equipment, (other, _inbox)) = equipment(&memory);
        let seats = Arc::clone(&equipment.seats);
        let seat = || seats.take().unwrap();
        let log = equipment.log.clone();
        let (runtime, orders, reception, inbox) = prepare(equipment).unwrap();
        let (running, stages) = watch::channel(Stage::Open);

        let (_early, accepted, source) = connection();
        other.hand_over(0, accepted, source, entrance(), seat()).unwrap();
        drop(running);
        runtime.block_on(work(orders, reception, inbox, stages));
        let (_late, accepted, source) = connection();
        assert!(other.hand_over(0, accepted, source, entrance(), seat()).is_err(), "nobody is there to serve it");
        drop(runtime);
        assert_eq!(reasons(&log, &memory), ["drained"]);
        assert_eq!(seats.taken(), 0);
    }

    #[test]
    fn what_was_handed_over_and_cannot_be_served_leaves_its_line() {
        let memory = Memory::default();
        let (equipment, (other, _inbox)) = equipment(&memory);
        let seats = Arc::clone(&equipment.seats);
        let seat = || seats.take().unwrap();
        let log = equipment.log.clone();
        let (runtime, _, reception, mut inbox) = prepare(equipment).unwrap();
        // epoll takes no plain file, as it takes no socket when its memory has run out.
        let file = TcpStream::from(OwnedFd::from(tempfile::tempfile().unwrap()));
        file.set_nonblocking(true).unwrap();
        other.hand_over(0, file, (Ipv4Addr::LOCALHOST, 1).into(), entrance(), seat()).unwrap();
        runtime.block_on(async { reception.adopt(inbox.recv().await.unwrap()) });
        assert_eq!(reasons(&log, &memory), ["internal"]);
        assert_eq!((reception.crew.open(), seats.taken()), (0, 0));
    }

    #[test]
    fn a_worker_ends_by_itself_when_nobody_is_to_come_and_its_last_connection_has_ended() {
        let memory = Memory::default();
        let (equipment, _other) = equipment(&memory);
        let (runtime, orders, reception, inbox) = prepare(equipment).unwrap();
        let (stage, stages) = watch::channel(Stage::Closing);
        let live = Rc::clone(&reception.tools.live);
        runtime.block_on(async {
            let connection = enter(&live);
            let working = tokio::task::spawn_local(work(orders, Rc::clone(&reception), inbox, stages));
            stage.send_replace(Stage::Draining);
            for _ in 0..100 {
                yield_now().await;
            }
            assert!(!working.is_finished(), "one is there still");
            drop(connection);
            timeout(Duration::from_secs(30), working).await.unwrap().unwrap();
        });
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_told_to_go_over_the_time_there_is() {
        let live = Rc::new(LiveTable::default());
        let connections: Vec<_> = (0..1_000).map(|_| enter(&live)).collect();
        let (stage, stages) = watch::channel(Stage::Draining);
        let told = || connections.iter().filter(|live| live.stop_reason().is_some()).count();
        let watched = async {
            assert_eq!(told(), 0);
            stage.send_replace(Stage::Clearing { by: Instant::now() + Duration::from_secs(9) });
            let mut counts = Vec::new();
            for _ in 0..9 {
                sleep(Duration::from_secs(1)).await;
                counts.push(told());
            }
            counts
        };
        let (counts, ()) = tokio::join!(watched, clear(Rc::clone(&live), stages));
        for (second, told) in (1..9).zip(&counts) {
            assert!(told.abs_diff(1_000 * second / 9) <= 10, "{counts:?}");
        }
        assert_eq!(told(), 1_000);
        assert_eq!(enter(&live).stop_reason(), Some(Reason::Drained), "who comes later, too");
    }
}
