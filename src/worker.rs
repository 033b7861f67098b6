//! A worker: one thread with a single-threaded runtime, its own listening sockets and its own connections.
//!
//! Connections never leave their worker, so nothing on the way of the bytes is locked or woken across threads.

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
use crate::listener;
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
    /// Its sockets, each with the listener it belongs to.
    pub sockets: Vec<(std::net::TcpListener, Arc<config::Listener>)>,
    /// The running upstreams, in the order of the configuration.
    pub upstreams: Vec<Arc<Upstream>>,
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
        Ok((runtime, sockets, tools)) => {
            let _ = started.send(Ok(()));
            runtime.block_on(work(sockets, tools, stop));
            // Does not wait for look-ups that nobody waits for any more.
            runtime.shutdown_background();
        }
        Err(error) => drop(started.send(Err(error))),
    })?;
    start.recv().map_err(|_| io::Error::other("a worker ended before it started"))??;
    Ok(thread)
}

type Sockets = Vec<(TcpListener, Arc<config::Listener>)>;

fn prepare(equipment: Equipment) -> io::Result<(LocalRuntime, Sockets, Rc<Tools>)> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(RESOLVER_THREADS)
        .build_local(LocalOptions::default())?;
    let _entered = runtime.enter();
    let register = |(socket, listener)| Ok((TcpListener::from_std(socket)?, listener));
    let sockets = equipment.sockets.into_iter().map(register).collect::<io::Result<_>>()?;
    let tools = Tools {
        upstreams: equipment.upstreams,
        scratch: Scratch::new(),
        pipes: Pipes::default(),
        live: Rc::new(LiveTable::default()),
        log: equipment.log,
        ids: equipment.ids,
    };
    drop(_entered);
    Ok((runtime, sockets, Rc::new(tools)))
}

async fn work(sockets: Sockets, tools: Rc<Tools>, mut stop: watch::Receiver<()>) {
    let live = Rc::clone(&tools.live);
    let accept = |(socket, listener)| spawn_local(listener::accept(socket, listener, Rc::clone(&tools), stop.clone()));
    let accepting: Vec<_> = sockets.into_iter().map(accept).collect();
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
        for accept in accepting {
            let _ = accept.await;
        }
        while !live.is_empty() {
            sleep(STOP_CHECK).await;
        }
    };
    // Connections that are still there then end with the runtime.
    let _ = timeout(STOP_LIMIT, all_closed).await;
}
