//! The control thread: everything that is not a connection. It keeps the upstreams up to date, and changes configurations.

use std::io;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::drain::{Stages, over};
use crate::given::Held;
use crate::reload::{CannotBind, Changed, InForce};
use crate::upstream::Keeper;
use crate::upstream::names::Names;
use crate::watchdog::Watched;

/// What the control thread is to do.
#[derive(Debug)]
pub enum Order {
    /// Put this configuration in force.
    Reload {
        /// The whole of it.
        config: Box<Config>,
        /// Hears what came of it.
        done: oneshot::Sender<Result<Changed, CannotBind>>,
    },
    /// Say which sockets every listener has.
    Sockets(oneshot::Sender<Vec<Held>>),
}

/// Starts the thread. It ends with the process.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn start(
    in_force: InForce,
    keepers: Vec<Keeper>,
    names: Names,
    orders: UnboundedReceiver<Order>,
    watched: Watched,
    stages: Stages,
) -> io::Result<JoinHandle<()>> {
    let (started, start) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name("control".into()).spawn(move || {
        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => {
                let _ = started.send(Ok(()));
                runtime.spawn_local(watched.answer());
                runtime.block_on(control(in_force, keepers, names, orders, stages));
                // Does not wait for what nobody waits for any more.
                runtime.shutdown_background();
            }
            Err(error) => drop(started.send(Err(error))),
        }
    })?;
    start.recv().map_err(|_| io::Error::other("the control thread ended before it started"))??;
    Ok(thread)
}

async fn control(
    mut in_force: InForce,
    keepers: Vec<Keeper>,
    names: Names,
    mut orders: UnboundedReceiver<Order>,
    mut stages: Stages,
) {
    let names = Rc::new(names);
    let mut keeping = JoinSet::new();
    let keep = |keepers: Vec<Keeper>, keeping: &mut JoinSet<()>| {
        for keeper in keepers {
            keeping.spawn_local(keeper.keep(Rc::clone(&names)));
        }
    };
    keep(keepers, &mut keeping);
    loop {
        tokio::select! {
            // Who gave an order may have gone when it is done.
            Some(order) = orders.recv() => match order {
                Order::Reload { config, done } => {
                    names.ask(&config.dns);
                    let changed = in_force.change(*config).await.map(|(changed, keepers)| {
                        keep(keepers, &mut keeping);
                        changed
                    });
                    let _ = done.send(changed);
                }
                Order::Sockets(done) => drop(done.send(in_force.sockets())),
            },
            Some(ended) = keeping.join_next() => {
                if ended.is_err() {
                    tracing::error!("an upstream is not kept up to date any more");
                }
            }
            () = over(&mut stages) => return,
        }
    }
}
