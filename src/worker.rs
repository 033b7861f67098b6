//! A worker: one thread with a single-threaded runtime, its own listening sockets and its own connections.
//!
//! Connections never leave the worker that serves them, so nothing on the way of the bytes is locked or woken across
//! threads.

use std::io;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::config;
use crate::connection::{Ids, Tools};
use crate::crew::{Crew, Inbox};
use crate::limits::{Limits, Share, Undecided};
use crate::listener::{self, Reception};
use crate::observe::access_log::AccessLog;
use crate::observe::live::{LiveTable, TICK};
use crate::outcome::Reason;
use crate::relay::{Pipes, Scratch};
use crate::upstream::Upstream;

/// How long stopping waits for connections to close by themselves once they are told to.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// How often it looks whether they have.
const STOP_CHECK: Duration = Duration::from_millis(5);
/// Threads that look names up, a worker: no more than one at a time a name.
const RESOLVER_THREADS: usize = 64;

/// What a worker needs to start: everything in it is bound and built already.
pub struct Equipment {
    /// The listeners, in the order of the configuration.
    pub listeners: Vec<Arc<config::Listener>>,
    /// Its sockets, one for each listener.
    pub sockets: Vec<std::net::TcpListener>,
    /// Its view of all workers, and what they hand over to it.
    pub crew: (Crew, Inbox),
    /// The running upstreams, in the order of the configuration.
    pub upstreams: Vec<Arc<Upstream>>,
    /// What workers share of limits, and what this one has of the rest.
    pub limits: (Arc<Limits>, Share),
    /// How many connections there may be, of all workers.
    pub max_connections: usize,
    /// Where ended connections are written down.
    pub log: AccessLog,
    /// Names its connections.
    pub ids: Ids,
}

/// Starts a worker's thread; returns when it accepts. It ends when the sender of `stop` is gone.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn start(number: usize, equipment: Equipment, stop: watch::Receiver<()>) -> io::Result<JoinHandle<()>> {
    let (started, start) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name(format!("worker-{number}")).spawn(move || match prepare(equipment) {
        Ok((runtime, sockets, reception, inbox)) => {
            let _ = started.send(Ok(()));
            runtime.block_on(work(sockets, reception, inbox, stop));
            // Does not wait for look-ups that nobody waits for any more.
            runtime.shutdown_background();
        }
        Err(error) => drop(started.send(Err(error))),
    })?;
    start.recv().map_err(|_| io::Error::other("a worker ended before it started"))??;
    Ok(thread)
}

fn prepare(equipment: Equipment) -> io::Result<(LocalRuntime, Vec<TcpListener>, Rc<Reception>, Inbox)> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(RESOLVER_THREADS)
        .build_local(LocalOptions::default())?;
    let _entered = runtime.enter();
    let sockets = equipment.sockets.into_iter().map(TcpListener::from_std).collect::<io::Result<_>>()?;
    let (crew, inbox) = equipment.crew;
    let (limits, share) = equipment.limits;
    let tools = Tools {
        upstreams: equipment.upstreams,
        scratch: Scratch::new(),
        pipes: Pipes::new(share.pipes, share.relay_memory),
        live: Rc::new(LiveTable::counted_in(crew.counter())),
        undecided: Rc::new(Undecided::new(limits, &share)),
        log: equipment.log,
        ids: equipment.ids,
    };
    drop(_entered);
    let reception = Reception {
        listeners: equipment.listeners,
        crew,
        max_connections: equipment.max_connections,
        tools: Rc::new(tools),
    };
    Ok((runtime, sockets, Rc::new(reception), inbox))
}

async fn work(sockets: Vec<TcpListener>, reception: Rc<Reception>, inbox: Inbox, mut stop: watch::Receiver<()>) {
    let live = &reception.tools.live;
    let accept = |(number, socket)| spawn_local(listener::accept(socket, number, Rc::clone(&reception), stop.clone()));
    let accepting: Vec<_> = sockets.into_iter().enumerate().map(accept).collect();
    let adopting = spawn_local(adopt(inbox, Rc::clone(&reception), stop.clone()));
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = tick.tick() => live.sweep(),
            _ = stop.changed() => break,
        }
    }
    live.stop_all(Reason::Drained);
    let all_closed = async {
        for task in accepting.into_iter().chain([adopting]) {
            let _ = task.await;
        }
        while reception.crew.open() > 0 {
            sleep(STOP_CHECK).await;
        }
    };
    // Connections that are still there then end with the runtime.
    let _ = timeout(STOP_LIMIT, all_closed).await;
}

/// Serves what others hand over. Once the sender of `stop` is gone they get it back and serve it themselves: a worker
/// with nothing left to do ends while they still accept.
async fn adopt(mut inbox: Inbox, reception: Rc<Reception>, mut stop: watch::Receiver<()>) {
    loop {
        tokio::select! {
            Some(accepted) = inbox.recv() => reception.adopt(accepted),
            _ = stop.changed() => break,
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
    use crate::config::{Config, LogFormat};
    use crate::limits::Plan;
    use crate::observe::lines::tests::Memory;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    /// What a worker with the log `memory` starts with, and the other worker's view of both, with its inbox.
    fn equipment(memory: &Memory) -> (Equipment, (Crew, Inbox)) {
        let yaml = "
            listeners: [{ address: '127.0.0.1:0' }]
            routes: [{ server_names: [a.test], upstream: up }]
            upstreams: { up: { endpoints: ['127.0.0.1:1'] } }";
        let config = Config::parse(yaml).unwrap();
        let plan = Plan::of(&config, 1024).unwrap();
        let mut crews = Crew::of(2);
        let other = crews.pop().unwrap();
        let equipment = Equipment {
            listeners: config.listeners.iter().cloned().map(Arc::new).collect(),
            sockets: Vec::new(),
            crew: crews.pop().unwrap(),
            upstreams: Vec::new(),
            limits: (Arc::new(Limits::new(&config, &plan)), plan.share()),
            max_connections: plan.connections(),
            log: AccessLog::new(LogFormat::Json, memory.clone()).unwrap(),
            ids: Ids::of_worker(0),
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
        let log = equipment.log.clone();
        let (runtime, sockets, reception, inbox) = prepare(equipment).unwrap();
        let (running, stop) = watch::channel(());

        let (_early, accepted, source) = connection();
        other.hand_over(0, accepted, source, 0).unwrap();
        drop(running);
        runtime.block_on(work(sockets, reception, inbox, stop));
        let (_late, accepted, source) = connection();
        assert!(other.hand_over(0, accepted, source, 0).is_err(), "nobody is there to serve it");
        drop(runtime);
        assert_eq!(reasons(&log, &memory), ["drained"]);
    }

    #[test]
    fn what_was_handed_over_and_cannot_be_served_leaves_its_line() {
        let memory = Memory::default();
        let (equipment, (other, _inbox)) = equipment(&memory);
        let log = equipment.log.clone();
        let (runtime, _, reception, mut inbox) = prepare(equipment).unwrap();
        // epoll takes no plain file, as it takes no socket when its memory has run out.
        let file = TcpStream::from(OwnedFd::from(tempfile::tempfile().unwrap()));
        file.set_nonblocking(true).unwrap();
        other.hand_over(0, file, (Ipv4Addr::LOCALHOST, 1).into(), 0).unwrap();
        runtime.block_on(async { reception.adopt(inbox.recv().await.unwrap()) });
        assert_eq!(reasons(&log, &memory), ["internal"]);
        assert_eq!(reception.crew.open(), 0);
    }
}
